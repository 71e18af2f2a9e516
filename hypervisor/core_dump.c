// SPDX-License-Identifier: Apache-2.0
/*
 * Writes a core file. RAM comes first and what describes it last, so that a file which was
 * never finished is none that a debugger would take for one.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hypervisor/core_dump.h"
#include "hypervisor/machine.h"

#define LOG_MODULE "core"
#define CHUNK      (UINT64_C(1) << 20) /* written between two looks at whether to go on */
#define NOTE_ROOM  UINT64_C(16384)     /* for VMCOREINFO, which is found while RAM is written */
#define XSAVE_LEAF 0xdu
#define FILE_ALIGN UINT64_C(4096)

struct core {
	struct vm *vm;
	int fd;
	const struct vm_core_options *options;
	struct vm_core_result *result;
	struct buf state, notes;
	struct core_vcpu *vcpus;
	struct core_segments segments;
	uint64_t data_at, total;
	uint8_t *copy; /* CHUNK bytes, for a guest that runs; else NULL */
	bool paused;
	uint64_t paused_at;
};

/* ---- before: the file, the machine's state ------------------------------------------------- */

static int file_check(int fd, struct error *e)
{
	int flags = fcntl(fd, F_GETFL);
	struct stat st;

	if (flags < 0 || fstat(fd, &st))
		return error_set(e, -errno, "the core file cannot be used: %s", strerror(errno));
	if (!S_ISREG(st.st_mode) || st.st_size)
		return error_set(e, -EINVAL, "a core is written to a new, empty file only");
	if ((flags & O_ACCMODE) == O_RDONLY || flags & O_APPEND)
		return error_set(e, -EINVAL, "the core file is not open for writing at any place");
	return 0;
}

/* A disk that hangs is among the reasons to want a core. */
static int core_pause(struct core *c, struct error *e)
{
	int rc = c->options->live ? vm_pause(c->vm) : vm_pause_idle(c->vm, VM_PAUSE_IDLE_NS, NULL);

	if (rc == -ETIMEDOUT) {
		log_warn("a disk request is in flight: if it is a read, it may arrive in a page "
			 "while that is written");
		rc = vm_pause(c->vm);
	}
	if (rc)
		return error_set(e, rc, "the vm cannot be paused now: %s", strerror(-rc));
	c->paused = true;
	c->paused_at = clock_ns();
	return 0;
}

static void core_resume(struct core *c)
{
	int rc;

	if (!c->paused)
		return;
	c->paused = false;
	rc = vm_resume(c->vm);
	c->result->pause_ns = clock_ns() - c->paused_at;
	if (rc)
		log_error_rc(rc, "the vm does not go on");
}

/* Debuggers know a layout by its size: up to the last component that is in use (CPUID leaf 0xd:
 * size in EAX, offset in EBX). */
static uint32_t xsave_used(const struct state_section *cpuid, uint64_t xcr0, uint32_t size)
{
	struct cursor c = cpuid ? cursor_of(cpuid->data, cpuid->len) : (struct cursor){0};
	uint32_t used = STATE_XSAVE_LEAST;

	for (uint32_t n = cursor_u32(&c); n && !c.bad; n--) {
		uint32_t leaf = cursor_u32(&c), index = cursor_u32(&c), length, end;

		(void)cursor_u32(&c);
		length = cursor_u32(&c);
		end = cursor_u32(&c) + length;
		(void)cursor_u64(&c);
		if (leaf == XSAVE_LEAF && index >= 2 && index < 63 && xcr0 >> index & 1 &&
		    end > used)
			used = end;
	}
	return used < size ? used : size;
}

static int vcpu_read(struct core_vcpu *v, const struct state_view *view, unsigned index,
		     struct error *e)
{
	const struct state_section *s = state_find(view, STATE_VCPU, (uint16_t)index);
	int rc;

	if (!s)
		return error_set(e, -EBADMSG, "there is no state of vCPU %u", index);
	rc = state_vcpu_view(s, &v->image, &v->xsave, &v->xsave_size, e);
	if (!rc)
		v->xsave_used = xsave_used(state_find(view, STATE_CPUID, 0),
					   v->image.xcrs.xcrs[0].value, v->xsave_size);
	return rc;
}

