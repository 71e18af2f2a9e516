// SPDX-License-Identifier: Apache-2.0
/*
 * Core files: what is in them against the machine's state and memory, read by the layouts in
 * docs/core-dump.md and docs/state-format.md and not by the code that wrote them; page tables of
 * all kinds; every way to fail.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "hypervisor/core_dump.h"
#include "hypervisor/machine.h"

#define MIB  (UINT64_C(1) << 20)
#define GIB  (UINT64_C(1) << 30)
#define PAGE UINT64_C(4096)

/* In a vCPU's section (docs/state-format.md). */
#define STATE_GPRS    8u
#define STATE_SEGMENT 152u
#define STATE_TABLES  280u
#define STATE_CONTROL 300u
#define STATE_MSRS    1500u
enum control { CR0, CR2, CR3, CR4, CR8, EFER };

#define LONG_CR0  UINT64_C(0x80000011)
#define LONG_EFER UINT64_C(0x500)
#define CR4_PAE   UINT64_C(0x20)
#define CR4_LA57  UINT64_C(0x1000)

static uint64_t random_state;

static uint64_t draw(void)
{
	random_state = random_state * 6364136223846793005u + 1442695040888963407u;
	return random_state >> 11 ^ random_state << 40;
}

/* ---- a machine that stands still ---------------------------------------------------- */

static int nothing_load(struct vm *vm, struct boot_entry *out, struct error *e)
{
	return 0;
}

static int no_devices(struct vm *vm, struct error *e)
{
	return 0;
}

static struct vm *vm_make(uint64_t memory, unsigned vcpus)
{
	const struct machine_plan plan = {
		.engine = &engine_soft, .devices = no_devices, .load = nothing_load};
	const struct vm_config c = {.name = "core", .memory = memory, .vcpus = vcpus};
	const struct vm_parts parts = {.console_in = -1, .console_out = -1};
	struct error e = {0};
	struct vm *vm = NULL;

	if (machine_create(&plan, &c, &parts, &vm, &e))
		fail_msg("%s", e.text);
	return vm;
}

static uint8_t *vcpu_section(struct buf *state, unsigned vcpu, uint32_t *len)
{
	static struct state_view view;
	const struct state_section *s;

	assert_int_equal(state_open(state->data, state->len, &view, NULL), 0);
	s = state_find(&view, STATE_VCPU, (uint16_t)vcpu);
	assert_non_null(s);
	if (len)
		*len = s->len;
	return (uint8_t *)(uintptr_t)s->data;
}

static void state_take(struct vm *vm, struct buf *out)
{
	struct error e = {0};

	if (vm_state_save(vm, out, &e))
		fail_msg("%s", e.text);
}

static void state_give(struct vm *vm, struct buf *state)
{
	struct error e = {0};

	if (vm_state_load(vm, state->data, state->len, &e))
		fail_msg("%s", e.text);
	buf_free(state);
}

static void control_set(struct vm *vm, unsigned vcpu, uint64_t cr0, uint64_t cr3, uint64_t cr4,
			uint64_t efer)
{
	struct buf state = {0};
	uint8_t *s;

	state_take(vm, &state);
	s = vcpu_section(&state, vcpu, NULL) + STATE_CONTROL;
	memcpy(s + 8 * CR0, &cr0, 8);
	memcpy(s + 8 * CR3, &cr3, 8);
	memcpy(s + 8 * CR4, &cr4, 8);
	memcpy(s + 8 * EFER, &efer, 8);
	state_give(vm, &state);
}

static void selector_set(struct vm *vm, unsigned vcpu, uint16_t cs)
{
	struct buf state = {0};

	state_take(vm, &state);
	memcpy(vcpu_section(&state, vcpu, NULL) + STATE_SEGMENT + 12, &cs, 2);
	state_give(vm, &state);
}

static void long_mode(struct vm *vm, uint64_t cr3)
{
	control_set(vm, 0, LONG_CR0, cr3, CR4_PAE, LONG_EFER);
}

/* ---- a core ------------------------------------------------------------------------------ */

struct core {
	const uint8_t *map;
	size_t size;
	struct vm_core_result result;
	unsigned loads;
	const Elf64_Phdr *load;
};

static int file_new(void)
{
	char name[] = "/tmp/pollux-core-XXXXXX";
	int fd = mkostemp(name, O_CLOEXEC);

	assert_true(fd >= 0);
	unlink(name);
	return fd;
}

