// SPDX-License-Identifier: Apache-2.0
/* A standby that only listens: a real primary's streams, as they come out of TLS, into
 * FOLDER/stream-N.bin. */
#ifndef TESTS_REPLICATE_TAPE_H
#define TESTS_REPLICATE_TAPE_H

#include "replicate/records.h"
#include "tests/unit/channel/record_file.h"
#include "tests/unit/replicate/twin.h"

#define TAPE_SEED 5

struct tape {
	struct twin t;
	char folder[64];
	struct channel *streams[CHANNEL_STREAMS_MAX];
	pthread_t threads[CHANNEL_STREAMS_MAX];
	unsigned count;
	uint64_t ended[CHANNEL_STREAMS_MAX], acknowledged;
	uint64_t round[CHANNEL_STREAMS_MAX], rounds_told;
	pthread_mutex_t lock;
};

struct tape_stream {
	struct tape *tape;
	unsigned stream;
	int fd;
};

static inline void reply(struct channel *c, uint16_t type, const void *data, size_t n)
{
	uint16_t flags = type == RECORD_ROUND_DONE ? 0 : RECORD_MANDATORY;
	struct iovec v = {(void *)data, n};

	if (channel_send(c, type, flags, &v, 1, TWIN_SOON))
		print_message("no reply of type %u\n", type);
}

/* What has come on all bulk streams is answered, once. */
static inline void number_came(struct tape *tape, uint64_t *came, uint64_t *told, uint16_t answer)
{
	uint64_t least = UINT64_MAX;

	for (unsigned i = 1; i <= tape->t.config.streams; i++)
		if (came[i] < least)
			least = came[i];
	if (least > *told) {
		*told = least;
		reply(tape->streams[0], answer, &least, sizeof(least));
	}
}

static inline void epoch_ended(struct tape *tape, unsigned stream, uint64_t epoch)
{
	pthread_mutex_lock(&tape->lock);
	tape->ended[stream] = epoch;
	number_came(tape, tape->ended, &tape->acknowledged, RECORD_ACK);
	pthread_mutex_unlock(&tape->lock);
}

static inline void round_ended(struct tape *tape, unsigned stream, uint64_t round)
{
	pthread_mutex_lock(&tape->lock);
	tape->round[stream] = round;
	number_came(tape, tape->round, &tape->rounds_told, RECORD_ROUND_DONE);
	pthread_mutex_unlock(&tape->lock);
}

static inline void answer(struct tape *tape, unsigned stream, const struct record *r)
{
	struct epoch_sum sum;
	uint64_t epoch;

	if (r->type == RECORD_HELLO)
		reply(tape->streams[stream], RECORD_WELCOME, NULL, 0);
	else if (r->type == RECORD_BYE)
		reply(tape->streams[stream], RECORD_BYE_ACK, NULL, 0);
	else if (r->type == RECORD_EPOCH_END && !epoch_end_decode(r->payload, r->len, &epoch, &sum))
		epoch_ended(tape, stream, epoch);
	else if (r->type == RECORD_ROUND_END && !epoch_decode(r->payload, r->len, &epoch))
		round_ended(tape, stream, epoch);
}

static inline void *tape_main(void *arg)
{
	struct tape_stream s = *(struct tape_stream *)arg;
	struct channel_auth auth = {.stream = (uint16_t)s.stream};
	struct tape *tape = s.tape;
	struct record r;
	char path[128];
	FILE *f;

	free(arg);
	memcpy(auth.session, tape->t.config.session, SESSION_ID_SIZE);
	memcpy(auth.key, tape->t.config.key, SESSION_KEY_SIZE);
	if (channel_accept(s.fd, &auth, TWIN_SOON, &tape->streams[s.stream], NULL))
		return NULL;
	snprintf(path, sizeof(path), "%s/stream-%u.bin", tape->folder, s.stream);
	f = fopen(path, "w");
	while (f && !channel_receive(tape->streams[s.stream], &r, TWIN_SOON)) {
		record_write(f, &r);
		answer(tape, s.stream, &r);
	}
	if (f)
		fclose(f);
	return NULL;
}

