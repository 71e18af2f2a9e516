// SPDX-License-Identifier: Apache-2.0
/*
 * A disk in a raw file or block device, through io_uring.
 *
 *   O_DIRECT   where a trial read of one sector works; else the page cache. Guest
 *              buffers that are not sector-aligned go through a buffer of ours.
 *   flush      fdatasync; durable writes carry RWF_DSYNC.
 *   discard    punches a hole, and so does write-zeroes: a discarded range reads as
 *              zeros, so that two copies of a disk stay the same. Where holes cannot
 *              be had, zeros are written.
 *
 * A request is a sequence of steps, each one submission: what a short transfer
 * left, the zeros, the sync behind them.
 *
 *   begun   in the kernel's hands
 *   ended   done() is to be called: by the loop, or in drain()
 *   held    submitted while the image is somebody else's
 */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hypervisor/disk_lock.h"
#include "hypervisor/hypervisor.h"

#define LOG_MODULE   "disk"

#define SECTOR       512u
#define RING_ENTRIES 256u
#define ALIGNMENT    4096u
#define ZEROS_LEN    (256u * 1024)
#define BOUNCE_LEN   (256u * 1024)
#define DRAIN_POLL   10 /* ms; only a longstop, the ring's descriptor wakes it */

struct file_io;
struct io_list {
	struct file_io *first, *last;
};

struct file_disk {
	struct disk_backend base;
	struct loop_watch *watch;
	int event_fd;
	bool direct;
	bool no_holes; /* fallocate() gave EOPNOTSUPP once */
	char path[sizeof(((struct disk_config *)0)->path)];
	bool claimed;         /* of those that claim and yield alone */
	pthread_mutex_t lock; /* all below */
	struct io_uring ring;
	bool ring_made, yielded;
	unsigned begun, in_flight; /* in_flight: until done() has returned */
	struct io_list ended, held;
	uint8_t *zeros;
};

enum step { STEP_TRANSFER, STEP_HOLE, STEP_ZEROS, STEP_SYNC, STEP_END };

struct file_io {
	struct disk_request *request;
	struct file_disk *disk;
	struct file_io *next; /* ended or held */
	int rc;               /* ended */
	enum step step;
	uint64_t done; /* bytes */
	bool durable, faulted;
	uint8_t *bounce;
	int iov_count;
	struct iovec iov[];
};

static struct file_disk *disk_of(struct disk_backend *b)
{
	return CONTAINER_OF(b, struct file_disk, base);
}

/* ---- requests --------------------------------------------------------------------- */

static bool transfers(const struct disk_request *r)
{
	return r->op == DISK_READ || r->op == DISK_WRITE;
}

static bool iov_aligned(const struct disk_request *r)
{
	for (int i = 0; i < r->iov_count; i++)
		if ((uintptr_t)r->iov[i].iov_base % SECTOR || r->iov[i].iov_len % SECTOR)
			return false;
	return true;
}

/* `len` bytes between the bounce buffer and the guest's buffers, from io->done on. */
static void bounce_copy(const struct file_io *io, size_t len, bool to_guest)
{
	const struct disk_request *r = io->request;
	uint8_t *at = io->bounce;
	uint64_t skip = io->done;

	for (int i = 0; i < r->iov_count && len; i++) {
		size_t n = r->iov[i].iov_len;
		uint8_t *guest = r->iov[i].iov_base;

		if (skip >= n) {
			skip -= n;
			continue;
		}
		guest += skip;
		n -= skip;
		skip = 0;
		n = n < len ? n : len;
		memcpy(to_guest ? guest : at, to_guest ? at : guest, n);
		at += n;
		len -= n;
	}
}

/* The next piece that goes through the bounce buffer. */
static void bounce_aim(struct file_io *io)
{
	uint64_t left = io->request->length - io->done;
	size_t n = left < BOUNCE_LEN ? (size_t)left : BOUNCE_LEN;

	if (io->request->op == DISK_WRITE)
		bounce_copy(io, n, false);
	io->iov[0] = (struct iovec){io->bounce, n};
	io->iov_count = 1;
}

static enum step first_step(const struct file_disk *d, enum disk_op op)
{
	static const enum step first[] = {
		[DISK_READ] = STEP_TRANSFER,     [DISK_WRITE] = STEP_TRANSFER,
		[DISK_FLUSH] = STEP_SYNC,        [DISK_DISCARD] = STEP_HOLE,
		[DISK_WRITE_ZEROES] = STEP_HOLE,
	};

	return first[op] == STEP_HOLE && d->no_holes ? STEP_ZEROS : first[op];
}

