// SPDX-License-Identifier: Apache-2.0
// Frames of the exec agent's connection, both directions: one type byte, a big-endian 32-bit
// length, that many bytes. labkit/remote.py is the other end.
#ifndef LAB_FRAME_H
#define LAB_FRAME_H

#include <stddef.h>
#include <stdint.h>

enum frame_type {
	FRAME_TOKEN = 'A',   // to the agent, first: the lab's secret
	FRAME_COMMAND = 'C', // a line for /bin/sh, with pipes
	FRAME_PTY = 'P', // rows, columns (16-bit big-endian each), then the line; with a terminal
	FRAME_STDIN = 'I',
	FRAME_EOF = 'E',
	FRAME_WINDOW = 'W', // rows, columns
	FRAME_STDOUT = 'o', // from the agent
	FRAME_STDERR = 'e',
	FRAME_EXIT = 'x', // 32-bit big-endian exit code, last
};

#define FRAME_HEADER 5
#define FRAME_MAX    (1 << 20)

#endif
