// SPDX-License-Identifier: Apache-2.0
/*
 * Brings the pages of a vm that begins without them: in random order, those that are waited
 * for first. Without cmocka, for programs of one guest as well.
 */
#ifndef POLLUX_TESTS_FEEDER_H
#define POLLUX_TESTS_FEEDER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "hypervisor/hypervisor.h"

struct feeder {
	const uint8_t *from; /* all of RAM, as it is to be */
	unsigned seed;
	bool on_fault_only; /* no page but those that are waited for */
	struct vm *vm;
	struct vm_lazy *lazy;
	uint64_t pages, *order;
	pthread_mutex_t lock;
	pthread_cond_t came;
	uint64_t *asked; /* pages, in the order of their faults */
	uint64_t asked_count, asked_done;
	bool stop;
	int rc; /* the first that a put gave */
	pthread_t thread;
};

static inline void feeder_fault(void *ctx, uint64_t page)
{
	struct feeder *f = ctx;

	pthread_mutex_lock(&f->lock);
	if (f->asked_count == f->pages)
		abort(); /* one page was told twice */
	f->asked[f->asked_count++] = page;
	pthread_cond_signal(&f->came);
	pthread_mutex_unlock(&f->lock);
}

static inline bool feeder_is_zero(const uint8_t *bytes)
{
	return !bytes[0] && !memcmp(bytes, bytes + 1, VM_PAGE_SIZE - 1);
}

static inline void feeder_put(struct feeder *f, uint64_t page)
{
	const uint8_t *bytes = f->from + page * VM_PAGE_SIZE;
	/* Both ways to say zero. */
	bool none = page % 2 && feeder_is_zero(bytes);
	int rc = vm_lazy_put(f->lazy, page, none ? NULL : bytes);

	if (!f->rc)
		f->rc = rc;
}

/* False: there is nothing more to do. */
static inline bool feeder_next(struct feeder *f, uint64_t *turn, uint64_t *page)
{
	bool any = true;

	pthread_mutex_lock(&f->lock);
	while (f->on_fault_only && !f->stop && f->asked_done == f->asked_count)
		pthread_cond_wait(&f->came, &f->lock);
	if (f->asked_done < f->asked_count)
		*page = f->asked[f->asked_done++];
	else if (!f->on_fault_only && *turn < f->pages)
		*page = f->order[(*turn)++];
	else
		any = false;
	pthread_mutex_unlock(&f->lock);
	return any;
}

static inline void *feeder_main(void *ctx)
{
	struct feeder *f = ctx;
	uint64_t turn = 0, page;

	while (feeder_next(f, &turn, &page))
		feeder_put(f, page);
	return NULL;
}

static inline void feeder_shuffle(struct feeder *f)
{
	for (uint64_t i = 0; i < f->pages; i++)
		f->order[i] = i;
	for (uint64_t i = f->pages - 1; i > 0; i--) {
		uint64_t k = (uint64_t)rand_r(&f->seed) % (i + 1), page = f->order[k];

		f->order[k] = f->order[i];
		f->order[i] = page;
	}
}

/* Begins without its thread: pages come when it is started. */
static inline int feeder_begin(struct feeder *f, struct vm *vm, const uint64_t *missing,
			       struct error *e)
{
	const struct vm_lazy_events ev = {feeder_fault, f};

	f->vm = vm;
	f->pages = vm_ram_pages(vm);
	f->order = calloc(f->pages, sizeof(*f->order));
	f->asked = calloc(f->pages, sizeof(*f->asked));
	pthread_mutex_init(&f->lock, NULL);
	pthread_cond_init(&f->came, NULL);
	feeder_shuffle(f);
	return vm_lazy_begin(vm, missing, &ev, &f->lazy, e);
}

static inline int feeder_start(struct feeder *f)
{
	return thread_start(&f->thread, "feeder", feeder_main, f);
}

/* Waits until all have come, or with on_fault_only, tells it to stop. */
static inline void feeder_join(struct feeder *f)
{
	pthread_mutex_lock(&f->lock);
	f->stop = true;
	pthread_cond_signal(&f->came);
	pthread_mutex_unlock(&f->lock);
	pthread_join(f->thread, NULL);
}

static inline uint64_t feeder_asked(struct feeder *f)
{
	uint64_t n;

	pthread_mutex_lock(&f->lock);
	n = f->asked_count;
	pthread_mutex_unlock(&f->lock);
	return n;
}

static inline void feeder_free(struct feeder *f)
{
	free(f->order);
	free(f->asked);
	pthread_cond_destroy(&f->came);
	pthread_mutex_destroy(&f->lock);
}

#endif