static int io_make(struct file_disk *d, struct disk_request *r, struct file_io **out)
{
	size_t pieces = r->iov_count ? (size_t)r->iov_count : 1;
	struct file_io *io = calloc(1, sizeof(*io) + pieces * sizeof(io->iov[0]));

	if (!io)
		return -ENOMEM;
	io->request = r;
	io->disk = d;
	io->step = first_step(d, r->op);
	io->durable = r->durable || d->base.write_through;
	io->iov_count = r->iov_count;
	if (transfers(r))
		memcpy(io->iov, r->iov, (size_t)r->iov_count * sizeof(io->iov[0]));
	if (transfers(r) && d->direct && !iov_aligned(r)) {
		io->bounce = aligned_alloc(ALIGNMENT, BOUNCE_LEN);
		if (!io->bounce) {
			free(io);
			return -ENOMEM;
		}
	}
	*out = io;
	return 0;
}

static void list_add(struct io_list *l, struct file_io *io)
{
	io->next = NULL;
	if (l->first)
		l->last->next = io;
	else
		l->first = io;
	l->last = io;
}

static struct file_io *list_take(struct io_list *l)
{
	struct file_io *io = l->first;

	if (io)
		l->first = io->next;
	return io;
}

static void io_free(struct file_io *io)
{
	free(io->bounce);
	free(io);
}

/* ---- steps: preparation ------------------------------------------------------------ */

static void prepare_transfer(struct file_io *io, struct io_uring_sqe *sqe)
{
	uint64_t at = io->request->offset + io->done;
	int fd = io->disk->base.fd;

	if (io->bounce)
		bounce_aim(io);
	if (io->request->op == DISK_READ)
		io_uring_prep_readv(sqe, fd, io->iov, (unsigned)io->iov_count, at);
	else
		io_uring_prep_writev2(sqe, fd, io->iov, (unsigned)io->iov_count, at,
				      io->durable ? RWF_DSYNC : 0);
}

static void prepare_hole(struct file_io *io, struct io_uring_sqe *sqe)
{
	io_uring_prep_fallocate(sqe, io->disk->base.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				(off_t)io->request->offset, (off_t)io->request->length);
}

static void prepare_zeros(struct file_io *io, struct io_uring_sqe *sqe)
{
	uint64_t left = io->request->length - io->done;

	io_uring_prep_write(sqe, io->disk->base.fd, io->disk->zeros,
			    left < ZEROS_LEN ? (unsigned)left : ZEROS_LEN,
			    io->request->offset + io->done);
}

static void prepare_sync(struct file_io *io, struct io_uring_sqe *sqe)
{
	io_uring_prep_fsync(sqe, io->disk->base.fd, IORING_FSYNC_DATASYNC);
}

/* ---- steps: results. 0 or -errno; sets the next step. -------------------------------- */

/* What a short transfer has done is cut off the front of the iovec. */
static void iov_advance(struct file_io *io, size_t n)
{
	int i = 0;

	while (i < io->iov_count && n >= io->iov[i].iov_len)
		n -= io->iov[i++].iov_len;
	io->iov_count -= i;
	memmove(io->iov, io->iov + i, (size_t)io->iov_count * sizeof(io->iov[0]));
	if (io->iov_count) {
		io->iov[0].iov_base = (uint8_t *)io->iov[0].iov_base + n;
		io->iov[0].iov_len -= n;
	}
}

static int after_transfer(struct file_io *io, int result)
{
	if (result <= 0)
		return result ? result : -EIO; /* the file is shorter than it was */
	if (io->bounce && io->request->op == DISK_READ)
		bounce_copy(io, (size_t)result, true);
	else if (!io->bounce)
		iov_advance(io, (size_t)result);
	io->done += (unsigned)result;
	if (io->done >= io->request->length)
		io->step = STEP_END;
	return 0;
}

static int after_hole(struct file_io *io, int result)
{
	if (result == -EOPNOTSUPP) {
		io->disk->no_holes = true;
		io->step = STEP_ZEROS;
		return 0;
	}
	io->step = io->durable ? STEP_SYNC : STEP_END;
	return result;
}

static int after_zeros(struct file_io *io, int result)
{
	if (result <= 0)
		return result ? result : -EIO;
	io->done += (unsigned)result;
	if (io->done >= io->request->length)
		io->step = io->durable ? STEP_SYNC : STEP_END;
	return 0;
}

static int after_sync(struct file_io *io, int result)
{
	io->step = STEP_END;
	return result;
}

