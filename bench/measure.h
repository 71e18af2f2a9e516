// SPDX-License-Identifier: Apache-2.0
/* Samples and their order statistics, raw records, and the machine in words. */
#ifndef POLLUX_BENCH_MEASURE_H
#define POLLUX_BENCH_MEASURE_H

#include <stdio.h>

#include "base/base.h"

struct series {
	uint64_t *v;
	size_t count, room;
};
void series_add(struct series *s, uint64_t v);
/* The smallest sample that at least `percent` of them do not exceed; 0 of none. Sorts. */
uint64_t series_percentile(struct series *s, double percent);
void series_free(struct series *s);

uint64_t cpu_ns(void); /* processor time of this process so far */
/* Nanoseconds as microseconds. */
double us(uint64_t ns);

struct bench_options {
	FILE *raw; /* JSON lines are appended; NULL = not wanted */
	const char *guest;
	double scale; /* of each measurement's time */
};
/* --raw FILE, --guest FILE, --scale X; exits on anything else. */
void bench_options_parse(int argc, char **argv, struct bench_options *out);
void bench_fail(const char *what, const char *why) __attribute__((noreturn));
void bench_machine(void); /* printed: what was measured, where, and how busy it was */

#endif
