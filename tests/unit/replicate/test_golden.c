// SPDX-License-Identifier: Apache-2.0
/*
 * Sessions as releases have sent them (tests/protocol/golden), fed to the replica of today
 * over real channels: it has to arrive at the same memory, machine state and disk after each
 * epoch. `test_golden record` makes the session of this release, `test_golden record handover`
 * its migration, whose memory follows later; `... handover N` another one of it.
 */
#include <dirent.h>
#include <inttypes.h>

#include "replicate/replica.h"
#include "tests/unit/golden.h"
#include "tests/unit/replicate/tape.h"

#define GOLDEN_MEMORY (UINT64_C(384) << 10)
#define LATER_MEMORY  (UINT64_C(256) << 10) /* of a migration */
#define LATER_ROUNDS  2u
#define GOLDEN_EPOCHS 12u
#define EPOCHS_MAX    64u
#define UNKNOWN_TYPE  999u

/* A version of the twin: hashes of RAM, of the machine state, of the disk. */
struct image {
	uint64_t ram, state, disk;
};

/* What FOLDER/session says, and the streams. */
struct golden {
	char folder[128];
	struct replicate_config config;
	uint64_t memory, missing; /* pages that are left behind */
	struct image images[EPOCHS_MAX + 1];
	uint64_t epochs;
	struct buf streams[CHANNEL_STREAMS_MAX];
};

struct feed {
	const struct golden *golden;
	struct twin t;
	struct channel *channels[CHANNEL_STREAMS_MAX];
	size_t at[CHANNEL_STREAMS_MAX];
	uint64_t round_ended, round_done;
};

/* ---- the folder ------------------------------------------------------------------------ */

static void session_line(struct golden *g, const char *line)
{
	struct image i;
	uint64_t n;

	if (sscanf(line, "memory %" SCNu64, &g->memory) == 1 ||
	    sscanf(line, "term %" SCNu64, &g->config.term) == 1 ||
	    sscanf(line, "streams %u", &g->config.streams) == 1 ||
	    sscanf(line, "window %u", &g->config.window) == 1)
		return;
	if (sscanf(line, "missing %" SCNu64, &g->missing) == 1) {
		g->config.handover = true;
		return;
	}
	if (sscanf(line, "epoch %" SCNu64 " ram %" SCNx64 " state %" SCNx64 " disk %" SCNx64, &n,
		   &i.ram, &i.state, &i.disk) != 4)
		fail_msg("%s: a line is not understood: %s", g->folder, line);
	assert_true(n == g->epochs + 1 && n <= EPOCHS_MAX);
	g->images[++g->epochs] = i;
}

static void session_read(struct golden *g, const char *folder)
{
	char path[160], line[256];
	FILE *f;

	memset(g, 0, sizeof(*g));
	snprintf(g->folder, sizeof(g->folder), "%s", folder);
	g->config = twin_config(); /* session and key */
	snprintf(path, sizeof(path), "%s/session", folder);
	f = golden_open(path, "r");
	while (fgets(line, sizeof(line), f))
		session_line(g, line);
	fclose(f);
	assert_true(g->config.streams < CHANNEL_STREAMS_MAX);
	for (unsigned i = 0; i <= g->config.streams; i++) {
		snprintf(path, sizeof(path), "%s/stream-%u.bin", folder, i);
		golden_read(path, &g->streams[i]);
	}
}

static void golden_free(struct golden *g)
{
	for (unsigned i = 0; i < CHANNEL_STREAMS_MAX; i++)
		buf_free(&g->streams[i]);
}

/* ---- feeding ------------------------------------------------------------------------------ */

static bool feed_look(struct feed *f, unsigned stream, struct record *r)
{
	const struct buf *b = &f->golden->streams[stream];
	int64_t n = record_decode(b->data + f->at[stream], b->len - f->at[stream], r);

	assert_true(n >= 0);
	return n > 0;
}

static void feed_send(struct feed *f, unsigned stream, uint16_t type, uint16_t flags,
		      const void *data, size_t n)
{
	struct iovec v = {(void *)data, n};

	assert_int_equal(channel_send(f->channels[stream], type, flags, &v, 1, TWIN_SOON), 0);
}

