// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "migrate/converge.h"

#define LOG_MODULE       "precopy"
#define LINK_NS          (5 * NS_PER_SEC)
#define REHEARSAL_NS     (50 * NS_PER_MS) /* at most, and only once */
#define REHEARSAL_ROUNDS 2u               /* that have to be left afterwards */
#define REHEARSAL_PAGES  512u /* one more round of so few takes hardly longer than none */

enum link_state { LINK_NONE, LINK_MAKING, LINK_MADE, LINK_FAILED };
enum rehearsal { REHEARSAL_NONE, REHEARSAL_WANTED, REHEARSAL_WAITS, REHEARSAL_COUNTED };

struct precopy {
	struct vm *vm;
	struct migrate_config config;
	struct postcopy_source *later;
	struct converge_verdict last; /* while a link is made: what it is made for */
	pthread_t linker;
	/* Of the thread that decides. */
	struct converge_round rounds[CONVERGE_RECENT];
	unsigned count, stuck, settled, throttle;
	enum rehearsal rehearsal;
	uint64_t rehearsal_ns; /* when it began */
	void (*rehearse)(void *ctx);
	void *rehearse_ctx;
	pthread_mutex_t lock;
	struct migrate_progress progress;
	uint64_t fixed_ns;
	bool rehearsed; /* fixed_ns is what the rehearsal says */
	enum link_state link;
	bool linking;  /* there is a thread to be joined */
	bool unlinked; /* there shall be no link any more */
	char why[256]; /* what progress.why may point to; of the thread that decides, or linker */
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

/* ---- the link for what follows ------------------------------------------------------------
 * The guest runs still: without a link it would wait for its memory at once. It is made beside
 * the thread that decides, which has a session to watch and may be told to stop. */

static void *linker_main(void *ctx)
{
	struct precopy *p = ctx;
	struct error e = {0};
	int rc = postcopy_source_connect(p->later, NULL, clock_ns() + LINK_NS, &e);

	pthread_mutex_lock(&p->lock);
	p->link = rc ? LINK_FAILED : LINK_MADE;
	snprintf(p->why, sizeof(p->why), "postcopy is not possible: %.200s", e.text);
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

/* Lock held. */
static int linker_start(struct precopy *p)
{
	int rc;

	if (!p->later || p->unlinked)
		return -EOPNOTSUPP;
	rc = thread_start(&p->linker, "link", linker_main, p);
	p->linking = !rc;
	return rc;
}

static void link_begin(struct precopy *p)
{
	int rc;

	pthread_mutex_lock(&p->lock);
	rc = linker_start(p);
	p->link = rc ? LINK_FAILED : LINK_MAKING;
	if (rc)
		snprintf(p->why, sizeof(p->why), "postcopy is not possible: %s", strerror(-rc));
	pthread_mutex_unlock(&p->lock);
}

static enum link_state link_state(struct precopy *p)
{
	enum link_state state;

	pthread_mutex_lock(&p->lock);
	state = p->link;
	pthread_mutex_unlock(&p->lock);
	return state;
}

static enum replicate_next link_next(struct precopy *p, const struct replicate_round *in)
{
	struct converge_verdict *v = &p->last;
	enum link_state state = link_state(p);

	v->next = state == LINK_MAKING ? NEXT_LINK : NEXT_POSTCOPY;
	if (state == LINK_FAILED) {
		v->next = NEXT_STOP;
		v->why = p->why;
	}
	progress_note(p, in, v);
	return v->next;
}

void precopy_unlink(struct precopy *p)
{
	bool linking;

	pthread_mutex_lock(&p->lock);
	p->unlinked = true;
	linking = p->linking;
	p->linking = false;
	pthread_mutex_unlock(&p->lock);
	if (!linking)
		return;
	postcopy_source_close(p->later);
	pthread_join(p->linker, NULL);
}

/* ---- the rehearsal ------------------------------------------------------------------------
 * While the copy takes the CPUs a hand-over takes longer than with the guest standing still: so
 * what a pause takes beside the pages is asked for once more when it is about to come. */

/* Roughly what the next one takes. */
static uint64_t round_next_ns(const struct replicate_round *in)
{
	if (in->dirty >= in->pages)
		return in->ns;
	return (uint64_t)((double)in->ns * (double)in->dirty / (double)in->pages);
}

/* What comes meanwhile may take a round more, and that one another. Where these would be too many,
 * or time would be over, a guest that can go now would count as stuck. */
static bool rehearsal_fits(const struct precopy *p, const struct replicate_round *in)
{
	uint64_t end = in->elapsed_ns + REHEARSAL_NS + REHEARSAL_ROUNDS * round_next_ns(in);

	return p->settled + REHEARSAL_ROUNDS <= p->config.rounds_max &&
	       (!p->config.most_ns || end < p->config.most_ns);
}

static void rehearsal_begin(struct precopy *p)
{
	p->rehearsal = REHEARSAL_WAITS;
	p->rehearsal_ns = clock_ns();
	pthread_mutex_lock(&p->lock);
	p->rehearsed = false; /* what is on its way was measured before */
	pthread_mutex_unlock(&p->lock);
	p->rehearse(p->rehearse_ctx);
}

/* The guest goes on writing meanwhile, and it is not stopped before that is counted. */
static enum replicate_next rehearsal_wait(struct precopy *p)
{
	bool told;

	pthread_mutex_lock(&p->lock);
	told = p->rehearsed;
	pthread_mutex_unlock(&p->lock);
	if (!told && clock_ns() - p->rehearsal_ns < REHEARSAL_NS)
		return NEXT_LINK;
	p->rehearsal = REHEARSAL_COUNTED;
	return NEXT_COUNT;
}

/* Few pages are sent. More, or where a limit of bandwidth makes a round long, are judged as those
 * of the round before. */
static bool rehearsal_round(struct precopy *p, const struct replicate_round *in)
{
	p->rehearsal = REHEARSAL_NONE;
	round_keep(p, in);
	return in->dirty <= REHEARSAL_PAGES && !in->paced_ns;
}

/* ---- rounds ------------------------------------------------------------------------------ */

static enum replicate_next round_decide(struct precopy *p, const struct replicate_round *in)
{
	struct converge_verdict verdict;
	struct converge_view view;

	pthread_mutex_lock(&p->lock);
	p->config.fixed_ns = p->fixed_ns;
	pthread_mutex_unlock(&p->lock);
	view = (struct converge_view){
		.rounds = p->rounds,
		.count = p->count,
		.settled = p->settled,
		.round = in->round,
		.stuck = p->stuck,
		.elapsed_ns = in->elapsed_ns,
		.members_synced = in->members_synced,
		.members_copied = in->members_copied,
	};
	converge_decide(&p->config, &view, &verdict);
	p->stuck = verdict.stuck;
	if (verdict.postcopy) {
		verdict.forecast_ns = p->config.fixed_ns; /* pages follow the guest */
		link_begin(p);
	}
	if (verdict.throttle != p->throttle)
		log_info("the guest is throttled by %u %%", verdict.throttle);
	p->throttle = verdict.throttle;
	vm_throttle(p->vm, p->throttle);
	log_debug("round %u: %lu pages in %.1f ms, %lu dirty, forecast %.1f ms", in->round,
		  in->pages, (double)in->ns / 1e6, in->dirty, (double)verdict.forecast_ns / 1e6);
	p->last = verdict;
	if (verdict.postcopy)
		return link_next(p, in);
	progress_note(p, in, &verdict);
	if (verdict.next != NEXT_SEAL || verdict.policy || p->rehearsal != REHEARSAL_WANTED ||
	    !rehearsal_fits(p, in))
		return verdict.next;
	rehearsal_begin(p);
	return NEXT_LINK;
}

enum replicate_next precopy_next(void *precopy, const struct replicate_round *in)
{
	struct precopy *p = precopy;

	if (link_state(p) != LINK_NONE)
		return link_next(p, in);
	if (p->rehearsal == REHEARSAL_WAITS)
		return rehearsal_wait(p);
	if (p->rehearsal == REHEARSAL_COUNTED)
		return rehearsal_round(p, in) ? NEXT_ROUND : round_decide(p, in);
	round_keep(p, in);
	if (in->members_synced)
		p->settled++;
	return round_decide(p, in);
}

void precopy_progress(struct precopy *p, struct migrate_progress *out)
{
	pthread_mutex_lock(&p->lock);
	*out = p->progress;
	pthread_mutex_unlock(&p->lock);
}

void precopy_fixed(struct precopy *p, uint64_t ns, bool rehearsed)
{
	pthread_mutex_lock(&p->lock);
	p->fixed_ns = ns;
	p->rehearsed |= rehearsed;
	pthread_mutex_unlock(&p->lock);
}

void precopy_rehearsal(struct precopy *p, void (*fn)(void *ctx), void *ctx)
{
	p->rehearse = fn;
	p->rehearse_ctx = ctx;
	p->rehearsal = REHEARSAL_WANTED;
}

void precopy_destroy(struct precopy *p)
{
	if (!p)
		return;
	precopy_unlink(p);
	vm_throttle(p->vm, 0);
	pthread_mutex_destroy(&p->lock);
	free(p);
}
