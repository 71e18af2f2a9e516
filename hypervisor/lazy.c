// SPDX-License-Identifier: Apache-2.0
/*
 * Memory that comes later: userfaultfd(2) on guest memory's mapping, missing pages of a
 * shared memory file (Linux Documentation/admin-guide/mm/userfaultfd.rst).
 *
 * All of RAM is registered, as one range: each page that is not in the file stops whoever
 * touches it, in user mode or in the kernel, until this file's thread or a put says what
 * is there. A page that was never missing, but is a hole, is zeros at once.
 *
 * The bit of a page says that its bytes are still to come. A put first makes the page,
 * then clears the bit. A zero page is made by clearing the bit alone: the hole is zeros.
 * Whoever then waits for it is woken after the bit was cleared, faults again and finds
 * the bit clear; so none sleeps on:
 *   - its message was read before: it waited when the wake came;
 *   - it is read later: the bit is seen clear.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "hypervisor/machine.h"

#define LOG_MODULE "lazy"
#define MESSAGES   16
#define AGAIN_NS   (10 * NS_PER_MS)

struct vm_lazy {
	struct vm *vm;
	struct memory *memory;
	struct vm_lazy_events events;
	int stop_fd;
	bool registered, running;
	pthread_t thread;
	_Atomic uint64_t *missing;
	uint64_t *asked;     /* the thread's own */
	bool short_of_pages; /* likewise; said once */
	_Atomic uint64_t left;
	atomic_bool lost;
};

/* ---- the descriptor --------------------------------------------------------------------- */

/* Both kinds tell of the kernel's own accesses (KVM, io_uring, a read() into guest memory):
 * UFFD_USER_MODE_ONLY, which anyone may have, would make those fail. */
static int uffd_open(void)
{
	int rc = fault_point("lazy.open"), fd, device;

	if (rc)
		return rc;
	fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (fd >= 0)
		return fd;
	rc = -errno;
	device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (device < 0)
		return rc;
	fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	rc = fd < 0 ? -errno : fd;
	close(device);
	return rc;
}

static int uffd_make(int *out, struct error *e)
{
	struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_MISSING_SHMEM};
	int rc, fd = uffd_open();

	if (fd < 0)
		return error_set(e, fd,
				 "memory cannot come later: userfaultfd: %s (it needs "
				 "CAP_SYS_PTRACE, access to /dev/userfaultfd, or "
				 "vm.unprivileged_userfaultfd = 1)",
				 strerror(-fd));
	if (ioctl(fd, UFFDIO_API, &api)) {
		rc = -errno;
		close(fd);
		return error_set(e, rc, "memory cannot come later: this kernel's userfaultfd: %s",
				 strerror(-rc));
	}
	*out = fd;
	return 0;
}

int vm_lazy_probe(struct error *e)
{
	int fd, rc = uffd_make(&fd, e);

	if (!rc)
		close(fd);
	return rc;
}

int vm_lazy_prepare(struct vm *vm, struct error *e)
{
	if (vm->uffd >= 0)
		return 0;
	if (vm->config.hugepages)
		return error_set(e, -EOPNOTSUPP, "memory in huge pages cannot come page by page");
	return uffd_make(&vm->uffd, e);
}

/* ---- one page ------------------------------------------------------------------------------ */

static uint64_t page_address(const struct vm_lazy *l, uint64_t page)
{
	return (uint64_t)(uintptr_t)(l->memory->base + page * VM_PAGE_SIZE);
}

static bool page_missing(const struct vm_lazy *l, uint64_t page)
{
	return atomic_load(&l->missing[page / 64]) >> page % 64 & 1;
}

static void page_came(struct vm_lazy *l, uint64_t page)
{
	uint64_t bit = UINT64_C(1) << page % 64;

	if (atomic_fetch_and(&l->missing[page / 64], ~bit) & bit)
		atomic_fetch_sub(&l->left, 1);
}

static void page_wake(struct vm_lazy *l, uint64_t page)
{
	struct uffdio_range range = {page_address(l, page), VM_PAGE_SIZE};

	(void)ioctl(l->vm->uffd, UFFDIO_WAKE, &range);
}

/* Wakes those who wait, unless it fails. */
static int page_copy(struct vm_lazy *l, uint64_t page, const void *bytes)
{
	struct uffdio_copy copy = {.dst = page_address(l, page),
				   .src = (uint64_t)(uintptr_t)bytes,
				   .len = VM_PAGE_SIZE};
	int rc;

	do {
		rc = ioctl(l->vm->uffd, UFFDIO_COPY, &copy) ? -errno : 0;
	} while (rc == -EAGAIN); /* the kernel was changing the mapping */
	return rc;
}

static int page_zero(struct vm_lazy *l, uint64_t page)
{
	struct uffdio_zeropage zero = {.range = {page_address(l, page), VM_PAGE_SIZE}};
	int rc = fault_point("lazy.zero");

	if (rc)
		return rc;
	do {
		rc = ioctl(l->vm->uffd, UFFDIO_ZEROPAGE, &zero) ? -errno : 0;
	} while (rc == -EAGAIN);
	return rc;
}

