// SPDX-License-Identifier: Apache-2.0
/* What preflight.c and preflight_storage.c have in common: a verdict that is being made. */
#ifndef POLLUX_AGENT_PREFLIGHT_JUDGE_H
#define POLLUX_AGENT_PREFLIGHT_JUDGE_H

#include "agent/preflight.h"

enum reason {
	REASON_CONFIG,
	REASON_KERNEL,
	REASON_INITRD,
	REASON_ENGINE,
	REASON_CPU,
	REASON_CPU_FEATURES,
	REASON_CPU_DIFFERS,
	REASON_CPUS_FEW,
	REASON_MEMORY_TOTAL,
	REASON_MEMORY_FREE,
	REASON_HUGEPAGES,
	REASON_POSTCOPY,
	REASON_POSTCOPY_STUCK,
	REASON_STATE,
	REASON_DISK_MISSING,
	REASON_DISK_KIND,
	REASON_DISK_SIZE,
	REASON_DISK_ACCESS,
	REASON_DISK_OTHER,
	REASON_DISK_UNPROVEN,
	REASON_DISK_SAME,
	REASON_DISK_UNTOLD,
	REASON_DISK_FOREIGN,
	REASON_DISK_SPACE,
	REASON_DISKS,
	REASON_PROCESS,
	REASON_TAP,
	REASON_BRIDGE,
	REASON_SOCKET,
	REASON_NAME,
	REASON_TERM,
	REASON_RUNS,
	REASON_OWNED,
	REASON_TWIN,
	REASON_STANDBY,
	REASON_STANDBY_DOWN,
	REASONS
};

struct verdict {
	const json_t *needs, *has;
	json_t *found;
	bool possible;
	unsigned shared_disks; /* bit i: disk i is handed over, and not copied */
};

/* Adds what is in the way, which is borrowed. */
json_t *PRINTF(3, 4) verdict_add(struct verdict *v, enum reason r, const char *fmt, ...);
void verdict_disks_check(struct verdict *v);

#endif
