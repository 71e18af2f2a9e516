// SPDX-License-Identifier: Apache-2.0
/*
 * The records of a session's streams, octet by octet in docs/protocol.md. Decoders
 * check everything; nothing else in this folder reads bytes of a small record.
 * Private to replicate/.
 */
#ifndef POLLUX_REPLICATE_RECORDS_H
#define POLLUX_REPLICATE_RECORDS_H

#include "replicate/replicate.h"

#define REPLICATE_OLDEST  2u /* read: this one and all up to */
#define REPLICATE_VERSION 2u

enum record_type {
	RECORD_HELLO = 1,
	RECORD_WELCOME = 2,
	RECORD_REFUSE = 3,
	RECORD_HEARTBEAT = 4,
	RECORD_ACK = 5,
	RECORD_BYE = 6,
	RECORD_BYE_ACK = 7,
	RECORD_ROUND_DONE = 8,
	RECORD_EPOCH_BEGIN = 16,
	RECORD_PAGES = 17,
	RECORD_MEMBER = 18,
	RECORD_STATE = 19,
	RECORD_EPOCH_END = 20,
	RECORD_MISSING = 21,
	RECORD_ROUND_END = 22,
	RECORD_LATER = 999, /* of no version yet: what tests let a program not know */
};

enum refuse_code {
	REFUSE_OTHER = 1,
	REFUSE_VERSION = 2,
	REFUSE_TERM = 3,    /* the standby knows a newer term */
	REFUSE_MACHINE = 4, /* memory, CPUs, members or streams differ */
	REFUSE_INPUT = 5,   /* a record could not be understood */
};

struct hello_member {
	uint16_t id;
	uint64_t size;
};
struct hello {
	uint16_t version, stream, streams, member_count;
	uint64_t term, ram_pages;
	uint32_t vcpus;
	enum vm_cpu cpu;
	uint8_t session[SESSION_ID_SIZE];
	struct hello_member members[EPOCH_MEMBERS_MAX];
};
void hello_encode(const struct hello *h, struct buf *out);
int hello_decode(const uint8_t *data, size_t n, struct hello *out, struct error *e) MUST_CHECK;
/* Does what the primary says fit what is here? `e` says what does not; `code` is for REFUSE. */
int hello_check(const struct hello *theirs, const struct hello *ours, enum refuse_code *code,
		struct error *e) MUST_CHECK;

#define REFUSE_TEXT_MAX 240
struct refuse {
	enum refuse_code code;
	char text[REFUSE_TEXT_MAX + 1];
};
void refuse_encode(enum refuse_code code, const char *text, struct buf *out);
int refuse_decode(const uint8_t *data, size_t n, struct refuse *out) MUST_CHECK;

struct heartbeat {
	uint64_t sealed, acknowledged; /* standby: whole, committed */
};
void heartbeat_encode(const struct heartbeat *h, struct buf *out);
int heartbeat_decode(const uint8_t *data, size_t n, struct heartbeat *out) MUST_CHECK;

/* ACK, EPOCH_BEGIN, and what MEMBER and STATE begin with. */
void epoch_encode(uint64_t epoch, struct buf *out);
int epoch_decode(const uint8_t *data, size_t n, uint64_t *epoch) MUST_CHECK;

#define MEMBER_HEADER_SIZE 16u
void member_encode(uint64_t epoch, uint16_t member, uint8_t out[MEMBER_HEADER_SIZE]);
int member_decode(struct cursor *c, uint64_t *epoch, uint16_t *member) MUST_CHECK;

/* MISSING: a part of the bitmap of pages that are not sent, whole words of it. */
#define MISSING_HEADER_SIZE 16u
#define MISSING_WORDS_MAX   131072u
void missing_encode(uint64_t epoch, uint64_t first_page, const uint64_t *words, size_t count,
		    struct buf *out);
/* What follows the epoch: ORs it into `map` of `pages` bits, if there is nothing wrong with it. */
int missing_decode(struct cursor *c, uint64_t pages, uint64_t *map) MUST_CHECK;

/* What a stream carried in an epoch: kept by both sides, compared at its end. */
struct epoch_sum {
	uint64_t batches, pages, members, states;
	uint64_t chain; /* hash over the hashes of all records so far, in order */
};
void epoch_sum_pages(struct epoch_sum *s, uint32_t pages, uint64_t hash);
void epoch_sum_member(struct epoch_sum *s, uint64_t hash);
void epoch_sum_state(struct epoch_sum *s, uint64_t hash);
void epoch_sum_missing(struct epoch_sum *s, uint64_t hash);
void epoch_end_encode(uint64_t epoch, const struct epoch_sum *s, struct buf *out);
int epoch_end_decode(const uint8_t *data, size_t n, uint64_t *epoch,
		     struct epoch_sum *out) MUST_CHECK;
bool epoch_sum_equal(const struct epoch_sum *a, const struct epoch_sum *b);

#endif
