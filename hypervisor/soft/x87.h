// SPDX-License-Identifier: Apache-2.0
/*
 * x87 by the host's own x87 unit. An operation loads the guest's whole x87 state into
 * it, lets it execute the very instruction, and takes the state back: values, flags,
 * tags, stack faults and the responses to unmasked exceptions are the hardware's.
 *
 * This does not trap, although the guest's control word is in force: the unit reports an
 * unmasked exception at the next instruction that waits, and none follows. It is noticed
 * as status bit ES, and a guest's next waiting instruction raises #MF (always: as if
 * CR0.NE were set. No machine of today wires FERR# to the PIC).
 *
 * Private to x87*.c.
 */
#ifndef POLLUX_HYPERVISOR_SOFT_X87_H
#define POLLUX_HYPERVISOR_SOFT_X87_H

#include "hypervisor/soft/soft.h"

/* What FSAVE stores in 32-bit protected mode; the registers in the order of the stack. */
struct x87_image {
	uint32_t control, status, tags, ip, code, dp, data;
	uint8_t st[8][10];
};
_Static_assert(sizeof(struct x87_image) == 108, "as the instruction stores it");

#define X87_ENVIRONMENT 28u /* octets of it up to the registers */

/* Code that executes one instruction on the host: D8-DF with this ModRM octet (mod 3), or
 * with this reg field and a memory operand. */
const void *x87_code_register(uint8_t opcode, uint8_t modrm);
const void *x87_code_memory(uint8_t opcode, unsigned reg);

/* Executes it upon `image`. The state in the unit before and after is that of FNINIT. */
void x87_execute(struct x87_image *image, const void *code, void *memory);
/* The same with these RFLAGS; the value is what they are then. */
uint64_t x87_execute_flags(struct x87_image *image, const void *code, uint64_t flags);

void x87_image_make(const struct soft_x87 *x, struct x87_image *out);
/* All but ip, dp and opcode. */
void x87_image_take(const struct x87_image *image, struct soft_x87 *x);

#endif
