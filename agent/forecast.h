// SPDX-License-Identifier: Apache-2.0
/* From what was measured to how a migration will go, as JSON (docs/api.md). Pure. */
#ifndef POLLUX_AGENT_FORECAST_H
#define POLLUX_AGENT_FORECAST_H

#include <jansson.h>

#include "migrate/migrate.h"

struct forecast_input {
	struct migrate_config config;
	const json_t *vm; /* event "measured" (vm-process.h); NULL: why */
	const char *vm_why, *link_why;
	uint64_t link_rate; /* bytes a second; 0: link_why */
	uint64_t bandwidth; /* that is allowed; 0 = no limit */
	uint64_t disk_bytes;
	unsigned streams;
};
json_t *forecast_json(const struct forecast_input *in);
/* That it will be given up, as a reason of severity "warning" with what helps against it; NULL: it
 * will not, or nobody knows. */
json_t *forecast_warning(const json_t *forecast, const struct migrate_config *c);

#endif
