// SPDX-License-Identifier: Apache-2.0
/* From an image to a vm. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "migrate/image_reader.h"

/* ---- records -------------------------------------------------------------------- */

static int header_decode(const uint8_t *bytes, struct record *out)
{
	struct cursor c = cursor_of(bytes, RECORD_HEADER_SIZE);

	out->type = cursor_u16(&c);
	out->flags = cursor_u16(&c);
	out->len = cursor_u32(&c);
	return out->type && !(out->flags & ~RECORD_MANDATORY) && out->len <= CHANNEL_RECORD_MAX
		       ? 0
		       : -EBADMSG;
}

int image_record_get(struct image *i, uint64_t *at, struct record *out, struct error *e)
{
	uint8_t header[RECORD_HEADER_SIZE];
	int rc = image_in_read(i->in, *at, header, sizeof(header), e);

	if (!rc)
		rc = header_decode(header, out);
	if (rc)
		return error_set(e, rc, "the image is damaged: no record at %" PRIu64, *at);
	buf_reset(&i->payload);
	if (out->len && !buf_extend(&i->payload, out->len))
		return error_set(e, -ENOMEM, "out of memory");
	rc = image_in_read(i->in, *at + sizeof(header), i->payload.data, out->len, e);
	out->payload = i->payload.data;
	*at += sizeof(header) + out->len;
	return rc;
}

static bool type_known(uint16_t type)
{
	return type == EPOCH_RECORD_BEGIN || type == EPOCH_RECORD_PAGES ||
	       type == EPOCH_RECORD_STATE || type == EPOCH_RECORD_END ||
	       (type >= IMAGE_RECORD_IMAGE && type <= IMAGE_RECORD_TAIL);
}

int image_known_get(struct image *i, uint64_t *at, uint64_t end, struct record *out,
		    struct error *e)
{
	int rc;

	do {
		rc = image_record_get(i, at, out, e);
		if (rc)
			return rc;
		if (*at > end)
			return error_set(e, -EBADMSG,
					 "the image is damaged: a record of type %u "
					 "is too long",
					 out->type);
		if (type_known(out->type) && out->flags & RECORD_MANDATORY)
			return 0;
		if (out->flags & RECORD_MANDATORY)
			return error_set(e, -EPROTONOSUPPORT,
					 "the image holds a record of type %u, which this program "
					 "does not know and must not pass over: a later version "
					 "wrote it",
					 out->type);
	} while (*at < end);
	out->type = 0;
	return 0;
}

/* ---- open: head, machine state, index --------------------------------------------- */

static int hash_check(struct image *i, uint64_t from, uint64_t to, uint64_t want, const char *what,
		      struct error *e)
{
	XXH3_state_t *hash = XXH3_createState();
	uint8_t part[4096];
	int rc = hash && XXH3_64bits_reset(hash) == XXH_OK ? 0 : -ENOMEM;

	while (!rc && from < to) {
		size_t n = to - from < sizeof(part) ? (size_t)(to - from) : sizeof(part);

		rc = image_in_read(i->in, from, part, n, e);
		if (!rc && XXH3_64bits_update(hash, part, n) != XXH_OK)
			rc = -EINVAL;
		from += n;
	}
	if (!rc && XXH3_64bits_digest(hash) != want)
		rc = error_set(e, -EBADMSG, "the image is damaged: %s", what);
	XXH3_freeState(hash);
	return rc;
}

static int tail_read(struct image *i, struct error *e)
{
	static const char cut[] = "the image is cut short, or its end is damaged";
	uint64_t size = image_in_size(i->in), at = size - TAIL_RECORD_SIZE, next = at;
	struct error why = {0};
	struct record r;
	int rc;

	if (size < TAIL_RECORD_SIZE)
		return error_set(e, -EBADMSG, "%s", cut);
	rc = image_record_get(i, &next, &r, &why);
	if (rc)
		return error_set(e, rc, "%s",
				 rc == -EBADMSG && !image_in_encrypted(i->in) ? cut : why.text);
	if (r.type != IMAGE_RECORD_TAIL || r.flags != RECORD_MANDATORY || r.len != TAIL_SIZE)
		return error_set(e, -EBADMSG, "%s", cut);
	return image_tail_decode(r.payload, r.len, at, &i->tail, e);
}

