// SPDX-License-Identifier: Apache-2.0
/* A primary played by a test: it sends whatever the test wants to a real replica. */
#ifndef TESTS_REPLICATE_PRIMARY_H
#define TESTS_REPLICATE_PRIMARY_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>
#include <xxhash.h>

#include "replicate/pages.h"
#include "replicate/records.h"

#define FAKE_MEMORY (UINT64_C(256) << 10)
#define FAKE_PAGES  (FAKE_MEMORY / VM_PAGE_SIZE)
#define FAKE_MEMBER 1
#define FAKE_SOON   (clock_ns() + 30 * NS_PER_SEC)

struct fake {
	struct loop *io;
	struct vm *vm;
	struct buf state;
	struct replicate_config config;
	struct replica *replica;
	struct channel *streams[CHANNEL_STREAMS_MAX];
	struct epoch_sum sums[CHANNEL_STREAMS_MAX];
	pthread_mutex_t lock;
	pthread_cond_t changed;
	enum replica_state reported;
	char why[512];
	/* What the member was told. */
	uint64_t received, committed, direct;
	unsigned discards;
	bool member_refuses;
	bool commits_wait; /* under lock */
};

static inline void fake_event(void *ctx, enum vm_event event, const char *detail)
{
}

static inline void fake_state(void *ctx, enum replica_state s, const char *why)
{
	struct fake *f = ctx;

	pthread_mutex_lock(&f->lock);
	f->reported = s;
	snprintf(f->why, sizeof(f->why), "%s", why);
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->lock);
}

static inline void fake_wait(struct fake *f, enum replica_state s)
{
	pthread_mutex_lock(&f->lock);
	while (f->reported != s)
		pthread_cond_wait(&f->changed, &f->lock);
	pthread_mutex_unlock(&f->lock);
}

static inline int fake_receive(void *ctx, uint64_t epoch, bool direct, const uint8_t *payload,
			       size_t len, struct error *e)
{
	struct fake *f = ctx;

	f->received += len;
	f->direct += direct;
	return f->member_refuses ? error_set(e, -EBADMSG, "a bad record of a disk") : 0;
}

static inline int fake_commit(void *ctx, uint64_t epoch, struct error *e)
{
	struct fake *f = ctx;

	pthread_mutex_lock(&f->lock);
	while (f->commits_wait)
		pthread_cond_wait(&f->changed, &f->lock);
	f->committed = epoch;
	pthread_mutex_unlock(&f->lock);
	return 0;
}

static inline void fake_commits_wait(struct fake *f, bool wait)
{
	pthread_mutex_lock(&f->lock);
	f->commits_wait = wait;
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->lock);
}

static inline void fake_discard(void *ctx)
{
	((struct fake *)ctx)->discards++;
}

static inline void fake_make_as(struct fake *f, bool handover)
{
	struct vm_config c = {.name = "fake", .memory = FAKE_MEMORY, .vcpus = 1, .engine = "sim"};
	struct vm_parts parts = {.console_in = -1, .console_out = -1, .on_event = fake_event};
	struct replica_events events = {.state = fake_state, .ctx = f};
	struct epoch_member m = {.id = FAKE_MEMBER,
				 .size = 4096,
				 .ctx = f,
				 .receive = fake_receive,
				 .commit = fake_commit,
				 .discard = fake_discard};

	memset(f, 0, sizeof(*f));
	pthread_mutex_init(&f->lock, NULL);
	pthread_cond_init(&f->changed, NULL);
	assert_int_equal(loop_create(&f->io), 0);
	parts.io = f->io;
	assert_int_equal(vm_create(&c, &parts, &f->vm, NULL), 0);
	assert_int_equal(vm_state_save(f->vm, &f->state, NULL), 0);
	replicate_config_defaults(&f->config);
	f->config.streams = 2;
	f->config.term = 3;
	f->config.handover = handover;
	f->config.loss_ns = 20 * NS_PER_SEC;
	f->config.heartbeat_ns = NS_PER_SEC;
	memset(f->config.session, 4, SESSION_ID_SIZE);
	assert_int_equal(replica_create(f->vm, &f->config, &m, 1, &events, &f->replica, NULL), 0);
}

static inline void fake_make(struct fake *f)
{
	fake_make_as(f, false);
}

static inline void fake_end(struct fake *f)
{
	replica_destroy(f->replica);
	for (unsigned i = 0; i < CHANNEL_STREAMS_MAX; i++)
		channel_close(f->streams[i]);
	vm_destroy(f->vm);
	loop_destroy(f->io);
	buf_free(&f->state);
	pthread_cond_destroy(&f->changed);
	pthread_mutex_destroy(&f->lock);
}

/* ---- sending -------------------------------------------------------------------- */

static inline int fake_send(struct fake *f, unsigned stream, uint16_t type, const void *data,
			    size_t n)
{
	struct iovec v = {(void *)data, n};

	return channel_send(f->streams[stream], type, RECORD_MANDATORY, &v, 1, FAKE_SOON);
}

static inline void fake_send_buf(struct fake *f, unsigned stream, uint16_t type, struct buf *b)
{
	assert_int_equal(buf_check(b), 0);
	/* A replica that has had enough closes: the test looks at its state. */
	if (fake_send(f, stream, type, b->data, b->len))
		print_message("not sent: type %u\n", type);
	buf_free(b);
}

