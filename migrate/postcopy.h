// SPDX-License-Identifier: Apache-2.0
/*
 * What both sides of a postcopy link have in common: its connections, its state, the records.
 *
 * A side has one link at a time. Threads that use its channels are counted as users; a link
 * that is over shuts its channels down, which ends whatever they do, and is cleared by whoever
 * makes the next one, once all users have left.
 *
 *            begins            all welcomed        cut
 *   (clear) --------> half-made -----------> up --------> over ---> (clear)
 *                         '------------------------------'
 *
 * Locks. `lock` guards all that is not said to be a thread's own. Nothing that waits is done
 *        under it, and it is taken by the thread that hears of faults.
 * Private to migrate/.
 */
#ifndef POLLUX_MIGRATE_POSTCOPY_H
#define POLLUX_MIGRATE_POSTCOPY_H

#include <stdatomic.h>

#include "migrate/migrate.h"

#define LINK_OLDEST       1u /* read: this one and all up to */
#define LINK_VERSION      1u
#define LINK_STREAMS_MAX  (POSTCOPY_STREAMS_MAX + 1)
#define LINK_HANDSHAKE_NS (6 * NS_PER_SEC)
#define LINK_REFUSE_NS    (200 * NS_PER_MS)
#define LINK_REPORTS_MAX  8u
#define LINK_WHY_MAX      256u
#define LINK_WORDS_MAX    8192u
#define NEED_MAX          256u

/* ---- records: docs/protocol.md --------------------------------------------------- */

enum link_record {
	LINK_REFUSE = 3,
	LINK_PAGES = EPOCH_RECORD_PAGES,
	LINK_HELLO = 32,
	LINK_OK = 33,
	LINK_BEAT = 34,
	LINK_MISSING = 35,
	LINK_GO = 36,
	LINK_NEED = 37,
	LINK_ALL = 38,
	LINK_ALL_OK = 39,
};
#define LINK_PAGES_MIN  (32u + 8u)
#define LINK_PAGES_MOST CHANNEL_RECORD_MAX

struct link_hello {
	uint16_t stream, streams;
	uint64_t term, ram_pages, number;
	uint8_t session[SESSION_ID_SIZE];
};
void link_hello_encode(const struct link_hello *h, struct buf *out);
int link_hello_decode(const uint8_t *data, size_t n, struct link_hello *out,
		      struct error *e) MUST_CHECK;
/* The number is not compared. -ESTALE: a term that is over. */
int link_hello_check(const struct link_hello *theirs, const struct link_hello *ours,
		     struct error *e) MUST_CHECK;

enum link_refuse_code { LINK_REFUSE_OTHER = 1, LINK_REFUSE_TERM = 3, LINK_REFUSE_LAST = 5 };
#define LINK_REFUSE_TEXT 240
void link_refuse_encode(enum link_refuse_code code, const char *text, struct buf *out);
/* e becomes what the other side says: -ESTALE for a term that is over, else -EPERM. */
int link_refuse_decode(const uint8_t *data, size_t n, struct error *e);

/* Words of a list, in the order of the machine; n of them. */
void link_words_encode(const uint64_t *words, size_t n, struct buf *out);
int link_words_decode(const uint8_t *data, size_t n, uint64_t *words, size_t *count) MUST_CHECK;

/* ---- a side --------------------------------------------------------------------------- */

struct side;
struct side_ops {
	/* On the thread of events, before each: what the state means for the vm. */
	void (*apply)(struct side *s, enum postcopy_state state);
};

struct side_report {
	enum postcopy_state state;
	char why[LINK_WHY_MAX];
};

struct side {
	struct vm *vm;
	struct postcopy_config config;
	struct postcopy_events events;
	const struct side_ops *ops;
	pthread_mutex_t lock;
	pthread_cond_t changed; /* anything under `lock` but what is waited for */
	pthread_cond_t talk;    /* that, or anything: the thread that sends on the control stream */
	enum postcopy_state state;
	bool complete; /* nothing is missing: a cut is no loss */
	bool quit;

	struct channel *streams[LINK_STREAMS_MAX]; /* 0 = control */
	unsigned users;
	bool up, over;
	int over_fd;           /* an eventfd: readable while `over` */
	uint64_t number;       /* of the link */
	uint64_t bytes, links; /* of links that were cleared; that were up */

	struct side_report reports[LINK_REPORTS_MAX];
	unsigned report_count;
	pthread_t reporter;
	bool reporting;
};

int side_init(struct side *s, struct vm *vm, const struct postcopy_config *c,
	      const struct postcopy_events *events, const struct side_ops *ops,
	      struct error *e) MUST_CHECK;
void side_free(struct side *s); /* no thread of the owner's is left */
int side_config_check(const struct postcopy_config *c, struct error *e) MUST_CHECK;
void side_hello(const struct side *s, unsigned stream, struct link_hello *h);

/* Lock held. */
void side_state(struct side *s, enum postcopy_state state, const char *why);
void side_changed(struct side *s);
void side_wait(struct side *s, uint64_t until); /* for `changed`; UINT64_MAX = no limit */
bool side_is_up(const struct side *s);
void side_over(struct side *s, const char *why); /* the link, if there is one */
void side_clear(struct side *s);                 /* no users */
uint64_t side_bytes(const struct side *s);
uint64_t side_key_updates(const struct side *s); /* of the present link */
void side_leave(struct side *s);                 /* one user less */
void side_session(struct side *s, const struct postcopy_config *c);

/* Lock not held. A user's thread. */
void side_cut(struct side *s, int rc, const char *what);
/* The other side sent what cannot be: tell it, then cut. */
void side_refuse(struct side *s, const char *text);
void link_refuse_send(struct channel *c, enum link_refuse_code code, const char *text);
/* On the control stream. Lock held, dropped meanwhile. */
int side_say(struct side *s, enum link_record type, const uint64_t *words, size_t n) MUST_CHECK;

/* Records of a stream until its link is over. */
struct link_handler {
	uint16_t type;
	uint32_t least, most;
	int (*handle)(struct side *s, unsigned stream, const struct record *r, struct error *e);
};
struct link_table {
	const struct link_handler *handlers;
	unsigned count;
};
void side_receive(struct side *s, unsigned stream, const struct link_table *table);

#endif