/* The next record of the stream, octet by octet as it was. */
static uint16_t feed_next(struct feed *f, unsigned stream)
{
	struct record r;

	if (!feed_look(f, stream, &r))
		fail_msg("%s: stream %u has ended", f->golden->folder, stream);
	f->at[stream] += RECORD_HEADER_SIZE + r.len;
	if (r.type == RECORD_ROUND_END)
		assert_int_equal(epoch_decode(r.payload, r.len, &f->round_ended), 0);
	feed_send(f, stream, r.type, r.flags, r.payload, r.len);
	return r.type;
}

static void feed_expect(struct feed *f, unsigned stream, uint16_t type, struct record *r)
{
	do {
		assert_int_equal(channel_receive(f->channels[stream], r, TWIN_SOON), 0);
		if (r->type == RECORD_ROUND_DONE)
			assert_int_equal(epoch_decode(r->payload, r->len, &f->round_done), 0);
	} while (r->type == RECORD_HEARTBEAT || r->type == RECORD_ROUND_DONE ||
		 (type == RECORD_REFUSE && r->type == RECORD_ACK));
	if (r->type != type)
		fail_msg("%s: a record of type %u instead of %u: %.*s", f->golden->folder, r->type,
			 type, (int)r->len, (const char *)r->payload);
}

static void feed_connect(struct feed *f, unsigned stream)
{
	const struct replicate_config *c = &f->golden->config;
	struct channel_auth auth = {.stream = (uint16_t)stream};
	struct record r;
	int fds[2];

	memcpy(auth.session, c->session, SESSION_ID_SIZE);
	memcpy(auth.key, c->key, SESSION_KEY_SIZE);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	assert_int_equal(replica_add_stream(f->t.replica, (uint16_t)stream, fds[1]), 0);
	assert_int_equal(channel_connect(fds[0], &auth, TWIN_SOON, &f->channels[stream], NULL), 0);
	assert_int_equal(feed_next(f, stream), RECORD_HELLO);
	feed_expect(f, stream, RECORD_WELCOME, &r);
}

static void feed_make(struct feed *f, const struct golden *g)
{
	struct replica_events events = {.state = twin_standby_state, .ctx = &f->t};
	struct epoch_member member;
	struct error e = {0};
	struct twin *t = &f->t;

	memset(f, 0, sizeof(*f));
	f->golden = g;
	t->disk = true;
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->changed, NULL);
	twin_host_make(t, &t->standby, false, g->memory, TAPE_SEED);
	member = twin_member(t);
	if (replica_create(t->standby.vm, &g->config, &member, 1, &events, &t->replica, &e))
		fail_msg("%s", e.text);
	for (unsigned i = 0; i <= g->config.streams; i++)
		feed_connect(f, i);
	twin_wait_standby(t, BIT_OF(REPLICA_SYNCING));
}

static void feed_hang_up(struct feed *f)
{
	for (unsigned i = 0; i < CHANNEL_STREAMS_MAX; i++) {
		channel_close(f->channels[i]);
		f->channels[i] = NULL;
	}
}

static void feed_end(struct feed *f)
{
	replica_destroy(f->t.replica);
	feed_hang_up(f);
	twin_host_end(&f->t.standby);
	pthread_cond_destroy(&f->t.changed);
	pthread_mutex_destroy(&f->t.lock);
}

/* All that the streams hold of an epoch, and what the primary said meanwhile. */
static void feed_epoch(struct feed *f, uint64_t epoch)
{
	struct replicate_stats s;
	struct record r;
	uint64_t ack;

	if (feed_look(f, 0, &r) && r.type == RECORD_HEARTBEAT)
		feed_next(f, 0);
	for (unsigned i = 1; i <= f->golden->config.streams; i++)
		while (feed_next(f, i) != RECORD_EPOCH_END)
			;
	feed_expect(f, 0, RECORD_ACK, &r);
	assert_int_equal(epoch_decode(r.payload, r.len, &ack), 0);
	assert_int_equal(ack, epoch);
	assert_int_equal(f->round_done, f->round_ended);
	do {
		replica_stats(f->t.replica, &s);
	} while (s.acknowledged < epoch && !usleep(100));
}

/* What the primary had begun when the session ended. */
static void feed_rest(struct feed *f)
{
	struct record r;

	for (unsigned i = 1; i <= f->golden->config.streams; i++)
		while (feed_look(f, i, &r))
			feed_next(f, i);
}

