// SPDX-License-Identifier: Apache-2.0
/*
 * Machines as releases have saved them (tests/protocol/golden/machine-N): loaded into the
 * machine of today, they say the same of themselves, and the guest goes on to its end.
 * `test_golden record N` makes another one.
 */
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "hypervisor/hypervisor.h"
#include "hypervisor/state.h"
#include "tests/unit/golden.h"

#define KIND      "machine"
#define MEMORY    (UINT64_C(8) << 20)
#define DISK_SIZE (UINT64_C(1) << 20)
#define SIM_STEPS 5000u
#define MANY      64u

/* A soft machine with one of everything, which runs tests/guests/blk. */
struct machine {
	char folder[64], disk_path[96];
	struct loop *io;
	struct net_backend *net;
	struct disk_backend *disk;
	struct vm *vm;
	int console[2];
	char text[1 << 16];
	size_t text_len;
	atomic_bool over, crashed;
};

/* ---- files ----------------------------------------------------------------------------- */

static FILE *packed_open(unsigned n, const char *name, bool write)
{
	char path[GOLDEN_ROOM], command[GOLDEN_ROOM + 16];
	FILE *f;

	golden_path(path, KIND, n, name);
	snprintf(command, sizeof(command), write ? "gzip -9n >%s" : "gzip -dc %s", path);
	f = popen(command, write ? "w" : "r");
	assert_non_null(f);
	return f;
}

static void packed_read(unsigned n, const char *name, void *to, size_t size)
{
	FILE *f = packed_open(n, name, false);

	assert_int_equal(fread(to, 1, size, f), size);
	assert_int_equal(fgetc(f), EOF);
	assert_int_equal(pclose(f), 0);
}

static void packed_write(unsigned n, const char *name, const void *from, size_t size)
{
	FILE *f = packed_open(n, name, true);

	assert_int_equal(fwrite(from, 1, size, f), size);
	assert_int_equal(pclose(f), 0);
}

static void state_read(unsigned n, const char *name, struct buf *out)
{
	uint8_t piece[4096];
	FILE *f = packed_open(n, name, false);
	size_t got;

	while ((got = fread(piece, 1, sizeof(piece), f)))
		buf_put(out, piece, got);
	assert_int_equal(pclose(f), 0);
	assert_int_equal(buf_check(out), 0);
}

/* They are numbered without a gap; one may have several versions of what it consists of. */
static unsigned machines(void)
{
	unsigned n = 0;

	golden_needed();
	while (golden_exists(KIND, n + 1))
		n++;
	assert_true(n > 0);
	return n;
}

/* ---- the machine ------------------------------------------------------------------------- */

static void machine_event(void *ctx, enum vm_event event, const char *detail)
{
	struct machine *m = ctx;

	if (event == VM_EVENT_CRASH) {
		print_message("the guest crashed: %s\n", detail);
		atomic_store(&m->crashed, true);
	}
	atomic_store(&m->over, true);
}

static int frame_drop(void *ctx, const void *frame, size_t len)
{
	return 0;
}

static void machine_disk(struct machine *m, const void *content)
{
	struct disk_config d = {0};
	struct error e = {0};
	int fd;

	snprintf(m->disk_path, sizeof(m->disk_path), "%s/disk", m->folder);
	fd = open(m->disk_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, DISK_SIZE), 0);
	if (content)
		assert_int_equal(fd_write_all(fd, content, DISK_SIZE), 0);
	close(fd);
	snprintf(d.path, sizeof(d.path), "%s", m->disk_path);
	if (disk_backend_open(&d, m->io, &m->disk, &e))
		fail_msg("%s", e.text);
}

static void machine_make(struct machine *m, const void *disk)
{
	const char *build = getenv("POLLUX_BUILD");
	struct vm_config c = {.name = "golden",
			      .memory = MEMORY,
			      .vcpus = 2,
			      .engine = "soft",
			      .cpu = "pollux-base",
			      .cmdline = "blocks=16 depth=4 ops=3000 report=100",
			      .disk_count = 1,
			      .nic_count = 1};
	struct error e = {0};

	memset(m, 0, sizeof(*m));
	snprintf(c.kernel, sizeof(c.kernel), "%s/tests/guests/blk", build ? build : "build");
	memcpy(c.nics[0].mac, (uint8_t[]){2, 0, 0, 0, 0, 1}, 6);
	snprintf(m->folder, sizeof(m->folder), "/tmp/pollux-golden-XXXXXX");
	assert_non_null(mkdtemp(m->folder));
	assert_int_equal(loop_create(&m->io), 0);
	machine_disk(m, disk);
	assert_int_equal(net_memory_create(frame_drop, NULL, &m->net), 0);
	assert_int_equal(pipe2(m->console, O_CLOEXEC | O_NONBLOCK), 0);
	struct vm_parts parts = {.io = m->io,
				 .nets = {m->net},
				 .disks = {m->disk},
				 .console_in = -1,
				 .console_out = m->console[1],
				 .on_event = machine_event,
				 .ctx = m};
	if (vm_create(&c, &parts, &m->vm, &e))
		fail_msg("%s", e.text);
}