static const struct {
	void (*prepare)(struct file_io *io, struct io_uring_sqe *sqe);
	int (*after)(struct file_io *io, int result);
} steps[] = {
	[STEP_TRANSFER] = {prepare_transfer, after_transfer},
	[STEP_HOLE] = {prepare_hole, after_hole},
	[STEP_ZEROS] = {prepare_zeros, after_zeros},
	[STEP_SYNC] = {prepare_sync, after_sync},
};

/* ---- the ring. d->lock held. ------------------------------------------------------------ */

static void loop_wake(struct file_disk *d)
{
	const uint64_t one = 1;

	(void)!write(d->event_fd, &one, sizeof(one));
}

/* What could not be handed to the kernel now stays in the ring: the loop tries again. */
static void ring_submit(struct file_disk *d)
{
	if (io_uring_submit(&d->ring) < 0)
		loop_wake(d);
}

static int ring_put(struct file_disk *d, struct file_io *io)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&d->ring);

	if (!sqe) {
		ring_submit(d);
		sqe = io_uring_get_sqe(&d->ring);
	}
	if (!sqe)
		return -EBUSY;
	steps[io->step].prepare(io, sqe);
	io_uring_sqe_set_data(sqe, io);
	ring_submit(d);
	return 0;
}

/* What was not done is begun again by whoever sees it. When a thread ends, the kernel gives up
 * what that thread has begun and no other has taken up yet: ECANCELED, or EFAULT where it waited
 * for a page of the cache; the latter may also be what it says. */
static bool to_be_repeated(struct file_io *io, int result)
{
	bool fault = result == -EFAULT && !io->faulted;

	io->faulted |= fault;
	return fault || result == -EINTR || result == -EAGAIN || result == -ECANCELED;
}

/* Take one completion and go on with its request; false: there was none. */
static bool ring_take(struct file_disk *d)
{
	struct io_uring_cqe *cqe;
	struct file_io *io;

	if (io_uring_peek_cqe(&d->ring, &cqe))
		return false;
	io = io_uring_cqe_get_data(cqe);
	io->rc = to_be_repeated(io, cqe->res) ? 0 : steps[io->step].after(io, cqe->res);
	io_uring_cqe_seen(&d->ring, cqe);
	if (!io->rc && io->step != STEP_END)
		io->rc = ring_put(d, io);
	if (io->rc || io->step == STEP_END) {
		d->begun--;
		list_add(&d->ended, io);
	}
	return true;
}

static int io_begin(struct file_disk *d, struct file_io *io)
{
	int rc = ring_put(d, io);

	d->begun += !rc;
	return rc;
}

/* ---- operations ------------------------------------------------------------------------- */

static int file_submit(struct disk_backend *b, struct disk_request *r)
{
	struct file_disk *d = disk_of(b);
	struct file_io *io;
	int rc;

	if (r->offset > b->size || r->length > b->size - r->offset)
		return -EINVAL;
	if (b->readonly && r->op != DISK_READ && r->op != DISK_FLUSH)
		return -EROFS;
	pthread_mutex_lock(&d->lock);
	rc = io_make(d, r, &io);
	if (rc)
		goto out;
	if (d->yielded)
		list_add(&d->held, io);
	else
		rc = io_begin(d, io);
	if (rc)
		io_free(io);
	else
		d->in_flight++;
out:
	pthread_mutex_unlock(&d->lock);
	return rc;
}

static void io_finish(struct file_io *io)
{
	struct file_disk *d = io->disk;

	io->request->done(io->request, io->rc);
	io_free(io);
	pthread_mutex_lock(&d->lock);
	d->in_flight--;
	pthread_mutex_unlock(&d->lock);
}

/* Everything that has completed; done() is called without d->lock. */
static void file_reap(struct file_disk *d)
{
	struct file_io *io;

	do {
		pthread_mutex_lock(&d->lock);
		while (ring_take(d))
			;
		io = list_take(&d->ended);
		pthread_mutex_unlock(&d->lock);
		if (io)
			io_finish(io);
	} while (io);
}

static void file_ready(void *ctx, uint32_t events)
{
	struct file_disk *d = ctx;
	uint64_t count;

	if (read(d->event_fd, &count, sizeof(count)) < 0)
		return; /* drain() was faster */
	pthread_mutex_lock(&d->lock);
	if (io_uring_sq_ready(&d->ring))
		ring_submit(d);
	pthread_mutex_unlock(&d->lock);
	file_reap(d);
}

/* In drain(): what is held will not begin any more. */
static bool file_busy(struct file_disk *d)
{
	struct file_io *io;
	bool busy;

	pthread_mutex_lock(&d->lock);
	while ((io = list_take(&d->held))) {
		io->rc = -ECANCELED;
		list_add(&d->ended, io);
	}
	if (io_uring_sq_ready(&d->ring))
		ring_submit(d);
	busy = d->in_flight;
	pthread_mutex_unlock(&d->lock);
	return busy;
}

