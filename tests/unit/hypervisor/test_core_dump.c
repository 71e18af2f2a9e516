// SPDX-License-Identifier: Apache-2.0
/*
 * Core files: what is in them against the machine's state and memory, read by the layouts in
 * the documents and not by the code that wrote them; and every way to fail.
 */
#include "tests/unit/hypervisor/core_reader.h"

#include <sys/random.h>

static uint64_t random_state;

static uint64_t draw(void)
{
	random_state = random_state * 6364136223846793005u + 1442695040888963407u;
	return random_state >> 11 ^ random_state << 40;
}

/* ---- registers ------------------------------------------------------------------------------ */

/* RAX RBX RCX RDX RSI RDI RSP RBP R8-R15 RIP RFLAGS: where NT_PRSTATUS has them. */
static const unsigned prstatus_order[] = {10, 5, 11, 12, 13, 14, 19, 4,  9,
					  8,  7, 6,  3,  2,  1,  0,  16, 18};
/* CS DS ES FS GS SS TR LDT of the state: in NT_PRSTATUS (0: not there), and in the QEMU note. */
static const unsigned prstatus_selector[] = {17, 23, 24, 25, 26, 20, 0, 0};
static const unsigned qemu_segment[] = {0, 1, 2, 3, 4, 5, 7, 6};

static void segments_check(const uint8_t *state, const uint8_t *thread, const uint8_t *machine)
{
	for (unsigned i = 0; i < 8; i++) {
		const uint8_t *s = state + STATE_SEGMENT + 16 * i;
		const uint8_t *q = machine + 152 + 24 * qemu_segment[i];
		uint32_t half = (uint32_t)word(q + 8);
		uint16_t selector, want;

		memcpy(&selector, s + 12, 2);
		memcpy(&want, s + 14, 2);
		assert_int_equal((uint32_t)word(q), selector);
		assert_memory_equal(q + 4, s + 8, 4);
		assert_memory_equal(q + 16, s, 8);
		/* bits 0-7, then AVL L D/B G, of the state's attributes */
		assert_int_equal(half >> 8 & 255, want & 255);
		assert_int_equal(half >> 20 & 15, want >> 9 & 15);
		if (prstatus_selector[i])
			assert_int_equal(word(thread + 112 + 8 * prstatus_selector[i]), selector);
	}
	assert_memory_equal(thread + 112 + 8 * 21, state + STATE_SEGMENT + 16 * 3, 8);
	assert_memory_equal(thread + 112 + 8 * 22, state + STATE_SEGMENT + 16 * 4, 8);
}

static void fpu_check(const uint8_t *state, const uint8_t *fpregs)
{
	uint32_t msrs;

	memcpy(&msrs, state + STATE_MSRS, 4);
	assert_memory_equal(fpregs, state + STATE_MSRS + 8 + 12 * msrs, 512);
}

static void vcpu_check(const struct core *c, unsigned vcpu, const uint8_t *state)
{
	uint32_t size;
	const uint8_t *thread = core_note(c, "CORE", NT_PRSTATUS, vcpu, &size), *machine, *fpregs;

	assert_non_null(thread);
	assert_int_equal(size, 336);
	assert_int_equal((uint32_t)word(thread + 32), vcpu + 1);
	machine = core_note(c, "QEMU", 0, vcpu, &size);
	assert_non_null(machine);
	assert_int_equal(size, 440);
	assert_int_equal(word(machine), 1 | UINT64_C(440) << 32);
	for (unsigned i = 0; i < 18; i++) {
		uint64_t want = word(state + STATE_GPRS + 8 * i);

		assert_int_equal(word(thread + 112 + 8 * prstatus_order[i]), want);
		assert_int_equal(word(machine + 8 + 8 * i), want);
	}
	segments_check(state, thread, machine);
	for (unsigned i = 0; i < 2; i++)
		assert_memory_equal(machine + 152 + 24 * (8 + i) + 16,
				    state + STATE_TABLES + 10 * i, 8);
	assert_int_equal(word(machine + 392), word(state + STATE_CONTROL + 8 * CR0));
	assert_int_equal(word(machine + 400), 0);
	for (unsigned i = CR2; i <= CR4; i++)
		assert_int_equal(word(machine + 400 + 8 * i), word(state + STATE_CONTROL + 8 * i));
	fpregs = core_note(c, "CORE", NT_PRFPREG, vcpu, &size);
	assert_int_equal(size, 512);
	fpu_check(state, fpregs);
}