static void machine_end(struct machine *m)
{
	vm_destroy(m->vm);
	m->net->ops->destroy(m->net);
	m->disk->ops->destroy(m->disk);
	loop_destroy(m->io);
	close(m->console[0]);
	close(m->console[1]);
	(void)unlink(m->disk_path);
	(void)rmdir(m->folder);
}

static void machine_step(struct machine *m)
{
	ssize_t n;

	assert_int_equal(loop_step(m->io, 1), 0);
	while ((n = read(m->console[0], m->text + m->text_len, sizeof(m->text) - 1 - m->text_len)) >
	       0)
		m->text_len += (size_t)n;
}

/* ---- loading what was saved --------------------------------------------------------------- */

static void sections_compare(const struct buf *was, const struct buf *is)
{
	struct state_view a, b;

	assert_int_equal(state_open(was->data, was->len, &a, NULL), 0);
	assert_int_equal(state_open(is->data, is->len, &b, NULL), 0);
	assert_int_equal(a.count, b.count);
	for (unsigned i = 0; i < a.count; i++) {
		const struct state_section *s = &a.sections[i];
		const struct state_section *now = state_find(&b, s->id, s->instance);

		if (!now)
			fail_msg("section %u, %u is gone", s->id, s->instance);
		/* Time goes on in these, and another version may have other fields. */
		if (s->id == STATE_VCPU || s->id == STATE_CLOCK || s->version != now->version)
			continue;
		if (s->len != now->len || memcmp(s->data, now->data, s->len))
			fail_msg("section %u, %u is not what was loaded", s->id, s->instance);
	}
}

static void state_take(struct vm *vm, const struct buf *state)
{
	struct buf again = {0};
	struct error e = {0};

	if (vm_state_check(vm, state->data, state->len, &e) ||
	    vm_state_load(vm, state->data, state->len, &e) || vm_state_save(vm, &again, &e))
		fail_msg("%s", e.text);
	sections_compare(state, &again);
	buf_free(&again);
}

static void machine_goes_on(unsigned n)
{
	static uint8_t disk[DISK_SIZE];
	struct buf state = {0};
	struct error e = {0};
	struct machine *m = malloc(sizeof(*m));

	assert_non_null(m);
	packed_read(n, "soft.disk.gz", disk, sizeof(disk));
	state_read(n, "soft.state.gz", &state);
	machine_make(m, disk);
	packed_read(n, "soft.ram.gz", vm_ram(m->vm), MEMORY);
	state_take(m->vm, &state);
	if (vm_start(m->vm, &e))
		fail_msg("%s", e.text);
	while (!atomic_load(&m->over))
		machine_step(m);
	for (unsigned i = 0; i < 20; i++) /* the console's last words */
		machine_step(m);
	if (atomic_load(&m->crashed) || strstr(m->text, "FAIL") || !strstr(m->text, "done writes"))
		fail_msg("machine-%u did not end well:\n%s", n, m->text);
	if (strstr(m->text, "start"))
		fail_msg("machine-%u began anew:\n%s", n, m->text);
	machine_end(m);
	buf_free(&state);
	free(m);
}

static void machines_of_releases_go_on(void **state)
{
	for (unsigned n = machines(); n; n--)
		machine_goes_on(n);
}

/* ---- engine sim ------------------------------------------------------------------------------ */

struct fake {
	uint8_t disk_bytes[32 << 10];
	struct loop *io;
	struct net_backend *net;
	struct disk_backend *disk;
	struct vm *vm;
};

static void fake_make(struct fake *f)
{
	struct vm_config c = {.name = "golden",
			      .memory = 256 << 10,
			      .vcpus = 1,
			      .engine = "sim",
			      .disk_count = 1,
			      .nic_count = 1,
			      .seed = 1};
	struct error e = {0};

	memset(f, 0, sizeof(*f));
	assert_int_equal(loop_create(&f->io), 0);
	assert_int_equal(net_memory_create(frame_drop, NULL, &f->net), 0);
	assert_int_equal(disk_memory_create(f->disk_bytes, sizeof(f->disk_bytes), &f->disk), 0);
	struct vm_parts parts = {.io = f->io,
				 .nets = {f->net},
				 .disks = {f->disk},
				 .console_in = -1,
				 .console_out = -1};
	if (vm_create(&c, &parts, &f->vm, &e))
		fail_msg("%s", e.text);
}

static void fake_end(struct fake *f)
{
	vm_destroy(f->vm);
	f->net->ops->destroy(f->net);
	f->disk->ops->destroy(f->disk);
	loop_destroy(f->io);
}

static void states_of_fake_guests_are_taken(void **state)
{
	for (unsigned n = machines(); n; n--) {
		struct buf saved = {0};
		struct fake f;

		fake_make(&f);
		state_read(n, "sim.state.gz", &saved);
		state_take(f.vm, &saved);
		fake_end(&f);
		buf_free(&saved);
	}
}