static int head_read(struct image *i, struct error *e)
{
	uint64_t at = 0;
	struct record r = {0};
	int rc = hash_check(i, 0, i->tail.head, i->tail.head_hash, "its head", e);

	if (!rc)
		rc = image_known_get(i, &at, i->tail.head, &r, e);
	if (!rc && r.type != IMAGE_RECORD_IMAGE)
		rc = error_set(e, -EBADMSG, "the image is damaged: its first record");
	if (!rc)
		rc = image_info_decode(r.payload, r.len, &i->info, e);
	while (!rc && at < i->tail.head) {
		rc = image_known_get(i, &at, i->tail.head, &r, e);
		if (!rc && r.type == IMAGE_RECORD_DISK)
			rc = image_disk_decode(r.payload, r.len, &i->info, e);
		else if (!rc && r.type)
			rc = error_set(e, -EBADMSG, "the image is damaged: its head");
	}
	i->info.encrypted = image_in_encrypted(i->in);
	return rc;
}

static int state_read(struct image *i, struct error *e)
{
	uint64_t at = i->tail.state;
	const uint8_t *state;
	struct record r;
	size_t n;
	int rc = image_record_get(i, &at, &r, e);

	if (!rc && (r.type != EPOCH_RECORD_STATE || at > i->tail.index))
		rc = error_set(e, -EBADMSG, "the image is damaged: no machine state");
	if (!rc)
		rc = epoch_state_read(r.payload, r.len, &state, &n, e);
	if (rc)
		return rc;
	buf_put(&i->state, state, n);
	return buf_check(&i->state) ? error_set(e, -ENOMEM, "out of memory") : 0;
}

static int run_take(struct image *i, struct cursor *c, uint64_t *pages, struct error *e)
{
	const struct index_run *last = i->run_count ? &i->runs[i->run_count - 1] : NULL;
	struct index_run run;

	run.first = cursor_u64(c);
	run.count = cursor_u64(c);
	run.offset = cursor_u64(c);
	if (c->bad || i->run_count >= i->tail.runs || !run.count ||
	    run.first >= i->info.ram_pages || run.count > i->info.ram_pages - run.first ||
	    (last && run.first < last->first + last->count) || run.offset < i->tail.head ||
	    run.offset >= i->tail.state)
		return error_set(e, -EBADMSG, "the image is damaged: its index");
	i->runs[i->run_count++] = run;
	*pages += run.count;
	return 0;
}

static int index_record_take(struct image *i, const struct record *r, uint64_t *pages,
			     struct error *e)
{
	struct cursor c = cursor_of(r->payload, r->len);
	uint32_t runs = cursor_u32(&c), zero = cursor_u32(&c);
	int rc = 0;

	if (!runs || zero)
		return error_set(e, -EBADMSG, "the image is damaged: its index");
	for (uint32_t n = 0; !rc && n < runs; n++)
		rc = run_take(i, &c, pages, e);
	if (!rc && cursor_finish(&c))
		rc = error_set(e, -EBADMSG, "the image is damaged: its index");
	return rc;
}

static int index_read(struct image *i, struct error *e)
{
	uint64_t at = i->tail.index, pages = 0;
	struct record r;
	int rc = 0;

	i->runs = calloc(i->tail.runs ? i->tail.runs : 1, sizeof(*i->runs));
	if (!i->runs)
		return error_set(e, -ENOMEM, "out of memory");
	while (!rc && at < i->tail.tail) {
		rc = image_known_get(i, &at, i->tail.tail, &r, e);
		if (!rc && r.type == IMAGE_RECORD_INDEX)
			rc = index_record_take(i, &r, &pages, e);
		else if (!rc && r.type)
			rc = error_set(e, -EBADMSG, "the image is damaged: its end");
	}
	if (!rc && (i->run_count != i->tail.runs || pages != i->tail.pages))
		rc = error_set(e, -EBADMSG, "the image is damaged: its index is not whole");
	return rc;
}

static int image_read_all_but_pages(struct image *i, struct error *e)
{
	int rc = tail_read(i, e);

	if (!rc)
		rc = head_read(i, e);
	if (!rc)
		rc = hash_check(i, i->tail.state, i->tail.tail, i->tail.rest_hash,
				"its machine state or index", e);
	if (!rc)
		rc = state_read(i, e);
	return rc ? rc : index_read(i, e);
}

int image_open(int fd, const struct image_key *key, struct image **out, struct error *e)
{
	struct image *i = calloc(1, sizeof(*i));
	int rc;

	if (!i)
		return error_set(e, -ENOMEM, "out of memory");
	rc = image_in_open(fd, key, &i->in, e);
	if (!rc)
		rc = image_read_all_but_pages(i, e);
	if (rc)
		image_close(i);
	else
		*out = i;
	return rc;
}

void image_close(struct image *i)
{
	if (!i)
		return;
	image_in_close(i->in);
	image_info_free(&i->info);
	buf_free(&i->payload);
	buf_free(&i->state);
	free(i->runs);
	free(i);
}

const struct image_info *image_about(const struct image *i)
{
	return &i->info;
}

