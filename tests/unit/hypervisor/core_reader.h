// SPDX-License-Identifier: Apache-2.0
/*
 * A machine that stands still, whose registers and memory a test writes, and its core, read by the
 * layouts in docs/core-dump.md and docs/state-format.md.
 */
#ifndef POLLUX_TESTS_CORE_READER_H
#define POLLUX_TESTS_CORE_READER_H

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
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

/* ---- a machine that stands still ---------------------------------------------------- */

static inline int nothing_load(struct vm *vm, struct boot_entry *out, struct error *e)
{
	return 0;
}

static inline int no_devices(struct vm *vm, struct error *e)
{
	return 0;
}

static inline struct vm *vm_make(uint64_t memory, unsigned vcpus)
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

static inline uint8_t *vcpu_section(struct buf *state, unsigned vcpu, uint32_t *len)
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

static inline void state_take(struct vm *vm, struct buf *out)
{
	struct error e = {0};

	if (vm_state_save(vm, out, &e))
		fail_msg("%s", e.text);
}

static inline void state_give(struct vm *vm, struct buf *state)
{
	struct error e = {0};

	if (vm_state_load(vm, state->data, state->len, &e))
		fail_msg("%s", e.text);
	buf_free(state);
}

static inline void control_set(struct vm *vm, unsigned vcpu, uint64_t cr0, uint64_t cr3,
			       uint64_t cr4, uint64_t efer)
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

static inline void selector_set(struct vm *vm, unsigned vcpu, uint16_t cs)
{
	struct buf state = {0};

	state_take(vm, &state);
	memcpy(vcpu_section(&state, vcpu, NULL) + STATE_SEGMENT + 12, &cs, 2);
	state_give(vm, &state);
}

static inline void long_mode(struct vm *vm, uint64_t cr3)
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

static inline int file_new(void)
{
	char name[] = "/tmp/pollux-core-XXXXXX";
	int fd = mkostemp(name, O_CLOEXEC);

	assert_true(fd >= 0);
	unlink(name);
	return fd;
}

static inline off_t file_size(int fd)
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

static inline void core_open(struct core *c, int fd)
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

static inline void core_close(struct core *c)
{
	munmap((void *)(uintptr_t)c->map, c->size);
}

static inline void core_make(struct vm *vm, bool paging, struct core *c)
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

static inline uint64_t word(const uint8_t *at)
{
	uint64_t v;

	memcpy(&v, at, 8);
	return v;
}

#endif
