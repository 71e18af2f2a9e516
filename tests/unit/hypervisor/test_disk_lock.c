// SPDX-License-Identifier: Apache-2.0
/* Who may write an image: claims between back ends and processes, and what a yield leaves. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "hypervisor/hypervisor.h"

#define SIZE   (UINT64_C(4) << 20)
#define PIECE  16384u
#define PIECES 200u

static struct loop *io;
static char folder[64];
static struct disk_config config;
static struct error e;

static int setup(void **state)
{
	assert_int_equal(loop_create(&io), 0);
	snprintf(folder, sizeof(folder), "/tmp/pollux-lock-XXXXXX");
	assert_non_null(mkdtemp(folder));
	config = (struct disk_config){.create_size = SIZE};
	snprintf(config.path, sizeof(config.path), "%s/d", folder);
	e = (struct error){0};
	return 0;
}

static int teardown(void **state)
{
	char command[96];

	fault_disarm_all();
	snprintf(command, sizeof(command), "rm -rf %s", folder);
	assert_int_equal(system(command), 0);
	loop_destroy(io);
	return 0;
}

static struct disk_backend *must_open(bool readonly)
{
	struct disk_backend *b = NULL;

	config.readonly = readonly;
	if (disk_backend_open(&config, io, &b, &e))
		fail_msg("%s", e.text);
	return b;
}

static void must_claim(struct disk_backend *b)
{
	e = (struct error){0};
	if (b->ops->claim(b, &e))
		fail_msg("%s", e.text);
}

static void must_yield(struct disk_backend *b)
{
	e = (struct error){0};
	if (b->ops->yield(b, &e))
		fail_msg("%s", e.text);
}

/* ---- another process ----------------------------------------------------------------------- */

struct other {
	pid_t pid;
	int says, heeds;
	char words[sizeof(((struct error *)0)->text)];
};

static void other_main(int says, int heeds, bool readonly)
{
	struct disk_backend *b = NULL;
	struct error why = {0};
	char byte;

	config.readonly = readonly;
	if (!disk_backend_open(&config, io, &b, &why))
		(void)!b->ops->claim(b, &why);
	if (write(says, why.text, sizeof(why.text)) < 0)
		_exit(1);
	_exit(read(heeds, &byte, 1) < 0); /* holds it until then */
}

/* Tries to claim it; "" in words: it has. */
static void other_start(struct other *o, bool readonly)
{
	int says[2], heeds[2];

	assert_int_equal(pipe2(says, O_CLOEXEC) | pipe2(heeds, O_CLOEXEC), 0);
	o->pid = fork();
	if (!o->pid) {
		close(heeds[1]);
		other_main(says[1], heeds[0], readonly);
	}
	close(says[1]);
	close(heeds[0]);
	o->says = says[0];
	o->heeds = heeds[1];
	assert_int_equal(fd_read_all(o->says, o->words, sizeof(o->words)), 0);
}

static void other_end(struct other *o)
{
	int status;

	close(o->says);
	close(o->heeds);
	assert_int_equal(waitpid(o->pid, &status, 0), o->pid);
}

static void other_is_refused(bool readonly, const char *word)
{
	struct other o;

	other_start(&o, readonly);
	other_end(&o);
	if (!strstr(o.words, word))
		fail_msg("\"%s\" does not say \"%s\"", o.words, word);
}

static void other_is_welcome(bool readonly)
{
	struct other o;

	other_start(&o, readonly);
	other_end(&o);
	assert_string_equal(o.words, "");
}

/* ---- nobody who can be found -------------------------------------------------------------- */

/* An open file, locked, that lies in a socket and is no process's, as with a dead one's requests.
 */
struct lock_adrift {
	int pair[2];
};

static void lock_set_adrift(struct lock_adrift *l)
{
	struct flock all = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	char room[CMSG_SPACE(sizeof(int))] = {0}, byte = 0;
	struct iovec iov = {&byte, 1};
	struct msghdr m = {.msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = room,
			   .msg_controllen = sizeof(room)};
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	int fd = open(config.path, O_RDWR | O_CLOEXEC);

	assert_int_equal(fcntl(fd, F_OFD_SETLK, &all), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, l->pair), 0);
	*c = (struct cmsghdr){CMSG_LEN(sizeof(fd)), SOL_SOCKET, SCM_RIGHTS};
	memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	assert_int_equal(sendmsg(l->pair[0], &m, 0), 1);
	close(fd);
}

