// SPDX-License-Identifier: Apache-2.0
/* MXCSR, FXSAVE and FXRSTOR: Intel SDM volume 1, section 10.5. */
#include "hypervisor/soft/sse.h"

#include <errno.h>

/* The image; registers and the end marks of what is written in each mode. */
enum image {
	AT_CONTROL = 0,
	AT_STATUS = 2,
	AT_USED = 4,
	AT_OPCODE = 6,
	AT_IP = 8,
	AT_DP = 16,
	AT_MXCSR = 24,
	AT_MXCSR_MASK = 28,
	AT_ST = 32,
	AT_XMM = 160,
	END_LEGACY = AT_XMM + 8 * 16,
	END_64 = AT_XMM + 16 * 16,
};
#define X87_EXCEPTIONS 0x3f
#define X87_BUSY       0x8000
/* What FLDCW and FXRSTOR can set; bit 6 always reads as 1. */
#define CONTROL_MASK  0x1f3f
#define CONTROL_FIXED 0x40

static unsigned top_of(const struct soft_cpu *cpu)
{
	return (cpu->x87.status & X87_TOP) >> 11;
}

void soft_fxsave(const struct soft_cpu *cpu, uint8_t image[FXSAVE_SIZE])
{
	const struct soft_x87 *x = &cpu->x87;
	uint32_t mask = MXCSR_WRITABLE;

	memset(image, 0, FXSAVE_SIZE);
	memcpy(image + AT_CONTROL, &x->control, 2);
	memcpy(image + AT_STATUS, &x->status, 2);
	image[AT_USED] = x->used;
	memcpy(image + AT_OPCODE, &x->opcode, 2);
	memcpy(image + AT_IP, &x->ip, 8);
	memcpy(image + AT_DP, &x->dp, 8);
	memcpy(image + AT_MXCSR, &cpu->mxcsr, 4);
	memcpy(image + AT_MXCSR_MASK, &mask, 4);
	for (unsigned n = 0; n < 8; n++)
		memcpy(image + AT_ST + 16 * n, &x->st[(top_of(cpu) + n) & 7], 10);
	memcpy(image + AT_XMM, cpu->xmm, sizeof(cpu->xmm));
}

static void restore_x87(struct soft_cpu *cpu, const uint8_t *image)
{
	struct soft_x87 *x = &cpu->x87;

	memcpy(&x->control, image + AT_CONTROL, 2);
	x->control = (x->control & CONTROL_MASK) | CONTROL_FIXED;
	memcpy(&x->status, image + AT_STATUS, 2);
	x->status &= (uint16_t) ~(X87_ES | X87_BUSY);
	if (x->status & ~x->control & X87_EXCEPTIONS)
		x->status |= X87_ES | X87_BUSY;
	x->used = image[AT_USED];
	memcpy(&x->opcode, image + AT_OPCODE, 2);
	x->opcode &= 0x7ff;
	for (unsigned n = 0; n < 8; n++)
		memcpy(&x->st[(top_of(cpu) + n) & 7], image + AT_ST + 16 * n, 10);
}

int soft_fxrstor(struct soft_cpu *cpu, const uint8_t image[FXSAVE_SIZE])
{
	uint32_t mxcsr;

	memcpy(&mxcsr, image + AT_MXCSR, 4);
	if (mxcsr & ~MXCSR_WRITABLE)
		return -EINVAL;
	restore_x87(cpu, image);
	memcpy(&cpu->x87.ip, image + AT_IP, 8);
	memcpy(&cpu->x87.dp, image + AT_DP, 8);
	cpu->mxcsr = mxcsr;
	memcpy(cpu->xmm, image + AT_XMM, sizeof(cpu->xmm));
	return 0;
}

/* ---- the instructions: where pointers have 32 bits, selectors follow, which are 0 here  */

static void fxsave_check(struct soft_cpu *cpu, struct soft_op *op)
{
	if (cpu->cr0 & (CR0_EM | CR0_TS))
		soft_raise(cpu, op, VEC_NM);
}

