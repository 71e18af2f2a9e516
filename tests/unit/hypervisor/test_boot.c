// SPDX-License-Identifier: Apache-2.0
#include <elf.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "hypervisor/boot.h"

/* ---- a bzImage, the least that is one --------------------------------- */

#define BZ_SETUP   1024u
#define BZ_PAYLOAD 4096u
#define BZ_SIZE    (BZ_SETUP + BZ_PAYLOAD)

static void put(uint8_t *p, unsigned at, unsigned bytes, uint64_t v)
{
	memcpy(p + at, &v, bytes);
}

static void bzimage_make(uint8_t *p)
{
	memset(p, 0, BZ_SIZE);
	put(p, 0x1f1, 1, 1);
	put(p, 0x1f4, 4, BZ_PAYLOAD / 16);
	put(p, 0x1fe, 2, 0xaa55);
	put(p, 0x200, 2, 0x6aeb);
	memcpy(p + 0x202, "HdrS", 4);
	put(p, 0x206, 2, 0x020f);
	put(p, 0x22c, 4, 0x7fffffff);
	put(p, 0x230, 4, 0x200000);
	put(p, 0x234, 1, 1);
	put(p, 0x236, 2, 1);
	put(p, 0x238, 4, 2047);
	put(p, 0x258, 8, 0x1000000);
	put(p, 0x260, 4, 0x200000);
	memset(p + BZ_SETUP, 0x90, BZ_PAYLOAD);
}

static void refused(const void *data, size_t n, const char *why)
{
	struct kernel_image k;
	struct error e = {0};
	int rc = kernel_image_parse(data, n, &k, &e);
	if (rc != -EINVAL || !strstr(e.text, why))
		fail_msg("expected a refusal about %s, got %d: %s", why, rc, e.text);
}

static void test_bzimage_is_understood(void **state)
{
	uint8_t p[BZ_SIZE];
	struct kernel_image k;
	struct error e = {0};
	bzimage_make(p);
	assert_int_equal(kernel_image_parse(p, sizeof(p), &k, &e), 0);
	assert_int_equal(k.protocol, BOOT_LINUX64);
	assert_int_equal(k.payload_offset, BZ_SETUP);
	assert_int_equal(k.payload_size, BZ_PAYLOAD);
	assert_int_equal(k.preferred_address, 0x1000000);
	assert_int_equal(k.initrd_limit, 0x80000000);
	assert_int_equal(k.cmdline_max, 2047);
	assert_int_equal(k.header_offset + k.header_size, 0x26c);
}

static void test_bzimage_cut_short(void **state)
{
	uint8_t p[BZ_SIZE];
	bzimage_make(p);
	refused(p, 0, "HdrS");
	refused(p, 0x1ff, "HdrS");
	refused(p, 0x208, "ends inside the setup header");
	refused(p, BZ_SETUP - 1, "setup_sects");
	refused(p, BZ_SETUP, "setup_sects");
	refused(p, BZ_SIZE - 16, "cut short");
}

struct damage {
	unsigned at, bytes;
	uint64_t value;
	const char *why;
};
static const struct damage bzimage_damages[] = {
	{0x1f1, 1, 200, "setup_sects"},
	{0x1f4, 4, 0x20, "syssize"},
	{0x1f4, 4, 0xffffffff, "cut short"},
	{0x1fe, 2, 0, "HdrS"},
	{0x201, 1, 0x10, "shorter than its version"},
	{0x202, 1, 'X', "HdrS"},
	{0x206, 2, 0x20b, "boot protocol 2.11 is too old"},
	{0x236, 2, 0, "xloadflags"},
	{0x230, 4, 0, "kernel_alignment"},
	{0x230, 4, 0x300000, "kernel_alignment"},
	{0x258, 8, 0x1000, "pref_address"},
	{0x258, 8, UINT64_MAX - 4095, "pref_address"},
	{0x258, 8, 0x1000001, "pref_address"},
	{0x260, 4, 0x100, "init_size"},
};

static void test_bzimage_each_damage_is_named(void **state)
{
	uint8_t p[BZ_SIZE];
	for (unsigned i = 0; i < ARRAY_LEN(bzimage_damages); i++) {
		bzimage_make(p);
		put(p, bzimage_damages[i].at, bzimage_damages[i].bytes, bzimage_damages[i].value);
		refused(p, sizeof(p), bzimage_damages[i].why);
	}
}

/* ---- a PVH ELF ---------------------------------------------------------- */

struct elf_file {
	Elf64_Ehdr eh;
	Elf64_Phdr ph[3];
	Elf64_Nhdr note;
	char owner[4];
	uint32_t entry;
	uint8_t code[64];
};