static void *lock_drop_soon(void *arg)
{
	struct lock_adrift *l = arg;

	usleep(20000); /* of the 3 s that it is waited for */
	close(l->pair[0]);
	close(l->pair[1]);
	return NULL;
}

static void a_dead_process_is_waited_for(void **state)
{
	struct disk_backend *b = must_open(false);
	struct lock_adrift l;
	pthread_t thread;

	lock_set_adrift(&l);
	assert_int_equal(b->ops->claim(b, &e), -EBUSY);
	assert_non_null(strstr(e.text, "another process or host"));
	assert_int_equal(thread_start(&thread, "drops", lock_drop_soon, &l), 0);
	must_claim(b);
	pthread_join(thread, NULL);
	b->ops->destroy(b);
}

/* ---- one writer, or readers ---------------------------------------------------------------------
 */

static void one_process_writes(void **state)
{
	struct disk_backend *b = must_open(false);
	char word[64];

	other_is_welcome(false); /* an image that is open is nobody's yet */
	must_claim(b);
	must_claim(b);
	snprintf(word, sizeof(word), "used by process %d (", getpid());
	other_is_refused(false, word);
	snprintf(word, sizeof(word), "written by process %d (", getpid());
	other_is_refused(true, word);
	must_yield(b);
	must_yield(b);
	other_is_welcome(false);
	b->ops->destroy(b);
}

static void one_of_a_vms_disks_writes(void **state)
{
	struct disk_backend *a = must_open(false), *b = must_open(false);

	must_claim(a);
	assert_int_equal(b->ops->claim(b, &e), -EBUSY);
	assert_non_null(strstr(e.text, "one of this VM's disks"));
	a->ops->destroy(a); /* which ends the claim */
	must_claim(b);
	b->ops->destroy(b);
}

static void many_processes_read(void **state)
{
	struct disk_backend *b = must_open(false);

	b->ops->destroy(b); /* it has made the image */
	b = must_open(true);
	must_claim(b);
	other_is_welcome(true);
	other_is_refused(false, "used by process");
	b->ops->destroy(b);
	other_is_welcome(false);
}

/* However it ends, and whatever it was doing. */
static void a_dead_process_holds_nothing(void **state)
{
	struct disk_backend *b = must_open(false);
	int status;

	for (unsigned i = 0; i < 20; i++) {
		struct other o;

		other_start(&o, false);
		assert_string_equal(o.words, "");
		assert_int_equal(b->ops->claim(b, &e), -EBUSY);
		kill(o.pid, SIGKILL);
		assert_int_equal(waitpid(o.pid, &status, 0), o.pid);
		must_claim(b);
		must_yield(b);
		close(o.says);
		close(o.heeds);
	}
	b->ops->destroy(b);
}

static void what_cannot_be_locked_says_why(void **state)
{
	struct disk_backend *b = must_open(false);

	fault_arm("disk.lock", 1, ENOLCK);
	assert_int_equal(b->ops->claim(b, &e), -ENOLCK);
	assert_non_null(strstr(e.text, config.path));
	assert_non_null(strstr(e.text, "cannot be locked"));
	must_claim(b);
	b->ops->destroy(b);
}

/* A successor gets the descriptor: there is no moment at which a third could have it. */
static void a_claim_goes_from_process_to_process(void **state)
{
	struct disk_backend *old = must_open(false), *next = must_open(false);

	must_claim(old);
	if (disk_backend_adopt(next, dup(old->fd), &e))
		fail_msg("%s", e.text);
	other_is_refused(false, "used by process");
	next->ops->destroy(next); /* it has failed: the old one has it still */
	other_is_refused(false, "used by process");
	next = must_open(false);
	if (disk_backend_adopt(next, dup(old->fd), &e))
		fail_msg("%s", e.text);
	old->ops->destroy(old);
	other_is_refused(false, "used by process");
	must_claim(next);
	must_yield(next);
	other_is_welcome(false);
	assert_int_equal(disk_backend_adopt(next, -1, &e), -EBADF);
	e = (struct error){0};
	assert_int_equal(disk_backend_adopt(next, open("/dev/null", O_RDWR), &e), -ESTALE);
	next->ops->destroy(next);
}

