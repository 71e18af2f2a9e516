// SPDX-License-Identifier: Apache-2.0
#define LOG_MODULE "engine"
#include "hypervisor/engine.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Best first. "auto" never means an engine without a CPU. */
static const struct engine_ops *const engines[] = {&engine_kvm, &engine_soft, &engine_sim};

unsigned engine_probe_all(struct engine_report *out, unsigned most)
{
	unsigned n = 0;

	for (; n < most && n < ARRAY_LEN(engines); n++)
		engines[n]->probe(&out[n]);
	return n;
}

/* The best one that carries ordinary guests; what was better but does not is said. */
static const struct engine_ops *engine_choose(struct error *e)
{
	struct engine_report report = {.why = "no engine was built"};
	char passed[256] = "";

	for (unsigned i = 0; i < ARRAY_LEN(engines); i++) {
		if (engines[i]->stepped)
			continue;
		engines[i]->probe(&report);
		if (report.usable && report.real_guests) {
			log_info("engine %s%s", engines[i]->name, passed);
			return engines[i];
		}
		snprintf(passed, sizeof(passed), ", as %s is not for ordinary guests here: %s",
			 engines[i]->name, report.why);
	}
	error_set(e, -ENODEV, "no engine can run a guest here: %s", report.why);
	return NULL;
}

const struct engine_ops *engine_find(const char *name, struct error *e)
{
	if (!strcmp(name, "auto"))
		return engine_choose(e);
	for (unsigned i = 0; i < ARRAY_LEN(engines); i++)
		if (!strcmp(name, engines[i]->name))
			return engines[i];
	error_set(e, -EINVAL, "there is no engine \"%s\"", name);
	return NULL;
}
