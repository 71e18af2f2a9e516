// SPDX-License-Identifier: Apache-2.0
/*
 * Deterministic runs of the test guests: equal hashes at each epoch for equal seeds, also
 * when the guest is stopped in between; records and replays; what is not deterministic is
 * found.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "hypervisor/machine.h"

#define EPOCHS_MAX 4096u
#define MEMORY     (UINT64_C(16) << 20)
#define DISK_SIZE  (UINT64_C(1) << 20)

struct trace {
	unsigned epochs;
	struct {
		uint64_t instructions, hash;
	} epoch[EPOCHS_MAX];
	char text[65536], detail[200];
	size_t text_len;
	enum vm_event event;
};

struct run {
	const char *guest, *cmdline;
	unsigned vcpus, pauses;
	bool disk;
	struct vm_deterministic how;
	const struct machine_plan *plan; /* NULL: the ordinary machine */

	struct trace *trace;
	struct loop *io;
	struct vm *vm;
	int console[2];
	atomic_bool over;
};

static char folder[64];

static void run_event(void *ctx, enum vm_event event, const char *detail)
{
	struct run *r = ctx;

	r->trace->event = event;
	snprintf(r->trace->detail, sizeof(r->trace->detail), "%s", detail);
	atomic_store(&r->over, true);
	loop_stop(r->io);
}

static void run_epoch(void *ctx, uint64_t epoch, uint64_t instructions, uint64_t hash)
{
	struct trace *t = ((struct run *)ctx)->trace;

	if (t->epochs == EPOCHS_MAX)
		return;
	t->epoch[t->epochs].instructions = instructions;
	t->epoch[t->epochs++].hash = hash;
}

static const char *path_of(const char *name)
{
	static char paths[4][128];
	static unsigned next;
	char *path = paths[next++ % ARRAY_LEN(paths)];

	snprintf(path, sizeof(paths[0]), "%s/%s", folder, name);
	return path;
}

static void disk_make(void)
{
	int fd = open(path_of("disk"), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0 && ftruncate(fd, DISK_SIZE) == 0);
	close(fd);
}

static void console_read(struct run *r)
{
	struct trace *t = r->trace;
	ssize_t n;

	while (t->text_len < sizeof(t->text) - 1 &&
	       (n = read(r->console[0], t->text + t->text_len, sizeof(t->text) - 1 - t->text_len)) >
		       0)
		t->text_len += (size_t)n;
	t->text[t->text_len] = 0;
}

static void run_loop(struct run *r)
{
	while (!atomic_load(&r->over)) {
		assert_int_equal(loop_step(r->io, r->pauses ? 1 : 50), 0);
		console_read(r);
		if (!r->pauses)
			continue;
		r->pauses--;
		assert_int_equal(vm_pause(r->vm), 0);
		assert_int_equal(vm_resume(r->vm), 0);
	}
}

/* 0, or what vm_create() gave. */
static int run_guest(struct run *r, struct trace *t, struct error *e)
{
	const char *build = getenv("POLLUX_BUILD");
	struct vm_config c = {.memory = MEMORY, .vcpus = r->vcpus, .disk_count = r->disk};
	struct disk_backend *disk = NULL;
	int rc;

	memset(t, 0, sizeof(*t));
	r->trace = t;
	r->how.on_epoch = run_epoch;
	r->how.ctx = r;
	snprintf(c.name, sizeof(c.name), "%s", r->guest);
	snprintf(c.engine, sizeof(c.engine), "auto");
	snprintf(c.kernel, sizeof(c.kernel), "%s/tests/guests/%s", build ? build : "build",
		 r->guest);
	snprintf(c.cmdline, sizeof(c.cmdline), "%s", r->cmdline ? r->cmdline : "");
	snprintf(c.disks[0].path, sizeof(c.disks[0].path), "%s", path_of("disk"));
	assert_int_equal(loop_create(&r->io), 0);
	assert_int_equal(pipe2(r->console, O_CLOEXEC | O_NONBLOCK), 0);
	if (r->disk)
		assert_int_equal(disk_backend_open(&c.disks[0], r->io, &disk, e), 0);
	struct vm_parts parts = {.io = r->io,
				 .disks = {disk},
				 .console_in = -1,
				 .console_out = r->console[1],
				 .deterministic = &r->how,
				 .on_event = run_event,
				 .ctx = r};
	rc = r->plan ? machine_create(r->plan, &c, &parts, &r->vm, e)
		     : vm_create(&c, &parts, &r->vm, e);
	if (!rc) {
		assert_int_equal(vm_boot(r->vm, e), 0);
		assert_int_equal(vm_start(r->vm, e), 0);
		run_loop(r);
		vm_destroy(r->vm);
	}
	if (disk)
		disk->ops->destroy(disk);
	console_read(r);
	close(r->console[0]);
	close(r->console[1]);
	loop_destroy(r->io);
	atomic_store(&r->over, false);
	return rc;
}

