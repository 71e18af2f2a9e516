// SPDX-License-Identifier: Apache-2.0
/* The instructions themselves, four octets each: instruction, RET, filler. */
#include "hypervisor/soft/x87.h"

extern const uint8_t x87_codes_register[], x87_codes_memory[];

/* Between FRSTOR and FNSAVE nothing waits but the instruction. RDX is the memory operand's
 * address; FNSAVE leaves the unit as FNINIT does. */
__asm__(".text\n"
	".p2align 4\n"
	"x87_codes_register:\n"
	".set x87_i, 0\n"
	".rept 512\n"
	".byte 0xd8 + x87_i / 64, 0xc0 + x87_i % 64, 0xc3, 0x90\n"
	".set x87_i, x87_i + 1\n"
	".endr\n"
	"x87_codes_memory:\n"
	".set x87_i, 0\n"
	".rept 64\n"
	".byte 0xd8 + x87_i / 8, 2 + x87_i % 8 * 8, 0xc3, 0x90\n"
	".set x87_i, x87_i + 1\n"
	".endr\n"

	".globl x87_execute\n"
	".hidden x87_execute\n"
	".type x87_execute, @function\n"
	"x87_execute:\n"
	"frstor (%rdi)\n"
	"call *%rsi\n"
	"fnsave (%rdi)\n"
	"ret\n"
	".size x87_execute, . - x87_execute\n"

	".globl x87_execute_flags\n"
	".hidden x87_execute_flags\n"
	".type x87_execute_flags, @function\n"
	"x87_execute_flags:\n"
	"frstor (%rdi)\n"
	"push %rdx\n"
	"popfq\n"
	"call *%rsi\n"
	"pushfq\n"
	"pop %rax\n"
	"fnsave (%rdi)\n"
	"ret\n"
	".size x87_execute_flags, . - x87_execute_flags\n");

const void *x87_code_register(uint8_t opcode, uint8_t modrm)
{
	return x87_codes_register + 4 * ((opcode & 7) * 64 + (modrm & 63));
}

const void *x87_code_memory(uint8_t opcode, unsigned reg)
{
	return x87_codes_memory + 4 * ((opcode & 7) * 8 + (reg & 7));
}

/* ---- the guest's registers ------------------------------------------------------------------ */

#define TAG_EMPTY 3u

static unsigned top_of(uint32_t status)
{
	return status >> 11 & 7;
}

void x87_image_make(const struct soft_x87 *x, struct x87_image *out)
{
	unsigned top = top_of(x->status);

	*out = (struct x87_image){.control = x->control, .status = x->status};
	for (unsigned i = 0; i < 8; i++) {
		if (!(x->used >> i & 1))
			out->tags |= TAG_EMPTY << 2 * i;
		memcpy(out->st[i], &x->st[(top + i) & 7], sizeof(out->st[i]));
	}
}

void x87_image_take(const struct x87_image *image, struct soft_x87 *x)
{
	unsigned top = top_of(image->status);
	unsigned used = 0;

	for (unsigned i = 0; i < 8; i++) {
		if ((image->tags >> 2 * i & 3) != TAG_EMPTY)
			used |= 1u << i;
		memcpy(&x->st[(top + i) & 7], image->st[i], sizeof(image->st[i]));
	}
	x->control = (uint16_t)image->control;
	x->status = (uint16_t)image->status;
	x->used = (uint8_t)used;
}
