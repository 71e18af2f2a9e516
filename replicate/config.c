// SPDX-License-Identifier: Apache-2.0
#include "replicate/replicate.h"

void replicate_config_defaults(struct replicate_config *c)
{
	*c = (struct replicate_config){
		.mode = REPLICATE_EVENT,
		.policy = STANDBY_LOSS_CONTINUE,
		.compression = COMPRESS_LZ4,
		.interval_ns = 50 * NS_PER_MS,
		.heartbeat_ns = 20 * NS_PER_MS,
		.loss_ns = 200 * NS_PER_MS,
		.streams = 2,
		.window = 2,
		.delta_bytes = 64u << 20,
	};
}
