// SPDX-License-Identifier: Apache-2.0
#include "netbuf/netbuf.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define LOG_MODULE         "netbuf"
#define MOST_BYTES_DEFAULT (UINT64_C(16) << 20)

struct frame {
	struct frame *next;
	uint64_t number, epoch, held_at;
	size_t len;
	uint8_t data[];
};

/*
 * The queue is ordered by number and by epoch. A frame may leave when its epoch is
 * at most `released`; because the queue is a queue, one that may not leave also
 * stops all behind it. Lock order: device lock, then `lock`; the back end below is
 * only called with `lock` held, so it sees one call at a time.
 */
struct netbuf {
	struct net_backend backend;
	struct net_backend *below;
	struct netbuf_config config;
	pthread_mutex_t lock;
	struct frame *first, **last;
	bool holding;
	bool below_full;    /* it said -EAGAIN: wait for its writable() */
	bool guest_stopped; /* we said -EAGAIN: owe the NIC a writable() */
	uint64_t open_epoch, released, next_number;
	struct netbuf_stats stats;
	int wake_fd; /* to call writable() on the loop's thread */
	struct loop_watch *wake;
};

static struct netbuf *netbuf_of(struct net_backend *b)
{
	return CONTAINER_OF(b, struct netbuf, backend);
}

static void wake_writer(struct netbuf *n)
{
	uint64_t one = 1;
	/* An eventfd that is already signalled is as good as one signalled now. */
	ssize_t done = write(n->wake_fd, &one, sizeof one);
	(void)done;
}

/* Send what may leave; `lock` held. */
static void drain(struct netbuf *n)
{
	uint64_t first = 0, last = 0, epoch = 0, now = clock_ns();

	while (n->first && n->first->epoch <= n->released) {
		struct frame *f = n->first;
		struct iovec iov = {.iov_base = f->data, .iov_len = f->len};

		if (n->below->ops->send(n->below, &iov, 1) == -EAGAIN) {
			n->below_full = true;
			break;
		}
		n->first = f->next;
		if (!n->first)
			n->last = &n->first;
		first = first ? first : f->number;
		last = f->number;
		epoch = f->epoch;
		n->stats.held_frames--;
		n->stats.held_bytes -= f->len;
		n->stats.frames_released++;
		n->stats.delay_total_ns += now - f->held_at;
		if (now - f->held_at > n->stats.delay_max_ns)
			n->stats.delay_max_ns = now - f->held_at;
		free(f);
	}
	if (first && n->config.on_release)
		n->config.on_release(n->config.ctx, first, last, epoch, n->released);
	if (first && n->guest_stopped)
		wake_writer(n);
}

static size_t iov_length(const struct iovec *iov, int iov_count)
{
	size_t len = 0;

	for (int i = 0; i < iov_count; i++)
		len += iov[i].iov_len;
	return len;
}

static int frame_queue(struct netbuf *n, const struct iovec *iov, int iov_count, size_t len)
{
	struct frame *f = malloc(sizeof *f + len);
	size_t at = 0;

	if (!f)
		return -EAGAIN;
	for (int i = 0; i < iov_count; i++) {
		memcpy(f->data + at, iov[i].iov_base, iov[i].iov_len);
		at += iov[i].iov_len;
	}
	f->next = NULL;
	f->len = len;
	f->number = n->next_number++;
	f->epoch = n->holding ? n->open_epoch : 0;
	f->held_at = clock_ns();
	*n->last = f;
	n->last = &f->next;
	n->stats.held_frames++;
	n->stats.held_bytes += len;
	return 0;
}

static bool open_epoch_has_output(const struct netbuf *n)
{
	struct frame *tail;

	if (!n->first || !n->holding)
		return false;
	tail = CONTAINER_OF(n->last, struct frame, next);
	return tail->epoch == n->open_epoch;
}

static int send_held(struct netbuf *n, const struct iovec *iov, int iov_count, size_t len,
		     bool *fresh)
{
	bool had = open_epoch_has_output(n);
	int rc = -EAGAIN;

	/* A frame larger than the bound still passes when nothing else is held. */
	if (!n->first || n->stats.held_bytes + len <= n->config.most_bytes)
		rc = frame_queue(n, iov, iov_count, len);
	if (rc) {
		n->guest_stopped = true;
		n->stats.stops++;
		if (!n->first) /* out of memory, and no release will come: try again soon */
			wake_writer(n);
		return rc;
	}
	*fresh = n->holding && !had;
	return 0;
}

static int netbuf_send(struct net_backend *b, const struct iovec *iov, int iov_count)
{
	struct netbuf *n = netbuf_of(b);
	size_t len = iov_length(iov, iov_count);
	bool fresh = false;
	int rc;

	pthread_mutex_lock(&n->lock);
	n->stats.frames_in++;
	if (n->holding || n->first) {
		rc = send_held(n, iov, iov_count, len, &fresh);
	} else {
		rc = n->below->ops->send(n->below, iov, iov_count);
		if (rc == -EAGAIN) {
			n->guest_stopped = true;
			n->below_full = true;
		} else if (!rc) {
			n->stats.frames_passed++;
			n->next_number++;
		}
	}
	if (rc)
		n->stats.frames_in--;
	pthread_mutex_unlock(&n->lock);
	if (fresh && n->config.on_output)
		n->config.on_output(n->config.ctx);
	return rc;
}