static int vcpus_read(struct core *c, struct error *e)
{
	unsigned count = vm_vcpus(c->vm);
	struct state_view *view = malloc(sizeof(*view));
	int rc = 0;

	c->vcpus = calloc(count, sizeof(*c->vcpus));
	if (!view || !c->vcpus)
		rc = error_set(e, -ENOMEM, "no memory for the state of %u vCPUs", count);
	if (!rc)
		rc = vm_state_save(c->vm, &c->state, e);
	if (!rc)
		rc = state_open(c->state.data, c->state.len, view, e);
	for (unsigned i = 0; !rc && i < count; i++)
		rc = vcpu_read(&c->vcpus[i], view, i, e);
	free(view);
	return rc;
}

static bool walk_goes_on(void *ctx)
{
	const struct core *c = ctx;

	return !c->options->go_on || c->options->go_on(c->options->ctx, 0, 0);
}

static int segments_find(struct core *c, struct error *e)
{
	const struct memory *m = &c->vm->memory;
	struct memory_region regions[2];
	unsigned count = memory_regions(m, regions), vcpu;
	int rc = 0;

	if (c->options->paging) {
		vcpu = core_paging_choose(c->vcpus, vm_vcpus(c->vm));
		c->result->paging_vcpu = vcpu;
		return core_paging_walk(m, &c->vcpus[vcpu].image, &c->segments, walk_goes_on, c, e);
	}
	for (unsigned i = 0; !rc && i < count; i++)
		rc = core_segments_add(m, &c->segments, regions[i].gpa, regions[i].gpa,
				       regions[i].size);
	return rc ? error_set(e, rc, "no memory for the segments of a core file") : 0;
}

static int core_describe(struct core *c, struct error *e)
{
	uint64_t before_data;
	int rc = vcpus_read(c, e);

	if (!rc)
		rc = segments_find(c, e);
	if (rc)
		return rc;
	core_notes_put(c->vcpus, vm_vcpus(c->vm), &c->notes);
	before_data = core_header_size(c->segments.count) + c->notes.len + NOTE_ROOM;
	c->data_at = (before_data + FILE_ALIGN - 1) / FILE_ALIGN * FILE_ALIGN;
	return 0;
}

/* ---- memory ------------------------------------------------------------------------------- */

static int bytes_write(struct core *c, const void *data, size_t n, uint64_t at, struct error *e)
{
	const char *from = data;
	int rc = fault_point("core.write");

	while (!rc && n) {
		ssize_t done = pwrite(c->fd, from, n, (off_t)at);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0) {
			rc = done ? -errno : -EIO;
			break;
		}
		from += done;
		at += (uint64_t)done;
		n -= (size_t)done;
	}
	return rc ? error_set(e, rc, "the core file cannot be written: %s", strerror(-rc)) : 0;
}

/* The guest runs: its pages are taken as they are at one time, so that what was looked at is
 * what is written. */
__attribute__((no_sanitize("thread"))) static void pages_copy(uint8_t *to, const uint8_t *from,
							      size_t n)
{
	uint64_t *out = (uint64_t *)to;
	const uint64_t *in = (const uint64_t *)from;

	for (size_t i = 0; i < n / 8; i++)
		out[i] = in[i];
}

static void page_look(struct core *c, uint64_t offset)
{
	const char *text;
	size_t n;

	if (c->result->vmcoreinfo ||
	    !core_vmcoreinfo_find(&c->vm->memory, offset, c->vcpus, vm_vcpus(c->vm), &text, &n))
		return;
	core_note_put(&c->notes, "VMCOREINFO", 0, text, n);
	c->result->vmcoreinfo = true;
}

/* Runs of pages that are not zero: between them the file has holes. */
static int chunk_write(struct core *c, uint64_t from, uint64_t to, struct error *e)
{
	const uint8_t *bytes = c->vm->memory.base + from;
	uint64_t began = from;
	int rc = 0;

	if (c->copy) {
		pages_copy(c->copy, bytes, to - from);
		bytes = c->copy;
	}
	while (!rc && from < to) {
		uint64_t end = from;

		for (; end < to && !page_is_zero(bytes + (end - began)); end += VM_PAGE_SIZE)
			page_look(c, end);
		if (end > from)
			rc = bytes_write(c, bytes + (from - began), end - from, c->data_at + from,
					 e);
		c->result->bytes += end - from;
		from = end + VM_PAGE_SIZE;
	}
	return rc;
}

