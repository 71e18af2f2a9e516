// SPDX-License-Identifier: Apache-2.0
/*
 * Planted bugs: is the comparison able to fail? The linker puts planted_decode() between
 * the engine and its decoder; with a plant chosen, the engine executes another instruction
 * than the one in memory, as if its decoder or that operation had a bug.
 */
#include "tests/cpu/cpu.h"

static const struct cpu_plant *chosen;

void plant_choose(const struct cpu_plant *plant)
{
	chosen = plant;
}

static bool is(const struct soft_insn *i, enum soft_map map, uint8_t opcode)
{
	return i->map == map && i->opcode == opcode;
}

/* ---- instructions ------------------------------------------------------------------------- */

static void adc_as_add(struct soft_insn *i)
{
	if (i->map == MAP_ONE && (i->opcode & 0xf8) == 0x10)
		i->opcode &= 0xef;
}

static void arithmetic_shift_as_logical(struct soft_insn *i)
{
	if (i->map == MAP_ONE && ((i->opcode & 0xfe) == 0xc0 || (i->opcode & 0xfc) == 0xd0))
		i->reg = (i->reg & 7) == 7 ? 5 : i->reg;
}

static void less_or_equal_as_less(struct soft_insn *i)
{
	if (is(i, MAP_ONE, 0x7e))
		i->opcode = 0x7c;
}

static void extension_of_sign_lost(struct soft_insn *i)
{
	if (is(i, MAP_0F, 0xbe))
		i->opcode = 0xb6;
}

static void signed_divide_as_unsigned(struct soft_insn *i)
{
	if (i->map == MAP_ONE && (i->opcode & 0xfe) == 0xf6 && (i->reg & 7) == 7)
		i->reg--;
}

static void repeat_until_equal_as_while(struct soft_insn *i)
{
	if (i->map == MAP_ONE && (i->opcode & 0xf6) == 0xa6 && i->rep == 0xf2)
		i->rep = 0xf3;
}

static void truncates_as_rounds(struct soft_insn *i)
{
	if (is(i, MAP_0F, 0x2c))
		i->opcode = 0x2d;
}

static void saturates_not(struct soft_insn *i)
{
	if (is(i, MAP_0F, 0xed))
		i->opcode = 0xfd;
}

static void x87_single_as_double(struct soft_insn *i)
{
	if (i->memory && is(i, MAP_ONE, 0xd8))
		i->opcode = 0xdc;
}

/* ---- operands, lengths, faults ----------------------------------------------------------------
 */

static void scale_halved(struct soft_insn *i)
{
	i->scale -= i->memory && i->scale == 3;
}

static void segment_lost(struct soft_insn *i)
{
	if (i->memory && i->seg == SEG_GS)
		i->seg = SEG_DS;
}

static void small_immediate_unsigned(struct soft_insn *i)
{
	if (is(i, MAP_ONE, 0x83))
		i->imm &= 0xff;
}

static void length_short(struct soft_insn *i)
{
	i->length -= is(i, MAP_ONE, 0x69) && i->operand != 2;
}

static void length_long(struct soft_insn *i)
{
	i->length += is(i, MAP_0F, 0x1f);
}

static void lock_everywhere(struct soft_insn *i)
{
	i->lock = false;
}

static void later_accepted(struct soft_insn *i)
{
	if (is(i, MAP_0F, 0x7c))
		i->opcode = 0x58;
}

static void privilege_forgotten(struct soft_insn *i)
{
	if (is(i, MAP_ONE, 0xfa))
		i->opcode = 0x90;
}

const struct cpu_plant cpu_plants[] = {
	{"adc-as-add", adc_as_add},
	{"sar-as-shr", arithmetic_shift_as_logical},
	{"jle-as-jl", less_or_equal_as_less},
	{"movsx-as-movzx", extension_of_sign_lost},
	{"idiv-as-div", signed_divide_as_unsigned},
	{"repne-as-repe", repeat_until_equal_as_while},
	{"cvtt-rounds", truncates_as_rounds},
	{"paddsw-wraps", saturates_not},
	{"x87-float-as-double", x87_single_as_double},
	{"scale-8-as-4", scale_halved},
	{"gs-lost", segment_lost},
	{"imm8-unsigned", small_immediate_unsigned},
	{"imul-too-short", length_short},
	{"nop-too-long", length_long},
	{"lock-allowed", lock_everywhere},
	{"haddps-accepted", later_accepted},
	{"cli-not-privileged", privilege_forgotten},
};
const unsigned cpu_plant_count = ARRAY_LEN(cpu_plants);

/* ld --wrap */
int planted_decode(const uint8_t *bytes, size_t n, enum soft_mode mode,
		   struct soft_insn *out) __asm__("__wrap_soft_decode");
int sound_decode(const uint8_t *bytes, size_t n, enum soft_mode mode,
		 struct soft_insn *out) __asm__("__real_soft_decode");

int planted_decode(const uint8_t *bytes, size_t n, enum soft_mode mode, struct soft_insn *out)
{
	int rc = sound_decode(bytes, n, mode, out);

	if (!rc && chosen)
		chosen->alter(out);
	return rc;
}