/* ---- versions -----------------------------------------------------------------------------------
 */

/* Which versions of a kind of section are among what was recorded; one bit each. */
static void versions_add(unsigned n, const char *name, uint16_t id, unsigned *versions)
{
	struct vm_state_section sections[MANY];
	struct buf saved = {0};
	struct error e = {0};
	int count;

	state_read(n, name, &saved);
	count = vm_state_sections(saved.data, saved.len, sections, MANY, &e);
	if (count < 0)
		fail_msg("%s", e.text);
	assert_true(count <= (int)MANY);
	for (int i = 0; i < count; i++)
		if (sections[i].id == id)
			*versions |= 1u << sections[i].version;
	buf_free(&saved);
}

/* One bit for each version of the frame. */
static unsigned frames_recorded(void)
{
	static const char *const names[] = {"soft.state.gz", "sim.state.gz"};
	unsigned versions = 0;

	for (unsigned n = machines(); n; n--)
		for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
			struct buf saved = {0};

			state_read(n, names[i], &saved);
			assert_true(saved.len > 16 && saved.data[4] < 32 && !saved.data[5]);
			versions |= 1u << saved.data[4];
			buf_free(&saved);
		}
	return versions;
}

static void each_frame_is_recorded_and_read(void **state)
{
	const unsigned read = (2u << STATE_VERSION) - (1u << STATE_OLDEST);

	assert_int_equal(frames_recorded(), read);
}

/* Whoever gives a section a new version records a machine that has it, and what was read
 * once is read still. */
static void each_version_is_recorded_and_read(void **state)
{
	struct vm_state_kind kinds[MANY];
	unsigned count = vm_state_kinds(kinds, MANY);

	assert_true(count > 8 && count < MANY);
	for (unsigned i = 0; i < count; i++) {
		unsigned versions = 0;

		for (unsigned n = machines(); n; n--) {
			versions_add(n, "soft.state.gz", kinds[i].id, &versions);
			versions_add(n, "sim.state.gz", kinds[i].id, &versions);
		}
		if (!(versions & 1u << kinds[i].newest))
			fail_msg("no %s of version %u is recorded", kinds[i].name, kinds[i].newest);
		if (versions & ((1u << kinds[i].oldest) - 1) || versions >> (kinds[i].newest + 1))
			fail_msg("%s: a recorded version is not read", kinds[i].name);
	}
}

/* ---- recording
 * ------------------------------------------------------------------------------------ */

static void machine_record(struct machine *m, unsigned n)
{
	static uint8_t disk[DISK_SIZE];
	struct buf state = {0};
	struct error e = {0};
	int fd;

	machine_make(m, NULL);
	if (vm_boot(m->vm, &e) || vm_start(m->vm, &e))
		fail_msg("%s", e.text);
	while (!strstr(m->text, "blk: done 3")) {
		machine_step(m);
		if (atomic_load(&m->over))
			fail_msg("the guest ended too early:\n%s", m->text);
	}
	assert_int_equal(vm_pause(m->vm), 0);
	if (vm_state_save(m->vm, &state, &e))
		fail_msg("%s", e.text);
	fd = open(m->disk_path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(pread(fd, disk, sizeof(disk), 0), sizeof(disk));
	close(fd);
	packed_write(n, "soft.disk.gz", disk, sizeof(disk));
	packed_write(n, "soft.state.gz", state.data, state.len);
	packed_write(n, "soft.ram.gz", vm_ram(m->vm), MEMORY);
	assert_int_equal(vm_resume(m->vm), 0);
	buf_free(&state);
	machine_end(m);
}

static void fake_record(unsigned n)
{
	struct buf state = {0};
	struct error e = {0};
	struct fake f;

	fake_make(&f);
	if (vm_boot(f.vm, &e) || vm_start(f.vm, &e))
		fail_msg("%s", e.text);
	for (unsigned i = 0; i < SIM_STEPS; i++) {
		assert_int_equal(vm_step(f.vm, 1), 0);
		if (i % 3 == 0)
			(void)!disk_memory_complete(f.disk, 0);
	}
	if (vm_state_save(f.vm, &state, &e))
		fail_msg("%s", e.text);
	packed_write(n, "sim.state.gz", state.data, state.len);
	buf_free(&state);
	fake_end(&f);
}

static void record(void **state)
{
	char *const *words = *state;
	unsigned n = words[0] ? (unsigned)atoi(words[0]) : 0;
	struct machine *m = malloc(sizeof(*m));
	char path[GOLDEN_ROOM];

	assert_non_null(m);
	if (!n)
		fail_msg("which one?");
	golden_folder_make(golden_path(path, KIND, n, ""));
	machine_record(m, n);
	fake_record(n);
	free(m);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(machines_of_releases_go_on),
		cmocka_unit_test(states_of_fake_guests_are_taken),
		cmocka_unit_test(each_version_is_recorded_and_read),
		cmocka_unit_test(each_frame_is_recorded_and_read),
	};

	return golden_run(argc, argv, tests, ARRAY_LEN(tests), record);
}