/* The next piece of RAM at or after `from` that was ever touched; false: there is none. */
static bool data_next(const struct core *c, uint64_t from, uint64_t *begin, uint64_t *end)
{
	uint64_t size = c->vm->memory.size;
	off_t data = from < size ? lseek(c->vm->memory.fd, (off_t)from, SEEK_DATA) : -1, hole;

	if (data < 0)
		return false;
	hole = lseek(c->vm->memory.fd, data, SEEK_HOLE);
	*begin = (uint64_t)data / VM_PAGE_SIZE * VM_PAGE_SIZE;
	*end = hole < 0 ? size : (uint64_t)hole;
	return true;
}

static uint64_t data_total(const struct core *c)
{
	uint64_t total = 0, begin, end;

	for (uint64_t at = 0; data_next(c, at, &begin, &end); at = end)
		total += end - begin;
	return total;
}

static int go_on(struct core *c, uint64_t done, struct error *e)
{
	const struct vm_core_options *o = c->options;

	if (!o->go_on || o->go_on(o->ctx, done, done > c->total ? done : c->total))
		return 0;
	return error_set(e, -ECANCELED, "the core dump was cancelled");
}

static int memory_dump(struct core *c, struct error *e)
{
	uint64_t done = 0, begin, end, to;
	int rc = 0;

	c->total = data_total(c);
	for (uint64_t at = 0; !rc && data_next(c, at, &begin, &end); at = end)
		for (uint64_t from = begin; !rc && from < end; from = to) {
			to = end - from > CHUNK ? from + CHUNK : end;
			rc = go_on(c, done, e);
			if (!rc)
				rc = chunk_write(c, from, to, e);
			done += to - from;
		}
	return rc ? rc : go_on(c, done, e);
}

/* ---- the whole ------------------------------------------------------------------------------ */

static int head_write(struct core *c, struct error *e)
{
	uint64_t size = c->data_at + c->vm->memory.size;
	struct buf head = {0};
	int rc;

	core_header_put(&c->segments, c->notes.len, c->data_at, &head);
	buf_put(&head, c->notes.data, c->notes.len);
	rc = c->notes.failed || head.failed ? -ENOMEM : 0;
	if (rc)
		rc = error_set(e, rc, "no memory for the notes of a core file");
	if (!rc && ftruncate(c->fd, (off_t)size))
		rc = error_set(e, -errno, "the core file cannot have %llu bytes: %s",
			       (unsigned long long)size, strerror(errno));
	if (!rc)
		rc = bytes_write(c, head.data, head.len, 0, e);
	buf_free(&head);
	c->result->size = size;
	c->result->segments = c->segments.count;
	return rc;
}

static int core_write(struct core *c, struct error *e)
{
	int rc = 0;

	if (c->options->live && !(c->copy = malloc(CHUNK)))
		rc = error_set(e, -ENOMEM, "no memory for a core dump");
	if (!rc)
		rc = core_pause(c, e);
	if (!rc)
		rc = core_describe(c, e);
	if (c->options->live)
		core_resume(c);
	if (!rc)
		rc = memory_dump(c, e);
	core_resume(c);
	if (!rc)
		rc = head_write(c, e);
	if (!rc && fsync(c->fd))
		rc = error_set(e, -errno, "the core file cannot be written: %s", strerror(errno));
	return rc;
}

static int vm_check(const struct vm *vm, struct error *e)
{
	if (vm->engine_ops->stepped)
		return error_set(e, -EOPNOTSUPP,
				 "a guest of engine %s has no vCPUs, so there is no core of it",
				 vm->engine_ops->name);
	if (vm->torn)
		return error_set(e, -EBADMSG, "the vm holds half of a state");
	/* A pause could wait for it, and what is missing would be a hole in the core. */
	if (atomic_load(&vm->memory.presence) != MEMORY_WHOLE)
		return error_set(e, -EBUSY,
				 "some of the vm's memory is still to come, or never came");
	return 0;
}

int vm_dump_core(struct vm *vm, int fd, const struct vm_core_options *options,
		 struct vm_core_result *result, struct error *e)
{
	struct core c = {.vm = vm, .fd = fd, .options = options, .result = result};
	int rc = vm_check(vm, e);

	*result = (struct vm_core_result){0};
	if (!rc)
		rc = file_check(fd, e);
	if (rc)
		return rc;
	rc = core_write(&c, e);
	if (rc && ftruncate(fd, 0)) /* the place is needed, and half a core is none */
		log_warn_rc(errno, "what was written of a core file stays");
	core_segments_free(&c.segments);
	buf_free(&c.state);
	buf_free(&c.notes);
	free(c.vcpus);
	free(c.copy);
	return rc;
}