static void registers_draw(struct vm *vm, unsigned vcpus)
{
	struct buf state = {0};

	state_take(vm, &state);
	for (unsigned v = 0; v < vcpus; v++) {
		uint8_t *s = vcpu_section(&state, v, NULL);

		for (unsigned i = 0; i < 17; i++) {
			uint64_t r = draw() & 0x7fffffffffff;

			memcpy(s + STATE_GPRS + 8 * i, &r, 8);
		}
		for (unsigned i = 0; i < 8; i++) {
			uint8_t *segment = s + STATE_SEGMENT + 16 * i;
			uint64_t base = draw() & 0x7fffffffffff, rest = draw();

			rest &= ~(UINT64_C(0xe1) << 56); /* usable; bits that are there */
			memcpy(segment, &base, 8);
			memcpy(segment + 8, &rest, 8);
		}
	}
	state_give(vm, &state);
}

static void test_registers(void **unused)
{
	struct vm *vm = vm_make(2 * MIB, 3);
	struct buf state = {0};
	uint32_t size;
	struct core c;

	registers_draw(vm, 3);
	long_mode(vm, 0x1000);
	core_make(vm, false, &c);
	state_take(vm, &state);
	for (unsigned v = 0; v < 3; v++)
		vcpu_check(&c, v, vcpu_section(&state, v, NULL));
	assert_null(core_note(&c, "CORE", NT_PRSTATUS, 3, &size));
	assert_null(core_note(&c, "QEMU", 0, 3, &size));
	assert_null(core_note(&c, "LINUX", NT_X86_XSTATE, 0, &size));
	assert_false(c.result.vmcoreinfo);
	core_close(&c);
	buf_free(&state);
	vm_destroy(vm);
}

/* ---- memory --------------------------------------------------------------------------------- */

static uint64_t holes(int fd, uint64_t size)
{
	uint64_t data = 0;

	for (off_t at = 0; (at = lseek(fd, at, SEEK_DATA)) >= 0;) {
		off_t end = lseek(fd, at, SEEK_HOLE);

		data += (uint64_t)(end - at);
		at = end;
	}
	return size - data;
}

/* Pages here and there, the first and the last among them; some are of zeros again. */
static void test_memory_and_holes(void **unused)
{
	struct vm *vm = vm_make(64 * MIB, 1);
	const struct vm_core_options o = {0};
	uint64_t pages = vm_ram_pages(vm), touched = 0;
	struct error e = {0};
	struct core c = {0};
	int fd = file_new();

	for (unsigned i = 0; i < 300; i++) {
		uint64_t page = i == 0 ? 0 : i == 1 ? pages - 1 : draw() % pages;
		uint8_t *at = vm_ram(vm) + page * PAGE;

		at[draw() % PAGE] = i % 7 == 6 ? 0 : (uint8_t)(draw() | 1);
	}
	for (uint64_t page = 0; page < pages; page++)
		for (unsigned i = 0; i < PAGE; i++)
			if (vm_ram(vm)[page * PAGE + i]) {
				touched++;
				break;
			}
	assert_int_equal(vm_dump_core(vm, fd, &o, &c.result, &e), 0);
	assert_int_equal(c.result.bytes, touched * PAGE);
	core_open(&c, fd);
	assert_int_equal(c.loads, 1);
	assert_int_equal(c.load->p_vaddr, 0);
	assert_int_equal(c.load->p_paddr, 0);
	assert_int_equal(c.load->p_memsz, 64 * MIB);
	assert_memory_equal(core_read(&c, 0), vm_ram(vm), 64 * MIB);
	assert_true(holes(fd, c.size) >= 64 * MIB - (touched + 1) * 2 * PAGE);
	core_close(&c);
	close(fd);
	vm_destroy(vm);
}

