// SPDX-License-Identifier: Apache-2.0
/*
 * A postcopy link as a release has spoken it (tests/protocol/golden): what the source said is
 * fed to the target of today, and what the target said to the source of today. Each has to
 * arrive where it did then. `test_link_golden record` makes the link of this release.
 */
#include <inttypes.h>
#include <xxhash.h>

#include "tests/unit/channel/record_file.h"
#include "tests/unit/golden.h"
#include "tests/unit/migrate/postplay.h"

#define KIND      "link"
#define ZERO_PAGE 5u

enum { SOURCE, TARGET };
static const char *const said_by[] = {"source", "target"};

static const char *path_of(unsigned version, unsigned who, unsigned stream, char path[GOLDEN_ROOM])
{
	char name[32];

	snprintf(name, sizeof(name), "%s-%u.bin", said_by[who], POSTCOPY_STREAM + stream);
	return golden_path(path, KIND, version, name);
}

/* The first 40 pages, one of them zero, and two that lie alone. */
static void missing_fill(struct post *p)
{
	p->missing[0] = (UINT64_C(1) << 40) - 1;
	p->missing[1] = 1 << 6;
	p->missing[3] = UINT64_C(1) << 8;
	memset(vm_ram(p->from) + ZERO_PAGE * VM_PAGE_SIZE, 0, VM_PAGE_SIZE);
}

/* Of memory that has zeros where nothing was missing. */
static uint64_t missing_hash(const struct post *p)
{
	static uint8_t ram[MEMORY];

	memset(ram, 0, sizeof(ram));
	for (uint64_t i = 0; i < PAGES; i++)
		if (bitmap_test(p->missing, i))
			memcpy(ram + i * VM_PAGE_SIZE, vm_ram(p->from) + i * VM_PAGE_SIZE,
			       VM_PAGE_SIZE);
	return XXH3_64bits(ram, sizeof(ram));
}

static void each_version(void (*check)(unsigned version))
{
	golden_each(KIND, LINK_OLDEST, LINK_VERSION, check);
}

/* ---- reading ------------------------------------------------------------------------------ */

struct said {
	struct buf bytes;
	size_t at;
};

static void said_read(unsigned version, unsigned who, unsigned stream, struct said *out)
{
	char path[GOLDEN_ROOM];

	*out = (struct said){0};
	golden_read(path_of(version, who, stream, path), &out->bytes);
}

static bool said_next(struct said *s, struct record *r)
{
	int64_t n = record_decode(s->bytes.data + s->at, s->bytes.len - s->at, r);

	assert_true(n >= 0);
	s->at += n ? RECORD_HEADER_SIZE + r->len : 0;
	return n > 0;
}

/* Up to a record of type `stop`, which is said too; 0: all of it. */
static void said_say(struct world *w, struct said *s, unsigned stream, uint16_t stop)
{
	struct record r;

	while (said_next(s, &r)) {
		struct iovec v = {(void *)r.payload, r.len};

		assert_int_equal(
			channel_send(w->streams[stream], r.type, r.flags, &v, 1, POST_SOON), 0);
		if (stop && r.type == stop)
			return;
	}
	assert_false(stop);
}

static uint64_t hash_recorded(unsigned version)
{
	char path[GOLDEN_ROOM];
	uint64_t hash = 0;
	FILE *f = golden_open(golden_path(path, KIND, version, "session"), "r");

	assert_int_equal(fscanf(f, "ram %" SCNx64, &hash), 1);
	fclose(f);
	return hash;
}

/* ---- a release's source, today's target ------------------------------------------------------ */

static void hear_until(struct world *w, unsigned stream, uint16_t type)
{
	struct record r;

	do {
		hear(w, stream, &r);
	} while (r.type != type);
}