static void file_drain(struct disk_backend *b)
{
	struct file_disk *d = disk_of(b);
	struct pollfd p = {.fd = d->ring.ring_fd, .events = POLLIN};

	while (file_busy(d)) {
		file_reap(d);
		if (file_busy(d))
			(void)poll(&p, 1, DRAIN_POLL);
	}
}

/* ---- claim and yield -------------------------------------------------------------------- */

/* Nothing begins from now on; what the kernel has comes back. The requests' done() may need
 * the device lock, which a pause holds: that is left to the loop. */
static void file_still(struct file_disk *d)
{
	struct pollfd p = {.fd = d->ring.ring_fd, .events = POLLIN};
	bool any;

	pthread_mutex_lock(&d->lock);
	d->yielded = true;
	while (d->begun) {
		if (io_uring_sq_ready(&d->ring))
			ring_submit(d);
		any = ring_take(d);
		pthread_mutex_unlock(&d->lock);
		if (!any)
			(void)poll(&p, 1, DRAIN_POLL);
		pthread_mutex_lock(&d->lock);
	}
	loop_wake(d);
	pthread_mutex_unlock(&d->lock);
}

static void file_go_on(struct file_disk *d)
{
	struct file_io *io;

	pthread_mutex_lock(&d->lock);
	d->yielded = false;
	while ((io = list_take(&d->held))) {
		io->rc = io_begin(d, io);
		if (io->rc)
			list_add(&d->ended, io);
	}
	loop_wake(d);
	pthread_mutex_unlock(&d->lock);
}

static int file_claim(struct disk_backend *b, struct error *e)
{
	struct file_disk *d = disk_of(b);
	int rc;

	if (d->claimed)
		return 0;
	rc = fault_point("disk.claim");
	if (rc)
		return error_set(e, rc, "the disk %s cannot be claimed: %s", d->path,
				 strerror(-rc));
	rc = disk_lock(b->fd, b->readonly, d->path, e);
	if (rc)
		return rc;
	d->claimed = true;
	/* Only matters without O_DIRECT: pages read before somebody else wrote. */
	rc = posix_fadvise(b->fd, 0, 0, POSIX_FADV_DONTNEED);
	if (rc && rc != EINVAL)
		log_warn_rc(-rc, "%s: old pages stay cached", d->path);
	file_go_on(d);
	return 0;
}

static int file_yield(struct disk_backend *b, struct error *e)
{
	struct file_disk *d = disk_of(b);
	int rc;

	if (!d->claimed)
		return 0;
	file_still(d);
	rc = fault_point("disk.yield");
	if (!rc && !b->readonly && fdatasync(b->fd))
		rc = -errno;
	if (rc) {
		file_go_on(d);
		return error_set(e, rc, "the disk %s cannot be given away: %s", d->path,
				 strerror(-rc));
	}
	d->claimed = false;
	disk_unlock(b->fd);
	return 0;
}

static void file_destroy(struct disk_backend *b)
{
	struct file_disk *d = disk_of(b);

	if (d->ring_made) {
		file_drain(b);
		io_uring_queue_exit(&d->ring);
	}
	if (d->watch)
		loop_unwatch(d->watch);
	if (d->event_fd >= 0)
		close(d->event_fd);
	if (b->fd >= 0)
		close(b->fd);
	pthread_mutex_destroy(&d->lock);
	free(d->zeros);
	free(d);
}

static const struct disk_backend_ops file_ops = {file_submit, file_drain, file_claim, file_yield,
						 file_destroy};

/* ---- opening ------------------------------------------------------------------------------ */

