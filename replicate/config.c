// SPDX-License-Identifier: Apache-2.0
#include "replicate/replicate.h"

#define MEMORY_LEAST 8     /* an eighth */
#define RATE_LEAST   4096u /* 0 would be no limit */

void replicate_config_defaults(struct replicate_config *c)
{
	*c = (struct replicate_config){
		.mode = REPLICATE_EVENT,
		.policy = STANDBY_LOSS_CONTINUE,
		.compression = COMPRESS_AUTO,
		.interval_ns = 50 * NS_PER_MS,
		.heartbeat_ns = 20 * NS_PER_MS,
		.loss_ns = 200 * NS_PER_MS,
		.streams = 2,
		.window = 2,
		.delta_bytes = 64u << 20,
	};
}

static uint64_t part(uint64_t limit, uint64_t size, uint64_t all)
{
	uint64_t n = all ? (uint64_t)((double)limit * (double)size / (double)all) : limit;

	return n > RATE_LEAST ? n : RATE_LEAST;
}

uint64_t bandwidth_of_memory(uint64_t limit, uint64_t memory, uint64_t members)
{
	uint64_t by_size = part(limit, memory, memory + members);
	uint64_t least = limit / MEMORY_LEAST;

	if (!limit || !members)
		return limit;
	return by_size > least ? by_size : least;
}

uint64_t bandwidth_of_member(uint64_t limit, uint64_t memory, uint64_t members, uint64_t size)
{
	uint64_t taken = memory ? bandwidth_of_memory(limit, memory, members) : 0;

	return limit ? part(limit > taken ? limit - taken : 0, size, members) : 0;
}
