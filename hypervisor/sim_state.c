// SPDX-License-Identifier: Apache-2.0
/* STATE_SIM, version 1: the fields of struct sim_guest in the order of guest_walk(). */
#include <errno.h>
#include <string.h>

#include "hypervisor/sim.h"

/* One walk serves both ways, so that they cannot differ. */
struct walker {
	struct buf *out;   /* writing, or... */
	struct cursor *in; /* ...reading */
};

static void walk_u8(struct walker *w, uint8_t *v)
{
	if (w->out)
		buf_put_u8(w->out, *v);
	else
		*v = cursor_u8(w->in);
}
static void walk_u16(struct walker *w, uint16_t *v)
{
	if (w->out)
		buf_put_u16(w->out, *v);
	else
		*v = cursor_u16(w->in);
}
static void walk_u32(struct walker *w, uint32_t *v)
{
	if (w->out)
		buf_put_u32(w->out, *v);
	else
		*v = cursor_u32(w->in);
}
static void walk_u64(struct walker *w, uint64_t *v)
{
	if (w->out)
		buf_put_u64(w->out, *v);
	else
		*v = cursor_u64(w->in);
}

static void queue_walk(struct walker *w, struct sim_queue *q)
{
	walk_u16(w, &q->notify);
	walk_u16(w, &q->avail);
	walk_u16(w, &q->used);
	walk_u16(w, &q->busy);
}

static void device_walk(struct walker *w, struct sim_device *d)
{
	walk_u8(w, &d->slot);
	walk_u8(w, &d->kind);
	walk_u8(w, &d->msix_cap);
	for (unsigned i = 0; i < ARRAY_LEN(d->mac); i++)
		walk_u8(w, &d->mac[i]);
	walk_u32(w, &d->features);
	walk_u32(w, &d->notify_multiplier);
	for (unsigned i = 0; i < ARRAY_LEN(d->bars); i++)
		walk_u64(w, &d->bars[i]);
	walk_u64(w, &d->common);
	walk_u64(w, &d->notify);
	walk_u64(w, &d->config);
	walk_u64(w, &d->msix);
	walk_u64(w, &d->capacity);
	walk_u64(w, &d->flushed);
	for (unsigned i = 0; i < ARRAY_LEN(d->queues); i++)
		queue_walk(w, &d->queues[i]);
	for (unsigned i = 0; i < SIM_REQUESTS; i++) {
		walk_u8(w, &d->requests[i].op);
		walk_u8(w, &d->requests[i].block);
		walk_u64(w, &d->requests[i].sequence);
	}
}

static void guest_walk(struct walker *w, struct sim_guest *g)
{
	uint64_t *longs[] = {&g->seed,     &g->random,        &g->steps,   &g->hash,  &g->sent,
			     &g->received, &g->disk_sequence, &g->ram_sum, &g->answer};
	uint8_t *octets[] = {&g->power,  &g->failure, &g->stage,      &g->step, &g->slot,
			     &g->device, &g->queue,   &g->capability, &g->word, &g->device_count};
	for (unsigned i = 0; i < ARRAY_LEN(longs); i++)
		walk_u64(w, longs[i]);
	walk_u32(w, &g->vectors);
	walk_u32(w, &g->kicks);
	for (unsigned i = 0; i < ARRAY_LEN(octets); i++)
		walk_u8(w, octets[i]);
	for (unsigned i = 0; i < ARRAY_LEN(g->words); i++)
		walk_u32(w, &g->words[i]);
	for (unsigned i = 0; i < g->device_count && i < SIM_DEVICES_MAX; i++)
		device_walk(w, &g->devices[i]);
}

void sim_state_put(const struct sim_guest *g, struct buf *out)
{
	struct sim_guest copy = *g;
	struct walker w = {.out = out};
	guest_walk(&w, &copy);
}

static bool device_right(const struct sim_device *d)
{
	if (d->slot >= 32 || (d->kind != SIM_NET && d->kind != SIM_BLK))
		return false;
	for (unsigned i = 0; i < SIM_REQUESTS; i++)
		if (d->requests[i].op >= SIM_DISK_OPS || d->requests[i].block >= SIM_BLOCKS)
			return false;
	return true;
}

/* Whatever is an index must lie inside; the rest may be wrong, but harms nobody. */
static bool guest_right(const struct sim_guest *g)
{
	if (g->power > 1 || g->failure >= SIM_FAILURES || g->stage >= SIM_STAGES || g->step > 128 ||
	    g->slot > 32 || g->queue >= 2 || g->word >= ARRAY_LEN(g->words) ||
	    g->device_count > SIM_DEVICES_MAX)
		return false;
	if (g->device_count ? g->device >= g->device_count : g->device)
		return false;
	if (g->stage != SIM_SCAN && g->stage != SIM_RUN && g->stage != SIM_POWER &&
	    !g->device_count)
		return false;
	if (g->device_count < SIM_DEVICES_MAX && g->kicks >> (2 * g->device_count))
		return false;
	for (unsigned i = 0; i < g->device_count; i++)
		if (!device_right(&g->devices[i]))
			return false;
	return true;
}

int sim_state_get(const struct state_section *s, struct sim_guest *out, struct error *e)
{
	struct sim_guest g = {0};
	struct cursor c = cursor_of(s->data, s->len);
	struct walker w = {.in = &c};
	if (!state_section_read(s))
		return error_set(e, -EPROTONOSUPPORT,
				 "version %u of the sim engine's state is not known", s->version);
	guest_walk(&w, &g);
	if (cursor_finish(&c) || !guest_right(&g))
		return error_set(e, -EBADMSG, "the sim engine's state is damaged");
	*out = g;
	return 0;
}