static void netbuf_set_receiving(struct net_backend *b, bool on)
{
	struct netbuf *n = netbuf_of(b);

	n->below->ops->set_receiving(n->below, on);
}

static void netbuf_backend_destroy(struct net_backend *b)
{
	netbuf_destroy(netbuf_of(b));
}

static const struct net_backend_ops netbuf_ops = {
	.send = netbuf_send,
	.set_receiving = netbuf_set_receiving,
	.destroy = netbuf_backend_destroy,
};

static int below_receive(void *ctx, const void *frame, size_t len)
{
	struct netbuf *n = ctx;

	if (!n->backend.front.receive)
		return 0;
	return n->backend.front.receive(n->backend.front.ctx, frame, len);
}

static void below_writable(void *ctx)
{
	struct netbuf *n = ctx;

	pthread_mutex_lock(&n->lock);
	n->below_full = false;
	drain(n);
	if (!n->below_full && n->guest_stopped)
		wake_writer(n);
	pthread_mutex_unlock(&n->lock);
}

static void on_wake(void *ctx, uint32_t events)
{
	struct netbuf *n = ctx;
	uint64_t count;
	bool owed;

	(void)events;
	if (read(n->wake_fd, &count, sizeof count) < 0)
		return;
	pthread_mutex_lock(&n->lock);
	owed = n->guest_stopped;
	n->guest_stopped = false;
	pthread_mutex_unlock(&n->lock);
	if (owed && n->backend.front.writable)
		n->backend.front.writable(n->backend.front.ctx);
}

int netbuf_create(struct net_backend *below, struct loop *io, const struct netbuf_config *c,
		  struct netbuf **out)
{
	struct netbuf *n = calloc(1, sizeof *n);
	int rc;

	if (!n)
		return -ENOMEM;
	n->backend.ops = &netbuf_ops;
	n->below = below;
	n->config = *c;
	if (!n->config.most_bytes)
		n->config.most_bytes = MOST_BYTES_DEFAULT;
	n->last = &n->first;
	n->next_number = 1;
	pthread_mutex_init(&n->lock, NULL);
	n->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (n->wake_fd < 0) {
		rc = -errno;
		goto out_free;
	}
	rc = loop_watch(io, n->wake_fd, EPOLLIN, on_wake, n, &n->wake);
	if (rc)
		goto out_fd;
	below->front = (struct net_front){below_receive, below_writable, n};
	*out = n;
	return 0;

out_fd:
	close(n->wake_fd);
out_free:
	pthread_mutex_destroy(&n->lock);
	free(n);
	return rc;
}

void netbuf_destroy(struct netbuf *n)
{
	if (!n)
		return;
	n->below->front = (struct net_front){0};
	loop_unwatch(n->wake);
	close(n->wake_fd);
	while (n->first) {
		struct frame *f = n->first;

		n->first = f->next;
		free(f);
	}
	pthread_mutex_destroy(&n->lock);
	free(n);
}

struct net_backend *netbuf_backend(struct netbuf *n)
{
	return &n->backend;
}

void netbuf_hold(struct netbuf *n, uint64_t open_epoch)
{
	pthread_mutex_lock(&n->lock);
	/* What an earlier session left unacknowledged is safe once the first epoch of
	 * this one is: that epoch holds the whole vm, as it was after those frames. */
	for (struct frame *f = n->first; f; f = f->next)
		if (f->epoch > n->released)
			f->epoch = open_epoch;
		else
			f->epoch = 0;
	n->holding = true;
	n->open_epoch = open_epoch;
	n->released = open_epoch - 1;
	drain(n);
	pthread_mutex_unlock(&n->lock);
}

void netbuf_pass(struct netbuf *n)
{
	pthread_mutex_lock(&n->lock);
	n->holding = false;
	n->released = UINT64_MAX;
	drain(n);
	pthread_mutex_unlock(&n->lock);
}

void netbuf_seal(struct netbuf *n, uint64_t epoch)
{
	pthread_mutex_lock(&n->lock);
	if (n->holding)
		n->open_epoch = epoch + 1;
	pthread_mutex_unlock(&n->lock);
}

void netbuf_release(struct netbuf *n, uint64_t acknowledged_epoch)
{
	pthread_mutex_lock(&n->lock);
	/* An acknowledgement cannot cover an epoch that is still open. */
	if (n->holding && acknowledged_epoch > n->released && acknowledged_epoch < n->open_epoch) {
		n->released = acknowledged_epoch;
		drain(n);
	}
	pthread_mutex_unlock(&n->lock);
}

void netbuf_stats(struct netbuf *n, struct netbuf_stats *out)
{
	pthread_mutex_lock(&n->lock);
	*out = n->stats;
	pthread_mutex_unlock(&n->lock);
}
