// SPDX-License-Identifier: Apache-2.0
/* Before a migration: how fast the guest writes its memory, and what its pages take to encode.
 * On a thread of its own; log-dirty is on only within it. */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "vm-process/process.h"

#define LOG_MODULE    "measure"
#define PAGES_MOST    1024u
#define ENCODINGS_MAX 2
#define SESSION_NS    (200 * NS_PER_MS)

/* What is written over and over counts once in each: together they tell it from the rest. */
static const uint64_t sample_ns[MIGRATE_SAMPLES] = {10 * NS_PER_MS, 40 * NS_PER_MS,
						    160 * NS_PER_MS};

struct measure {
	struct process *process;
	pthread_t thread;
	atomic_bool cancelled;
	enum page_compression ways[ENCODINGS_MAX];
	unsigned way_count;
	/* What came of it: of the main thread when the thread has ended. */
	int rc;
	struct error error;
	struct migrate_sample dirty[MIGRATE_SAMPLES];
	struct pages_sample encoded[ENCODINGS_MAX];
	bool session;
};

/* ---- the thread ---------------------------------------------------------------- */

static bool session_count(struct process *p, uint64_t *pages, uint64_t *epochs)
{
	struct replicate_stats s;
	bool there;

	pthread_mutex_lock(&p->lock);
	there = p->replicator;
	if (there)
		replicator_stats(p->replicator, &s);
	pthread_mutex_unlock(&p->lock);
	*pages = there ? s.pages : 0;
	*epochs = there ? s.acknowledged : 0;
	return there;
}

/* A session logs already: what it sends is what was written, a page at most once an epoch. */
static int session_sample(struct measure *m)
{
	struct timespec t = {0, SESSION_NS};
	uint64_t pages[2], epochs[2], began = clock_ns(), ns;

	if (!session_count(m->process, &pages[0], &epochs[0]))
		return -EBUSY;
	(void)nanosleep(&t, NULL);
	if (!session_count(m->process, &pages[1], &epochs[1]))
		return -EBUSY;
	ns = clock_ns() - began;
	m->session = true;
	pages[1] -= pages[0];
	epochs[1] -= epochs[0];
	m->dirty[0] = (struct migrate_sample){ns, pages[1]};
	if (epochs[1] < 2)
		return 0;
	m->dirty[0] = (struct migrate_sample){ns / epochs[1], pages[1] / epochs[1]};
	m->dirty[1] = (struct migrate_sample){ns, pages[1]};
	return 0;
}

static int own_sample(struct measure *m)
{
	int rc = 0;

	for (unsigned i = 0; i < MIGRATE_SAMPLES && !rc; i++) {
		uint64_t began = clock_ns();

		if (atomic_load(&m->cancelled))
			return -ECANCELED;
		rc = vm_dirty_sample(m->process->vm, sample_ns[i], &m->dirty[i].pages);
		m->dirty[i].ns = clock_ns() - began;
	}
	return rc;
}

static int pages_measure(struct measure *m)
{
	int rc = 0;

	for (unsigned i = 0; i < m->way_count && !rc; i++)
		rc = pages_sample(m->process->vm, m->ways[i], PAGES_MOST, &m->encoded[i]);
	return rc;
}

static int measure_run(struct measure *m)
{
	int rc = fault_point("measure.sample");

	if (!rc)
		rc = own_sample(m);
	if (rc == -EBUSY)
		rc = session_sample(m);
	if (rc)
		return error_set(&m->error, rc, "the rate at which the guest writes: %s",
				 rc == -ECANCELED ? "interrupted" : strerror(-rc));
	rc = pages_measure(m);
	return rc ? error_set(&m->error, rc, "the guest's pages: %s", strerror(-rc)) : 0;
}

/* ---- its end -------------------------------------------------------------------- */