static void test_both_sides_of_the_hole(void **unused)
{
	struct vm *vm = vm_make(3 * GIB + 16 * MIB, 1);
	struct core c;

	memset(vm_ram(vm) + 3 * GIB - PAGE, 1, PAGE);
	memset(vm_ram(vm) + 3 * GIB, 2, PAGE);
	core_make(vm, false, &c);
	assert_int_equal(c.loads, 2);
	assert_int_equal(c.load[0].p_memsz, 3 * GIB);
	assert_int_equal(c.load[1].p_paddr, 4 * GIB);
	assert_int_equal(c.load[1].p_vaddr, 4 * GIB);
	assert_int_equal(c.load[1].p_memsz, 16 * MIB);
	assert_int_equal(*core_read(&c, 3 * GIB - 1), 1);
	assert_int_equal(*core_read(&c, 4 * GIB), 2);
	core_close(&c);
	vm_destroy(vm);
}

/* ---- ways to fail --------------------------------------------------------------------------- */

struct patience {
	unsigned calls, most;
	uint64_t done, total;
};

static bool patience_lasts(void *ctx, uint64_t done, uint64_t total)
{
	struct patience *p = ctx;

	assert_true(done >= p->done && done <= total);
	p->done = done;
	p->total = total;
	return ++p->calls <= p->most;
}

static void test_cancel(void **unused)
{
	struct vm *vm = vm_make(16 * MIB, 1);

	memset(vm_ram(vm), 1, 5 * MIB);
	for (unsigned most = 0;; most++) {
		struct patience p = {.most = most};
		const struct vm_core_options o = {.go_on = patience_lasts, .ctx = &p};
		struct vm_core_result result;
		struct error e = {0};
		int fd = file_new(), rc = vm_dump_core(vm, fd, &o, &result, &e);

		assert_int_equal(vm_pause(vm), 0);
		assert_int_equal(vm_resume(vm), 0);
		if (!rc) {
			assert_int_equal(p.done, p.total);
			assert_true(most > 5 && p.calls == most);
			close(fd);
			break;
		}
		assert_int_equal(rc, -ECANCELED);
		assert_int_equal(file_size(fd), 0);
		close(fd);
	}
	vm_destroy(vm);
}

/* The disk is full at the nth write, for every n. */
static void test_disk_full(void **unused)
{
	struct vm *vm = vm_make(16 * MIB, 1);
	const struct vm_core_options o = {0};
	unsigned failed = 0;
	int rc = -1;

	for (unsigned i = 0; i < 20; i++)
		vm_ram(vm)[i * 64 * PAGE] = 1;
	for (unsigned nth = 1; rc; nth++) {
		struct vm_core_result result;
		struct error e = {0};
		int fd = file_new();

		fault_arm("core.write", nth, ENOSPC);
		rc = vm_dump_core(vm, fd, &o, &result, &e);
		fault_disarm_all();
		assert_true(!rc || rc == -ENOSPC);
		assert_int_equal(!file_size(fd), rc != 0);
		failed += rc != 0;
		close(fd);
	}
	assert_int_equal(failed, 21); /* 20 pages, and the head at last */
	vm_destroy(vm);
}

