// SPDX-License-Identifier: Apache-2.0
/*
 * Kernel images: what is in one (a pure function over bytes) and how one is put
 * into guest memory. Two kinds: a Linux bzImage, entered through the 64-bit boot
 * protocol (Linux Documentation/arch/x86/boot.rst), and an ELF64 with a PVH entry
 * note (Xen docs/misc/pvh.pandoc). Private to hypervisor/.
 */
#ifndef POLLUX_HYPERVISOR_BOOT_H
#define POLLUX_HYPERVISOR_BOOT_H

#include "hypervisor/engine.h"
#include "hypervisor/memory.h"

/* Guest physical addresses of what a kernel is handed. All of it lies in the first
 * 640 KiB, which no kernel image may claim. */
#define BOOT_GDT            UINT64_C(0x1000)
#define BOOT_INFO           UINT64_C(0x2000) /* zero page, or hvm_start_info and its lists */
#define BOOT_CMDLINE        UINT64_C(0x3000)
#define BOOT_CMDLINE_MAX    4096u            /* with the final zero */
#define BOOT_STACK          UINT64_C(0x5000) /* one page, grows down to 0x4000 */
#define BOOT_PAGE_TABLES    UINT64_C(0x5000) /* PML4, PDPT, 4 page directories */
#define BOOT_LOW_END        UINT64_C(0x100000)
#define BOOT_IMAGE_MAX      (UINT64_C(1) << 30)

#define KERNEL_SEGMENTS_MAX 16

struct kernel_segment {
	uint64_t offset, file_size; /* in the image */
	uint64_t gpa, memory_size;  /* what is beyond file_size is zero */
};

struct kernel_image {
	enum boot_protocol protocol;
	uint64_t initrd_limit; /* first address that an initrd may not reach */
	uint64_t cmdline_max;  /* characters, without the final zero */

	/* BOOT_PVH */
	uint64_t entry;
	struct kernel_segment segments[KERNEL_SEGMENTS_MAX];
	unsigned segment_count;

	/* BOOT_LINUX64 */
	uint64_t header_offset, header_size;   /* the setup header, for the zero page */
	uint64_t payload_offset, payload_size; /* the protected-mode kernel */
	uint64_t preferred_address, alignment, init_size;
	bool relocatable;
};

/* Check every field that is used later against the image's own bounds. -EINVAL with
 * a sentence that names the damaged field. */
int kernel_image_parse(const void *data, size_t n, struct kernel_image *out,
		       struct error *e) MUST_CHECK;
int bzimage_parse(const void *data, size_t n, struct kernel_image *out, struct error *e) MUST_CHECK;
int elf_parse(const void *data, size_t n, struct kernel_image *out, struct error *e) MUST_CHECK;

/* Memory as the kernel is told of it; the numbers are E820's and PVH's alike. */
enum boot_range_kind { BOOT_RANGE_RAM = 1, BOOT_RANGE_RESERVED = 2 };
struct boot_range {
	uint64_t start, size;
	enum boot_range_kind kind;
};
#define BOOT_RANGES_MAX 8
unsigned boot_memory_map(const struct memory *m, struct boot_range out[BOOT_RANGES_MAX]);

/* What the protocol's own tables are made of. */
struct boot_plan {
	struct memory *memory;
	const uint8_t *image;
	const struct kernel_image *kernel;
	const char *cmdline;
	uint64_t kernel_start, kernel_end; /* guest physical, with the room it needs to start */
	uint64_t initrd, initrd_size;      /* 0, 0: none */
	uint64_t rsdp;
};

/* Choose where the kernel goes (sets kernel_start, kernel_end)... */
int bzimage_place(struct boot_plan *p, struct error *e) MUST_CHECK;
int elf_place(struct boot_plan *p, struct error *e) MUST_CHECK;
/* ...and, when the initrd has its place too, write kernel and tables. */
int bzimage_write(const struct boot_plan *p, struct boot_entry *out, struct error *e) MUST_CHECK;
int elf_write(const struct boot_plan *p, struct boot_entry *out, struct error *e) MUST_CHECK;

#endif
