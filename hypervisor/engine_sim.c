// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "hypervisor/machine.h"
#include "hypervisor/sim.h"

/* ---- guest memory and arithmetic ------------------------------------------------- */

/* What the guest's own CPU would write: KVM would log it, so the engine does. */
void sim_store(struct engine *en, uint64_t gpa, const void *data, size_t len)
{
	memcpy(en->memory->base + gpa, data, len);
	if (!en->logging)
		return;
	bitmap_set(en->dirty, gpa / VM_PAGE_SIZE);
	bitmap_set(en->dirty, (gpa + len - 1) / VM_PAGE_SIZE);
}

void sim_load(const struct engine *en, uint64_t gpa, void *out, size_t len)
{
	memcpy(out, en->memory->base + gpa, len);
}

uint64_t sim_scribble_pages(const struct engine *en)
{
	uint64_t low = en->memory->size < MEMORY_HOLE_START ? en->memory->size : MEMORY_HOLE_START;
	return low / VM_PAGE_SIZE - SIM_SCRIBBLE_PAGE;
}

uint64_t sim_random(struct sim_guest *g)
{
	g->random += UINT64_C(0x9e3779b97f4a7c15);
	return sim_mix(g->random);
}

void sim_fold(struct sim_guest *g, uint64_t v)
{
	g->hash = sim_mix(g->hash ^ v);
}

uint64_t sim_hash_bytes(const void *data, size_t len)
{
	const uint8_t *p = data;
	uint64_t h = len;
	for (; len >= 8; p += 8, len -= 8) {
		uint64_t word;
		memcpy(&word, p, 8);
		h = sim_mix(h ^ word);
	}
	for (; len; p++, len--)
		h = sim_mix(h ^ *p);
	return h;
}

unsigned sim_blocks(const struct sim_device *d)
{
	return d->capacity < SIM_BLOCKS ? (unsigned)d->capacity : SIM_BLOCKS;
}

/* Only of the seed, the place and the sequence number: whoever knows these can check it. */
void sim_block_fill(const struct sim_guest *g, unsigned device, unsigned block, uint64_t sequence,
		    uint8_t out[SIM_BLOCK_SIZE])
{
	uint64_t words[SIM_BLOCK_SIZE / 8] = {g->seed, sequence, device, block};
	uint64_t h = sim_hash_bytes(words, 32);
	for (unsigned i = 4; i < ARRAY_LEN(words); i++)
		words[i] = h + i * UINT64_C(0x9e3779b97f4a7c15);
	memcpy(out, words, sizeof(words));
}

/* ---- one step ------------------------------------------------------------------------ */

void sim_fail(struct sim_guest *g, enum sim_failure why)
{
	if (!g->failure)
		g->failure = (uint8_t)why;
}

void sim_step(struct engine *en, struct sim_access *a)
{
	static sim_stage_fn *const stages[SIM_STAGES] = {
		[SIM_SCAN] = sim_scan, [SIM_CAPABILITIES] = sim_capabilities,
		[SIM_BARS] = sim_bars, [SIM_SETUP] = sim_setup,
		[SIM_RUN] = sim_run,   [SIM_POWER] = sim_power,
	};
	struct sim_guest *g = &en->guest;
	en->used = true;
	g->steps++;
	while (!g->failure && !stages[g->stage](en, a))
		;
}

static void sim_vcpu_run(struct engine *en, unsigned vcpu, struct vcpu_exit *exit)
{
	struct sim_access a = {0};
	exit->kind = EXIT_INTERRUPTED;
	if (atomic_exchange(&en->kicked, false))
		return;
	sim_step(en, &a);
	if (!a.some)
		return;
	/* A write's data lie where a read's answer will, and are of no more use after it. */
	en->guest.answer = a.value;
	exit->kind = a.port ? EXIT_PIO : EXIT_MMIO;
	exit->write = a.write;
	exit->address = a.address;
	exit->size = a.size;
	exit->count = 1;
	exit->data = (uint8_t *)&en->guest.answer;
}

static void sim_vcpu_kick(struct engine *en, unsigned vcpu)
{
	atomic_store(&en->kicked, true);
}

/* ---- life of the engine ---------------------------------------------------------------- */

static void sim_probe(struct engine_report *out)
{
	*out = (struct engine_report){
		.name = "sim",
		.usable = true,
		.why = "a seeded fake guest without a CPU, for protocol tests",
	};
}

static void guest_begin(struct engine *en)
{
	en->guest =
		(struct sim_guest){.seed = en->seed, .random = sim_mix(en->seed), .hash = en->seed};
	atomic_store(&en->vectors, 0);
	atomic_store(&en->power, false);
}

static int sim_create(const struct engine_params *p, struct engine **out, struct error *e)
{
	if (p->memory->size < SIM_MEMORY_LEAST)
		return error_set(e, -EINVAL, "engine sim needs at least 256 KiB of memory");
	struct engine *en = calloc(1, sizeof(*en));
	if (!en)
		goto out_memory;
	en->dirty = calloc(bitmap_words(p->memory->size / VM_PAGE_SIZE), sizeof(*en->dirty));
	if (!en->dirty)
		goto out_engine;
	en->memory = p->memory;
	en->seed = p->seed;
	guest_begin(en);
	*out = en;
	return 0;
out_engine:
	free(en);
out_memory:
	return error_set(e, -ENOMEM, "no memory for engine sim");
}

