// SPDX-License-Identifier: Apache-2.0
/* A real primary's streams, as a recording standby gets them, against the decoder that was
 * written from docs/protocol.md. */
#include "tests/unit/replicate/tape.h"

#define EPOCHS 25u

static void session_write(struct tape *tape)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "%s/session", tape->folder);
	f = fopen(path, "w");
	assert_non_null(f);
	for (uint64_t i = 1; i <= tape->t.sealed && !tape->t.disk; i++)
		fprintf(f, "epoch %llu ram %016llx\n", (unsigned long long)i,
			(unsigned long long)tape->t.seals[i].ram_hash);
	fclose(f);
}

static void tape_compare(struct tape *tape)
{
	char command[128];

	session_write(tape);
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
		char folder[] = "/tmp/pollux-test-tape.XXXXXX";
		struct tape tape;

		c.streams = kinds[i].streams;
		c.compression = kinds[i].compression;
		c.delta_bytes = kinds[i].delta;
		c.loss_ns = 60 * NS_PER_SEC;
		assert_non_null(mkdtemp(folder));
		tape_make(&tape, &c, kinds[i].disk, 1 << 20, folder);
		tape_record(&tape, EPOCHS);
		tape_compare(&tape);
		tape_end(&tape);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(second_decoder_agrees)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
