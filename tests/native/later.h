// SPDX-License-Identifier: Apache-2.0
/* Between hypervisor/state.h and hypervisor/state.c: the frame of a machine state has the next
 * version, and that of today is read as well. */
enum { STATE_VERSION_NEXT = STATE_VERSION + 1 };
#undef STATE_VERSION
#define STATE_VERSION STATE_VERSION_NEXT
