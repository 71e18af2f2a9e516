// SPDX-License-Identifier: Apache-2.0
#include "bench/measure.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "hypervisor/hypervisor.h"

void series_add(struct series *s, uint64_t v)
{
	if (s->count == s->room) {
		size_t room = s->room ? 2 * s->room : 1024;
		uint64_t *more = realloc(s->v, room * sizeof(*more));

		if (!more)
			bench_fail("samples", "out of memory");
		s->v = more;
		s->room = room;
	}
	s->v[s->count++] = v;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

uint64_t series_percentile(struct series *s, double percent)
{
	size_t at;

	if (!s->count)
		return 0;
	qsort(s->v, s->count, sizeof(*s->v), compare);
	at = (size_t)(percent / 100 * (double)s->count);
	return s->v[at < s->count ? at : s->count - 1];
}

void series_free(struct series *s)
{
	free(s->v);
	*s = (struct series){0};
}

uint64_t cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * NS_PER_SEC + (uint64_t)t.tv_nsec;
}

double us(uint64_t ns)
{
	return (double)ns / 1000;
}

void bench_fail(const char *what, const char *why)
{
	fprintf(stderr, "bench: %s: %s\n", what, why);
	exit(1);
}

void bench_options_parse(int argc, char **argv, struct bench_options *out)
{
	static const struct option known[] = {
		{"raw", required_argument, NULL, 'r'},
		{"guest", required_argument, NULL, 'g'},
		{"scale", required_argument, NULL, 's'},
		{0},
	};
	int c;

	*out = (struct bench_options){.guest = "build/tests/guests/dirtier", .scale = 1};
	while ((c = getopt_long(argc, argv, "", known, NULL)) != -1) {
		if (c == 'g')
			out->guest = optarg;
		else if (c == 's')
			out->scale = atof(optarg);
		else if (c == 'r')
			out->raw = fopen(optarg, "a");
		if (c == '?' || (c == 'r' && !out->raw) || out->scale <= 0)
			bench_fail("usage", "[--raw FILE] [--guest FILE] [--scale TIMES]");
	}
}

static void cpu_model(char *out, size_t room)
{
	FILE *f = fopen("/proc/cpuinfo", "r");
	char line[256];

	snprintf(out, room, "unknown CPU");
	while (f && fgets(line, sizeof(line), f)) {
		if (strncmp(line, "model name", 10) || !strchr(line, ':'))
			continue;
		line[strcspn(line, "\n")] = 0;
		snprintf(out, room, "%s", strchr(line, ':') + 2);
		break;
	}
	if (f)
		fclose(f);
}

void bench_machine(void)
{
	struct engine_report engines[8];
	unsigned count = engine_probe_all(engines, ARRAY_LEN(engines));
	char model[200];
	struct utsname u;
	double load[3];

	cpu_model(model, sizeof(model));
	if (uname(&u) || getloadavg(load, 3) != 3)
		bench_fail("machine", "cannot be described");
	printf("machine: %s, %ld CPUs, Linux %s, load %.1f\n", model, sysconf(_SC_NPROCESSORS_ONLN),
	       u.release, load[0]);
	printf("program: %s, %s\n", version_text, version_build);
	for (unsigned i = 0; i < count; i++)
		if (!strcmp(engines[i].name, "kvm"))
			printf("kvm: %s\n", engines[i].why);
}