static json_t *dirty_json(const struct measure *m)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < MIGRATE_SAMPLES && m->dirty[i].ns; i++)
		json_array_append_new(list,
				      json_pack("{s:I, s:I}", "ns", (json_int_t)m->dirty[i].ns,
						"pages", (json_int_t)m->dirty[i].pages));
	return list;
}

static json_t *encodings_json(const struct measure *m)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < m->way_count; i++) {
		const struct pages_sample *s = &m->encoded[i];
		unsigned n = s->filled ? s->filled : 1;

		json_array_append_new(list, json_pack("{s:s, s:I, s:I}", "compression",
						      compression_name(m->ways[i]), "encode_ns",
						      (json_int_t)(s->ns / n), "wire_bytes",
						      (json_int_t)(s->bytes / n)));
	}
	return list;
}

static json_t *event_json(const struct measure *m)
{
	const struct pages_sample *s = &m->encoded[0];
	json_t *o = json_pack("{s:s, s:b}", "event", "measured", "ok", !m->rc);

	if (m->rc) {
		json_object_set_new(o, "code", json_integer(m->rc));
		json_object_set_new(o, "error", json_string(m->error.text));
		return o;
	}
	json_object_set_new(o, "ram_pages", json_integer((json_int_t)vm_ram_pages(m->process->vm)));
	json_object_set_new(
		o, "pages",
		json_integer(s->looked ? (json_int_t)(s->touched * s->filled / s->looked) : 0));
	json_object_set_new(o, "session", json_boolean(m->session));
	json_object_set_new(o, "dirty", dirty_json(m));
	json_object_set_new(o, "encodings", encodings_json(m));
	return o;
}

static void measure_ended(void *ctx)
{
	struct process *p = ctx;
	struct measure *m = p->measure;

	if (!m) /* measure_end() has waited for it */
		return;
	pthread_join(m->thread, NULL);
	p->measure = NULL;
	if (m->rc)
		log_info("not measured: %s", m->error.text);
	process_event(p, event_json(m));
	free(m);
}

static void *measure_main(void *ctx)
{
	struct measure *m = ctx;
	struct process *p = m->process;

	log_context_vm(p->config.name);
	m->rc = measure_run(m);
	process_post(p, measure_ended, p);
	return NULL;
}

void measure_end(struct process *p)
{
	if (!p->measure)
		return;
	atomic_store(&p->measure->cancelled, true);
	measure_ended(p);
}

/* ---- its begin -------------------------------------------------------------------- */

static int may_measure(const struct process *p, struct error *e)
{
	if (!p->vm || p->role != ROLE_PRIMARY || !p->vm_started || p->vm_ended)
		return error_set(e, -EINVAL, "the vm does not run here");
	if (p->measure)
		return error_set(e, -EBUSY, "it is being measured already");
	if (p->dump || p->image || p->image_saved || p->paused)
		return error_set(e, -EBUSY, "the vm stands still, or is being written to a file");
	return process_whole(p, e);
}

/* AUTO may become either. */
static int ways_take(const json_t *request, struct measure *m, struct error *e)
{
	int compression = COMPRESS_AUTO, rc = compression_parse(request, &compression, e);

	m->ways[0] = (enum page_compression)compression;
	m->way_count = 1;
	if (compression == COMPRESS_AUTO) {
		m->ways[0] = COMPRESS_NONE;
		m->ways[1] = COMPRESS_LZ4;
		m->way_count = 2;
	}
	return rc;
}

int measure_begin(struct process *p, const json_t *request, struct error *e)
{
	struct measure *m;
	int rc = may_measure(p, e);

	if (rc)
		return rc;
	m = calloc(1, sizeof *m);
	if (!m)
		return error_set(e, -ENOMEM, "no memory");
	m->process = p;
	rc = ways_take(request, m, e);
	if (!rc) {
		p->measure = m;
		rc = thread_start(&m->thread, "measure", measure_main, m);
		if (rc)
			error_set(e, rc, "cannot start a thread: %s", strerror(-rc));
	}
	if (rc) {
		p->measure = NULL;
		free(m);
	}
	return rc;
}
