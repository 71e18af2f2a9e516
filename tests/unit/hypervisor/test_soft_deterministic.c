// SPDX-License-Identifier: Apache-2.0
/*
 * Deterministic runs: equal hashes at each epoch for equal seeds, also when the guest is
 * stopped in between; recordings and their replay; what is not deterministic is found, and
 * in which epoch.
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
#include "hypervisor/record.h"

#define EPOCHS_MAX 4096u
#define MEMORY     (UINT64_C(16) << 20)
#define DISK_SIZE  (UINT64_C(1) << 20)

struct trace {
	unsigned epochs; /* the last one is the end */
	struct {
		uint64_t instructions, hash;
	} epoch[EPOCHS_MAX];
	char text[65536], detail[200];
	size_t text_len;
	enum vm_event event;
	unsigned reboots;
	unsigned frames; /* that the guest has sent */
};

struct run {
	const char *guest, *cmdline;
	unsigned vcpus, pauses;
	bool disk, net, keep_disk;
	const char *typed; /* on the console, a character now and then */
	unsigned rounds;   /* then the machine is destroyed; 0: when the guest ends */
	struct vm_deterministic how;
	const struct machine_plan *plan; /* NULL: the ordinary machine */

	struct trace *trace;
	struct loop *io;
	struct vm *vm;
	struct net_backend *nic;
	struct disk_backend *file;
	int console[2], keyboard[2];
	uint64_t sequence;
	atomic_bool over;
};

static char folder[64];

static const char *path_of(const char *name)
{
	static const char *const names[] = {"disk", "record", "cut", "nothing"};
	static char paths[ARRAY_LEN(names)][128];
	unsigned i = 0;

	while (i + 1 < ARRAY_LEN(names) && strcmp(names[i], name))
		i++;
	snprintf(paths[i], sizeof(paths[i]), "%s/%s", folder, names[i]);
	return paths[i];
}

static const char *record_new(void)
{
	unlink(path_of("record"));
	return path_of("record");
}

/* ---- one run --------------------------------------------------------------------------- */

static void run_event(void *ctx, enum vm_event event, const char *detail)
{
	struct run *r = ctx;

	if (event == VM_EVENT_REBOOT) {
		r->trace->reboots++;
		return;
	}
	r->trace->event = event;
	snprintf(r->trace->detail, sizeof(r->trace->detail), "%s", detail);
	atomic_store(&r->over, true);
}

static void run_epoch(void *ctx, uint64_t epoch, uint64_t instructions, uint64_t hash)
{
	struct trace *t = ((struct run *)ctx)->trace;

	if (t->epochs == EPOCHS_MAX)
		return;
	t->epoch[t->epochs].instructions = instructions;
	t->epoch[t->epochs++].hash = hash;
}

static int run_frame(void *ctx, const void *frame, size_t len)
{
	((struct run *)ctx)->trace->frames++;
	return 0;
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

static void frame_send(struct run *r)
{
	uint8_t frame[100] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 2, 2, 2, 2, 2, 0x88, 0xb5};

	r->sequence++;
	memcpy(frame + 14, &r->sequence, sizeof(r->sequence));
	(void)!net_memory_deliver(r->nic, frame, sizeof(frame));
}

static void run_round(struct run *r)
{
	bool lively = r->pauses || r->typed || r->net;

	assert_int_equal(loop_step(r->io, lively ? 1 : 50), 0);
	console_read(r);
	if (r->typed && *r->typed)
		assert_int_equal(write(r->keyboard[1], r->typed++, 1), 1);
	if (r->net)
		frame_send(r);
	if (!r->pauses)
		return;
	r->pauses--;
	assert_int_equal(vm_pause(r->vm), 0);
	assert_int_equal(vm_resume(r->vm), 0);
}

static void run_live(struct run *r, struct error *e)
{
	unsigned left = r->rounds;

	assert_int_equal(vm_boot(r->vm, e), 0);
	assert_int_equal(vm_start(r->vm, e), 0);
	while (!atomic_load(&r->over) && (!r->rounds || left--))
		run_round(r);
}

