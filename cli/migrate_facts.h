// SPDX-License-Identifier: Apache-2.0
/* What is known of a migration that is under way, and how long it will take. Pure. */
#ifndef POLLUX_CLI_MIGRATE_FACTS_H
#define POLLUX_CLI_MIGRATE_FACTS_H

#include "cli/migrate_progress.h"

#define FACT_UNKNOWN (-1.0)
#define FACT_PAGE    4096.0

struct migrate_facts {
	const char *phase;
	bool copying, follows, cut;
	double round, throttle; /* each number may be FACT_UNKNOWN */
	double memory_done, memory_total, disk_done, disk_total; /* bytes; of disks 0 = none */
	double postcopy_left, postcopy_total;
	double wire, wire_rate, memory_rate, disk_rate, follow_rate, round_rate;
	double dirty, dirty_rate; /* pages; bytes a second */
	double forecast_ns;
	double percent, copy_eta_s, eta_s;
};
void migrate_facts_read(const struct migrate_watch *w, const json_t *vm, struct migrate_facts *out);

/* FACT_UNKNOWN, or 0: it is not there, or no number that can be. */
double fact_number(const json_t *o, const char *key);
uint64_t fact_count(const json_t *o, const char *key);
double fact_scaled(double n, double by);

#endif