static void elf_make(struct elf_file *f)
{
	memset(f, 0, sizeof(*f));
	memcpy(f->eh.e_ident, ELFMAG, SELFMAG);
	f->eh.e_ident[EI_CLASS] = ELFCLASS64;
	f->eh.e_ident[EI_DATA] = ELFDATA2LSB;
	f->eh.e_type = ET_EXEC;
	f->eh.e_machine = EM_X86_64;
	f->eh.e_phoff = offsetof(struct elf_file, ph);
	f->eh.e_phentsize = sizeof(Elf64_Phdr);
	f->eh.e_phnum = 3;
	f->ph[0] = (Elf64_Phdr){.p_type = PT_LOAD,
				.p_offset = offsetof(struct elf_file, code),
				.p_paddr = 0x100000,
				.p_filesz = 64,
				.p_memsz = 8192};
	f->ph[1] = (Elf64_Phdr){.p_type = PT_NOTE,
				.p_offset = offsetof(struct elf_file, note),
				.p_filesz = 20,
				.p_align = 4};
	f->ph[2] = (Elf64_Phdr){.p_type = PT_LOAD, .p_paddr = 0x200000, .p_memsz = 4096};
	f->note = (Elf64_Nhdr){.n_namesz = 4, .n_descsz = 4, .n_type = 18};
	memcpy(f->owner, "Xen", 4);
	f->entry = 0x100010;
}

static void test_elf_is_understood(void **state)
{
	struct elf_file f;
	struct kernel_image k;
	struct error e = {0};
	elf_make(&f);
	assert_int_equal(kernel_image_parse(&f, sizeof(f), &k, &e), 0);
	assert_int_equal(k.protocol, BOOT_PVH);
	assert_int_equal(k.entry, 0x100010);
	assert_int_equal(k.segment_count, 2);
	assert_int_equal(k.segments[0].file_size, 64);
	assert_int_equal(k.segments[1].memory_size, 4096);
}

#define ELF_AT(field) offsetof(struct elf_file, field), sizeof(((struct elf_file *)0)->field)
static const struct damage elf_damages[] = {
	{ELF_AT(eh.e_machine), EM_ARM, "x86-64"},
	{ELF_AT(eh.e_ident[EI_CLASS]), ELFCLASS32, "x86-64"},
	{ELF_AT(eh.e_type), ET_REL, "e_type"},
	{ELF_AT(eh.e_phnum), 0, "e_phnum"},
	{ELF_AT(eh.e_phnum), 0xffff, "e_phoff"},
	{ELF_AT(eh.e_phentsize), 8, "e_phentsize"},
	{ELF_AT(eh.e_phoff), UINT64_MAX - 8, "e_phoff"},
	{ELF_AT(ph[0].p_offset), UINT64_MAX - 16, "p_offset"},
	{ELF_AT(ph[0].p_filesz), 0x10000, "p_filesz"},
	{ELF_AT(ph[0].p_memsz), 32, "p_memsz"},
	{ELF_AT(ph[0].p_memsz), UINT64_MAX, "p_paddr"},
	{ELF_AT(ph[0].p_paddr), 0x1000, "p_paddr"},
	{ELF_AT(ph[0].p_paddr), UINT64_MAX - 4096, "p_paddr"},
	{ELF_AT(ph[2].p_paddr), 0x101000, "overlap"},
	{ELF_AT(ph[1].p_offset), UINT64_MAX, "PT_NOTE"},
	{ELF_AT(note.n_descsz), 0xffffffff, "a note is larger"},
	{ELF_AT(note.n_namesz), 0xffffffff, "a note is larger"},
	{ELF_AT(note.n_type), 17, "PHYS32_ENTRY"},
	{ELF_AT(owner[0]), 'Z', "PHYS32_ENTRY"},
	{ELF_AT(entry), 0x100040, "entry point lies outside"},
};

static void test_elf_each_damage_is_named(void **state)
{
	for (unsigned i = 0; i < ARRAY_LEN(elf_damages); i++) {
		struct elf_file f;
		elf_make(&f);
		put((uint8_t *)&f, elf_damages[i].at, elf_damages[i].bytes, elf_damages[i].value);
		refused(&f, sizeof(f), elf_damages[i].why);
	}
}

static void test_every_cut_is_refused(void **state)
{
	struct elf_file f;
	struct kernel_image k;
	uint8_t bz[BZ_SIZE];
	elf_make(&f);
	bzimage_make(bz);
	for (size_t n = 0; n < offsetof(struct elf_file, code) + sizeof(f.code); n++)
		assert_int_equal(kernel_image_parse(&f, n, &k, NULL), -EINVAL);
	/* syssize may be rounded up by 15 bytes */
	for (size_t n = 0; n < BZ_SIZE - 15; n++)
		assert_int_equal(kernel_image_parse(bz, n, &k, NULL), -EINVAL);
}

/* ---- in memory ------------------------------------------------------------ */

#define MIB (UINT64_C(1) << 20)