static void parts_make(struct run *r, struct vm_config *c, struct error *e)
{
	const char *build = getenv("POLLUX_BUILD");

	*c = (struct vm_config){
		.memory = MEMORY, .vcpus = r->vcpus, .disk_count = r->disk, .nic_count = r->net};
	snprintf(c->name, sizeof(c->name), "%s", r->guest);
	snprintf(c->engine, sizeof(c->engine), "auto");
	snprintf(c->kernel, sizeof(c->kernel), "%s/tests/guests/%s", build ? build : "build",
		 r->guest);
	snprintf(c->cmdline, sizeof(c->cmdline), "%s", r->cmdline ? r->cmdline : "");
	snprintf(c->disks[0].path, sizeof(c->disks[0].path), "%s", path_of("disk"));
	assert_int_equal(loop_create(&r->io), 0);
	assert_int_equal(pipe2(r->console, O_CLOEXEC | O_NONBLOCK), 0);
	assert_int_equal(pipe2(r->keyboard, O_CLOEXEC | O_NONBLOCK), 0);
	if (r->disk && !r->keep_disk)
		disk_make();
	if (r->disk)
		assert_int_equal(disk_backend_open(&c->disks[0], r->io, &r->file, e), 0);
	if (r->net)
		assert_int_equal(net_memory_create(run_frame, r, &r->nic), 0);
}

static void parts_end(struct run *r)
{
	if (r->file)
		r->file->ops->destroy(r->file);
	if (r->nic)
		r->nic->ops->destroy(r->nic);
	for (unsigned i = 0; i < 2; i++) {
		close(r->console[i]);
		close(r->keyboard[i]);
	}
	loop_destroy(r->io);
}

/* 0, or what vm_create() gave. */
static int run_guest(struct run r, struct trace *t, struct error *e)
{
	struct vm_config c;
	int rc;

	memset(t, 0, sizeof(*t));
	r.trace = t;
	r.how.on_epoch = run_epoch;
	r.how.ctx = &r;
	parts_make(&r, &c, e);
	struct vm_parts parts = {.io = r.io,
				 .nets = {r.nic},
				 .disks = {r.file},
				 .console_in = r.keyboard[0],
				 .console_out = r.console[1],
				 .deterministic = &r.how,
				 .on_event = run_event,
				 .ctx = &r};
	rc = r.plan ? machine_create(r.plan, &c, &parts, &r.vm, e)
		    : vm_create(&c, &parts, &r.vm, e);
	if (!rc) {
		run_live(&r, e);
		vm_destroy(r.vm);
		console_read(&r);
	}
	parts_end(&r);
	return rc;
}

static struct trace *trace_of(struct run r)
{
	struct trace *t = malloc(sizeof(*t));
	struct error e = {0};

	assert_non_null(t);
	if (run_guest(r, t, &e))
		fail_msg("%s", e.text);
	return t;
}

/* ---- verdicts ------------------------------------------------------------------------------- */

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

static void check_equal(struct trace *a, struct trace *b, unsigned epochs)
{
	assert_int_equal(difference(a, b), -1);
	assert_string_equal(a->text, b->text);
	assert_true(a->epochs >= epochs);
	free(a);
	free(b);
}

static void check_repeats(struct run r)
{
	struct trace *first = trace_of(r), *second;

	check_end(first);
	r.pauses = 50;
	second = trace_of(r);
	check_end(second);
	check_equal(first, second, 5);
}

/* The same with what was recorded, and nothing else. */
static void check_replays(struct run r, unsigned epochs)
{
	struct trace *first, *second;

	r.how.record = record_new();
	first = trace_of(r);
	if (!r.rounds)
		assert_int_equal(first->event, VM_EVENT_POWEROFF);
	r.how = (struct vm_deterministic){.replay = r.how.record};
	r.typed = NULL;
	r.rounds = 0;
	second = trace_of(r);
	if (second->event != VM_EVENT_POWEROFF)
		fail_msg("%s", second->detail);
	check_equal(first, second, epochs);
}

