// SPDX-License-Identifier: Apache-2.0
/*
 * Bytes on the wire for each dirty page, encryption and all, by what the guest writes
 * into its pages, with and without XOR delta, by compression.
 */
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "bench/pair.h"
#include "tests/guests/dirtier.h"

#define MEMORY      (UINT64_C(64) << 20)
#define PAGES       64u /* few: an emulated CPU fills them within an interval */
#define INTERVAL_NS (100 * NS_PER_MS)
#define WARM_UP     4u
#define EPOCHS      12u

struct content {
	const char *name;
	enum dirtier_content value;
	unsigned pages;
};
static const struct content contents[] = {
	{"nothing: an idle guest's state alone", DIRTIER_ZERO, 1},
	{"zero pages", DIRTIER_ZERO, PAGES * 16},
	{"one word of a page that is else zero", DIRTIER_WORD, PAGES * 16},
	{"1/8 of a random page, in 8 places", DIRTIER_PARTLY, PAGES},
	{"all of a random page", DIRTIER_RANDOM, PAGES},
};

struct setting {
	const char *name;
	enum page_compression compression;
	bool delta;
};
static const struct setting settings[] = {
	{"none", COMPRESS_NONE, false},    {"lz4", COMPRESS_LZ4, false},
	{"zlib", COMPRESS_ZLIB, false},    {"delta", COMPRESS_NONE, true},
	{"delta+lz4", COMPRESS_LZ4, true}, {"delta+zlib", COMPRESS_ZLIB, true},
};

struct tally {
	_Atomic uint64_t epochs;
	uint64_t bytes_before, bytes, pages;
};

static void on_epoch(void *ctx, const struct replicate_stats *s)
{
	struct tally *t = ctx;
	uint64_t n = atomic_load(&t->epochs);

	if (n == WARM_UP)
		t->bytes_before = s->bytes_sent;
	if (n > WARM_UP && n <= WARM_UP + EPOCHS) {
		t->bytes = s->bytes_sent - t->bytes_before;
		t->pages += s->pages_last;
	}
	atomic_store(&t->epochs, n + 1);
}

static void measure(const struct content *c, const struct setting *s, const char *guest,
		    struct tally *t)
{
	struct pair_config config = {
		.kernel = guest, .memory = MEMORY, .vcpus = 1, .epoch = on_epoch, .ctx = t};
	struct pair *p;

	replicate_config_defaults(&config.replicate);
	config.replicate.mode = REPLICATE_INTERVAL;
	config.replicate.interval_ns = INTERVAL_NS;
	config.replicate.window = 1; /* so that bytes are counted with their epoch */
	config.replicate.compression = s->compression;
	if (!s->delta)
		config.replicate.delta_bytes = 0;
	snprintf(config.cmdline, sizeof(config.cmdline), "pages=%u content=%u report=1000000000",
		 c->pages, (unsigned)c->value);
	p = pair_create(&config);
	pair_protect(p);
	while (atomic_load(&t->epochs) <= WARM_UP + EPOCHS)
		usleep(1000);
	pair_unprotect(p);
	pair_destroy(p);
}

static double bytes_a_page(const struct tally *t)
{
	return t->pages ? (double)t->bytes / (double)t->pages : 0;
}

static void row_run(const struct content *c, const struct bench_options *o)
{
	printf("%-38s", c->name);
	for (size_t i = 0; i < sizeof(settings) / sizeof(*settings); i++) {
		struct tally t = {0};

		measure(c, &settings[i], o->guest, &t);
		printf(" %10.1f", bytes_a_page(&t));
		fflush(stdout);
		if (o->raw)
			fprintf(o->raw,
				"{\"bench\":\"wire\",\"content\":\"%s\",\"setting\":\"%s\","
				"\"epochs\":%u,\"pages\":%lu,\"bytes\":%lu}\n",
				c->name, settings[i].name, EPOCHS, t.pages, t.bytes);
	}
	printf("\n");
}

int main(int argc, char **argv)
{
	struct bench_options o;

	bench_options_parse(argc, argv, &o);
	printf("\nwire (bytes sent for each dirty page of 4096, TLS, machine state and all)\n");
	printf("%-38s", "what the guest writes");
	for (size_t i = 0; i < sizeof(settings) / sizeof(*settings); i++)
		printf(" %10s", settings[i].name);
	printf("\n");
	for (size_t i = 0; i < sizeof(contents) / sizeof(*contents); i++)
		row_run(&contents[i], &o);
	return 0;
}