static void source_of_a_release(unsigned version)
{
	struct said said[2];
	struct error e = {0};
	struct world w;
	struct post *p = &w.post;

	target_make(&w);
	missing_fill(p);
	for (unsigned i = 0; i < 2; i++) {
		said_read(version, SOURCE, i, &said[i]);
		target_dial(&w, i);
		said_say(&w, &said[i], i, LINK_HELLO);
		hear_until(&w, i, LINK_OK);
	}
	post_wait(&p->at_target, POSTCOPY_READY);
	if (postcopy_target_start(p->target, p->missing, &e))
		fail_msg("%s", e.text);
	postcopy_target_go(p->target);
	hear_until(&w, 0, LINK_GO);
	said_say(&w, &said[1], 1, 0);
	said_say(&w, &said[0], 0, LINK_PAGES);
	hear_until(&w, 0, LINK_ALL);
	said_say(&w, &said[0], 0, 0);
	post_wait(&p->at_target, POSTCOPY_DONE);
	assert_int_equal(missing_hash(p), hash_recorded(version));
	for (unsigned i = 0; i < 2; i++)
		buf_free(&said[i].bytes);
	world_end(&w);
}

static void test_the_source_of_a_release(void **state)
{
	each_version(source_of_a_release);
}

/* ---- a release's target, today's source
 * ---------------------------------------------------------- */

static int page_copy(void *ctx, uint64_t page, const uint8_t *bytes)
{
	struct post *p = ctx;
	uint8_t *at = p->ram + page * VM_PAGE_SIZE;

	assert_true(bitmap_test(p->missing, page));
	if (bytes)
		memcpy(at, bytes, VM_PAGE_SIZE);
	else
		memset(at, 0, VM_PAGE_SIZE);
	return 0;
}

static uint64_t pages_take(struct post *p, const struct record *r)
{
	uint32_t count;

	if (r->type != LINK_PAGES)
		return 0;
	memcpy(&count, r->payload + 8, sizeof(count));
	assert_int_equal(epoch_pages_read(r->payload, r->len, PAGES, page_copy, p, NULL), 0);
	return count;
}

static void source_begin(struct world *w)
{
	struct post *p = &w->post;
	const struct postcopy_events ev = {post_state, &p->at_source};
	struct error e = {0};

	world_make(w);
	missing_fill(p);
	memset(p->ram, 0xee, MEMORY);
	p->config.compression = COMPRESS_LZ4;
	if (postcopy_source_create(p->from, &p->config, &ev, &p->source, &e))
		fail_msg("%s", e.text);
}

static void all_came(const struct post *p)
{
	for (uint64_t i = 0; i < PAGES; i++)
		if (bitmap_test(p->missing, i))
			assert_memory_equal(p->ram + i * VM_PAGE_SIZE,
					    vm_ram(p->from) + i * VM_PAGE_SIZE, VM_PAGE_SIZE);
}

static void target_of_a_release(unsigned version)
{
	struct said said;
	struct record r;
	struct world w;
	struct post *p = &w.post;
	uint64_t left;

	source_begin(&w);
	source_link(&w);
	assert_int_equal(postcopy_source_serve(p->source, p->missing), 0);
	said_read(version, TARGET, 0, &said);
	assert_true(said_next(&said, &r) && r.type == LINK_OK); /* source_link() has said so */
	said_say(&w, &said, 0, LINK_GO);
	for (left = bitmap_count(p->missing, PAGES); left;) {
		hear(&w, left > 40 ? 0 : 1, &r); /* two were asked for, 40 are pushed */
		left -= pages_take(p, &r);
	}
	said_say(&w, &said, 0, 0);
	hear_until(&w, 0, LINK_ALL_OK);
	post_wait(&p->at_source, POSTCOPY_DONE);
	all_came(p);
	assert_int_equal(missing_hash(p), hash_recorded(version));
	buf_free(&said.bytes);
	world_end(&w);
}

static void test_the_target_of_a_release(void **state)
{
	each_version(target_of_a_release);
}

/* ---- the second decoder ------------------------------------------------------------------------
 */

static void second_decoder(unsigned version)
{
	char path[GOLDEN_ROOM], command[GOLDEN_ROOM + 48];

	snprintf(command, sizeof(command), "python3 tests/protocol/decode.py --link %s",
		 golden_path(path, KIND, version, ""));
	assert_int_equal(system(command), 0);
}