/* A hole that was touched. There it may be already, with one who waits all the same. Where memory
 * is short whoever waits is woken after a moment, and faults again: its message was read. */
static void hole_fill(struct vm_lazy *l, uint64_t page)
{
	struct timespec moment = {0, AGAIN_NS};
	int rc = page_zero(l, page);

	if (!rc || rc == -ENOENT) { /* ENOENT: no longer registered, nobody waits */
		l->short_of_pages = false;
		return;
	}
	if (rc != -EEXIST) {
		if (!l->short_of_pages)
			log_error_rc(rc, "a page of zeros cannot be made; it is tried again");
		l->short_of_pages = true;
		(void)nanosleep(&moment, NULL);
	}
	page_wake(l, page);
}

int vm_lazy_put(struct vm_lazy *l, uint64_t page, const void *bytes)
{
	int rc = 0;

	if (page >= l->memory->size / VM_PAGE_SIZE)
		return -EINVAL;
	if (atomic_load(&l->lost))
		return -ECANCELED;
	if (!page_missing(l, page))
		return 0;
	if (bytes)
		rc = page_copy(l, page, bytes);
	if (rc && rc != -EEXIST)
		return atomic_load(&l->lost) ? -ECANCELED : rc;
	page_came(l, page);
	if (rc || !bytes)
		page_wake(l, page);
	return 0;
}

uint64_t vm_lazy_left(const struct vm_lazy *l)
{
	return atomic_load(&l->left);
}

void vm_lazy_missing(const struct vm_lazy *l, uint64_t *map)
{
	size_t words = bitmap_words(l->memory->size / VM_PAGE_SIZE);

	for (size_t i = 0; i < words; i++)
		map[i] = atomic_load(&l->missing[i]);
}

/* ---- the thread -------------------------------------------------------------------------------
 */

static void message_handle(struct vm_lazy *l, const struct uffd_msg *m)
{
	uint64_t page = (m->arg.pagefault.address - page_address(l, 0)) / VM_PAGE_SIZE;

	if (m->event != UFFD_EVENT_PAGEFAULT)
		return;
	if (!page_missing(l, page)) {
		hole_fill(l, page);
	} else if (!bitmap_test(l->asked, page)) {
		bitmap_set(l->asked, page);
		l->events.fault(l->events.ctx, page);
	}
}

static void messages_take(struct vm_lazy *l)
{
	struct uffd_msg m[MESSAGES];
	ssize_t n = read(l->vm->uffd, m, sizeof(m));

	for (size_t i = 0; n > 0 && i < (size_t)n / sizeof(m[0]); i++)
		message_handle(l, &m[i]);
}

static void *lazy_main(void *ctx)
{
	struct vm_lazy *l = ctx;
	struct pollfd fds[2] = {{.fd = l->stop_fd, .events = POLLIN},
				{.fd = l->vm->uffd, .events = POLLIN}};

	log_context_vm(l->vm->config.name);
	thread_hasten();
	while (!fds[0].revents) {
		if (poll(fds, ARRAY_LEN(fds), -1) > 0 && fds[1].revents)
			messages_take(l);
	}
	return NULL;
}

/* ---- begin
 * ---------------------------------------------------------------------------------------- */

/* Small pages only: one of 2 MiB would come whole, and could not be given back in part. */
static int mapping_register(struct vm_lazy *l, struct error *e)
{
	struct uffdio_register r = {.range = {page_address(l, 0), l->memory->size},
				    .mode = UFFDIO_REGISTER_MODE_MISSING};

	(void)madvise(l->memory->base, l->memory->size, MADV_NOHUGEPAGE);
	if (ioctl(l->vm->uffd, UFFDIO_REGISTER, &r))
		return error_set(e, -errno, "guest memory cannot be watched: %s", strerror(errno));
	l->registered = true;
	return 0;
}

/* Linux wakes those who wait, then takes the mapping off the descriptor. Who comes between the
 * two, as a newer kernel lets one, would wait for ever. */
static void mapping_unregister(struct vm_lazy *l)
{
	struct uffdio_range range = {page_address(l, 0), l->memory->size};

	if (!l->registered)
		return;
	if (ioctl(l->vm->uffd, UFFDIO_UNREGISTER, &range))
		log_error_rc(errno, "guest memory stays watched");
	if (ioctl(l->vm->uffd, UFFDIO_WAKE, &range))
		log_error_rc(errno, "those who wait for memory cannot be woken");
	l->registered = false;
}

/* The kernel only fills a part of a huge page with zeros when it cannot split it: such a
 * page would be taken for one that is there. */
