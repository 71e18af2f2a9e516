// SPDX-License-Identifier: Apache-2.0
/*
 * Moves memory from one process to another over loopback TCP, once, and says how long it took as a
 * line of JSON. bench-migrate calls it.
 *
 *   raw      bytes over sockets into memory, and nothing else: the ceiling
 *   session  the memory of a sleeping guest to its twin, as the first copy of a session: encoded,
 *            hashed, encrypted, decrypted, checked, applied. bench-copy-plain is the same program
 *            with migrate/plain.c in the place of TLS.
 */
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <xxhash.h>

#include "bench/pair.h"

#define FILL_FROM    (UINT64_C(8) << 20) /* above the guest's program */
#define STREAMS_MOST 16
#define RAW_CHUNK    (256u << 10)

struct options {
	const char *path, *guest;
	unsigned streams;
	uint64_t bytes, bytes_per_second; /* the latter 0: no limit */
	enum fill { FILL_RANDOM, FILL_ZERO, FILL_PACKS } fill;
	enum page_compression compression;
};

struct outcome {
	uint64_t ns, wire_bytes, sender_cpu_ns, receiver_cpu_ns;
	bool equal;
};

/* What packs: of each eight words three that repeat nothing, and five that do. */
static void memory_fill(uint8_t *at, uint64_t bytes, enum fill fill)
{
	uint64_t x = 88172645463325252, word;

	for (uint64_t i = 0; i < bytes; i += 8) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		word = fill == FILL_ZERO || (fill == FILL_PACKS && i / 8 % 8 >= 3) ? 0 : x;
		memcpy(at + i, &word, sizeof(word));
	}
}

/* ---- a session ------------------------------------------------------------------ */

static _Atomic uint64_t bytes_sent;

static void on_epoch(void *ctx, const struct replicate_stats *s)
{
	uint64_t none = 0;

	atomic_compare_exchange_strong(&bytes_sent, &none, s->bytes_sent);
}

static void session_run(const struct options *o, struct outcome *out)
{
	struct pair_config config = {.engine = "soft",
				     .kernel = o->guest,
				     .memory = o->bytes + 2 * FILL_FROM,
				     .vcpus = 1,
				     .epoch = on_epoch};
	struct pair *p;
	uint64_t at, cpu;

	replicate_config_defaults(&config.replicate);
	config.replicate.streams = o->streams;
	config.replicate.compression = o->compression;
	config.replicate.bytes_per_second = o->bytes_per_second;
	p = pair_create(&config);
	memory_fill(vm_ram(pair_vm(p)) + FILL_FROM, o->bytes, o->fill);
	cpu = cpu_ns();
	at = clock_ns();
	pair_protect(p);
	out->ns = clock_ns() - at;
	out->sender_cpu_ns = cpu_ns() - cpu;
	pair_unprotect(p);
	out->receiver_cpu_ns = pair_twin(p)->cpu_ns;
	out->equal = pair_twin(p)->hash == pair_ram_hash(pair_vm(p));
	out->wire_bytes = atomic_load(&bytes_sent);
	pair_destroy(p);
}

/* ---- raw ------------------------------------------------------------------------- */

struct raw_stream {
	pthread_t thread;
	uint8_t *data;
	uint64_t bytes;
	int fd;
};

static void *raw_send(void *arg)
{
	struct raw_stream *s = arg;

	for (uint64_t at = 0; at < s->bytes;) {
		uint64_t left = s->bytes - at;
		ssize_t n = send(s->fd, s->data + at, left < RAW_CHUNK ? left : RAW_CHUNK,
				 MSG_NOSIGNAL);

		if (n <= 0)
			bench_fail("send", strerror(errno));
		at += (uint64_t)n;
	}
	return NULL;
}

static void *raw_receive(void *arg)
{
	struct raw_stream *s = arg;

	for (uint64_t at = 0; at < s->bytes;) {
		uint64_t left = s->bytes - at;
		ssize_t n = recv(s->fd, s->data + at, left < RAW_CHUNK ? left : RAW_CHUNK, 0);

		if (n <= 0)
			bench_fail("receive", n ? strerror(errno) : "the sender is gone");
		at += (uint64_t)n;
	}
	return NULL;
}

static void raw_threads(const struct options *o, uint8_t *memory, const int *fds,
			void *(*main)(void *))
{
	struct raw_stream s[STREAMS_MOST];
	uint64_t each = o->bytes / o->streams;

	for (unsigned i = 0; i < o->streams; i++) {
		s[i] = (struct raw_stream){.data = memory + i * each, .bytes = each, .fd = fds[i]};
		if (pthread_create(&s[i].thread, NULL, main, &s[i]))
			bench_fail("thread", "cannot be started");
	}
	for (unsigned i = 0; i < o->streams; i++)
		pthread_join(s[i].thread, NULL);
}

static uint8_t *memory_map(uint64_t bytes)
{
	uint8_t *m = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (m == MAP_FAILED)
		bench_fail("memory", strerror(errno));
	return m;
}

