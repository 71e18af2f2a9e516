// SPDX-License-Identifier: Apache-2.0
/* integer: `rounds` times twenty instructions, to see how many a second an engine makes. */
#include "tests/guests/guest.h"

#define ROUND_INSTRUCTIONS 20u

const char guest_name[] = "integer";

uint64_t integer_rounds(uint64_t rounds, uint64_t table[512]);

void guest_ap_main(unsigned cpu)
{
}

void guest_main(void)
{
	static uint64_t table[512];
	uint64_t rounds = parameter("rounds", 10000000), sum;

	report("start");
	sum = integer_rounds(rounds, table);
	report("done %u instructions, sum %x", rounds * ROUND_INSTRUCTIONS, sum);
}
