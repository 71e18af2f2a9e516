// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent/guest.h"
#include "agent/host.h"

#define LOG_MODULE "fence"

static struct peer_fence *fence_of(struct agent *a, const char *peer,
				   const struct peer_config **config)
{
	for (unsigned i = 0; i < a->config.peer_count; i++) {
		if (strcmp(a->config.peers[i].name, peer) != 0)
			continue;
		*config = &a->config.peers[i];
		return &a->fences[i];
	}
	return NULL;
}

/* A guest that is told may ask again at once: that is for the next run. */
static void waiting_tell(struct peer_fence *f, bool confirmed, const char *text)
{
	LIST_HEAD(, fence_wait) now = LIST_HEAD_INITIALIZER(now);
	struct fence_wait *w;

	while ((w = LIST_FIRST(&f->waiting))) {
		LIST_REMOVE(w, entry);
		LIST_INSERT_HEAD(&now, w, entry);
	}
	while ((w = LIST_FIRST(&now))) {
		struct guest *g = w->guest;
		unsigned id = w->id;

		LIST_REMOVE(w, entry);
		free(w);
		guest_fenced(g, id, confirmed, text);
	}
}

static void fence_done(void *ctx, bool confirmed, const char *text)
{
	struct peer_fence *f = ctx;

	f->run = NULL;
	if (confirmed) {
		f->confirmed++;
		log_info("%s", text);
	} else {
		f->agent->counters.fence_failures++;
		log_error("%s", text);
	}
	waiting_tell(f, confirmed, text);
}

/* A guest's own event queue puts an answer given inside this call behind what it does now. */
void host_fence(struct agent *a, struct guest *g, const char *peer, unsigned id)
{
	const struct peer_config *config = NULL;
	struct peer_fence *f = fence_of(a, peer, &config);
	struct fence_wait *w = calloc(1, sizeof(*w));
	struct error e = {0};

	if (!f || !config->fence.command[0] || !w) {
		free(w);
		guest_fenced(g, id, false,
			     f ? "no fence command is configured" : "the peer is not configured");
		return;
	}
	*w = (struct fence_wait){.guest = g, .id = id};
	LIST_INSERT_HEAD(&f->waiting, w, entry);
	if (f->run)
		return;
	f->agent = a;
	f->runs++;
	log_info("fencing %s with %s", peer, config->fence.command);
	if (fence_start(a->loop, &config->fence, fence_done, f, &f->run, &e))
		fence_done(f, false, e.text);
}

void host_fence_forget(struct agent *a, const struct guest *g)
{
	for (unsigned i = 0; i < a->config.peer_count; i++) {
		struct fence_wait *w, *next;

		for (w = LIST_FIRST(&a->fences[i].waiting); w; w = next) {
			next = LIST_NEXT(w, entry);
			if (w->guest != g)
				continue;
			LIST_REMOVE(w, entry);
			free(w);
		}
	}
}

void host_fences_end(struct agent *a)
{
	for (unsigned i = 0; i < a->config.peer_count; i++)
		fence_cancel(a->fences[i].run);
}