static void raw_connect(unsigned streams, int *ours, int *theirs)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (listener < 0 || bind(listener, (struct sockaddr *)&a, len) ||
	    listen(listener, STREAMS_MOST) || getsockname(listener, (struct sockaddr *)&a, &len))
		bench_fail("listen", strerror(errno));
	for (unsigned i = 0; i < streams; i++) {
		ours[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (ours[i] < 0 || connect(ours[i], (struct sockaddr *)&a, len))
			bench_fail("connect", strerror(errno));
		theirs[i] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		if (theirs[i] < 0)
			bench_fail("accept", strerror(errno));
	}
	close(listener);
}

struct raw_report {
	uint64_t cpu_ns, hash;
};

static int raw_receiver(const struct options *o, const int *fds, int report)
{
	uint8_t *memory = memory_map(o->bytes);
	struct raw_report r;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	raw_threads(o, memory, fds, raw_receive);
	r.cpu_ns = cpu_ns();
	if (write(report, "!", 1) != 1)
		return 1;
	r.hash = XXH3_64bits(memory, o->bytes);
	return write(report, &r, sizeof(r)) == (ssize_t)sizeof(r) ? 0 : 1;
}

static void raw_run(const struct options *o, struct outcome *out)
{
	int ours[STREAMS_MOST], theirs[STREAMS_MOST], ends[2], status;
	uint8_t *memory = memory_map(o->bytes);
	struct raw_report r;
	uint64_t at, cpu;
	char done;
	pid_t child;

	memory_fill(memory, o->bytes, o->fill);
	raw_connect(o->streams, ours, theirs);
	if (pipe(ends))
		bench_fail("pipe", strerror(errno));
	fflush(NULL);
	child = fork();
	if (!child)
		_exit(raw_receiver(o, theirs, ends[1]));
	cpu = cpu_ns();
	at = clock_ns();
	raw_threads(o, memory, ours, raw_send);
	if (read(ends[0], &done, 1) != 1)
		bench_fail("raw", "the receiver has ended");
	out->ns = clock_ns() - at;
	out->sender_cpu_ns = cpu_ns() - cpu;
	if (read(ends[0], &r, sizeof(r)) != (ssize_t)sizeof(r) ||
	    waitpid(child, &status, 0) != child || status)
		bench_fail("raw", "the receiver has failed");
	out->receiver_cpu_ns = r.cpu_ns;
	out->wire_bytes = o->bytes;
	out->equal = r.hash == XXH3_64bits(memory, o->bytes);
}

static enum page_compression compression_of(const char *name)
{
	static const char *const names[] = {[COMPRESS_NONE] = "none",
					    [COMPRESS_LZ4] = "lz4",
					    [COMPRESS_ZLIB] = "zlib",
					    [COMPRESS_AUTO] = "auto"};

	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (!strcmp(names[i], name))
			return (enum page_compression)i;
	bench_fail("--compression", "none, lz4, zlib or auto");
}

/* ---- main -------------------------------------------------------------------------- */

static bool options_read(int argc, char **argv, struct options *o)
{
	static const struct option known[] = {
		{"path", required_argument, NULL, 'p'},
		{"guest", required_argument, NULL, 'g'},
		{"streams", required_argument, NULL, 's'},
		{"mib", required_argument, NULL, 'm'},
		{"zero", no_argument, NULL, 'z'},
		{"packs", no_argument, NULL, 'k'},
		{"compression", required_argument, NULL, 'c'},
		{"mb-per-second", required_argument, NULL, 'b'},
		{0},
	};
	int c;

	*o = (struct options){
		.path = "raw", .guest = "", .streams = 1, .compression = COMPRESS_AUTO};
	while ((c = getopt_long(argc, argv, "", known, NULL)) != -1) {
		if (c == 'p')
			o->path = optarg;
		else if (c == 'g')
			o->guest = optarg;
		else if (c == 's')
			o->streams = (unsigned)atoi(optarg);
		else if (c == 'm')
			o->bytes = strtoull(optarg, NULL, 10) << 20;
		else if (c == 'z')
			o->fill = FILL_ZERO;
		else if (c == 'k')
			o->fill = FILL_PACKS;
		else if (c == 'c')
			o->compression = compression_of(optarg);
		else if (c == 'b')
			o->bytes_per_second = strtoull(optarg, NULL, 10) * 1000000;
		else
			return false;
	}
	return o->bytes && o->streams && o->streams <= STREAMS_MOST;
}

int main(int argc, char **argv)
{
	struct outcome out = {0};
	struct options o;

	if (!options_read(argc, argv, &o))
		bench_fail("usage", "--path raw|session --mib N [--streams N] [--zero|--packs] "
				    "[--compression HOW] [--mb-per-second N] [--guest FILE]");
	if (!strcmp(o.path, "raw"))
		raw_run(&o, &out);
	else
		session_run(&o, &out);
	printf("{\"bytes\":%lu,\"seconds\":%.6f,\"wire_bytes\":%lu,\"sender_cpu_seconds\":%.6f,"
	       "\"receiver_cpu_seconds\":%.6f}\n",
	       o.bytes, (double)out.ns / 1e9, out.wire_bytes, (double)out.sender_cpu_ns / 1e9,
	       (double)out.receiver_cpu_ns / 1e9);
	if (!out.equal)
		bench_fail(o.path, "the memory at the target differs");
	return 0;
}
