// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_ENGINES_H
#define TESTS_ENGINES_H

#include <string.h>

#include "hypervisor/hypervisor.h"

/* What the engine of that name is worth here. False: this build has none. */
static inline bool engine_report_of(const char *name, struct engine_report *out)
{
	struct engine_report reports[8];
	unsigned n = engine_probe_all(reports, ARRAY_LEN(reports));

	for (unsigned i = 0; i < n; i++) {
		if (strcmp(reports[i].name, name) != 0)
			continue;
		*out = reports[i];
		return true;
	}
	return false;
}

static inline bool kvm_is_usable(void)
{
	struct engine_report report;

	return engine_report_of("kvm", &report) && report.usable;
}

#endif