static uint64_t epochs_whole(const struct golden *g)
{
	uint64_t least = UINT64_MAX;

	for (unsigned i = 1; i <= g->config.streams; i++) {
		const struct buf *b = &g->streams[i];
		struct record r;
		uint64_t ends = 0;

		for (size_t at = 0; record_decode(b->data + at, b->len - at, &r) > 0;
		     at += RECORD_HEADER_SIZE + r.len)
			ends += r.type == RECORD_EPOCH_END;
		least = ends < least ? ends : least;
	}
	return least;
}

static uint64_t missing_count(struct feed *f)
{
	const uint64_t *missing = replica_missing(f->t.replica);

	return missing ? bitmap_count(missing, f->golden->memory / VM_PAGE_SIZE) : 0;
}

/* What a page holds that is missing does not matter. */
static uint64_t ram_hash(struct feed *f)
{
	const uint64_t *missing = replica_missing(f->t.replica);
	uint64_t n = f->golden->memory, hash;
	uint8_t *ram = malloc(n);

	assert_non_null(ram);
	memcpy(ram, vm_ram(f->t.standby.vm), n);
	for (uint64_t i = 0; missing && i < n / VM_PAGE_SIZE; i++)
		if (bitmap_test(missing, i))
			memset(ram + i * VM_PAGE_SIZE, 0, VM_PAGE_SIZE);
	hash = XXH3_64bits(ram, n);
	free(ram);
	return hash;
}

static struct image image_of(struct feed *f)
{
	static uint8_t disk[TWIN_DISK_SIZE];
	struct replica *r = f->t.replica;
	struct image i;

	assert_int_equal(pread(f->t.standby.disk_fd, disk, sizeof(disk), 0), sizeof(disk));
	i.ram = ram_hash(f);
	i.disk = XXH3_64bits(disk, sizeof(disk));
	pthread_mutex_lock(&r->lock);
	i.state = XXH3_64bits(r->state.data, r->state.len);
	pthread_mutex_unlock(&r->lock);
	return i;
}

static void image_check(struct feed *f, uint64_t epoch)
{
	const struct image *was = &f->golden->images[epoch];
	struct image is = image_of(f);

	if (is.ram != was->ram || is.state != was->state || is.disk != was->disk)
		fail_msg("%s: epoch %" PRIu64 ": the twin's %s is not what it was",
			 f->golden->folder, epoch,
			 is.ram != was->ram       ? "memory"
			 : is.state != was->state ? "machine state"
						  : "disk");
}

/* ---- each recorded release ------------------------------------------------------------------ */

static unsigned each_golden(void (*check)(const struct golden *g))
{
	unsigned n = 0;
	DIR *d;

	golden_needed();
	d = opendir(GOLDEN);
	assert_non_null(d);
	for (struct dirent *entry; (entry = readdir(d));) {
		struct golden g;
		char path[300];

		if (entry->d_name[0] != 'v')
			continue;
		snprintf(path, sizeof(path), GOLDEN "/%s", entry->d_name);
		session_read(&g, path);
		check(&g);
		golden_free(&g);
		n++;
	}
	closedir(d);
	assert_true(n > 0);
	return n;
}

static void feed_to_bye(const struct golden *g)
{
	struct record r;
	struct feed f;

	feed_make(&f, g);
	for (uint64_t epoch = 1; epoch <= g->epochs; epoch++) {
		feed_epoch(&f, epoch);
		image_check(&f, epoch);
	}
	assert_int_equal(missing_count(&f), g->missing);
	if (g->config.handover) {
		feed_end(&f);
		return;
	}
	while (feed_next(&f, 0) != RECORD_BYE)
		;
	feed_expect(&f, 0, RECORD_BYE_ACK, &r);
	twin_wait_standby(&f.t, BIT_OF(REPLICA_RELEASED));
	feed_end(&f);
}

static void streams_of_releases_are_accepted(void **state)
{
	each_golden(feed_to_bye);
}