/* ---- equal runs ------------------------------------------------------------------------------ */

static void test_one_cpu(void **state)
{
	check_repeats((struct run){.guest = "dirtier",
				   .cmdline = "pages=500 passes=100 report=10",
				   .vcpus = 1,
				   .how = {.seed = 1, .hash_every = 100000}});
}

#define SELFCHECK(n)                                                                               \
	(struct run)                                                                               \
	{                                                                                          \
		.guest = "selfcheck", .cmdline = "cpus=" #n " ticks=40 avx=0", .vcpus = n,         \
		.how = {.seed = n,                                                                 \
			.hash_every = 1000000 }                                                    \
	}

static void test_two_cpus(void **state)
{
	check_repeats(SELFCHECK(2));
}

static void test_four_cpus(void **state)
{
	check_repeats(SELFCHECK(4));
}

static const struct run blk_run = {.guest = "blk",
				   .cmdline = "ops=300 depth=16",
				   .vcpus = 1,
				   .disk = true,
				   .how = {.seed = 4, .hash_every = 20000}};

static void test_disk(void **state)
{
	check_repeats(blk_run);
}

/* Another seed, other turns of the vCPUs. */
static void test_seeds_differ(void **state)
{
	struct run r = SELFCHECK(2);
	struct trace *first = trace_of(r), *second;

	r.how.seed++;
	second = trace_of(r);
	check_end(second);
	assert_int_not_equal(difference(first, second), -1);
	assert_int_equal(first->epoch[0].hash, second->epoch[0].hash);
	free(first);
	free(second);
}

/* ---- a small machine with code of its own
 * --------------------------------------------------------
 */

#define CODE       0x1000u
#define CLOCK_PORT 0x500u

/* 200000 times: reads the port into a sum at 0x3000. Then off. */
static const uint8_t sum_code[] = {
	0xb9, 0x40, 0x0d, 0x03, 0x00,       /* mov ecx, 200000 */
	0xba, 0x00, 0x05, 0x00, 0x00,       /* 1: mov edx, CLOCK_PORT */
	0xed,                               /* in eax, dx */
	0x01, 0x05, 0x00, 0x30, 0x00, 0x00, /* add [0x3000], eax */
	0x49,                               /* dec ecx */
	0x75, 0xf1,                         /* jnz 1b */
	0xba, 0x04, 0x06, 0x00, 0x00,       /* mov edx, 0x604 */
	0x66, 0xb8, 0x00, 0x34,             /* mov ax, S5 */
	0x66, 0xef,                         /* out dx, ax */
	0xf4, 0xeb, 0xfd,                   /* 2: hlt; jmp 2b */
};
#define SUM_LOOP_INSNS 5u

/* Reads the serial port until a "q" comes; sums up what it read, and when. */
static const uint8_t listen_code[] = {
	0xba, 0xfd, 0x03, 0x00, 0x00,       /* 1: mov edx, 0x3fd */
	0xec,                               /* 2: in al, dx */
	0xa8, 0x01,                         /* test al, 1 */
	0x74, 0xfb,                         /* jz 2b */
	0xba, 0xf8, 0x03, 0x00, 0x00,       /* mov edx, 0x3f8 */
	0xec,                               /* in al, dx */
	0x0f, 0xb6, 0xc0,                   /* movzx eax, al */
	0x01, 0xc3,                         /* add ebx, eax */
	0x89, 0x1d, 0x00, 0x30, 0x00, 0x00, /* mov [0x3000], ebx */
	0x3c, 0x71,                         /* cmp al, 'q' */
	0x74, 0x0a,                         /* jz 3f */
	0x0f, 0x31,                         /* rdtsc */
	0x01, 0x05, 0x04, 0x30, 0x00, 0x00, /* add [0x3004], eax */
	0xeb, 0xd7,                         /* jmp 1b */
	0xba, 0x04, 0x06, 0x00, 0x00,       /* 3: mov edx, 0x604 */
	0x66, 0xb8, 0x00, 0x34,             /* mov ax, S5 */
	0x66, 0xef,                         /* out dx, ax */
	0xf4, 0xeb, 0xfd,                   /* 4: hlt; jmp 4b */
};

