// SPDX-License-Identifier: Apache-2.0
#include "replicate/records.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

/* ---- HELLO ---------------------------------------------------------------- */

void hello_encode(const struct hello *h, struct buf *out)
{
	buf_put_u16(out, h->version);
	buf_put_u16(out, h->stream);
	buf_put_u16(out, h->streams);
	buf_put_u16(out, h->member_count);
	buf_put_u64(out, h->term);
	buf_put_u64(out, h->ram_pages);
	buf_put(out, h->session, sizeof(h->session));
	buf_put_u32(out, h->vcpus);
	buf_put_u32(out, h->cpu);
	for (unsigned i = 0; i < h->member_count; i++) {
		buf_put_u64(out, h->members[i].id);
		buf_put_u64(out, h->members[i].size);
	}
}

int hello_decode(const uint8_t *data, size_t n, struct hello *out, struct error *e)
{
	struct cursor c = cursor_of(data, n);
	struct hello h = {0};
	uint32_t cpu;

	h.version = cursor_u16(&c);
	if (!c.bad && !version_within(h.version, REPLICATE_OLDEST, REPLICATE_VERSION))
		return error_set(e, -EPROTONOSUPPORT,
				 "the primary speaks version %u, this side reads %u to %u",
				 h.version, REPLICATE_OLDEST, REPLICATE_VERSION);
	h.stream = cursor_u16(&c);
	h.streams = cursor_u16(&c);
	h.member_count = cursor_u16(&c);
	h.term = cursor_u64(&c);
	h.ram_pages = cursor_u64(&c);
	cursor_copy(&c, h.session, sizeof(h.session));
	h.vcpus = cursor_u32(&c);
	cpu = cursor_u32(&c);
	if (cpu > VM_CPU_BASE)
		return error_set(e, -EBADMSG, "hello: CPU %u", cpu);
	h.cpu = (enum vm_cpu)cpu;
	if (h.member_count > EPOCH_MEMBERS_MAX)
		return error_set(e, -EBADMSG, "hello: %u members", h.member_count);
	for (unsigned i = 0; i < h.member_count; i++) {
		uint64_t id = cursor_u64(&c);

		if (id > UINT16_MAX)
			return error_set(e, -EBADMSG, "hello: member %" PRIu64, id);
		h.members[i] = (struct hello_member){(uint16_t)id, cursor_u64(&c)};
	}
	if (cursor_finish(&c))
		return error_set(e, -EBADMSG, "hello: wrong length");
	*out = h;
	return 0;
}

static int members_check(const struct hello *theirs, const struct hello *ours, struct error *e)
{
	if (theirs->member_count != ours->member_count)
		return error_set(e, -EINVAL, "the primary mirrors %u disks, the standby has %u",
				 theirs->member_count, ours->member_count);
	for (unsigned i = 0; i < ours->member_count; i++) {
		const struct hello_member *a = &theirs->members[i], *b = &ours->members[i];

		if (a->id != b->id || a->size != b->size)
			return error_set(e, -EINVAL,
					 "disk %u has %" PRIu64
					 " bytes on the primary, disk %u has "
					 "%" PRIu64 " on the standby",
					 a->id, a->size, b->id, b->size);
	}
	return 0;
}

/* Before anything is copied: the first machine state would be refused by its CPUID. */
static int cpu_check(const struct hello *theirs, const struct hello *ours, struct error *e)
{
	if (theirs->vcpus != ours->vcpus)
		return error_set(e, -EINVAL,
				 "the vm has %u vcpus on the primary, %u on the standby",
				 theirs->vcpus, ours->vcpus);
	if (theirs->cpu != ours->cpu)
		return error_set(e, -EINVAL,
				 "the guest's CPU is \"%s\" on the primary and \"%s\" on the "
				 "standby: where engines differ, the VM file needs cpu = \"%s\"",
				 vm_cpu_name(theirs->cpu), vm_cpu_name(ours->cpu),
				 vm_cpu_name(VM_CPU_BASE));
	return 0;
}

static int term_check(uint64_t theirs, uint64_t ours, enum refuse_code *code, struct error *e)
{
	if (theirs < ours) {
		*code = REFUSE_TERM;
		return error_set(e, -ESTALE,
				 "term %" PRIu64 " is over, the vm's term is %" PRIu64 " now",
				 theirs, ours);
	}
	if (theirs > ours)
		return error_set(e, -EINVAL,
				 "the standby waits for term %" PRIu64 ", not for %" PRIu64, ours,
				 theirs);
	return 0;
}

int hello_check(const struct hello *theirs, const struct hello *ours, enum refuse_code *code,
		struct error *e)
{
	int rc;

	*code = REFUSE_OTHER;
	if (memcmp(theirs->session, ours->session, sizeof(ours->session)) != 0 ||
	    theirs->stream != ours->stream)
		return error_set(e, -EINVAL, "hello of another session or stream");
	rc = term_check(theirs->term, ours->term, code, e);
	if (rc)
		return rc;
	*code = REFUSE_MACHINE;
	if (theirs->streams != ours->streams)
		return error_set(e, -EINVAL, "the primary uses %u streams, the standby %u",
				 theirs->streams, ours->streams);
	if (theirs->ram_pages != ours->ram_pages)
		return error_set(e, -EINVAL,
				 "the vm has %" PRIu64 " pages of memory on the primary, "
				 "%" PRIu64 " on the standby",
				 theirs->ram_pages, ours->ram_pages);
	rc = cpu_check(theirs, ours, e);
	return rc ? rc : members_check(theirs, ours, e);
}

/* ---- REFUSE, HEARTBEAT ------------------------------------------------------ */

