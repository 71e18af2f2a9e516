// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_AGENT_PORTS_H
#define TESTS_AGENT_PORTS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "channel/channel.h"

#define PORTS_FIRST 10000u
#define PORTS       20000u /* below those that the kernel gives to who asks for none */
#define PORTS_STEP  128u   /* more than a program takes */

/* A port that is free, and another one each time; tests that run beside this one begin
 * elsewhere. */
static inline uint16_t port_choose(void)
{
	static unsigned chosen;
	uint16_t port;
	int fd;

	do {
		assert_true(chosen < PORTS);
		port = (uint16_t)(PORTS_FIRST +
				  ((unsigned)getpid() * PORTS_STEP + chosen++) % PORTS);
	} while (channel_listen("127.0.0.1", port, &fd, NULL));
	close(fd);
	return port;
}

#endif