static void sim_destroy(struct engine *en)
{
	free(en->dirty);
	free(en);
}

static int sim_vcpu_boot(struct engine *en, const struct boot_entry *entry, struct error *e)
{
	return 0;
}

static void page_clear(struct engine *en, uint64_t page)
{
	static const uint8_t zeros[VM_PAGE_SIZE];
	if (memcmp(en->memory->base + page * VM_PAGE_SIZE, zeros, VM_PAGE_SIZE) != 0)
		sim_store(en, page * VM_PAGE_SIZE, zeros, VM_PAGE_SIZE);
}

/* The next guest expects memory without words of the one before it. */
static int sim_vcpus_reset(struct engine *en, struct error *e)
{
	uint64_t pages = SIM_SCRIBBLE_PAGE + sim_scribble_pages(en);
	for (uint64_t page = 0; en->used && page < pages; page++)
		page_clear(en, page);
	en->used = false;
	guest_begin(en);
	return 0;
}

/* ---- state -------------------------------------------------------------------------------- */

static int sim_state_save(struct engine *en, struct buf *out, struct error *e)
{
	struct sim_guest g = en->guest;
	g.vectors = atomic_load(&en->vectors);
	g.power = atomic_load(&en->power);
	size_t began = state_section_begin(out, STATE_SIM, 0, STATE_SIM_VERSION, STATE_MANDATORY);
	sim_state_put(&g, out);
	state_section_end(out, began);
	return buf_check(out) ? error_set(e, -ENOMEM, "no memory for the state") : 0;
}

static int section_find(const struct state_view *state, const struct state_section **out,
			struct error *e)
{
	*out = state_find(state, STATE_SIM, 0);
	for (unsigned i = 0; i < state->count; i++) {
		const struct state_section *s = &state->sections[i];
		if (s->id >= STATE_VCPU && s->id < STATE_SERIAL && s != *out &&
		    s->flags & STATE_MANDATORY)
			return error_set(e, -EPROTONOSUPPORT,
					 "the state is of another engine (section %u.%u)", s->id,
					 s->instance);
	}
	return *out ? 0 : error_set(e, -EBADMSG, "the state has no section of engine sim");
}

static int sim_state_check(struct engine *en, const struct state_view *state, struct error *e)
{
	const struct state_section *section;
	struct sim_guest g;
	int rc = section_find(state, &section, e);
	return rc ? rc : sim_state_get(section, &g, e);
}

/* A fake guest has none. */
static unsigned sim_cpu_own(const struct engine *en, struct vm_cpu_leaf *out, unsigned most)
{
	(void)en;
	(void)out;
	(void)most;
	return 0;
}

static void sim_cpu_limits(const struct engine *en, struct vm_cpu_limits *out)
{
	(void)en;
	*out = (struct vm_cpu_limits){0};
}

static int sim_state_load(struct engine *en, const struct state_view *state, struct error *e)
{
	const struct state_section *section;
	int rc = section_find(state, &section, e);
	if (!rc)
		rc = sim_state_get(section, &en->guest, e);
	if (rc)
		return rc;
	atomic_store(&en->vectors, en->guest.vectors);
	atomic_store(&en->power, en->guest.power);
	en->used = true;
	return 0;
}

static int sim_vcpu_after_pause(struct engine *en, unsigned vcpu)
{
	return 0;
}

/* ---- interrupts, doorbells, log-dirty -------------------------------------------------------- */

/* The fake guest listens to one line only, the ACPI interrupt: its button. */
static int sim_irq_line(struct engine *en, unsigned gsi, bool level)
{
	if (gsi == LAYOUT_ACPI_GSI)
		atomic_store(&en->power, level);
	return 0;
}

static int sim_msi(struct engine *en, uint64_t address, uint32_t data)
{
	if (address == LAYOUT_LAPIC && data < 2 * SIM_DEVICES_MAX)
		atomic_fetch_or(&en->vectors, 1u << data);
	return 0;
}

static int sim_doorbell(struct engine *en, uint64_t address, unsigned size, int event_fd, bool on)
{
	return -EOPNOTSUPP;
}

static int sim_log_dirty(struct engine *en, bool on)
{
	memset(en->dirty, 0, bitmap_words(en->memory->size / VM_PAGE_SIZE) * 8);
	en->logging = on;
	return 0;
}

static int sim_dirty_harvest(struct engine *en, uint64_t *map)
{
	uint64_t pages = en->memory->size / VM_PAGE_SIZE;
	bitmap_merge(map, en->dirty, pages);
	memset(en->dirty, 0, bitmap_words(pages) * 8);
	return 0;
}

const struct engine_ops engine_sim = {
	.name = "sim",
	.stepped = true,
	.probe = sim_probe,
	.create = sim_create,
	.destroy = sim_destroy,
	.vcpu_boot = sim_vcpu_boot,
	.vcpus_reset = sim_vcpus_reset,
	.vcpu_run = sim_vcpu_run,
	.vcpu_kick = sim_vcpu_kick,
	.state_save = sim_state_save,
	.state_check = sim_state_check,
	.state_load = sim_state_load,
	.cpu_own = sim_cpu_own,
	.cpu_limits = sim_cpu_limits,
	.vcpu_after_pause = sim_vcpu_after_pause,
	.irq_line = sim_irq_line,
	.msi = sim_msi,
	.doorbell = sim_doorbell,
	.log_dirty = sim_log_dirty,
	.dirty_harvest = sim_dirty_harvest,
};