static off_t file_size(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return st.st_size;
}

static const uint8_t *core_at(const struct core *c, uint64_t offset, uint64_t n)
{
	assert_true(offset <= c->size && n <= c->size - offset);
	return c->map + offset;
}

static void core_open(struct core *c, int fd)
{
	const Elf64_Ehdr *h;
	size_t headers;

	c->size = (size_t)file_size(fd);
	c->map = mmap(NULL, c->size, PROT_READ, MAP_PRIVATE, fd, 0);
	assert_true(c->map != MAP_FAILED);
	h = (const Elf64_Ehdr *)core_at(c, 0, sizeof(*h));
	assert_memory_equal(h->e_ident,
			    "\x7f"
			    "ELF\2\1\1",
			    7);
	assert_int_equal(h->e_type, ET_CORE);
	assert_int_equal(h->e_machine, EM_X86_64);
	headers = h->e_phnum;
	if (headers == PN_XNUM) {
		assert_int_equal(h->e_shnum, 1);
		headers = ((const Elf64_Shdr *)core_at(c, h->e_shoff, sizeof(Elf64_Shdr)))->sh_info;
	}
	c->load = (const Elf64_Phdr *)core_at(c, h->e_phoff, headers * sizeof(Elf64_Phdr));
	assert_int_equal(c->load->p_type, PT_NOTE);
	c->load++;
	c->loads = (unsigned)headers - 1;
	assert_int_equal(c->result.segments, c->loads);
	assert_int_equal(c->result.size, c->size);
	for (unsigned i = 0; i < c->loads; i++) {
		assert_int_equal(c->load[i].p_type, PT_LOAD);
		assert_int_equal(c->load[i].p_filesz, c->load[i].p_memsz);
		(void)core_at(c, c->load[i].p_offset, c->load[i].p_filesz);
	}
}

static void core_close(struct core *c)
{
	munmap((void *)(uintptr_t)c->map, c->size);
}

static void core_make(struct vm *vm, bool paging, struct core *c)
{
	const struct vm_core_options o = {.paging = paging};
	struct error e = {0};
	int fd = file_new();

	*c = (struct core){0};
	if (vm_dump_core(vm, fd, &o, &c->result, &e))
		fail_msg("%s", e.text);
	core_open(c, fd);
	close(fd);
}

/* Memory that the core does not have is a failure here. */
static const uint8_t *core_read(const struct core *c, uint64_t vaddr)
{
	for (unsigned i = 0; i < c->loads; i++)
		if (vaddr >= c->load[i].p_vaddr && vaddr - c->load[i].p_vaddr < c->load[i].p_memsz)
			return c->map + c->load[i].p_offset + (vaddr - c->load[i].p_vaddr);
	fail_msg("%#llx is not in the core", (unsigned long long)vaddr);
	return NULL;
}

/* The `nth` note of that kind. */
static const uint8_t *core_note(const struct core *c, const char *name, uint32_t type, unsigned nth,
				uint32_t *size)
{
	const Elf64_Phdr *p = c->load - 1;
	const uint8_t *at = core_at(c, p->p_offset, p->p_filesz), *end = at + p->p_filesz;

	while (at < end) {
		const Elf64_Nhdr *n = (const Elf64_Nhdr *)at;
		const char *its_name = (const char *)(n + 1);
		const uint8_t *desc = at + sizeof(*n) + (n->n_namesz + 3u) / 4 * 4;

		at = desc + (n->n_descsz + 3u) / 4 * 4;
		assert_true(at <= end);
		if (strcmp(its_name, name) != 0 || n->n_type != type || nth--)
			continue;
		*size = n->n_descsz;
		return desc;
	}
	return NULL;
}