static void test_memory_map(void **state)
{
	struct memory m;
	struct boot_range map[BOOT_RANGES_MAX];
	assert_int_equal(memory_create(&m, 16 * MIB, NULL), 0);
	unsigned n = boot_memory_map(&m, map);
	uint64_t ram = 0;
	for (unsigned i = 0; i < n; i++) {
		assert_true(!i || map[i].start >= map[i - 1].start + map[i - 1].size);
		if (map[i].kind == BOOT_RANGE_RAM) {
			assert_non_null(memory_at(&m, map[i].start, map[i].size));
			ram += map[i].size;
		}
	}
	assert_int_equal(ram, 16 * MIB - 0x60000 - 0x400);
	memory_destroy(&m);
}

static void test_memory_map_around_the_hole(void **state)
{
	struct memory m;
	struct boot_range map[BOOT_RANGES_MAX];
	assert_int_equal(memory_create(&m, 4096 * MIB, NULL), 0);
	unsigned n = boot_memory_map(&m, map);
	assert_int_equal(map[n - 1].start, MEMORY_HIGH_START);
	assert_int_equal(map[n - 1].size, 4096 * MIB - MEMORY_HOLE_START);
	memory_destroy(&m);
}

static void test_bzimage_is_placed(void **state)
{
	uint8_t p[BZ_SIZE];
	struct kernel_image k;
	struct memory m;
	struct boot_entry entry = {0};
	bzimage_make(p);
	assert_int_equal(kernel_image_parse(p, sizeof(p), &k, NULL), 0);
	assert_int_equal(memory_create(&m, 32 * MIB, NULL), 0);
	struct boot_plan plan = {.memory = &m,
				 .image = p,
				 .kernel = &k,
				 .rsdp = 0xe0000,
				 .initrd = 0x1f00000,
				 .initrd_size = 5};
	assert_int_equal(bzimage_place(&plan, NULL), 0);
	assert_int_equal(bzimage_write(&plan, &entry, NULL), 0);
	assert_int_equal(entry.rip, 0x1000200);
	assert_memory_equal(memory_at(&m, 0x1000000, BZ_PAYLOAD), p + BZ_SETUP, BZ_PAYLOAD);
	const uint8_t *zero_page = memory_at(&m, BOOT_INFO, 4096);
	assert_memory_equal(zero_page + 0x202, "HdrS", 4);
	assert_int_equal(*(const uint32_t *)(zero_page + 0x218), 0x1f00000);
	assert_int_equal(*(const uint32_t *)(zero_page + 0x21c), 5);
	assert_int_equal(zero_page[0x210], 0xff);
	assert_true(zero_page[0x1e8] >= 4);
	memory_destroy(&m);
}

static void test_small_memory(void **state)
{
	uint8_t p[BZ_SIZE];
	struct kernel_image k;
	struct memory m;
	struct error e = {0};
	bzimage_make(p);
	assert_int_equal(kernel_image_parse(p, sizeof(p), &k, NULL), 0);
	assert_int_equal(memory_create(&m, 8 * MIB, NULL), 0);
	struct boot_plan plan = {.memory = &m, .image = p, .kernel = &k};
	assert_int_equal(bzimage_place(&plan, &e), 0);
	assert_int_equal(plan.kernel_start, 0x200000);
	k.relocatable = false;
	assert_int_equal(bzimage_place(&plan, &e), -ENOMEM);
	assert_non_null(strstr(e.text, "more memory"));
	memory_destroy(&m);
}

/* ---- random damage --------------------------------------------------------- */

static void damage_at_random(uint8_t *p, size_t n, unsigned *seed)
{
	for (unsigned k = 0; k < 1 + (unsigned)rand_r(seed) % 4; k++)
		p[(unsigned)rand_r(seed) % n] = (uint8_t)rand_r(seed);
}

static void test_random_damage(void **state)
{
	unsigned seed = (unsigned)time(NULL);
	print_message("seed %u\n", seed);
	for (unsigned i = 0; i < 20000; i++) {
		struct elf_file f;
		uint8_t bz[BZ_SIZE];
		struct kernel_image k;
		elf_make(&f);
		bzimage_make(bz);
		damage_at_random((uint8_t *)&f, sizeof(f), &seed);
		damage_at_random(bz + 0x1f0, 0x80, &seed);
		int rc = kernel_image_parse(&f, sizeof(f), &k, NULL);
		assert_true(rc == 0 || rc == -EINVAL);
		rc = kernel_image_parse(bz, sizeof(bz), &k, NULL);
		assert_true(rc == 0 || rc == -EINVAL);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bzimage_is_understood),
		cmocka_unit_test(test_bzimage_cut_short),
		cmocka_unit_test(test_bzimage_each_damage_is_named),
		cmocka_unit_test(test_elf_is_understood),
		cmocka_unit_test(test_elf_each_damage_is_named),
		cmocka_unit_test(test_every_cut_is_refused),
		cmocka_unit_test(test_memory_map),
		cmocka_unit_test(test_memory_map_around_the_hole),
		cmocka_unit_test(test_bzimage_is_placed),
		cmocka_unit_test(test_small_memory),
		cmocka_unit_test(test_random_damage),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
