// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "migrate/converge.h"

#define LOG_MODULE "precopy"
#define LINK_NS    (5 * NS_PER_SEC)

struct precopy {
	struct vm *vm;
	struct migrate_config config;
	struct postcopy_source *later;
	char why[256]; /* what progress.why may point to */
	/* Of the thread that decides. */
	struct converge_round rounds[CONVERGE_RECENT];
	unsigned count, stuck, settled, throttle;
	pthread_mutex_t lock;
	struct migrate_progress progress;
	uint64_t fixed_ns;
};

int precopy_create(struct vm *vm, const struct migrate_config *c, struct postcopy_source *later,
		   struct precopy **out)
{
	struct precopy *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	p->vm = vm;
	p->config = *c;
	p->fixed_ns = c->fixed_ns;
	p->later = later;
	pthread_mutex_init(&p->lock, NULL);
	*out = p;
	return 0;
}

/* A wait is no round: what was written meanwhile is added to the last one's. */
static void round_keep(struct precopy *p, const struct replicate_round *in)
{
	struct converge_round r = {.pages = in->pages,
				   .ns = in->ns,
				   .bytes = in->bytes,
				   .dirty = in->dirty,
				   .throttle = p->throttle,
				   .paced_ns = converge_paced_ns(&p->config, in),
				   .queued = in->queued};

	if (p->count && p->progress.round == in->round) {
		p->rounds[p->count - 1].dirty = in->dirty;
		p->rounds[p->count - 1].queued = in->queued;
		return;
	}
	if (p->count == CONVERGE_RECENT)
		memmove(p->rounds, p->rounds + 1, --p->count * sizeof(*p->rounds));
	p->rounds[p->count++] = r;
}

static uint64_t per_second(uint64_t n, uint64_t ns)
{
	return ns ? (uint64_t)((double)n * 1e9 / (double)ns) : 0;
}

static void progress_note(struct precopy *p, const struct replicate_round *in,
			  const struct converge_verdict *v)
{
	pthread_mutex_lock(&p->lock);
	p->progress = (struct migrate_progress){
		.round = in->round,
		.throttle = v->throttle,
		.forecast_ns = v->forecast_ns,
		.fixed_ns = p->config.fixed_ns,
		.dirty = in->dirty,
		.dirty_rate = per_second(in->dirty, in->ns),
		.rate = per_second(in->bytes, in->ns),
		.memory_rate = per_second(in->pages * VM_PAGE_SIZE, in->ns),
		.elapsed_ns = in->elapsed_ns,
		.gave_up = v->next == NEXT_STOP,
		.why = v->why,
	};
	pthread_mutex_unlock(&p->lock);
}

/* The guest runs still: without a link it would wait for its memory at once. */
static void link_make(struct precopy *p, struct converge_verdict *v)
{
	struct error e = {0};
	int rc = -EOPNOTSUPP;

	if (p->later)
		rc = postcopy_source_connect(p->later, NULL, clock_ns() + LINK_NS, &e);
	else
		error_set(&e, rc, "it was not prepared");
	if (!rc) {
		v->next = NEXT_POSTCOPY;
		return;
	}
	snprintf(p->why, sizeof(p->why), "postcopy is not possible: %.200s", e.text);
	v->next = NEXT_STOP;
	v->why = p->why;
}

enum replicate_next precopy_next(void *precopy, const struct replicate_round *in)
{
	struct precopy *p = precopy;
	struct converge_verdict verdict;
	struct converge_view view;

	round_keep(p, in);
	pthread_mutex_lock(&p->lock);
	p->config.fixed_ns = p->fixed_ns;
	pthread_mutex_unlock(&p->lock);
	if (in->members_synced)
		p->settled++;
	view = (struct converge_view){
		.rounds = p->rounds,
		.count = p->count,
		.settled = p->settled,
		.round = in->round,
		.stuck = p->stuck,
		.elapsed_ns = in->elapsed_ns,
		.members_synced = in->members_synced,
	};
	converge_decide(&p->config, &view, &verdict);
	p->stuck = verdict.stuck;
	if (verdict.postcopy)
		link_make(p, &verdict);
	if (verdict.throttle != p->throttle)
		log_info("the guest is throttled by %u %%", verdict.throttle);
	p->throttle = verdict.throttle;
	vm_throttle(p->vm, p->throttle);
	log_debug("round %u: %lu pages in %.1f ms, %lu dirty, forecast %.1f ms", in->round,
		  in->pages, (double)in->ns / 1e6, in->dirty, (double)verdict.forecast_ns / 1e6);
	progress_note(p, in, &verdict);
	return verdict.next;
}

void precopy_progress(struct precopy *p, struct migrate_progress *out)
{
	pthread_mutex_lock(&p->lock);
	*out = p->progress;
	pthread_mutex_unlock(&p->lock);
}

void precopy_fixed(struct precopy *p, uint64_t ns)
{
	pthread_mutex_lock(&p->lock);
	p->fixed_ns = ns;
	pthread_mutex_unlock(&p->lock);
}

void precopy_destroy(struct precopy *p)
{
	if (!p)
		return;
	vm_throttle(p->vm, 0);
	pthread_mutex_destroy(&p->lock);
	free(p);
}
