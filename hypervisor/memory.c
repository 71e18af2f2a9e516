// SPDX-License-Identifier: Apache-2.0
#include "hypervisor/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hypervisor/hypervisor.h"

#define MEMORY_ALIGN UINT64_C(0x10000)

static int memory_file(const struct memory_want *w, int *out, struct error *e)
{
	const unsigned huge = w->huge ? MFD_HUGETLB | MFD_HUGE_2MB : 0;
	int rc, fd = memfd_create("guest-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING | huge);

	if (fd < 0)
		return error_set(e, -errno, "cannot make the file for guest memory: %s",
				 strerror(errno));
	/* A file that cannot shrink cannot raise SIGBUS in us. */
	if (ftruncate(fd, (off_t)w->size) ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) {
		rc = -errno;
		close(fd);
		return error_set(e, rc, "cannot size guest memory to %llu bytes: %s",
				 (unsigned long long)w->size, strerror(-rc));
	}
	*out = fd;
	return 0;
}

/* Memory that another vm has made, and seals as ours: nobody can make it smaller under us. */
static int memory_file_adopt(int theirs, uint64_t size, int *out, struct error *e)
{
	const int needed = F_SEAL_SHRINK | F_SEAL_GROW;
	int seals = fcntl(theirs, F_GET_SEALS);
	struct stat st;

	if (seals < 0 || (seals & needed) != needed || fstat(theirs, &st))
		return error_set(e, -EINVAL, "the memory that was passed on is not sealed");
	if ((uint64_t)st.st_size != size)
		return error_set(e, -EINVAL,
				 "the memory that was passed on has %llu bytes in place of %llu",
				 (unsigned long long)st.st_size, (unsigned long long)size);
	*out = fcntl(theirs, F_DUPFD_CLOEXEC, 0);
	return *out < 0 ? error_set(e, -errno, "guest memory: %s", strerror(errno)) : 0;
}

/* Huge pages are taken out of the pool now: later, one that is not there is a SIGBUS. */
static int memory_map(struct memory *m, bool huge, struct error *e)
{
	const int flags = MAP_SHARED | (huge ? 0 : MAP_NORESERVE);
	void *base = mmap(NULL, m->size, PROT_READ | PROT_WRITE, flags, m->fd, 0);

	if (base == MAP_FAILED && huge && errno == ENOMEM)
		return error_set(
			e, -ENOMEM,
			"the host has fewer than the %llu free huge pages of 2 MiB that the "
			"guest's memory takes: raise vm.nr_hugepages",
			(unsigned long long)(m->size / VM_HUGE_PAGE_SIZE));
	if (base == MAP_FAILED)
		return error_set(e, -errno, "cannot map %llu bytes of guest memory: %s",
				 (unsigned long long)m->size, strerror(errno));
	m->base = base;
	/* Advice only: without huge pages all works, slower. A core dump is not the
	 * place for a guest's memory. */
	(void)madvise(base, m->size, MADV_HUGEPAGE);
	(void)madvise(base, m->size, MADV_DONTDUMP);
	return 0;
}

int memory_create(struct memory *m, uint64_t size, struct error *e)
{
	return memory_open(m, &(struct memory_want){.size = size}, e);
}

int memory_open(struct memory *m, const struct memory_want *w, struct error *e)
{
	const uint64_t size = w->size, align = w->huge ? VM_HUGE_PAGE_SIZE : MEMORY_ALIGN;
	int rc;

	*m = (struct memory){.fd = -1, .size = size};
	if (!size || size % align)
		return error_set(e, -EINVAL, "guest memory must be a multiple of %llu KiB",
				 (unsigned long long)align >> 10);
	rc = w->fd > 0 ? memory_file_adopt(w->fd, size, &m->fd, e) : memory_file(w, &m->fd, e);
	if (rc)
		return rc;
	rc = memory_map(m, w->huge, e);
	if (rc)
		goto out_fd;
	m->dirty = calloc(bitmap_words(size / VM_PAGE_SIZE), sizeof(*m->dirty));
	if (!m->dirty) {
		rc = error_set(e, -ENOMEM, "no memory for the bitmap of dirty pages");
		goto out_map;
	}
	return 0;

out_map:
	munmap(m->base, size);
	m->base = NULL;
out_fd:
	close(m->fd);
	m->fd = -1;
	return rc;
}

void memory_destroy(struct memory *m)
{
	if (m->base)
		munmap(m->base, m->size);
	if (m->fd >= 0)
		close(m->fd);
	free(m->dirty);
	*m = (struct memory){.fd = -1};
}

unsigned memory_regions(const struct memory *m, struct memory_region out[2])
{
	uint64_t low = m->size < MEMORY_HOLE_START ? m->size : MEMORY_HOLE_START;

	out[0] = (struct memory_region){.gpa = 0, .offset = 0, .size = low};
	if (low == m->size)
		return 1;
	out[1] = (struct memory_region){
		.gpa = MEMORY_HIGH_START, .offset = low, .size = m->size - low};
	return 2;
}

/* Where [gpa, gpa+len) lies in the file; false unless one region holds all of it. */
static bool memory_offset(const struct memory *m, uint64_t gpa, uint64_t len, uint64_t *offset)
{
	struct memory_region regions[2];
	unsigned count = memory_regions(m, regions);

	for (unsigned i = 0; i < count; i++) {
		const struct memory_region *r = &regions[i];

		if (gpa < r->gpa || gpa - r->gpa >= r->size)
			continue;
		if (len > r->size - (gpa - r->gpa))
			return false;
		*offset = r->offset + (gpa - r->gpa);
		return true;
	}
	return false;
}

void *memory_at(const struct memory *m, uint64_t gpa, uint64_t len)
{
	uint64_t offset;

	return memory_offset(m, gpa, len, &offset) ? m->base + offset : NULL;
}

static void page_mark(struct memory *m, uint64_t page)
{
	uint64_t bit = UINT64_C(1) << page % 64;

	atomic_fetch_or(&m->dirty[page / 64], bit);
	if (m->watched && atomic_load(&m->watched[page / 64]) & bit)
		m->on_watched(m->watch_ctx, page);
}

void memory_mark(struct memory *m, uint64_t gpa, uint64_t len)
{
	uint64_t offset;

	if (!len || !memory_offset(m, gpa, len, &offset))
		return;
	for (uint64_t page = offset / VM_PAGE_SIZE; page <= (offset + len - 1) / VM_PAGE_SIZE;
	     page++)
		page_mark(m, page);
}

int memory_watch_begin(struct memory *m, memory_watch_fn *fn, void *ctx)
{
	m->on_watched = fn;
	m->watch_ctx = ctx;
	m->watched = calloc(bitmap_words(m->size / VM_PAGE_SIZE), sizeof(*m->watched));
	return m->watched ? 0 : -ENOMEM;
}

void memory_watch_end(struct memory *m)
{
	free(m->watched);
	m->watched = NULL;
}

void memory_watch(struct memory *m, uint64_t page, bool on)
{
	uint64_t bit = UINT64_C(1) << page % 64;

	if (on)
		atomic_fetch_or(&m->watched[page / 64], bit);
	else
		atomic_fetch_and(&m->watched[page / 64], ~bit);
}

bool memory_fetch(const struct memory *m, uint64_t gpa, uint64_t len)
{
	const volatile uint8_t *at = memory_at(m, gpa, len);

	if (atomic_load_explicit(&m->presence, memory_order_acquire) == MEMORY_WHOLE)
		return true;
	for (uint64_t i = 0; i < len; i += VM_PAGE_SIZE)
		(void)at[i];
	if (len)
		(void)at[len - 1];
	return !memory_is_lost(m);
}

int memory_read(const struct memory *m, uint64_t gpa, void *out, size_t len)
{
	const void *at = memory_at(m, gpa, len);

	if (!at)
		return -EFAULT;
	memcpy(out, at, len);
	return 0;
}

int memory_write(struct memory *m, uint64_t gpa, const void *data, size_t len)
{
	void *at = memory_at(m, gpa, len);

	if (!at)
		return -EFAULT;
	memcpy(at, data, len);
	memory_mark(m, gpa, len);
	return 0;
}

void memory_harvest(struct memory *m, uint64_t *map)
{
	size_t words = bitmap_words(m->size / VM_PAGE_SIZE);

	for (size_t i = 0; i < words; i++) {
		uint64_t bits;

		/* The plain look may miss a bit set just now: the next harvest reports it,
		 * and its page was written after this one began. */
		if (!atomic_load_explicit(&m->dirty[i], memory_order_relaxed))
			continue;
		bits = atomic_exchange(&m->dirty[i], 0);
		if (map)
			map[i] |= bits;
	}
}

/* Most pages that are not zero begin so. */
bool page_is_zero(const uint8_t *page)
{
	typedef uint64_t word_vector __attribute__((vector_size(64), aligned(1), may_alias));
	const word_vector *v = (const word_vector *)page;

	if (v[0][0])
		return false;
	for (unsigned i = 0; i < VM_PAGE_SIZE / sizeof(*v); i += 4) {
		word_vector some = v[i] | v[i + 1] | v[i + 2] | v[i + 3];

		if (some[0] | some[1] | some[2] | some[3] | some[4] | some[5] | some[6] | some[7])
			return false;
	}
	return true;
}