/* Resets the machine twice, then turns it off. */
static const uint8_t reset_code[] = {
	0xff, 0x05, 0x00, 0x30, 0x00, 0x00,       /* inc dword [0x3000] */
	0x0f, 0x31,                               /* rdtsc */
	0x01, 0x05, 0x04, 0x30, 0x00, 0x00,       /* add [0x3004], eax */
	0x83, 0x3d, 0x00, 0x30, 0x00, 0x00, 0x03, /* cmp dword [0x3000], 3 */
	0x74, 0x07,                               /* jz 1f */
	0xb0, 0xfe,                               /* mov al, 0xfe */
	0xe6, 0x64,                               /* out 0x64, al */
	0xf4, 0xeb, 0xfd,                         /* 0: hlt; jmp 0b */
	0xba, 0x04, 0x06, 0x00, 0x00,             /* 1: mov edx, 0x604 */
	0x66, 0xb8, 0x00, 0x34,                   /* mov ax, S5 */
	0x66, 0xef,                               /* out dx, ax */
	0xf4, 0xeb, 0xfd,                         /* 2: hlt; jmp 2b */
};

static struct {
	struct device device;
	unsigned reads, planted; /* the read that gives the host's time; 0: none */
} clock_device;

static void clock_read(void *dev, uint64_t at, void *data, unsigned size)
{
	uint64_t v = ++clock_device.reads == clock_device.planted ? clock_ns() : 1;

	memcpy(data, &v, size);
}

static void clock_write(void *dev, uint64_t at, const void *data, unsigned size)
{
}

static const struct bus_ops clock_bus = {clock_read, clock_write};

static int small_devices(struct vm *vm, struct error *e)
{
	int rc = serial_create(vm, e);

	clock_device.reads = 0;
	if (!rc)
		rc = acpi_create(vm, e);
	return rc ? rc : bus_add(&vm->ports, CLOCK_PORT, 4, &clock_bus, &clock_device);
}

static int code_load(struct vm *vm, const void *code, size_t n, struct boot_entry *out)
{
	*out = (struct boot_entry){.protocol = BOOT_PVH, .rip = CODE, .stack = 0x2000};
	return memory_write(&vm->memory, CODE, code, n);
}
static int sum_load(struct vm *vm, struct boot_entry *out, struct error *e)
{
	return code_load(vm, sum_code, sizeof(sum_code), out);
}
static int listen_load(struct vm *vm, struct boot_entry *out, struct error *e)
{
	return code_load(vm, listen_code, sizeof(listen_code), out);
}

static int reset_load(struct vm *vm, struct boot_entry *out, struct error *e)
{
	return code_load(vm, reset_code, sizeof(reset_code), out);
}

static const struct machine_plan reset_plan = {&engine_soft, small_devices, reset_load};
static const struct machine_plan sum_plan = {&engine_soft, small_devices, sum_load};
static const struct machine_plan listen_plan = {&engine_soft, small_devices, listen_load};
static const struct run sum_run = {
	.guest = "sum", .vcpus = 1, .how = {.hash_every = 100000}, .plan = &sum_plan};
static const struct run listen_run = {.guest = "listen",
				      .vcpus = 1,
				      .typed = "what is typedq",
				      .how = {.hash_every = 1000000},
				      .plan = &listen_plan};

/* ---- what is not deterministic is found
 * ------------------------------------------------------------ */

#define PLANTED       150000u
#define PLANTED_EPOCH (int)(PLANTED * SUM_LOOP_INSNS / 100000 + 1)