/* ---- yielding ---- */

struct waiter {
	struct disk_request request;
	struct iovec iov;
	int done, rc;
};

static struct waiter waiters[PIECES];
static uint8_t *pieces;

static void waiter_done(struct disk_request *r, int rc)
{
	struct waiter *w = CONTAINER_OF(r, struct waiter, request);

	w->done++;
	w->rc = rc;
}

/* Writes `fill` to pieces from..to. */
static void writes_submit(struct disk_backend *b, unsigned from, unsigned to, uint8_t fill)
{
	if (!pieces)
		pieces = aligned_alloc(4096, PIECES * PIECE);
	assert_non_null(pieces);
	for (unsigned i = from; i < to; i++) {
		struct waiter *w = &waiters[i];

		memset(pieces + i * PIECE, fill, PIECE);
		w->iov = (struct iovec){pieces + i * PIECE, PIECE};
		w->done = 0;
		w->request = (struct disk_request){.op = DISK_WRITE,
						   .offset = i * (uint64_t)PIECE,
						   .length = PIECE,
						   .iov = &w->iov,
						   .iov_count = 1,
						   .done = waiter_done};
		assert_int_equal(b->ops->submit(b, &w->request), 0);
	}
}

static void writes_wait(unsigned from, unsigned to, int rc)
{
	for (unsigned i = from; i < to; i++) {
		while (!waiters[i].done)
			assert_int_equal(loop_step(io, 100), 0);
		assert_int_equal(waiters[i].done, 1);
		assert_int_equal(waiters[i].rc, rc);
	}
}

static bool image_holds(unsigned from, unsigned to, uint8_t fill)
{
	static uint8_t bytes[PIECES * PIECE];
	int fd = open(config.path, O_RDONLY | O_CLOEXEC);
	size_t n = (size_t)(to - from) * PIECE;

	assert_int_equal(pread(fd, bytes, n, from * PIECE), n);
	close(fd);
	return bytes[0] == fill && !memcmp(bytes, bytes + 1, n - 1);
}

/* With nobody to run the loop, as when a pause holds the device lock. */
static void a_yield_leaves_nothing_on_its_way(void **state)
{
	struct disk_backend *b = must_open(false);

	must_claim(b);
	for (unsigned round = 1; round <= 20; round++) {
		writes_submit(b, 0, PIECES / 2, (uint8_t)round);
		must_yield(b);
		assert_true(image_holds(0, PIECES / 2, (uint8_t)round));
		for (unsigned i = 0; i < PIECES / 2; i++)
			assert_int_equal(waiters[i].done, 0);
		/* A wrapper may still submit. */
		writes_submit(b, PIECES / 2, PIECES, (uint8_t)(100 + round));
		writes_wait(0, PIECES / 2, 0);
		assert_false(image_holds(PIECES / 2, PIECES, (uint8_t)(100 + round)));
		other_is_welcome(false);
		must_claim(b);
		writes_wait(PIECES / 2, PIECES, 0);
		assert_true(image_holds(PIECES / 2, PIECES, (uint8_t)(100 + round)));
	}
	b->ops->destroy(b);
}

static void what_waits_for_a_claim_ends_with_the_back_end(void **state)
{
	struct disk_backend *b = must_open(false);

	must_claim(b);
	must_yield(b);
	writes_submit(b, 0, PIECES, 7);
	b->ops->drain(b);
	writes_wait(0, PIECES, -ECANCELED);
	assert_true(image_holds(0, PIECES, 0));
	writes_submit(b, 0, 10, 7);
	b->ops->destroy(b);
	writes_wait(0, 10, -ECANCELED);
}