/* The host that sent it dies: the guest lives on here. */
static void feed_and_promote(const struct golden *g)
{
	struct error e = {0};
	struct feed f;

	if (g->config.handover) /* half a guest */
		return;
	feed_make(&f, g);
	for (uint64_t epoch = 1; epoch <= g->epochs; epoch++)
		feed_epoch(&f, epoch);
	feed_rest(&f);
	feed_hang_up(&f);
	twin_wait_standby(&f.t, BIT_OF(REPLICA_LOST));
	if (replica_promote(f.t.replica, g->config.term + 1, &e))
		fail_msg("%s: %s", g->folder, e.text);
	if (vm_sim_check(f.t.standby.vm, &e))
		fail_msg("%s: %s", g->folder, e.text);
	twin_check_disk(&f.t);
	twin_check_alive(&f.t);
	feed_end(&f);
}

static void twins_of_releases_come_alive(void **state)
{
	each_golden(feed_and_promote);
}

static void feed_unknown(struct feed *f, uint16_t flags)
{
	for (unsigned i = 0; i <= f->golden->config.streams; i++)
		feed_send(f, i, UNKNOWN_TYPE, flags, "later", 5);
}

static void feed_with_optional(const struct golden *g)
{
	struct feed f;

	feed_make(&f, g);
	for (uint64_t epoch = 1; epoch <= g->epochs; epoch++) {
		feed_unknown(&f, 0);
		feed_epoch(&f, epoch);
	}
	image_check(&f, g->epochs);
	feed_end(&f);
}

static void unknown_optional_records_are_skipped(void **state)
{
	each_golden(feed_with_optional);
}

/* In the middle of an epoch, when so many are whole. In a migration, which has but one, that is
 * before the point from which its guest could run here. */
static void feed_with_mandatory_after(const struct golden *g, uint64_t whole, unsigned stream)
{
	struct refuse refuse;
	struct record r;
	struct feed f;

	feed_make(&f, g);
	for (uint64_t epoch = 1; epoch <= whole; epoch++)
		feed_epoch(&f, epoch);
	assert_int_equal(feed_next(&f, 1), RECORD_EPOCH_BEGIN);
	feed_next(&f, 1);
	feed_send(&f, stream, UNKNOWN_TYPE, RECORD_MANDATORY, "later", 5);
	feed_expect(&f, 0, RECORD_REFUSE, &r);
	assert_int_equal(refuse_decode(r.payload, r.len, &refuse), 0);
	assert_int_equal(refuse.code, REFUSE_INPUT);
	assert_non_null(strstr(refuse.text, "type 999"));
	twin_wait_standby(&f.t, BIT_OF(REPLICA_BROKEN));
	assert_int_equal(replica_promote(f.t.replica, g->config.term + 1, NULL), -EPERM);
	assert_null(replica_missing(f.t.replica));
	if (whole)
		image_check(&f, whole);
	feed_end(&f);
}

static void feed_with_mandatory(const struct golden *g)
{
	for (unsigned stream = 0; stream <= g->config.streams; stream++) {
		feed_with_mandatory_after(g, 0, stream);
		if (g->epochs > 2)
			feed_with_mandatory_after(g, 2, stream);
	}
}

static void unknown_mandatory_records_are_refused(void **state)
{
	each_golden(feed_with_mandatory);
}

/* The decoder that was written from docs/protocol.md agrees. */
static void feed_to_second_decoder(const struct golden *g)
{
	char command[200];

	snprintf(command, sizeof(command), "python3 tests/protocol/decode.py %s", g->folder);
	assert_int_equal(system(command), 0);
}

static void second_decoder_agrees(void **state)
{
	each_golden(feed_to_second_decoder);
}

/* ---- which versions are recorded, and which are read ----------------------------------------- */

/* Of each version: one bit for each type of record that a primary has sent. */
static uint32_t types_recorded[REPLICATE_VERSION + 1];

static void version_note(const struct golden *g)
{
	unsigned named = 0;

	assert_int_equal(sscanf(g->folder, GOLDEN "/v%u", &named), 1);
	if (!version_within(named, REPLICATE_OLDEST, REPLICATE_VERSION))
		fail_msg("%s: what was read once is read still", g->folder);
	for (unsigned i = 0; i <= g->config.streams; i++) {
		const struct buf *b = &g->streams[i];
		struct hello hello;
		struct record r;

		assert_true(record_decode(b->data, b->len, &r) > 0);
		assert_int_equal(r.type, RECORD_HELLO);
		assert_int_equal(hello_decode(r.payload, r.len, &hello, NULL), 0);
		assert_int_equal(hello.version, named);
		for (size_t at = 0; record_decode(b->data + at, b->len - at, &r) > 0;
		     at += RECORD_HEADER_SIZE + r.len)
			types_recorded[named] |= BIT_OF(r.type);
	}
}