static struct trace *trace_of(struct run r)
{
	struct trace *t = malloc(sizeof(*t));
	struct error e = {0};

	assert_non_null(t);
	if (r.disk)
		disk_make();
	if (run_guest(&r, t, &e))
		fail_msg("%s", e.text);
	return t;
}

/* The guest was content. */
static void check_end(const struct trace *t)
{
	if (t->event != VM_EVENT_POWEROFF || !strstr(t->text, ": ok"))
		fail_msg("event %d (%s) after\n%s", t->event, t->detail, t->text);
}

/* The first epoch in which they differ, or -1. */
static int difference(const struct trace *a, const struct trace *b)
{
	unsigned n = a->epochs < b->epochs ? a->epochs : b->epochs;

	for (unsigned i = 0; i < n; i++)
		if (a->epoch[i].hash != b->epoch[i].hash ||
		    a->epoch[i].instructions != b->epoch[i].instructions)
			return (int)i;
	return a->epochs == b->epochs ? -1 : (int)n;
}

static void check_repeats(struct run r, unsigned epochs)
{
	struct trace *first = trace_of(r), *second;

	check_end(first);
	r.pauses = 50;
	second = trace_of(r);
	check_end(second);
	print_message("%s: %u epochs, %llu ns\n", r.guest, first->epochs,
		      (unsigned long long)first->epoch[first->epochs - 1].instructions);
	assert_int_equal(difference(first, second), -1);
	assert_true(first->epochs >= epochs);
	assert_string_equal(first->text, second->text);
	free(first);
	free(second);
}

static void test_one_cpu(void **state)
{
	check_repeats((struct run){.guest = "dirtier",
				   .cmdline = "pages=500 passes=100 report=10",
				   .vcpus = 1,
				   .how = {.seed = 1, .hash_every = 100000}},
		      5);
}

static void test_two_cpus(void **state)
{
	check_repeats((struct run){.guest = "selfcheck",
				   .cmdline = "cpus=2 ticks=100 avx=0",
				   .vcpus = 2,
				   .how = {.seed = 2, .hash_every = 1000000}},
		      5);
}

static void test_four_cpus(void **state)
{
	check_repeats((struct run){.guest = "selfcheck",
				   .cmdline = "cpus=4 ticks=100 avx=0",
				   .vcpus = 4,
				   .how = {.seed = 3, .hash_every = 1000000}},
		      5);
}

static void test_disk(void **state)
{
	check_repeats((struct run){.guest = "blk",
				   .cmdline = "ops=300 depth=16",
				   .vcpus = 1,
				   .disk = true,
				   .how = {.seed = 4, .hash_every = 20000}},
		      3);
}

static int folder_make(void **state)
{
	snprintf(folder, sizeof(folder), "/tmp/pollux-deterministic-XXXXXX");
	return mkdtemp(folder) ? 0 : -1;
}

static int folder_remove(void **state)
{
	const char *const names[] = {"disk", "record", "cut"};

	for (unsigned i = 0; i < ARRAY_LEN(names); i++)
		(void)unlink(path_of(names[i]));
	return rmdir(folder);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_one_cpu),
		cmocka_unit_test(test_two_cpus),
		cmocka_unit_test(test_four_cpus),
		cmocka_unit_test(test_disk),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
