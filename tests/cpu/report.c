// SPDX-License-Identifier: Apache-2.0
/* What a case did on either side, for people. */
#include <inttypes.h>
#include <stdio.h>

#include "tests/cpu/cpu.h"

void case_print(const struct cpu_case *c, const char *what, const char *how_to_repeat)
{
	printf("case %" PRIu64 " (%s, %u bits) differs in %s:", c->number, c->group->name,
	       c->mode == MODE_64 ? 64 : 32, what);
	for (unsigned i = 0; i < c->size; i++)
		printf(" %02x", c->code[i]);
	printf("  [%s --replay %" PRIu64 "]\n", how_to_repeat, c->number);
}

static void fpu_print(const uint8_t *fpu)
{
	uint16_t x87[2];
	uint32_t mxcsr;

	memcpy(x87, fpu, 4);
	memcpy(&mxcsr, fpu + 24, 4);
	printf("\n  control %x status %x tags %x mxcsr %x", x87[0], x87[1], fpu[4], mxcsr);
	for (unsigned i = 0; i < 24; i++) {
		uint64_t q[2];

		memcpy(q, fpu + 32 + 16 * i, 16);
		if (i < 8)
			q[1] &= 0xffff;
		printf("%s%016" PRIx64 "%016" PRIx64, i % 2 ? " " : "\n  ", q[1], q[0]);
	}
}

static void registers_print(const char *side, const struct cpu_registers *s)
{
	printf("%s: rip %" PRIx64 " flags %" PRIx64 " fs %" PRIx64 " gs %" PRIx64, side, s->rip,
	       s->flags, s->fs, s->gs);
	for (unsigned i = 0; i < 16; i++)
		printf("%s%16" PRIx64, i % 4 ? " " : "\n  ", s->r[i]);
	fpu_print(s->fpu);
	printf("\n");
}

static void result_print(const char *side, const struct cpu_result *r)
{
	printf("%s: vector %u error %x cr2 %" PRIx64 "\n", side, r->vector, r->error, r->cr2);
	registers_print(side, &r->out);
}

static void memory_print(const struct cpu_case *c, const struct cpu_result *a,
			 const struct cpu_result *b)
{
	const uint8_t *x = (const uint8_t *)&a->memory, *y = (const uint8_t *)&b->memory;
	const uint8_t *was = (const uint8_t *)&images[c->image];

	for (size_t i = 0; i < sizeof(a->memory); i++)
		if (x[i] != y[i])
			printf("memory page %zu offset %03zx: was %02x, native %02x, soft %02x\n",
			       i / VM_PAGE_SIZE, i % VM_PAGE_SIZE, was[i], x[i], y[i]);
}

void results_print(const struct cpu_case *c, const struct cpu_result *native,
		   const struct cpu_result *soft)
{
	printf("at %" PRIx64 "\n", c->at);
	registers_print("before", &c->in);
	result_print("native", native);
	result_print("soft", soft);
	memory_print(c, native, soft);
}