/* Whoever raises the version records its streams, and with all that a primary sends. */
static void each_version_is_recorded_and_read(void **state)
{
	const uint32_t all = BIT_OF(RECORD_HELLO) | BIT_OF(RECORD_HEARTBEAT) | BIT_OF(RECORD_BYE) |
			     BIT_OF(RECORD_EPOCH_BEGIN) | BIT_OF(RECORD_PAGES) |
			     BIT_OF(RECORD_MEMBER) | BIT_OF(RECORD_STATE) |
			     BIT_OF(RECORD_EPOCH_END) | BIT_OF(RECORD_MISSING) |
			     BIT_OF(RECORD_ROUND_END);

	each_golden(version_note);
	for (unsigned v = REPLICATE_OLDEST; v <= REPLICATE_VERSION; v++)
		if (types_recorded[v] != all)
			fail_msg("version %u: no record of these types is recorded, or one more: "
				 "%#x",
				 v, types_recorded[v] ^ all);
}

/* ---- recording ---------------------------------------------------------------------------- */

/* What the rounds have left dirty follows the guest. */
static enum replicate_next rest_later(void *ctx, const struct replicate_round *round)
{
	return round->members_synced && round->dirty && round->round >= LATER_ROUNDS ? NEXT_POSTCOPY
										     : NEXT_ROUND;
}

static uint64_t memory_recorded(bool handover)
{
	return handover ? LATER_MEMORY : GOLDEN_MEMORY;
}

static void streams_record(const char *folder, bool handover)
{
	struct replicate_config c = twin_config();
	struct tape tape;

	c.handover = handover;
	c.next = handover ? rest_later : NULL;

	c.streams = 2;
	c.compression = COMPRESS_LZ4;
	c.delta_bytes = 4 << 20;
	c.loss_ns = 60 * NS_PER_SEC;
	tape_make(&tape, &c, true, memory_recorded(handover), folder);
	tape_record(&tape, GOLDEN_EPOCHS);
	tape_end(&tape);
}

static void session_write(const char *folder, bool handover)
{
	struct golden g;
	struct feed f;
	char path[160];
	FILE *out;

	snprintf(path, sizeof(path), "%s/session", folder);
	out = golden_open(path, "w");
	fprintf(out, "memory %" PRIu64 "\nterm %" PRIu64 "\nstreams 2\nwindow %u\n",
		memory_recorded(handover), twin_config().term, twin_config().window);
	fflush(out);
	session_read(&g, folder);
	g.config.handover = handover;
	assert_true(epochs_whole(&g) <= EPOCHS_MAX);
	feed_make(&f, &g);
	for (uint64_t epoch = 1; epoch <= epochs_whole(&g); epoch++) {
		struct image i;

		feed_epoch(&f, epoch);
		i = image_of(&f);
		fprintf(out,
			"epoch %" PRIu64 " ram %016" PRIx64 " state %016" PRIx64 " disk %016" PRIx64
			"\n",
			epoch, i.ram, i.state, i.disk);
	}
	if (handover)
		fprintf(out, "missing %" PRIu64 "\n", missing_count(&f));
	fclose(out);
	feed_end(&f);
	golden_free(&g);
}

static void record(void **state)
{
	char *const *words = *state;
	bool handover = words[0] && !strcmp(words[0], "handover");
	const char *another = handover ? words[1] : NULL;
	char folder[64];

	snprintf(folder, sizeof(folder), GOLDEN "/v%u%s%s%s", REPLICATE_VERSION,
		 handover ? "-handover" : "", another ? "-" : "", another ? another : "");
	golden_folder_make(folder);
	streams_record(folder, handover);
	session_write(folder, handover);
	print_message("recorded: %s\n", folder);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(streams_of_releases_are_accepted),
		cmocka_unit_test(twins_of_releases_come_alive),
		cmocka_unit_test(unknown_optional_records_are_skipped),
		cmocka_unit_test(unknown_mandatory_records_are_refused),
		cmocka_unit_test(second_decoder_agrees),
		cmocka_unit_test(each_version_is_recorded_and_read),
	};

	return golden_run(argc, argv, tests, ARRAY_LEN(tests), record);
}
