// SPDX-License-Identifier: Apache-2.0
/*
 * privold: the modes that long mode has left behind. 32-bit protected mode without paging
 * (privold_code.S): interrupt and call gates, inner stacks, task switches, SYSENTER and
 * SYSCALL; both kinds of legacy paging; real mode (privold_real.S).
 *
 * The code runs from end to end, and each `see` notes EAX as one check; a trap is noted by the
 * handlers, which go on where `expect` said. One that nobody expected ends the run: what was
 * not seen then is UNSEEN.
 */
#ifndef POLLUX_TESTS_PRIVOLD_H
#define POLLUX_TESTS_PRIVOLD_H

#include "tests/guests/priv.h"

/* Of its GDT; CODE64, DATA and CODE32 are where priv.h has them. */
#define OLD_REAL16      0x20 /* code at REAL_AT */
#define OLD_DATA16      0x28
#define OLD_USER32      0x33
#define OLD_USER_DATA   0x3b
#define OLD_TSS_A       0x40
#define OLD_TSS_B       0x48
#define OLD_TASK_GATE   0x53 /* to TSS_B, for all */
#define OLD_GATE        0x5b /* 3 parameters */
#define OLD_GATE16      0x63 /* 2 parameters */
#define OLD_CODE_1      0x69 /* privilege 1 */
#define OLD_DATA_1      0x71
#define OLD_GATE_1      0x7b
#define OLD_TSS_NP      0x80
#define OLD_TSS_SHORT   0x88
#define OLD_DATA_1_NP   0x91
#define OLD_CODE_NEAR16 0x98 /* at old_near16, which 16-bit gates can name */
#define OLD_GDT_END     0xa0

#define REAL_AT         0x40000 /* where the real-mode code is copied */
#define REAL_STACK      0x50000
#define REAL_SEEN       0xe000 /* from REAL_AT on */
#define REAL_IVT        0xe800
#define UNSEEN          0xdeadbeef

#define PAGED           0x8000000 /* linear address of the page that legacy paging plays with */

#endif