static int run_drop(struct vm_lazy *l, uint64_t first, uint64_t last)
{
	off_t from = (off_t)(first * VM_PAGE_SIZE), to = (off_t)(last * VM_PAGE_SIZE), data;

	if (fallocate(l->memory->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, from, to - from))
		return -errno;
	data = lseek(l->memory->fd, from, SEEK_DATA);
	return (data < 0 && errno == ENXIO) || data >= to ? 0 : -EBUSY;
}

static int missing_drop(struct vm_lazy *l, const uint64_t *missing, struct error *e)
{
	uint64_t pages = l->memory->size / VM_PAGE_SIZE, first, last;
	int rc = 0;

	for (first = bitmap_next(missing, pages, 0); !rc && first < pages;
	     first = bitmap_next(missing, pages, last)) {
		for (last = first; last < pages && bitmap_test(missing, last); last++)
			;
		rc = run_drop(l, first, last);
	}
	return rc ? error_set(e, rc, "guest memory cannot be given back: %s", strerror(-rc)) : 0;
}

static int thread_begin(struct vm_lazy *l, struct error *e)
{
	int rc;

	l->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	rc = l->stop_fd < 0 ? -errno : thread_start(&l->thread, "lazy", lazy_main, l);
	l->running = !rc;
	return rc ? error_set(e, rc, "nobody can wait for memory: %s", strerror(-rc)) : 0;
}

static int lazy_may_begin(struct vm *vm, struct error *e)
{
	if (run_is_started(vm))
		return error_set(e, -EBUSY, "the vm runs already");
	if (vm->torn || memory_is_lost(&vm->memory))
		return error_set(e, -EBADMSG, "the vm holds half of a state");
	if (vm->lazy || atomic_load(&vm->logging))
		return error_set(e, -EBUSY, "memory is %s",
				 vm->lazy ? "to come later already" : "logged");
	return vm_lazy_prepare(vm, e);
}

static void lazy_free(struct vm_lazy *l)
{
	free(l->missing);
	free(l->asked);
	free(l);
}

static struct vm_lazy *lazy_make(struct vm *vm, const uint64_t *missing,
				 const struct vm_lazy_events *ev)
{
	size_t words = bitmap_words(vm->memory.size / VM_PAGE_SIZE);
	struct vm_lazy *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	*l = (struct vm_lazy){.vm = vm, .memory = &vm->memory, .events = *ev, .stop_fd = -1};
	l->missing = calloc(words, sizeof(*l->missing));
	l->asked = calloc(words, sizeof(*l->asked));
	if (!l->missing || !l->asked) {
		lazy_free(l);
		return NULL;
	}
	for (size_t i = 0; i < words; i++)
		atomic_store(&l->missing[i], missing[i]);
	atomic_store(&l->left, bitmap_count(missing, vm->memory.size / VM_PAGE_SIZE));
	return l;
}

int vm_lazy_begin(struct vm *vm, const uint64_t *missing, const struct vm_lazy_events *ev,
		  struct vm_lazy **out, struct error *e)
{
	int rc = lazy_may_begin(vm, e);
	struct vm_lazy *l;

	if (rc)
		return rc;
	l = lazy_make(vm, missing, ev);
	if (!l)
		return error_set(e, -ENOMEM, "no memory to know what is missing");
	vm->lazy = l;
	/* Until whoever touches what is missing will be made to wait. */
	atomic_store(&vm->memory.presence, MEMORY_LOST);
	rc = mapping_register(l, e);
	if (!rc)
		rc = missing_drop(l, missing, e);
	if (!rc)
		rc = thread_begin(l, e);
	if (rc) {
		atomic_store(&l->lost, true);
		vm_lazy_end(l);
		return rc;
	}
	atomic_store(&vm->memory.presence, MEMORY_LAZY);
	*out = l;
	return 0;
}

/* ---- end
 * ------------------------------------------------------------------------------------------- */

/* First nothing may come out of the machine any more, and the vCPUs are told to stop: those
 * who wake find zeros where there should be something. */
void vm_lazy_abandon(struct vm_lazy *l)
{
	if (!vm_lazy_left(l) || atomic_exchange(&l->lost, true))
		return;
	log_warn("%llu pages will never come: the guest has ended",
		 (unsigned long long)vm_lazy_left(l));
	atomic_store(&l->memory->presence, MEMORY_LOST);
	run_stop(l->vm);
	mapping_unregister(l);
}

void vm_lazy_end(struct vm_lazy *l)
{
	const uint64_t one = 1;

	vm_lazy_abandon(l);
	mapping_unregister(l);
	if (l->running) {
		(void)!write(l->stop_fd, &one, sizeof(one));
		pthread_join(l->thread, NULL);
	}
	if (!atomic_load(&l->lost))
		atomic_store(&l->memory->presence, MEMORY_WHOLE);
	(void)madvise(l->memory->base, l->memory->size, MADV_HUGEPAGE);
	if (l->stop_fd >= 0)
		close(l->stop_fd);
	l->vm->lazy = NULL;
	lazy_free(l);
}