static uint64_t word(const uint8_t *at)
{
	uint64_t v;

	memcpy(&v, at, 8);
	return v;
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

/* ---- page tables ------------------------------------------------------------------------------
 */

static void entry_set(struct vm *vm, uint64_t table, unsigned index, uint64_t value)
{
	memcpy(vm_ram(vm) + table + 8u * index, &value, 8);
}

static void segment_check(const struct core *c, uint64_t vaddr, uint64_t paddr, uint64_t size)
{
	for (unsigned i = 0; i < c->loads; i++)
		if (c->load[i].p_vaddr == vaddr) {
			assert_int_equal(c->load[i].p_paddr, paddr);
			assert_int_equal(c->load[i].p_memsz, size);
			return;
		}
	fail_msg("no segment begins at %#llx", (unsigned long long)vaddr);
}

/* Tables: 0x1000, below it 0x2000 (lower half) and 0x5000 (upper); 0x3000, 0x4000. */
static void tables_make(struct vm *vm)
{
	entry_set(vm, 0x1000, 0, 0x2003);
	entry_set(vm, 0x1000, 511, UINT64_C(0x8000000000005003)); /* no-execute */
	entry_set(vm, 0x2000, 0, 0x3003);
	entry_set(vm, 0x2000, 1, 0x83);       /* 1 GiB at 1 GiB: RAM is less */
	entry_set(vm, 0x2000, 2, 0x7ff00003); /* a table outside of RAM */
	entry_set(vm, 0x3000, 0, 0x4003);
	entry_set(vm, 0x3000, 1, 0x400083); /* 2 MiB, and its neighbour */
	entry_set(vm, 0x3000, 2, 0x601083); /* PAT: of a large page no address */
	entry_set(vm, 0x3000, 3, 0x400082); /* not there */
	entry_set(vm, 0x4000, 0, 0x10003);
	entry_set(vm, 0x4000, 1, 0x11003);
	entry_set(vm, 0x4000, 2, 0x13003);
	entry_set(vm, 0x4000, 511, 0x3ff003); /* 2 MiB below its neighbour in both */
	entry_set(vm, 0x5000, 510, 0x3003);   /* the same again, where a kernel is */
}

#define KERNEL UINT64_C(0xffffffff80000000)

static void test_page_tables(void **unused)
{
	struct vm *vm = vm_make(16 * MIB, 1);
	struct core c;

	for (uint64_t page = 0x10; page < 0x14; page++)
		memset(vm_ram(vm) + page * PAGE, (int)page, PAGE);
	tables_make(vm);
	long_mode(vm, 0x1018); /* with bits that are no address */
	core_make(vm, true, &c);
	for (unsigned half = 0; half < 2; half++) {
		uint64_t base = half ? KERNEL : 0;

		segment_check(&c, base, 0x10000, 0x2000);
		segment_check(&c, base + 0x2000, 0x13000, 0x1000);
		segment_check(&c, base + 0x1ff000, 0x3ff000, 0x1000 + 4 * MIB);
		assert_int_equal(*core_read(&c, base + 0x1fff), 0x11);
		assert_int_equal(*core_read(&c, base + 0x2000), 0x13);
	}
	segment_check(&c, GIB, 0, 16 * MIB);
	assert_int_equal(c.loads, 7);
	assert_int_equal(c.result.paging_vcpu, 0);
	core_close(&c);
	vm_destroy(vm);
}

static void test_five_levels(void **unused)
{
	struct vm *vm = vm_make(16 * MIB, 1);
	struct core c;

	tables_make(vm);
	entry_set(vm, 0x6000, 0, 0x1003);
	entry_set(vm, 0x6000, 256, 0x1003);
	control_set(vm, 0, LONG_CR0, 0x6000, CR4_PAE | CR4_LA57, LONG_EFER);
	core_make(vm, true, &c);
	segment_check(&c, 0, 0x10000, 0x2000);
	segment_check(&c, UINT64_C(0x0000ffff80000000), 0x10000, 0x2000); /* no sign at bit 47 */
	segment_check(&c, UINT64_C(0xff00000000000000), 0x10000, 0x2000);
	core_close(&c);
	vm_destroy(vm);
}

/* Pages of 1 GiB over the PCI hole: RAM below, nothing, RAM above. */
static void test_large_page_over_the_hole(void **unused)
{
	struct vm *vm = vm_make(3 * GIB + 16 * MIB, 1);
	struct core c;

	entry_set(vm, 0x1000, 0, 0x2003);
	for (unsigned i = 0; i < 5; i++)
		entry_set(vm, 0x2000, i, i * GIB | 0x83);
	entry_set(vm, 0x2000, 10, 0x3003);
	entry_set(vm, 0x3000, 0, 0x4003);
	entry_set(vm, 0x4000, 0, (3 * GIB - PAGE) | 3); /* neighbours in the file alone */
	entry_set(vm, 0x4000, 1, 4 * GIB | 3);
	long_mode(vm, 0x1000);
	core_make(vm, true, &c);
	assert_int_equal(c.loads, 4);
	segment_check(&c, 0, 0, 3 * GIB);
	segment_check(&c, 4 * GIB, 4 * GIB, 16 * MIB);
	segment_check(&c, 10 * GIB, 3 * GIB - PAGE, PAGE);
	segment_check(&c, 10 * GIB + PAGE, 4 * GIB, PAGE);
	core_close(&c);
	vm_destroy(vm);
}

/* Windows and others map the tables themselves by an entry that points back. */
static void test_tables_that_map_themselves(void **unused)
{
	struct vm *vm = vm_make(16 * MIB, 1);
	uint64_t self = UINT64_C(0xffff) << 48 | UINT64_C(0x1ed) << 39;
	struct core c;

	tables_make(vm);
	entry_set(vm, 0x1000, 0x1ed, 0x1003);
	long_mode(vm, 0x1000);
	core_make(vm, true, &c);
	/* The highest table as its own lowest one. */
	assert_memory_equal(core_read(&c, self | UINT64_C(0x1ed) << 30 | UINT64_C(0x1ed) << 21 |
						  UINT64_C(0x1ed) << 12),
			    vm_ram(vm) + 0x1000, PAGE);
	core_close(&c);
	vm_destroy(vm);
}

/* More pieces than an ELF header counts: each page a piece of its own. */
static void test_many_segments(void **unused)
{
	struct vm *vm = vm_make(16 * MIB, 1);
	unsigned tables = 140;
	struct core c;

	entry_set(vm, 0x1000, 0, 0x2003);
	entry_set(vm, 0x2000, 0, 0x3003);
	for (unsigned t = 0; t < tables; t++) {
		entry_set(vm, 0x3000, t, 0x10000 + t * PAGE + 3);
		for (unsigned i = 0; i < 512; i++)
			entry_set(vm, 0x10000 + t * PAGE, i, (4095 - (t + i) % 4096) * PAGE + 3);
	}
	vm_ram(vm)[4000 * PAGE] = 77;
	long_mode(vm, 0x1000);
	core_make(vm, true, &c);
	assert_int_equal(c.loads, tables * 512);
	assert_int_equal(*core_read(&c, 95 * PAGE), 77);
	assert_int_equal(*core_read(&c, (512 + 94) * PAGE), 77);
	core_close(&c);
	vm_destroy(vm);
}

static void paging_refused(struct vm *vm, int code, const char *text)
{
	const struct vm_core_options o = {.paging = true};
	struct vm_core_result result;
	struct error e = {0};
	int fd = file_new();

	assert_int_equal(vm_dump_core(vm, fd, &o, &result, &e), code);
	assert_non_null(strstr(e.text, text));
	assert_int_equal(file_size(fd), 0);
	close(fd);
	/* It goes on: a pause can be had again. */
	assert_int_equal(vm_pause(vm), 0);
	assert_int_equal(vm_resume(vm), 0);
}

static void test_no_paging(void **unused)
{
	struct vm *vm = vm_make(2 * MIB, 1);

	paging_refused(vm, -ENODATA, "not in 64-bit mode");
	control_set(vm, 0, LONG_CR0, 0x1000, CR4_PAE, 0); /* 32-bit paging */
	paging_refused(vm, -ENODATA, "not in 64-bit mode");
	vm_destroy(vm);
}

/* 512 ways at each level to the same page: 2^36 pieces. */
static void test_endless_page_tables(void **unused)
{
	struct vm *vm = vm_make(16 * MIB, 1);

	for (unsigned table = 1; table <= 4; table++)
		for (unsigned i = 0; i < 512; i++)
			entry_set(vm, table * PAGE, i, (table + 1) * PAGE + 3);
	long_mode(vm, 0x1000);
	paging_refused(vm, -E2BIG, "262144");
	for (unsigned i = 0; i < 512; i++) /* and none of it is RAM */
		entry_set(vm, 0x4000, i, UINT64_C(0x8000000000) + 3);
	paging_refused(vm, -ELOOP, "262144");
	vm_destroy(vm);
}

/* vCPU 0 in user mode, vCPU 1 never started: the third one's tables are taken. */
static void test_whose_page_tables(void **unused)
{
	struct vm *vm = vm_make(16 * MIB, 3);
	struct core c;

	tables_make(vm);
	control_set(vm, 0, LONG_CR0, 0x9000, CR4_PAE, LONG_EFER);
	control_set(vm, 2, LONG_CR0, 0x1000, CR4_PAE, LONG_EFER);
	selector_set(vm, 0, 0x33);
	core_make(vm, true, &c);
	assert_int_equal(c.result.paging_vcpu, 2);
	assert_int_equal(c.loads, 7);
	core_close(&c);
	vm_destroy(vm);
}

/* ---- VMCOREINFO --------------------------------------------------------------------------------
 */

static size_t note_write(struct vm *vm, uint64_t at, const char *text, uint32_t size)
{
	const uint32_t head[] = {11, size, 0};

	memcpy(vm_ram(vm) + at, head, 12);
	memcpy(vm_ram(vm) + at + 12, "VMCOREINFO\0", 12);
	memcpy(vm_ram(vm) + at + 24, text, strlen(text));
	return strlen(text);
}

#define INFO(stext, base)                                                                          \
	"OSRELEASE=6.1.0\nPAGESIZE=4096\nSYMBOL(_stext)=" stext "\nNUMBER(phys_base)=" base "\n"

/* The kernel's text is at physical 0x10000: virtual KERNEL + 0x1200000, phys_base -0x11f0000. */
static void kernel_map(struct vm *vm)
{
	tables_make(vm);
	entry_set(vm, 0x5000, 510, 0x6003);
	entry_set(vm, 0x6000, 9, 0x4003);
}

static void info_check(struct vm *vm, const char *want)
{
	uint32_t size;
	struct core c;

	core_make(vm, false, &c);
	assert_int_equal(c.result.vmcoreinfo, want != NULL);
	if (want) {
		const uint8_t *text = core_note(&c, "VMCOREINFO", 0, 0, &size);

		assert_non_null(text);
		assert_int_equal(size, strlen(want));
		assert_memory_equal(text, want, size);
	} else {
		assert_null(core_note(&c, "VMCOREINFO", 0, 0, &size));
	}
	core_close(&c);
}

static void test_vmcoreinfo(void **unused)
{
	static const char good[] = INFO("ffffffff81200000", "-18808832");
	static const char *const wrong[] = {
		INFO("ffffffff81200000", "0"),         /* it lies elsewhere */
		INFO("ffffffff81a00000", "-18808832"), /* there is nothing */
		INFO("1200000", "-18808832"),          /* that is no kernel's */
		"OSRELEASE=6.1.0\nSYMBOL(_stext)=ffffffff81200000\n",
		"OSRELEASE=\xff\nSYMBOL(_stext)=ffffffff81200000\nNUMBER(phys_base)=-18808832\n",
		"RELEASE=6.1.0\nSYMBOL(_stext)=ffffffff81200000\nNUMBER(phys_base)=-18808832\n",
	};
	struct vm *vm = vm_make(16 * MIB, 1);

	kernel_map(vm);
	long_mode(vm, 0x1000);
	for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
		note_write(vm, 0x200000 + i * PAGE, wrong[i], (uint32_t)strlen(wrong[i]));
		info_check(vm, NULL);
	}
	note_write(vm, 0x300800, good, sizeof(good) - 1); /* at no page's beginning */
	info_check(vm, NULL);
	note_write(vm, 0x400000, good, UINT32_MAX);
	note_write(vm, 0x401000, good, 3);
	note_write(vm, 16 * MIB - PAGE, good, 5000); /* beyond RAM's end */
	info_check(vm, NULL);
	note_write(vm, 0x500000, good, sizeof(good) - 1); /* beside all of those */
	info_check(vm, good);
	/* Page table isolation: the kernel's tables lie before those of user mode. */
	memcpy(vm_ram(vm) + 0x8000, vm_ram(vm) + 0x1000, PAGE);
	long_mode(vm, 0x9000);
	info_check(vm, good);
	long_mode(vm, 0xa000);
	info_check(vm, NULL);
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
		cmocka_unit_test(test_page_tables),
		cmocka_unit_test(test_five_levels),
		cmocka_unit_test(test_large_page_over_the_hole),
		cmocka_unit_test(test_tables_that_map_themselves),
		cmocka_unit_test(test_many_segments),
		cmocka_unit_test(test_no_paging),
		cmocka_unit_test(test_endless_page_tables),
		cmocka_unit_test(test_whose_page_tables),
		cmocka_unit_test(test_vmcoreinfo),
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