static void test_planted(void **state)
{
	struct trace *first, *second;

	clock_device.planted = 0;
	check_equal(trace_of(sum_run), trace_of(sum_run), 10);
	clock_device.planted = PLANTED;
	first = trace_of(sum_run);
	second = trace_of(sum_run);
	clock_device.planted = 0;
	assert_int_equal(first->event, VM_EVENT_POWEROFF);
	assert_int_equal(difference(first, second), PLANTED_EPOCH);
	free(first);
	free(second);
}

static void test_planted_in_replay(void **state)
{
	struct run r = sum_run;
	struct trace *first, *second;
	char where[40];

	clock_device.planted = PLANTED;
	r.how.record = record_new();
	first = trace_of(r);
	r.how = (struct vm_deterministic){.replay = r.how.record};
	second = trace_of(r);
	clock_device.planted = 0;
	snprintf(where, sizeof(where), "in epoch %d:", PLANTED_EPOCH);
	assert_int_equal(second->event, VM_EVENT_CRASH);
	assert_non_null(strstr(second->detail, where));
	free(first);
	free(second);
}

/* ---- recordings
 * ---------------------------------------------------------------------------------------- */

static void test_resets(void **state)
{
	struct run r = {
		.guest = "reset", .vcpus = 2, .how = {.hash_every = 1}, .plan = &reset_plan};
	struct trace *t = trace_of(r);

	assert_int_equal(t->reboots, 2);
	assert_int_equal(t->event, VM_EVENT_POWEROFF);
	check_equal(t, trace_of(r), 5);
	check_replays(r, 5);
}

static void test_replay_console(void **state)
{
	struct run r = listen_run;
	struct trace *first, *second;

	check_replays(r, 2);
	r.how.record = record_new();
	first = trace_of(r);
	r.how.record = record_new();
	r.typed = "What is typedq";
	second = trace_of(r);
	assert_int_not_equal(difference(first, second), -1);
	free(first);
	free(second);
}

static void test_replay_network(void **state)
{
	check_replays((struct run){.guest = "echo",
				   .cmdline = "frames=200",
				   .vcpus = 1,
				   .net = true,
				   .how = {.seed = 5, .hash_every = 100000}},
		      2);
}

/* From what was read then; the disk itself is another one now, and stays as it is. */
static void test_replay_disk(void **state)
{
	static uint8_t before[DISK_SIZE], after[DISK_SIZE];
	struct run r = blk_run;
	struct trace *first, *second;
	int fd;

	r.how.record = record_new();
	first = trace_of(r);
	memset(before, 0x5a, sizeof(before));
	fd = open(path_of("disk"), O_RDWR | O_CLOEXEC);
	assert_int_equal(pwrite(fd, before, sizeof(before), 0), sizeof(before));
	r.how = (struct vm_deterministic){.replay = r.how.record};
	r.keep_disk = true;
	second = trace_of(r);
	check_end(second);
	check_equal(first, second, 5);
	assert_int_equal(pread(fd, after, sizeof(after), 0), sizeof(after));
	close(fd);
	assert_memory_equal(before, after, sizeof(before));
}

/* The guest would go on, but the recording was ended from outside. */
static void test_replay_ends(void **state)
{
	struct run r = listen_run;

	r.typed = "no end";
	r.rounds = 200;
	check_replays(r, 2);
}

static void test_replay_idle_end(void **state)
{
	struct run r = {.guest = "echo",
			.cmdline = "frames=0",
			.vcpus = 1,
			.net = true,
			.rounds = 100,
			.how = {.seed = 6, .hash_every = 100000}};

	check_replays(r, 2);
}

static void file_put(const char *path, const uint8_t *data, size_t n)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(fd_write_all(fd, data, n), 0);
	close(fd);
}

static void check_refused(const uint8_t *data, size_t n)
{
	struct record *r;
	struct error e = {0};

	file_put(path_of("cut"), data, n);
	assert_int_equal(record_open(path_of("cut"), &r, &e), -EBADMSG);
	assert_true(e.text[0]);
}

