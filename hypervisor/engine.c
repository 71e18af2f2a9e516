// SPDX-License-Identifier: Apache-2.0
#include "hypervisor/engine.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Best first. "auto" never means an engine without a CPU. */
static const struct engine_ops *const engines[] = {&engine_kvm, &engine_sim};

unsigned engine_probe_all(struct engine_report *out, unsigned most)
{
	unsigned n = 0;

	for (; n < most && n < ARRAY_LEN(engines); n++)
		engines[n]->probe(&out[n]);
	return n;
}

static const struct engine_ops *engine_choose(struct error *e)
{
	struct engine_report report = {.why = "no engine was built"};

	for (unsigned i = 0; i < ARRAY_LEN(engines); i++) {
		if (engines[i]->stepped)
			continue;
		engines[i]->probe(&report);
		if (report.usable)
			return engines[i];
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
