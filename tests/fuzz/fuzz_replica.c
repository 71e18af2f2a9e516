// SPDX-License-Identifier: Apache-2.0
/*
 * Records fed to a standby. The input is a row of: a byte (low half: the stream, high
 * bit: put right what an attacker with the key would get right), then a record.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <xxhash.h>

#include "replicate/replica.h"

#define MEMORY (UINT64_C(256) << 10)

static struct vm *vm;
static struct loop *io;
static struct buf good_state;
static struct channel *control, *control_peer;

/* ---- a standby's surroundings -------------------------------------------------- */

static void on_event(void *ctx, enum vm_event event, const char *detail)
{
}

static void on_state(void *ctx, enum replica_state s, const char *why)
{
}

static int member_receive(void *ctx, uint64_t epoch, bool direct, const uint8_t *payload,
			  size_t len, struct error *e)
{
	return len && payload[0] == 0xff ? error_set(e, -5, "refused") : 0;
}

static int member_commit(void *ctx, uint64_t epoch, struct error *e)
{
	return 0;
}

static void member_discard(void *ctx)
{
}

static void vm_make(void)
{
	struct vm_config c = {.name = "fuzz", .memory = MEMORY, .vcpus = 1, .engine = "sim"};
	struct vm_parts parts = {.console_in = -1, .console_out = -1, .on_event = on_event};

	if (loop_create(&io))
		abort();
	parts.io = io;
	if (vm_create(&c, &parts, &vm, NULL) || vm_state_save(vm, &good_state, NULL))
		abort();
}

static void auth_fill(struct channel_auth *a)
{
	memset(a, 0, sizeof(*a));
	memset(a->session, 1, sizeof(a->session));
}

static void *control_accept(void *arg)
{
	struct channel_auth a;
	int fd = *(int *)arg;

	auth_fill(&a);
	if (channel_accept(fd, &a, UINT64_MAX, &control, NULL))
		abort();
	return NULL;
}

/* Where acknowledgements go to. */
static void control_make(void)
{
	struct channel_auth a;
	pthread_t t;
	int fds[2];

	auth_fill(&a);
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) ||
	    thread_start(&t, "accept", control_accept, &fds[1]) ||
	    channel_connect(fds[0], &a, UINT64_MAX, &control_peer, NULL))
		abort();
	pthread_join(t, NULL);
}

static struct replica *replica_make(unsigned streams)
{
	struct epoch_member m = {.id = 1,
				 .receive = member_receive,
				 .commit = member_commit,
				 .discard = member_discard};
	struct replica_events events = {.state = on_state};
	struct replicate_config c;
	struct replica *r;

	replicate_config_defaults(&c);
	c.streams = streams;
	c.term = 1;
	if (replica_create(vm, &c, &m, 1, &events, &r, NULL))
		abort();
	r->streams[0].channel = control;
	replica_event(r, STANDBY_EV_CONNECTED, 0);
	return r;
}

/* ---- input ------------------------------------------------------------------------ */

static void end_repair(struct replica_stream *s, uint8_t *payload, uint32_t len)
{
	struct buf b = {0};

	if (len != 48)
		return;
	epoch_end_encode(s->begun, &s->sum, &b);
	if (!buf_check(&b))
		memcpy(payload, b.data, 48);
	buf_free(&b);
}

static void pages_repair(struct replica_stream *s, uint8_t *payload, uint32_t len)
{
	XXH64_hash_t hash;

	if (len < PAGES_HEADER_SIZE)
		return;
	memcpy(payload, &s->begun, 8);
	hash = XXH3_64bits(payload + PAGES_HEADER_SIZE, len - PAGES_HEADER_SIZE);
	memcpy(payload + 24, &hash, 8);
}

static int state_send(struct replica_stream *s, struct error *e)
{
	struct record r = {.type = RECORD_STATE, .flags = RECORD_MANDATORY};
	struct buf b = {0};
	int rc;

	epoch_encode(s->begun, &b);
	buf_put(&b, good_state.data, good_state.len);
	r.payload = b.data;
	r.len = (uint32_t)b.len;
	rc = replica_record(s, &r, e);
	buf_free(&b);
	return rc;
}

static int record_feed(struct replica_stream *s, struct record *r, bool repair, struct error *e)
{
	uint8_t *copy = malloc(r->len ? r->len : 1);
	int rc;

	if (!copy)
		return -1;
	memcpy(copy, r->payload, r->len);
	r->payload = copy;
	if (repair && r->type == RECORD_EPOCH_END)
		end_repair(s, copy, r->len);
	if (repair && r->type == RECORD_PAGES)
		pages_repair(s, copy, r->len);
	rc = repair && r->type == RECORD_STATE ? state_send(s, e) : replica_record(s, r, e);
	free(copy);
	return rc;
}

static void control_drain(void)
{
	char bytes[4096];

	while (recv(channel_fd(control_peer), bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
		;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct error e = {0};
	struct replica *r;
	struct record record;
	int64_t n;

	if (!vm) {
		vm_make();
		control_make();
		log_setup("fuzz", LOG_LEVEL_ERROR);
	}
	r = replica_make(2);
	while (size > 1 && (n = record_decode(data + 1, size - 1, &record)) > 0) {
		unsigned stream = (data[0] & 15u) % 3;

		if (record_feed(&r->streams[stream], &record, data[0] & 128, &e))
			break;
		data += 1 + n;
		size -= 1 + (size_t)n;
	}
	if (!replica_promote(r, 2, NULL) && !atomic_load(&r->committed))
		abort();
	control_drain();
	pthread_mutex_lock(&r->lock);
	r->streams[0].channel = NULL;
	pthread_mutex_unlock(&r->lock);
	replica_destroy(r);
	return 0;
}
