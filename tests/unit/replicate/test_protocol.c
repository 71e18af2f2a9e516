// SPDX-License-Identifier: Apache-2.0
/* A real primary's streams, as a recording standby gets them, against the decoder that was
 * written from docs/protocol.md. */
#include <sys/stat.h>
#include <sys/wait.h>

#include "replicate/records.h"
#include "tests/unit/replicate/twin.h"

#define EPOCHS 25u

struct tape {
	struct twin t;
	char folder[64];
	struct channel *streams[CHANNEL_STREAMS_MAX];
	pthread_t threads[CHANNEL_STREAMS_MAX];
	unsigned count;
	uint64_t ended[CHANNEL_STREAMS_MAX], acknowledged;
	pthread_mutex_t lock;
};

struct tape_stream {
	struct tape *tape;
	unsigned stream;
	int fd;
};

static void reply(struct channel *c, uint16_t type, const void *data, size_t n)
{
	struct iovec v = {(void *)data, n};

	if (channel_send(c, type, RECORD_MANDATORY, &v, 1, TWIN_SOON))
		print_message("no reply of type %u\n", type);
}

static void epoch_ended(struct tape *tape, unsigned stream, uint64_t epoch)
{
	uint64_t least = UINT64_MAX;

	pthread_mutex_lock(&tape->lock);
	tape->ended[stream] = epoch;
	for (unsigned i = 1; i <= tape->t.config.streams; i++)
		if (tape->ended[i] < least)
			least = tape->ended[i];
	if (least > tape->acknowledged) {
		tape->acknowledged = least;
		reply(tape->streams[0], RECORD_ACK, &least, sizeof(least));
	}
	pthread_mutex_unlock(&tape->lock);
}

static void answer(struct tape *tape, unsigned stream, const struct record *r)
{
	struct epoch_sum sum;
	uint64_t epoch;

	if (r->type == RECORD_HELLO)
		reply(tape->streams[stream], RECORD_WELCOME, NULL, 0);
	else if (r->type == RECORD_BYE)
		reply(tape->streams[stream], RECORD_BYE_ACK, NULL, 0);
	else if (r->type == RECORD_EPOCH_END && !epoch_end_decode(r->payload, r->len, &epoch, &sum))
		epoch_ended(tape, stream, epoch);
}

static void record_write(FILE *f, const struct record *r)
{
	uint8_t header[RECORD_HEADER_SIZE] = {(uint8_t)r->type, (uint8_t)(r->type >> 8),
					      (uint8_t)r->flags, (uint8_t)(r->flags >> 8)};

	memcpy(header + 4, &r->len, 4);
	fwrite(header, 1, sizeof(header), f);
	fwrite(r->payload, 1, r->len, f);
}

static void *tape_main(void *arg)
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

static void *tape_accept(void *arg)
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

static void images_write(struct tape *tape)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "%s/images", tape->folder);
	f = fopen(path, "w");
	assert_non_null(f);
	for (uint64_t i = 1; i <= tape->t.sealed && !tape->t.disk; i++)
		fprintf(f, "%llu %016llx\n", (unsigned long long)i,
			(unsigned long long)tape->t.seals[i].ram_hash);
	fclose(f);
}

static void tape_make(struct tape *tape, const struct replicate_config *c, bool disk)
{
	struct twin *t = &tape->t;

	memset(tape, 0, sizeof(*tape));
	snprintf(tape->folder, sizeof(tape->folder), "/tmp/pollux-test-tape.XXXXXX");
	assert_non_null(mkdtemp(tape->folder));
	pthread_mutex_init(&tape->lock, NULL);
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->changed, NULL);
	t->disk = disk;
	t->seals = calloc(TWIN_EPOCHS_MAX, sizeof(*t->seals));
	t->config = *c;
	twin_host_make(t, &t->primary, true, 1 << 20, 5);
	assert_int_equal(channel_listen("127.0.0.1", 0, &t->listener, NULL), 0);
	t->config.port = twin_port(t->listener);
	assert_int_equal(thread_start(&t->acceptor, "accept", tape_accept, tape), 0);
	assert_int_equal(thread_start(&t->guest, "guest", twin_guest_main, t), 0);
}

static void tape_end(struct tape *tape)
{
	struct twin *t = &tape->t;
	char command[128];

	twin_guest_end(t);
	replicator_destroy(t->replicator);
	atomic_store(&t->relay_stop, true);
	pthread_join(t->acceptor, NULL);
	for (unsigned i = 0; i < tape->count; i++)
		pthread_join(tape->threads[i], NULL);
	for (unsigned i = 0; i < CHANNEL_STREAMS_MAX; i++)
		channel_close(tape->streams[i]);
	close(t->listener);
	images_write(tape);
	twin_host_end(&t->primary);
	free(t->seals);
	snprintf(command, sizeof(command), "python3 tests/protocol/decode.py %s", tape->folder);
	assert_int_equal(system(command), 0);
	snprintf(command, sizeof(command), "rm -rf %s", tape->folder);
	assert_int_equal(system(command), 0);
}

static void second_decoder_agrees(void **state)
{
	static const struct {
		unsigned streams;
		enum page_compression compression;
		uint64_t delta;
		bool disk;
	} kinds[] = {
		{1, COMPRESS_NONE, 0, false},
		{2, COMPRESS_LZ4, 4 << 20, false},
		{3, COMPRESS_ZLIB, 128 << 10, false},
		{2, COMPRESS_LZ4, 4 << 20, true},
	};

	if (access("tests/protocol/decode.py", R_OK)) {
		print_message("skipped: not run in the top folder of the sources\n");
		skip();
	}
	for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
		struct replicate_config c = twin_config();
		struct error e = {0};
		struct tape tape;

		c.streams = kinds[i].streams;
		c.compression = kinds[i].compression;
		c.delta_bytes = kinds[i].delta;
		c.loss_ns = 60 * NS_PER_SEC;
		tape_make(&tape, &c, kinds[i].disk);
		twin_protect(&tape.t);
		twin_wait_primary(&tape.t, BIT_OF(REPLICATOR_PROTECTED) | BIT_OF(REPLICATOR_LOST) |
						   BIT_OF(REPLICATOR_UNPROTECTED));
		while (twin_acknowledged(&tape.t) < EPOCHS)
			usleep(1000);
		assert_int_equal(replicator_stop(tape.t.replicator, TWIN_SOON, &e), 0);
		tape_end(&tape);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(second_decoder_agrees)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
