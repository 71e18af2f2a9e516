// SPDX-License-Identifier: Apache-2.0
#include "replicate/policy.h"

static uint64_t interval_seal_at(const struct policy_view *v)
{
	return v->opened_at + v->interval_ns;
}

static uint64_t event_seal_at(const struct policy_view *v)
{
	return v->output ? 0 : v->opened_at + v->interval_ns;
}

static uint64_t (*const seal_at[])(const struct policy_view *) = {
	[REPLICATE_INTERVAL] = interval_seal_at,
	[REPLICATE_EVENT] = event_seal_at,
};

uint64_t policy_seal_at(enum replicate_mode mode, const struct policy_view *v)
{
	if (v->in_flight >= v->window)
		return POLICY_NEVER;
	return seal_at[mode](v);
}