static void test_damaged(void **state)
{
	struct run r = listen_run;
	struct buf whole = {0};
	struct error e = {0};
	struct record *found;

	r.how.record = record_new();
	free(trace_of(r));
	assert_int_equal(file_read(r.how.record, 1 << 20, &whole, &e), 0);
	assert_int_equal(record_open(r.how.record, &found, &e), 0);
	record_close(found);
	for (size_t n = 0; n < whole.len; n++)
		check_refused(whole.data, n);
	for (size_t n = 0; n < whole.len; n++) {
		whole.data[n] ^= 0x10;
		check_refused(whole.data, whole.len);
		whole.data[n] ^= 0x10;
	}
	buf_put_u8(&whole, 0);
	check_refused(whole.data, whole.len);
	buf_free(&whole);
}

static void check_create(struct run r, int rc)
{
	struct trace *t = malloc(sizeof(*t));
	struct error e = {0};

	assert_non_null(t);
	assert_int_equal(run_guest(r, t, &e), rc);
	assert_true(e.text[0]);
	free(t);
}

static int no_devices(struct vm *vm, struct error *e)
{
	return error_set(e, -ENOENT, "planted");
}

static const struct machine_plan failing_plan = {&engine_soft, no_devices, listen_load};

/* Nor is one left by a run that does not begin. */
static void test_no_recording_is_lost(void **state)
{
	struct run r = listen_run;
	struct buf before = {0}, after = {0};
	struct error e = {0};

	r.how.record = record_new();
	free(trace_of(r));
	assert_int_equal(file_read(r.how.record, 1 << 20, &before, &e), 0);
	check_create(r, -EEXIST);
	assert_int_equal(file_read(r.how.record, 1 << 20, &after, &e), 0);
	assert_int_equal(after.len, before.len);
	assert_memory_equal(after.data, before.data, before.len);
	buf_free(&before);
	buf_free(&after);

	r.how.record = record_new();
	r.plan = &failing_plan;
	check_create(r, -ENOENT);
	assert_int_equal(access(r.how.record, F_OK), -1);
}

static void test_another_machine_is_named(void **state)
{
	struct run r = {.guest = "dirtier", .cmdline = "pages=50 passes=5 report=5", .vcpus = 1};
	struct trace *t;

	r.how.record = record_new();
	free(trace_of(r));
	r.how = (struct vm_deterministic){.replay = r.how.record};
	r.cmdline = "pages=50 passes=6 report=5";
	t = trace_of(r);
	assert_non_null(strstr(t->detail, "command line"));
	free(t);
}

static void test_refusals(void **state)
{
	struct run r = listen_run;

	r.how.replay = path_of("nothing");
	check_create(r, -ENOENT);
	r.how.record = record_new();
	check_create(r, -EINVAL);
	r.how.replay = NULL;
	free(trace_of(r));
	r.how = (struct vm_deterministic){.replay = path_of("record")};
	r.vcpus = 2;
	check_create(r, -EINVAL);
}

static void test_other_engines(void **state)
{
	const struct vm_deterministic how = {0};
	struct vm_parts parts = {.console_in = -1, .console_out = -1, .deterministic = &how};
	struct vm_config c = {.memory = MEMORY, .vcpus = 1, .engine = "sim"};
	struct error e = {0};
	struct vm *vm;

	assert_int_equal(vm_create(&c, &parts, &vm, &e), -EINVAL);
	assert_non_null(strstr(e.text, "soft"));
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
		cmocka_unit_test(test_seeds_differ),
		cmocka_unit_test(test_planted),
		cmocka_unit_test(test_planted_in_replay),
		cmocka_unit_test(test_resets),
		cmocka_unit_test(test_replay_console),
		cmocka_unit_test(test_replay_network),
		cmocka_unit_test(test_replay_disk),
		cmocka_unit_test(test_replay_ends),
		cmocka_unit_test(test_replay_idle_end),
		cmocka_unit_test(test_damaged),
		cmocka_unit_test(test_no_recording_is_lost),
		cmocka_unit_test(test_another_machine_is_named),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_other_engines),
	};

	log_setup("test", LOG_LEVEL_WARN);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