struct soft_op *fxsave_gate(struct soft_cpu *cpu, struct soft_op *op)
{
	fxsave_check(cpu, op);
	return soft_next(cpu, op);
}

static __attribute__((noinline)) void save(struct soft_cpu *cpu, struct soft_op *op, bool wide)
{
	uint64_t va = soft_ea(cpu, op);
	uint8_t image[FXSAVE_SIZE];

	fxsave_check(cpu, op);
	if (va & 15)
		sse_misaligned(cpu, op);
	soft_fxsave(cpu, image);
	if (!wide) {
		memset(image + AT_IP + 4, 0, 4);
		memset(image + AT_DP + 4, 0, 4);
	}
	soft_write_bytes(cpu, op, va, image, cpu->mode == MODE_64 ? END_64 : END_LEGACY);
}

static __attribute__((noinline)) void restore(struct soft_cpu *cpu, struct soft_op *op, bool wide)
{
	uint64_t va = soft_ea(cpu, op);
	uint8_t image[FXSAVE_SIZE];

	fxsave_check(cpu, op);
	if (va & 15)
		sse_misaligned(cpu, op);
	soft_read_bytes(cpu, op, va, image, sizeof(image));
	if (!wide) {
		memset(image + AT_IP + 4, 0, 4);
		memset(image + AT_DP + 4, 0, 4);
	}
	if (cpu->mode != MODE_64)
		memcpy(image + END_LEGACY, &cpu->xmm[8], END_64 - END_LEGACY);
	if (soft_fxrstor(cpu, image))
		soft_raise_error(cpu, op, VEC_GP, 0);
}

#define OP(name, statement)                                                                        \
	static struct soft_op *name(struct soft_cpu *cpu, struct soft_op *op)                      \
	{                                                                                          \
		statement;                                                                         \
		return soft_next(cpu, op);                                                         \
	}
OP(fxsave, save(cpu, op, false))
OP(fxsave64, save(cpu, op, true))
OP(fxrstor, restore(cpu, op, false))
OP(fxrstor64, restore(cpu, op, true))

/* ---- MXCSR -------------------------------------------------------------------------- */

static struct soft_op *ldmxcsr(struct soft_cpu *cpu, struct soft_op *op)
{
	uint32_t v;

	sse_check(cpu, op);
	v = soft_read32(cpu, op, soft_ea(cpu, op));
	if (v & ~MXCSR_WRITABLE)
		soft_raise_error(cpu, op, VEC_GP, 0);
	cpu->mxcsr = v;
	return soft_next(cpu, op);
}

static struct soft_op *stmxcsr(struct soft_cpu *cpu, struct soft_op *op)
{
	sse_check(cpu, op);
	soft_write32(cpu, op, soft_ea(cpu, op), cpu->mxcsr);
	return soft_next(cpu, op);
}

#define LINE(n, name, octets, how, check, width)                                                   \
	{                                                                                          \
		.opcode = 0xae, .digit = (n) + 1, .mem = (name), .size = (octets),                 \
		.access = (how), .gate = (check), .w = (width)                                     \
	}

static const struct sse_line lines[] = {
	LINE(0, fxsave, FXSAVE_SIZE, SOFT_WRITE, fxsave_gate, W0),
	LINE(0, fxsave64, FXSAVE_SIZE, SOFT_WRITE, fxsave_gate, W1),
	LINE(1, fxrstor, FXSAVE_SIZE, SOFT_READ, fxsave_gate, W0),
	LINE(1, fxrstor64, FXSAVE_SIZE, SOFT_READ, fxsave_gate, W1),
	LINE(2, ldmxcsr, 4, SOFT_READ, sse_gate, W_ANY),
	LINE(3, stmxcsr, 4, SOFT_WRITE, sse_gate, W_ANY),
};
const struct sse_lines sse_lines_state = SSE_LINES(lines);