static inline void fake_dial(struct fake *f, unsigned stream)
{
	struct channel_auth auth = {.stream = (uint16_t)stream};
	int fds[2];

	memcpy(auth.session, f->config.session, SESSION_ID_SIZE);
	memcpy(auth.key, f->config.key, SESSION_KEY_SIZE);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	assert_int_equal(replica_add_stream(f->replica, (uint16_t)stream, fds[1]), 0);
	assert_int_equal(channel_connect(fds[0], &auth, FAKE_SOON, &f->streams[stream], NULL), 0);
}

static inline struct hello fake_hello(struct fake *f, unsigned stream)
{
	struct hello h = {.version = REPLICATE_VERSION,
			  .stream = (uint16_t)stream,
			  .streams = 2,
			  .member_count = 1,
			  .term = 3,
			  .ram_pages = FAKE_PAGES,
			  .vcpus = 1,
			  .members = {{FAKE_MEMBER, 4096}}};

	memcpy(h.session, f->config.session, SESSION_ID_SIZE);
	return h;
}

static inline uint16_t fake_greet(struct fake *f, unsigned stream, const struct hello *h,
				  struct refuse *refuse)
{
	struct record r;
	struct buf b = {0};

	hello_encode(h, &b);
	fake_send_buf(f, stream, RECORD_HELLO, &b);
	if (channel_receive(f->streams[stream], &r, FAKE_SOON))
		return 0;
	if (r.type == RECORD_REFUSE)
		assert_int_equal(refuse_decode(r.payload, r.len, refuse), 0);
	return r.type;
}

static inline void fake_connect(struct fake *f)
{
	for (unsigned i = 0; i <= 2; i++) {
		struct hello h;

		fake_dial(f, i);
		h = fake_hello(f, i);
		assert_int_equal(fake_greet(f, i, &h, NULL), RECORD_WELCOME);
	}
	fake_wait(f, REPLICA_SYNCING);
}

static inline void fake_begin(struct fake *f, unsigned stream, uint64_t epoch)
{
	struct buf b = {0};

	f->sums[stream] = (struct epoch_sum){0};
	epoch_encode(epoch, &b);
	fake_send_buf(f, stream, RECORD_EPOCH_BEGIN, &b);
}

static inline void fake_page(struct fake *f, unsigned stream, uint64_t epoch, uint64_t page,
			     uint8_t fill)
{
	static uint8_t bytes[VM_PAGE_SIZE] __attribute__((aligned(64)));
	struct pages_encoder *p;
	struct pages_encoded out = {0};
	struct buf b = {0};

	memset(bytes, fill, sizeof(bytes));
	assert_int_equal(pages_encoder_create(COMPRESS_LZ4, 0, &p), 0);
	pages_encode(p, epoch, page, bytes, false);
	assert_int_equal(pages_finish(p, epoch, &out), 0);
	epoch_sum_pages(&f->sums[stream], out.count, out.hash);
	buf_put(&b, out.iov[0].iov_base, out.iov[0].iov_len);
	buf_put(&b, out.iov[1].iov_base, out.iov[1].iov_len);
	fake_send_buf(f, stream, RECORD_PAGES, &b);
	pages_encoder_destroy(p);
}

static inline void fake_missing(struct fake *f, uint64_t epoch, uint64_t first, uint64_t word)
{
	struct buf b = {0};

	missing_encode(epoch, first, &word, 1, &b);
	epoch_sum_missing(&f->sums[1], XXH3_64bits(b.data + 8, b.len - 8));
	fake_send_buf(f, 1, RECORD_MISSING, &b);
}

static inline void fake_machine(struct fake *f, uint64_t epoch)
{
	struct buf b = {0};

	epoch_encode(epoch, &b);
	buf_put(&b, f->state.data, f->state.len);
	epoch_sum_state(&f->sums[1], XXH3_64bits(f->state.data, f->state.len));
	fake_send_buf(f, 1, RECORD_STATE, &b);
}

static inline void fake_member(struct fake *f, uint64_t epoch, const char *text)
{
	uint8_t header[MEMBER_HEADER_SIZE];
	struct buf b = {0};

	member_encode(epoch, FAKE_MEMBER, header);
	buf_put(&b, header, sizeof(header));
	buf_put(&b, text, strlen(text));
	epoch_sum_member(&f->sums[1], XXH3_64bits(text, strlen(text)));
	fake_send_buf(f, 1, RECORD_MEMBER, &b);
}

static inline void fake_finish(struct fake *f, unsigned stream, uint64_t epoch)
{
	struct buf b = {0};

	epoch_end_encode(epoch, &f->sums[stream], &b);
	fake_send_buf(f, stream, RECORD_EPOCH_END, &b);
}

/* A whole epoch that fills pages 0 and 16 with `fill`. */
static inline void fake_epoch(struct fake *f, uint64_t epoch, uint8_t fill)
{
	for (unsigned s = 1; s <= 2; s++) {
		fake_begin(f, s, epoch);
		fake_page(f, s, epoch, s == 1 ? 0 : 16, fill);
		if (s == 1) {
			fake_member(f, epoch, "disk");
			fake_machine(f, epoch);
		}
		fake_finish(f, s, epoch);
	}
}

/* The next acknowledgement; other records in between are heartbeats. */
static inline uint64_t fake_ack(struct fake *f)
{
	struct record r;
	uint64_t epoch = 0;

	do {
		assert_int_equal(channel_receive(f->streams[0], &r, FAKE_SOON), 0);
	} while (r.type == RECORD_HEARTBEAT);
	assert_int_equal(r.type, RECORD_ACK);
	assert_int_equal(epoch_decode(r.payload, r.len, &epoch), 0);
	return epoch;
}

#endif