static void test_wrong_files(void **unused)
{
	struct vm *vm = vm_make(2 * MIB, 1);
	const struct vm_core_options o = {0};
	struct vm_core_result result;
	int fd = file_new(), pipes[2];

	assert_int_equal(ftruncate(fd, 1), 0);
	assert_int_equal(vm_dump_core(vm, fd, &o, &result, NULL), -EINVAL);
	assert_int_equal(file_size(fd), 1);
	assert_int_equal(ftruncate(fd, 0), 0);
	assert_int_equal(fcntl(fd, F_SETFL, O_APPEND), 0);
	assert_int_equal(vm_dump_core(vm, fd, &o, &result, NULL), -EINVAL);
	close(fd);
	assert_int_equal(vm_dump_core(vm, fd, &o, &result, NULL), -EBADF);
	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	assert_int_equal(vm_dump_core(vm, pipes[1], &o, &result, NULL), -EINVAL);
	close(pipes[0]);
	close(pipes[1]);
	vm_destroy(vm);
}

static void test_somebody_else_pauses(void **unused)
{
	struct vm *vm = vm_make(2 * MIB, 1);
	const struct vm_core_options o = {0}, live = {.live = true};
	struct vm_core_result result;
	int fd = file_new();

	assert_int_equal(vm_pause(vm), 0);
	assert_int_equal(vm_dump_core(vm, fd, &o, &result, NULL), -EBUSY);
	assert_int_equal(vm_dump_core(vm, fd, &live, &result, NULL), -EBUSY);
	assert_int_equal(file_size(fd), 0);
	assert_int_equal(vm_pause(vm), -EBUSY); /* it is still paused */
	assert_int_equal(vm_resume(vm), 0);
	assert_int_equal(vm_dump_core(vm, fd, &live, &result, NULL), 0);
	close(fd);
	vm_destroy(vm);
}

/* What has not come yet would be a hole. */
static void test_memory_still_to_come(void **unused)
{
	struct vm *vm = vm_make(2 * MIB, 1);
	const struct vm_core_options o = {0};
	struct vm_core_result result;
	struct error e = {0};
	int fd = file_new();

	atomic_store(&vm->memory.presence, MEMORY_LAZY);
	assert_int_equal(vm_dump_core(vm, fd, &o, &result, &e), -EBUSY);
	assert_non_null(strstr(e.text, "still to come"));
	atomic_store(&vm->memory.presence, MEMORY_WHOLE);
	assert_int_equal(vm_dump_core(vm, fd, &o, &result, NULL), 0);
	close(fd);
	vm_destroy(vm);
}

static void test_sim_has_no_vcpus(void **unused)
{
	const struct vm_config c = {
		.name = "sim", .memory = 256 << 10, .vcpus = 1, .engine = "sim", .seed = 1};
	const struct vm_core_options o = {0};
	struct vm_parts parts = {.console_in = -1, .console_out = -1};
	struct vm_core_result result;
	struct error e = {0};
	struct vm *vm = NULL;
	int fd = file_new();

	assert_int_equal(loop_create(&parts.io), 0);
	assert_int_equal(vm_create(&c, &parts, &vm, &e), 0);
	assert_int_equal(vm_dump_core(vm, fd, &o, &result, &e), -EOPNOTSUPP);
	assert_non_null(strstr(e.text, "no vCPUs"));
	close(fd);
	vm_destroy(vm);
	loop_destroy(parts.io);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_registers),
		cmocka_unit_test(test_memory_and_holes),
		cmocka_unit_test(test_both_sides_of_the_hole),
		cmocka_unit_test(test_cancel),
		cmocka_unit_test(test_disk_full),
		cmocka_unit_test(test_wrong_files),
		cmocka_unit_test(test_somebody_else_pauses),
		cmocka_unit_test(test_memory_still_to_come),
		cmocka_unit_test(test_sim_has_no_vcpus),
	};

	if (getenv("POLLUX_SEED"))
		random_state = strtoull(getenv("POLLUX_SEED"), NULL, 0);
	else if (getrandom(&random_state, sizeof(random_state), 0) < 0)
		return 1;
	print_message("POLLUX_SEED=%llu\n", (unsigned long long)random_state);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