static int image_create(const struct disk_config *c, struct error *e)
{
	int fd = open(c->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	int rc = 0;

	if (fd < 0)
		return errno == EEXIST ? 0
				       : error_set(e, -errno, "cannot create the disk %s: %s",
						   c->path, strerror(errno));
	if (ftruncate(fd, (off_t)c->create_size)) {
		rc = error_set(e, -errno, "cannot make the disk %s %llu bytes large: %s", c->path,
			       (unsigned long long)c->create_size, strerror(errno));
		(void)unlink(c->path);
	}
	close(fd);
	return rc;
}

static int size_find(struct file_disk *d, const char *path, struct error *e)
{
	struct stat st;
	int rc = 0;

	if (fstat(d->base.fd, &st))
		return error_set(e, -errno, "cannot look at the disk %s: %s", path,
				 strerror(errno));
	if (S_ISREG(st.st_mode))
		d->base.size = (uint64_t)st.st_size;
	else if (!S_ISBLK(st.st_mode))
		rc = error_set(e, -EINVAL, "the disk %s is neither a file nor a block device",
			       path);
	else if (ioctl(d->base.fd, BLKGETSIZE64, &d->base.size))
		rc = error_set(e, -errno, "cannot find the size of the disk %s: %s", path,
			       strerror(errno));
	if (!rc && (!d->base.size || d->base.size % SECTOR))
		rc = error_set(
			e, -EINVAL,
			"the disk %s has %llu bytes: a multiple of 512, and some, are needed", path,
			(unsigned long long)d->base.size);
	return rc;
}

/* File systems differ in what O_DIRECT wants; one sector, aligned to one, is what the
 * guest may ask for at the least. */
static bool direct_works(const char *path, int flags)
{
	int fd = open(path, flags | O_DIRECT);
	uint8_t *page = aligned_alloc(ALIGNMENT, ALIGNMENT);
	bool ok = fd >= 0 && page && pread(fd, page + SECTOR, SECTOR, 0) == (ssize_t)SECTOR;

	free(page);
	if (fd >= 0)
		close(fd);
	return ok;
}

static int image_open(struct file_disk *d, const struct disk_config *c, struct error *e)
{
	int flags = (c->readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC;

	d->direct = direct_works(c->path, flags);
	d->base.fd = open(c->path, flags | (d->direct ? O_DIRECT : 0));
	if (d->base.fd < 0)
		return error_set(e, -errno, "cannot open the disk %s: %s", c->path,
				 strerror(errno));
	return size_find(d, c->path, e);
}

static int ring_make(struct file_disk *d, struct loop *io, struct error *e)
{
	int rc = io_uring_queue_init(RING_ENTRIES, &d->ring, 0);

	if (rc)
		return error_set(e, rc, "io_uring cannot be used: %s", strerror(-rc));
	d->ring_made = true;
	d->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (d->event_fd < 0)
		return error_set(e, -errno, "cannot make an eventfd: %s", strerror(errno));
	rc = io_uring_register_eventfd(&d->ring, d->event_fd);
	if (!rc)
		rc = loop_watch(io, d->event_fd, EPOLLIN, file_ready, d, &d->watch);
	if (rc)
		return error_set(e, rc, "io_uring cannot be watched: %s", strerror(-rc));
	return 0;
}

/* The lock is that of the open file, which both processes now have: whichever ends, the other
 * one has it still. */
int disk_backend_adopt(struct disk_backend *b, int fd, struct error *e)
{
	struct file_disk *d = disk_of(b);
	int flags = fcntl(fd, F_GETFL), rc = 0;
	struct stat ours, theirs;

	if (flags < 0 || fstat(b->fd, &ours) || fstat(fd, &theirs))
		rc = -errno;
	else if (ours.st_dev != theirs.st_dev || ours.st_ino != theirs.st_ino)
		rc = -ESTALE;
	else if (dup3(fd, b->fd, O_CLOEXEC) < 0)
		rc = -errno;
	close(fd);
	if (rc)
		return error_set(e, rc, "the disk %s cannot be taken over: %s", d->path,
				 rc == -ESTALE ? "another file is there now" : strerror(-rc));
	d->direct = flags & O_DIRECT;
	return file_claim(b, e);
}

int disk_backend_open(const struct disk_config *c, struct loop *io, struct disk_backend **out,
		      struct error *e)
{
	struct file_disk *d = calloc(1, sizeof(*d));
	int rc = 0;

	if (!d)
		return error_set(e, -ENOMEM, "disk %s: out of memory", c->path);
	d->base = (struct disk_backend){.ops = &file_ops,
					.readonly = c->readonly,
					.write_through = c->write_through,
					.fd = -1};
	d->event_fd = -1;
	snprintf(d->path, sizeof(d->path), "%s", c->path);
	pthread_mutex_init(&d->lock, NULL);
	d->zeros = aligned_alloc(ALIGNMENT, ZEROS_LEN);
	if (d->zeros)
		memset(d->zeros, 0, ZEROS_LEN);
	else
		rc = error_set(e, -ENOMEM, "disk %s: out of memory", c->path);
	if (!rc && c->create_size && !c->readonly)
		rc = image_create(c, e);
	if (!rc)
		rc = image_open(d, c, e);
	if (!rc)
		rc = ring_make(d, io, e);
	if (rc) {
		file_destroy(&d->base);
		return rc;
	}
	*out = &d->base;
	return 0;
}
