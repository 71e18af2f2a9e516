// SPDX-License-Identifier: Apache-2.0
#include "replicate/copier.h"

#include <emmintrin.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HELPERS_MAX    3u
#define CHUNK_PAGES    32u
#define HELP_PAGES     512u  /* to wake a helper costs as much as to copy some hundred */
#define STREAM_PAGES   2048u /* more do not stay in a cache until they are encoded */
#define PREFETCH_AHEAD 4u
#define SPINS          2000u /* some tens of microseconds: a chunk or two */

typedef void copy_fn(uint8_t *to, const uint8_t *from);

struct copier {
	pthread_mutex_t lock;
	pthread_cond_t work, idle;
	pthread_t threads[HELPERS_MAX];
	unsigned helpers;
	bool quit, open;     /* under lock; open: helpers may begin */
	uint64_t generation; /* of the job */
	atomic_uint active;  /* helpers at work; rises under lock */
	struct copy_job job;
	copy_fn *copy;
	_Atomic uint64_t next; /* page that nobody has taken */
};

/* ---- a page ------------------------------------------------------------------- */

static void copy_cached(uint8_t *to, const uint8_t *from)
{
	memcpy(to, from, VM_PAGE_SIZE);
}

/* Past the caches: the destination is not read first, and what is cached stays so. */
static void copy_streamed(uint8_t *to, const uint8_t *from)
{
	const __m128i *source = (const __m128i *)from;
	__m128i *target = (__m128i *)to;

	for (unsigned i = 0; i < VM_PAGE_SIZE / sizeof(*source); i++)
		_mm_stream_si128(target + i, _mm_load_si128(source + i));
}

/* Scattered pages are cold: what is slow is the start of each, so ask for it early. */
static void prefetch_page(const uint8_t *page)
{
	for (unsigned at = 0; at < 512; at += 64)
		__builtin_prefetch(page + at);
}

/* ---- a job --------------------------------------------------------------------- */

static void chunk_copy(const struct copy_job *j, copy_fn *copy, uint64_t first)
{
	uint64_t last = j->count - first < CHUNK_PAGES ? j->count : first + CHUNK_PAGES;

	for (uint64_t i = first; i < last; i++) {
		if (i + PREFETCH_AHEAD < last)
			prefetch_page(j->ram + j->pages[i + PREFETCH_AHEAD] * VM_PAGE_SIZE);
		copy(j->to + i * VM_PAGE_SIZE, j->ram + j->pages[i] * VM_PAGE_SIZE);
	}
}

static void chunks_copy(struct copier *c)
{
	uint64_t first;

	while ((first = atomic_fetch_add(&c->next, CHUNK_PAGES)) < c->job.count)
		chunk_copy(&c->job, c->copy, first);
	_mm_sfence(); /* streamed stores, before whatever says that they are done */
}

static void *helper_main(void *arg)
{
	struct copier *c = arg;
	uint64_t seen = 0;

	pthread_mutex_lock(&c->lock);
	for (;;) {
		while (!c->quit && (seen == c->generation || !c->open))
			pthread_cond_wait(&c->work, &c->lock);
		if (c->quit)
			break;
		seen = c->generation;
		atomic_fetch_add(&c->active, 1);
		pthread_mutex_unlock(&c->lock);
		chunks_copy(c);
		pthread_mutex_lock(&c->lock);
		if (atomic_fetch_sub(&c->active, 1) == 1)
			pthread_cond_signal(&c->idle);
	}
	pthread_mutex_unlock(&c->lock);
	return NULL;
}

void copier_start(struct copier *c, const struct copy_job *job)
{
	c->job = *job;
	c->copy = job->count > STREAM_PAGES ? copy_streamed : copy_cached;
	atomic_store(&c->next, 0);
	if (!c->helpers || job->count < HELP_PAGES)
		return;
	pthread_mutex_lock(&c->lock);
	c->generation++;
	c->open = true;
	pthread_cond_broadcast(&c->work);
	pthread_mutex_unlock(&c->lock);
}

void copier_finish(struct copier *c)
{
	chunks_copy(c);
	for (unsigned i = 0; i < SPINS && atomic_load(&c->active); i++)
		_mm_pause();
	pthread_mutex_lock(&c->lock);
	c->open = false;
	while (atomic_load(&c->active))
		pthread_cond_wait(&c->idle, &c->lock);
	pthread_mutex_unlock(&c->lock);
}

/* ---- begin and end ---------------------------------------------------------------- */

static unsigned helpers_wanted(void)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);

	if (cpus <= 1)
		return 0;
	return cpus - 1 < (long)HELPERS_MAX ? (unsigned)cpus - 1 : HELPERS_MAX;
}

int copier_create(struct copier **out)
{
	struct copier *c = calloc(1, sizeof(*c));
	unsigned wanted = helpers_wanted();
	int rc = 0;

	if (!c)
		return -ENOMEM;
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->work, NULL);
	pthread_cond_init(&c->idle, NULL);
	while (!rc && c->helpers < wanted) {
		rc = thread_start(&c->threads[c->helpers], "copy", helper_main, c);
		if (!rc)
			c->helpers++;
	}
	if (rc) {
		copier_destroy(c);
		return rc;
	}
	*out = c;
	return 0;
}

void copier_destroy(struct copier *c)
{
	if (!c)
		return;
	pthread_mutex_lock(&c->lock);
	c->quit = true;
	pthread_cond_broadcast(&c->work);
	pthread_mutex_unlock(&c->lock);
	for (unsigned i = 0; i < c->helpers; i++)
		pthread_join(c->threads[i], NULL);
	pthread_cond_destroy(&c->work);
	pthread_cond_destroy(&c->idle);
	pthread_mutex_destroy(&c->lock);
	free(c);
}