static inline void *tape_accept(void *arg)
{
	struct tape *tape = arg;
	struct pollfd p = {.fd = tape->t.listener, .events = POLLIN};

	while (!atomic_load(&tape->t.relay_stop)) {
		struct tape_stream *s;
		uint8_t bytes[PREAMBLE_SIZE];
		struct preamble preamble;
		int fd = -1;

		if (poll(&p, 1, 10) > 0)
			fd = accept4(tape->t.listener, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0)
			continue;
		s = malloc(sizeof(*s));
		if (!s || fd_read_all(fd, bytes, sizeof(bytes)) ||
		    preamble_decode(bytes, &preamble, NULL))
			abort();
		*s = (struct tape_stream){tape, preamble.stream, fd};
		if (thread_start(&tape->threads[tape->count++], "tape", tape_main, s))
			abort();
	}
	return NULL;
}

/* The primary runs already; twin_protect(&tape->t) begins the session. */
static inline void tape_make(struct tape *tape, const struct replicate_config *c, bool disk,
			     uint64_t memory, const char *folder)
{
	struct twin *t = &tape->t;

	memset(tape, 0, sizeof(*tape));
	snprintf(tape->folder, sizeof(tape->folder), "%s", folder);
	pthread_mutex_init(&tape->lock, NULL);
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->changed, NULL);
	t->disk = disk;
	t->seals = calloc(TWIN_EPOCHS_MAX, sizeof(*t->seals));
	t->config = *c;
	twin_host_make(t, &t->primary, true, memory, TAPE_SEED);
	assert_int_equal(channel_listen("127.0.0.1", 0, &t->listener, NULL), 0);
	t->config.port = twin_port(t->listener);
	assert_int_equal(thread_start(&t->acceptor, "accept", tape_accept, tape), 0);
	assert_int_equal(thread_start(&t->guest, "guest", twin_guest_main, t), 0);
}

/* Ends what the replicator has left; the streams are whole then. */
static inline void tape_stop(struct tape *tape)
{
	struct twin *t = &tape->t;

	twin_guest_end(t);
	replicator_destroy(t->replicator);
	atomic_store(&t->relay_stop, true);
	pthread_join(t->acceptor, NULL);
	for (unsigned i = 0; i < tape->count; i++)
		pthread_join(tape->threads[i], NULL);
	for (unsigned i = 0; i < CHANNEL_STREAMS_MAX; i++)
		channel_close(tape->streams[i]);
	close(t->listener);
}

static inline void tape_end(struct tape *tape)
{
	twin_host_end(&tape->t.primary);
	pthread_cond_destroy(&tape->t.changed);
	pthread_mutex_destroy(&tape->t.lock);
	pthread_mutex_destroy(&tape->lock);
	free(tape->t.seals);
}

/* A session of a little more than so many epochs, to its BYE. */
static inline void tape_record(struct tape *tape, uint64_t epochs)
{
	struct error e = {0};

	twin_protect(&tape->t);
	if (twin_wait_primary(&tape->t, BIT_OF(REPLICATOR_PROTECTED) | BIT_OF(REPLICATOR_LOST) |
						BIT_OF(REPLICATOR_UNPROTECTED) |
						BIT_OF(REPLICATOR_HANDED)) == REPLICATOR_HANDED) {
		/* It has one epoch. The guest's thread may wait for the device lock until then. */
		replicator_destroy(tape->t.replicator);
		atomic_store(&tape->t.replicator, NULL);
		tape_stop(tape);
		return;
	}
	while (twin_acknowledged(&tape->t) < epochs)
		usleep(1000);
	assert_int_equal(replicator_stop(tape->t.replicator, TWIN_SOON, &e), 0);
	tape_stop(tape);
}

#endif
