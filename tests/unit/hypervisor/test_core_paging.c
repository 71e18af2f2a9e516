// SPDX-License-Identifier: Apache-2.0
/* Core files by virtual addresses: page tables of all kinds, and what Linux says of itself. */
#include "tests/unit/hypervisor/core_reader.h"

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
	paging_refused(vm, -ELOOP, "in circles");
	vm_destroy(vm);
}

static bool go_on_for_a_while(void *ctx, uint64_t done, uint64_t total)
{
	unsigned *asked = ctx;

	return ++*asked < 5;
}

static void test_the_walk_can_be_cancelled(void **unused)
{
	unsigned asked = 0;
	const struct vm_core_options o = {
		.paging = true, .go_on = go_on_for_a_while, .ctx = &asked};
	struct vm *vm = vm_make(16 * MIB, 1);
	struct vm_core_result result;
	struct error e = {0};
	int fd = file_new();

	for (unsigned table = 1; table <= 3; table++)
		for (unsigned i = 0; i < 512; i++)
			entry_set(vm, table * PAGE, i, (table + 1) * PAGE + 3);
	long_mode(vm, 0x1000);
	assert_int_equal(vm_dump_core(vm, fd, &o, &result, &e), -ECANCELED);
	assert_int_equal(asked, 5);
	assert_int_equal(file_size(fd), 0);
	close(fd);
	assert_int_equal(vm_pause(vm), 0);
	assert_int_equal(vm_resume(vm), 0);
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_page_tables),
		cmocka_unit_test(test_five_levels),
		cmocka_unit_test(test_large_page_over_the_hole),
		cmocka_unit_test(test_tables_that_map_themselves),
		cmocka_unit_test(test_many_segments),
		cmocka_unit_test(test_no_paging),
		cmocka_unit_test(test_endless_page_tables),
		cmocka_unit_test(test_the_walk_can_be_cancelled),
		cmocka_unit_test(test_whose_page_tables),
		cmocka_unit_test(test_vmcoreinfo),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