void refuse_encode(enum refuse_code code, const char *text, struct buf *out)
{
	buf_put_u32(out, (uint32_t)code);
	buf_put(out, text, strnlen(text, REFUSE_TEXT_MAX));
}

int refuse_decode(const uint8_t *data, size_t n, struct refuse *out)
{
	struct cursor c = cursor_of(data, n);
	uint32_t code = cursor_u32(&c);
	size_t len = c.left;

	if (c.bad || len > REFUSE_TEXT_MAX || code < REFUSE_OTHER || code > REFUSE_INPUT)
		return -EBADMSG;
	out->code = (enum refuse_code)code;
	cursor_copy(&c, out->text, len);
	out->text[len] = '\0';
	for (size_t i = 0; i < len; i++) /* it goes into logs */
		if ((unsigned char)out->text[i] < ' ' || (unsigned char)out->text[i] > '~')
			out->text[i] = '?';
	return cursor_finish(&c);
}

void heartbeat_encode(const struct heartbeat *h, struct buf *out)
{
	buf_put_u64(out, h->sealed);
	buf_put_u64(out, h->acknowledged);
}

int heartbeat_decode(const uint8_t *data, size_t n, struct heartbeat *out)
{
	struct cursor c = cursor_of(data, n);

	out->sealed = cursor_u64(&c);
	out->acknowledged = cursor_u64(&c);
	if (cursor_finish(&c) || out->acknowledged > out->sealed)
		return -EBADMSG;
	return 0;
}

/* ---- epochs ------------------------------------------------------------------ */

void epoch_encode(uint64_t epoch, struct buf *out)
{
	buf_put_u64(out, epoch);
}

int epoch_decode(const uint8_t *data, size_t n, uint64_t *epoch)
{
	struct cursor c = cursor_of(data, n);

	*epoch = cursor_u64(&c);
	return cursor_finish(&c);
}

void member_encode(uint64_t epoch, uint16_t member, uint8_t out[MEMBER_HEADER_SIZE])
{
	memset(out, 0, MEMBER_HEADER_SIZE);
	for (unsigned i = 0; i < 8; i++)
		out[i] = (uint8_t)(epoch >> (8 * i));
	out[8] = (uint8_t)member;
	out[9] = (uint8_t)(member >> 8);
}

int member_decode(struct cursor *c, uint64_t *epoch, uint16_t *member)
{
	uint64_t rest;

	*epoch = cursor_u64(c);
	rest = cursor_u64(c);
	*member = (uint16_t)rest;
	return c->bad || rest > UINT16_MAX ? -EBADMSG : 0;
}

static void chain_add(struct epoch_sum *s, uint64_t hash)
{
	uint8_t bytes[8];

	for (unsigned i = 0; i < 8; i++)
		bytes[i] = (uint8_t)(hash >> (8 * i));
	s->chain = XXH3_64bits_withSeed(bytes, sizeof(bytes), s->chain);
}

void epoch_sum_pages(struct epoch_sum *s, uint32_t pages, uint64_t hash)
{
	s->batches++;
	s->pages += pages;
	chain_add(s, hash);
}

void epoch_sum_member(struct epoch_sum *s, uint64_t hash)
{
	s->members++;
	chain_add(s, hash);
}

void epoch_sum_state(struct epoch_sum *s, uint64_t hash)
{
	s->states++;
	chain_add(s, hash);
}

void epoch_sum_missing(struct epoch_sum *s, uint64_t hash)
{
	chain_add(s, hash);
}

void epoch_end_encode(uint64_t epoch, const struct epoch_sum *s, struct buf *out)
{
	buf_put_u64(out, epoch);
	buf_put_u64(out, s->batches);
	buf_put_u64(out, s->pages);
	buf_put_u64(out, s->members);
	buf_put_u64(out, s->states);
	buf_put_u64(out, s->chain);
}

int epoch_end_decode(const uint8_t *data, size_t n, uint64_t *epoch, struct epoch_sum *out)
{
	struct cursor c = cursor_of(data, n);

	*epoch = cursor_u64(&c);
	out->batches = cursor_u64(&c);
	out->pages = cursor_u64(&c);
	out->members = cursor_u64(&c);
	out->states = cursor_u64(&c);
	out->chain = cursor_u64(&c);
	return cursor_finish(&c);
}

bool epoch_sum_equal(const struct epoch_sum *a, const struct epoch_sum *b)
{
	return a->batches == b->batches && a->pages == b->pages && a->members == b->members &&
	       a->states == b->states && a->chain == b->chain;
}

/* ---- MISSING -------------------------------------------------------------------- */

void missing_encode(uint64_t epoch, uint64_t first_page, const uint64_t *words, size_t count,
		    struct buf *out)
{
	buf_put_u64(out, epoch);
	buf_put_u64(out, first_page);
	for (size_t i = 0; i < count; i++)
		buf_put_u64(out, words[i]);
}

static bool words_fit(struct cursor c, uint64_t first, uint64_t pages)
{
	uint64_t all = bitmap_words(pages), end = first + c.left / 8, last;

	if (c.bad || !c.left || c.left % 8 || first > all || end < first || end > all)
		return false;
	(void)cursor_take(&c, c.left - 8);
	last = cursor_u64(&c);
	return end < all || !(pages % 64) || !(last >> pages % 64);
}

int missing_decode(struct cursor *c, uint64_t pages, uint64_t *map)
{
	uint64_t first = cursor_u64(c);

	if (first % 64 || !words_fit(*c, first / 64, pages))
		return -EBADMSG;
	for (uint64_t i = first / 64; c->left; i++)
		map[i] |= cursor_u64(c);
	return 0;
}