static void a_failed_yield_changes_nothing(void **state)
{
	struct disk_backend *b = must_open(false);

	must_claim(b);
	writes_submit(b, 0, PIECES, 9);
	fault_arm("disk.yield", 1, EIO);
	assert_int_equal(b->ops->yield(b, &e), -EIO);
	assert_non_null(strstr(e.text, "cannot be given away"));
	other_is_refused(false, "used by process");
	writes_wait(0, PIECES, 0);
	writes_submit(b, 0, PIECES, 10);
	writes_wait(0, PIECES, 0);
	b->ops->destroy(b);
}

/* ---- a vm
 * ------------------------------------------------------------------------------------------- */

static struct vm *vm_of(struct disk_backend *a, struct disk_backend *b)
{
	struct vm_config c = {
		.name = "two", .memory = 256 << 10, .vcpus = 1, .engine = "sim", .disk_count = 2};
	struct vm_parts parts = {.io = io, .disks = {a, b}, .console_in = -1, .console_out = -1};
	struct vm *vm;

	if (vm_create(&c, &parts, &vm, &e) || vm_boot(vm, &e))
		fail_msg("%s", e.text);
	return vm;
}

/* Of a VM with two of them; which one the tests look at. */
static char images[2][sizeof(config.path)];

static void look_at(unsigned i)
{
	strcpy(config.path, images[i]);
}

static struct vm *vm_of_two(struct disk_backend *disks[2])
{
	for (unsigned i = 0; i < 2; i++) {
		snprintf(images[i], sizeof(images[i]), "%s/%u", folder, i);
		look_at(i);
		disks[i] = must_open(false);
	}
	return vm_of(disks[0], disks[1]);
}

static void vm_end(struct vm *vm, struct disk_backend *disks[2])
{
	vm_destroy(vm);
	disks[0]->ops->destroy(disks[0]);
	disks[1]->ops->destroy(disks[1]);
}

static void a_vm_takes_all_of_its_disks_or_none(void **state)
{
	struct disk_backend *disks[2];
	struct vm *vm = vm_of_two(disks);
	struct other o;

	other_start(&o, false);
	assert_string_equal(o.words, "");
	assert_int_equal(vm_start(vm, &e), -EBUSY);
	assert_non_null(strstr(e.text, config.path));
	look_at(0);
	other_is_welcome(false);
	other_end(&o);
	assert_int_equal(vm_start(vm, &e), 0);
	other_is_refused(false, "used by process");
	assert_int_equal(vm_disks_yield(vm, VM_DISKS_ALL, &e), 0);
	other_is_welcome(false);
	assert_int_equal(vm_disks_claim(vm, VM_DISKS_ALL, &e), 0);
	other_is_refused(false, "used by process");
	vm_end(vm, disks);
}

/* The one that was handed over is waited for; meanwhile the other one is nobody else's. */
static void a_vm_keeps_what_it_had(void **state)
{
	for (unsigned shared = 0; shared < 2; shared++) {
		struct disk_backend *disks[2];
		struct vm *vm = vm_of_two(disks);
		struct other o;

		assert_int_equal(vm_start(vm, &e), 0);
		assert_int_equal(vm_disks_yield(vm, 1u << shared, &e), 0);
		look_at(shared);
		other_start(&o, false);
		assert_string_equal(o.words, "");
		for (unsigned round = 0; round < 2; round++) {
			assert_int_equal(vm_disks_claim(vm, VM_DISKS_ALL, &e), -EBUSY);
			look_at(!shared);
			other_is_refused(false, "used by process");
		}
		other_end(&o);
		assert_int_equal(vm_disks_claim(vm, VM_DISKS_ALL, &e), 0);
		look_at(shared);
		other_is_refused(false, "used by process");
		vm_end(vm, disks);
	}
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(one_process_writes),
		T(one_of_a_vms_disks_writes),
		T(many_processes_read),
		T(a_dead_process_holds_nothing),
		T(a_dead_process_is_waited_for),
		T(what_cannot_be_locked_says_why),
		T(a_claim_goes_from_process_to_process),
		T(a_yield_leaves_nothing_on_its_way),
		T(what_waits_for_a_claim_ends_with_the_back_end),
		T(a_failed_yield_changes_nothing),
		T(a_vm_takes_all_of_its_disks_or_none),
		T(a_vm_keeps_what_it_had),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