/* ---- memory --------------------------------------------------------------------------- */

struct load {
	struct image *image;
	struct vm *vm;   /* NULL: only looked at */
	uint64_t *where; /* the record in which a page came last, + 1; 0 = none */
	uint64_t record; /* that which is being read */
	struct image_progress *progress;
};

static int on_page(void *ctx, uint64_t page, const uint8_t *bytes)
{
	struct load *l = ctx;
	uint8_t *to = l->vm ? vm_ram(l->vm) + page * VM_PAGE_SIZE : NULL;

	if (to && bytes)
		memcpy(to, bytes, VM_PAGE_SIZE);
	else if (to && l->where[page]) /* else it is zero as it was made */
		memset(to, 0, VM_PAGE_SIZE);
	l->where[page] = l->record + 1;
	atomic_fetch_add_explicit(&l->progress->pages, 1, memory_order_relaxed);
	return 0;
}

/* What a lazy restore would believe must be what is there. */
static int index_compare(const struct load *l, struct error *e)
{
	const struct image *i = l->image;
	uint64_t named = 0, there = 0;

	for (uint64_t n = 0; n < i->run_count; n++)
		for (uint64_t k = 0; k < i->runs[n].count; k++)
			named += l->where[i->runs[n].first + k] == i->runs[n].offset + 1;
	for (uint64_t page = 0; page < i->info.ram_pages; page++)
		there += l->where[page] != 0;
	if (named != there || there != i->tail.pages)
		return error_set(e, -EBADMSG, "the image is damaged: its index is wrong");
	return 0;
}

static int records_load(struct load *l, struct epoch_reader *reader, struct error *e)
{
	struct image *i = l->image;
	uint64_t at = i->tail.head;
	struct record r;
	int rc = 0;

	while (!rc && at < i->tail.index) {
		l->record = at;
		rc = image_known_get(i, &at, i->tail.index, &r, e);
		if (!rc && r.type == EPOCH_RECORD_PAGES)
			l->record = at - r.len - RECORD_HEADER_SIZE;
		if (!rc && r.type) {
			rc = epoch_reader_take(reader, r.type, r.payload, r.len, e);
			if (rc == -EBADMSG)
				error_context(e, "the image is damaged");
		}
		atomic_store(&l->progress->bytes, at);
		if (!rc && atomic_load(&l->progress->cancel))
			rc = error_set(e, -ECANCELED, "cancelled");
	}
	if (!rc && !epoch_reader_whole(reader))
		rc = error_set(e, -EBADMSG, "the image is damaged: its memory is not whole");
	return rc;
}

static int memory_load(struct load *l, struct error *e)
{
	struct epoch_reader *reader;
	int rc;

	atomic_store(&l->progress->pages_total, l->image->tail.pages);
	l->where = calloc(l->image->info.ram_pages, sizeof(*l->where));
	if (!l->where)
		return error_set(e, -ENOMEM, "out of memory");
	rc = epoch_reader_create(l->image->info.ram_pages, on_page, l, &reader);
	if (!rc) {
		rc = records_load(l, reader, e);
		epoch_reader_destroy(reader);
	}
	if (!rc)
		rc = index_compare(l, e);
	free(l->where);
	return rc;
}

int image_fits(const struct image *i, const struct vm *vm, struct error *e)
{
	const struct image_info *n = &i->info;

	if (n->ram_pages != vm_ram_pages(vm) || n->vcpus != vm_vcpus(vm))
		return error_set(e, -EINVAL,
				 "the image is of a VM with %" PRIu64 " pages of memory and %u "
				 "vCPUs, not of %" PRIu64 " and %u",
				 n->ram_pages, n->vcpus, vm_ram_pages(vm), vm_vcpus(vm));
	if (n->cpu != vm_cpu(vm))
		return error_set(e, -EINVAL,
				 "the guest's CPU was \"%s\" and would be \"%s\" here: where "
				 "engines differ, the VM file needs cpu = \"%s\"",
				 vm_cpu_name(n->cpu), vm_cpu_name(vm_cpu(vm)),
				 vm_cpu_name(VM_CPU_BASE));
	return 0;
}

int image_load(struct image *i, struct vm *vm, struct image_progress *p, struct error *e)
{
	struct load l = {.image = i, .vm = vm, .progress = p};
	int rc = image_fits(i, vm, e);

	if (!rc)
		rc = vm_state_check(vm, i->state.data, i->state.len, e);
	if (!rc)
		rc = memory_load(&l, e);
	return rc ? rc : vm_state_load(vm, i->state.data, i->state.len, e);
}

int image_verify(struct image *i, struct image_progress *p, struct error *e)
{
	struct load l = {.image = i, .progress = p};

	return memory_load(&l, e);
}
