// SPDX-License-Identifier: Apache-2.0
/* The payload of a disk record (docs/protocol.md, "disk"). Private to disk-mirror/. */
#ifndef POLLUX_DISK_MIRROR_WIRE_H
#define POLLUX_DISK_MIRROR_WIRE_H

#include <stdint.h>

enum mirror_op { MIRROR_WRITE = 1, MIRROR_ZEROES = 2 };

#define MIRROR_HEADER_SIZE 16
/* Bytes of one write; a longer one is emitted as several records. */
#define MIRROR_WRITE_MAX (UINT32_C(1) << 20)
/* Pieces of guest memory in one record. */
#define MIRROR_PIECES_MAX 64

#endif