static void test_second_decoder(void **state)
{
	each_version(second_decoder);
}

/* ---- recording
 * ----------------------------------------------------------------------------------- */

static FILE *files[2][2];

static void record_say(struct world *w, uint16_t type, const uint64_t *words, size_t n)
{
	struct record r = {.type = type, .flags = type == LINK_BEAT ? 0 : RECORD_MANDATORY};
	struct iovec v;
	struct buf b = {0};

	link_words_encode(words, n, &b);
	r.payload = b.data;
	r.len = (uint32_t)b.len;
	v = (struct iovec){b.data, b.len};
	assert_int_equal(channel_send(w->streams[0], type, r.flags, &v, n ? 1 : 0, POST_SOON), 0);
	record_write(files[TARGET][0], &r);
	buf_free(&b);
}

static void record_hear(struct world *w, unsigned stream, struct record *r)
{
	assert_int_equal(channel_receive(w->streams[stream], r, POST_SOON), 0);
	record_write(files[SOURCE][stream], r);
}

/* What source_link() has taken and given. */
static void greetings_write(const struct post *p)
{
	for (unsigned i = 0; i < 2; i++) {
		struct record ok = {.type = LINK_OK, .flags = RECORD_MANDATORY};
		struct record hello = {.type = LINK_HELLO, .flags = RECORD_MANDATORY};
		struct link_hello h;
		struct buf b = {0};

		hello_fill(p, i, 1, &h);
		link_hello_encode(&h, &b);
		hello.payload = b.data;
		hello.len = (uint32_t)b.len;
		record_write(files[SOURCE][i], &hello);
		record_write(files[TARGET][i], &ok);
		buf_free(&b);
	}
}

static void files_open(void)
{
	char path[GOLDEN_ROOM];

	golden_folder_make(golden_path(path, KIND, LINK_VERSION, ""));
	for (unsigned who = SOURCE; who <= TARGET; who++)
		for (unsigned i = 0; i < 2; i++)
			files[who][i] = golden_open(path_of(LINK_VERSION, who, i, path), "w");
}

static void files_close(const struct post *p)
{
	char path[GOLDEN_ROOM];
	FILE *f;

	for (unsigned who = SOURCE; who <= TARGET; who++)
		for (unsigned i = 0; i < 2; i++)
			assert_int_equal(fclose(files[who][i]), 0);
	f = golden_open(golden_path(path, KIND, LINK_VERSION, "session"), "w");
	fprintf(f, "ram %016" PRIx64 "\n", missing_hash(p));
	fclose(f);
}

static void record(void **state)
{
	const uint64_t asked[] = {200, 70};
	uint64_t list[1 + WORDS] = {0}, left, beat;
	struct record r;
	struct world w;
	struct post *p = &w.post;

	source_begin(&w);
	files_open();
	source_link(&w);
	greetings_write(p);
	assert_int_equal(postcopy_source_serve(p->source, p->missing), 0);
	memcpy(list + 1, p->missing, WORDS * sizeof(*list));
	left = beat = bitmap_count(p->missing, PAGES);
	record_say(&w, LINK_BEAT, &beat, 1);
	record_say(&w, LINK_MISSING, list, 1 + WORDS);
	record_say(&w, LINK_NEED, asked, ARRAY_LEN(asked));
	while (left > 40) {
		record_hear(&w, 0, &r);
		left -= pages_take(p, &r);
	}
	record_say(&w, LINK_GO, NULL, 0);
	while (left) {
		record_hear(&w, 1, &r);
		left -= pages_take(p, &r);
	}
	all_came(p);
	record_say(&w, LINK_BEAT, &left, 1);
	record_say(&w, LINK_ALL, NULL, 0);
	do {
		record_hear(&w, 0, &r);
	} while (r.type != LINK_ALL_OK);
	files_close(p);
	world_end(&w);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_source_of_a_release),
		cmocka_unit_test(test_the_target_of_a_release),
		cmocka_unit_test(test_second_decoder),
	};

	return golden_run(argc, argv, tests, ARRAY_LEN(tests), record);
}
