// SPDX-License-Identifier: Apache-2.0
/* Words to and from the polluxd of the other side. */
#include <errno.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/guest.h"
#include "agent/ownership_steps.h"

#define LOG_MODULE "words"

int guest_session_make(struct guest *g, const struct protect_options *o, struct error *e)
{
	struct session *s = &g->session;

	session_wipe(s);
	if (RAND_bytes(s->id, sizeof(s->id)) != 1 || RAND_bytes(s->key, sizeof(s->key)) != 1)
		return error_set(e, -EIO, "OpenSSL has no random numbers");
	s->term = g->own.record.term + TERM_SESSION;
	s->options = *o;
	s->heartbeat_ms = (unsigned)(g->agent->config.heartbeat_ns / NS_PER_MS);
	s->loss_ms = (unsigned)(g->agent->config.loss_ns / NS_PER_MS);
	return 0;
}

/* ---- telling ----------------------------------------------------------------------- */

static json_t *offer_of(struct guest *g, uint64_t term)
{
	struct offer *o = calloc(1, sizeof(*o));
	struct error e = {0};
	json_t *json = NULL;

	if (!o || g->session.term != term)
		goto out_offer;
	o->session = g->session;
	if (g->session.options.handover && g->chain.then.wanted) {
		snprintf(o->then_to, sizeof(o->then_to), "%s", g->chain.then.peer);
		o->then = g->chain.then.options;
	}
	if (guest_disks_describe(g, o, &e)) {
		log_error("%s: %s", g->name, e.text);
		goto out_offer;
	}
	o->config = strdup(g->config);
	o->origin = strdup(g->origin);
	if (o->config && o->origin)
		json = offer_json(o);
out_offer:
	offer_free(o);
	return json;
}

static json_t *word_json(const struct guest *g, enum ownership_word word, uint64_t term,
			 bool can_fence)
{
	json_t *o = json_pack("{s:s, s:s, s:s, s:I, s:b}", "type", "word", "vm", g->name, "word",
			      ownership_word_name(word), "term", (json_int_t)term, "can_fence",
			      can_fence);
	bool says_no = word == WORD_REFUSE || word == WORD_DROPPED;

	/* Where no copy is there is no VM either, only terms of that name. */
	if (o && g->identity[0] && g->own.record.role != ROLE_NONE)
		json_object_set_new(o, "identity", json_string(g->identity));
	if (o && word == WORD_OWN && g->arrival.heard_ns)
		json_object_set_new(o, "took", guest_took_json(g));
	if (o && says_no && g->refusal[0])
		json_object_set_new(o, "why", json_text(g->refusal));
	return o;
}

void guest_tell(struct guest *g, enum ownership_word word, uint64_t term, bool can_fence)
{
	struct peer *p = peers_find(g->agent->peers, g->peer);
	json_t *o, *offer;
	int rc;

	/* The streams are not to come before the replica can take them. */
	if (word == WORD_ACCEPT && !g->replica_up) {
		g->accept_owed = true;
		return;
	}
	if (!p)
		return;
	o = word_json(g, word, term, can_fence);
	if (o && word == WORD_OFFER) {
		offer = offer_of(g, term);
		if (!offer) {
			json_decref(o);
			return;
		}
		json_object_set_new(o, "offer", offer);
	}
	if (word == WORD_RELEASED)
		guest_released_said(g);
	log_debug("%s: to %s: %s %llu", g->name, g->peer, ownership_word_name(word),
		  (unsigned long long)term);
	rc = peer_send(p, o);
	if (rc && rc != -ENOTCONN)
		log_warn_rc(rc, "%s: cannot tell %s", g->name, g->peer);
}

/* ---- hearing ------------------------------------------------------------------------- */

static void answer_send(struct guest *g, struct peer *to, enum ownership_word word, uint64_t term,
			const char *why)
{
	json_t *o = word_json(g, word, term, false);

	if (o && why)
		json_object_set_new(o, "why", json_text(why));
	if (peer_send(to, o))
		log_debug("%s: no answer to %s", g->name, peer_config(to)->name);
}

/* Two VMs may have one name. What is said of the other's terms would end this one's copy,
 * or be an offer to put that one in its place. (What says no does no harm, and has to be
 * heard: who refuses an offer has another VM.) */
static bool of_another_vm(const struct guest *g, const struct word *w)
{
	bool says_no = w->word == WORD_REFUSE || w->word == WORD_DROPPED;

	return !says_no && g->own.state != OWN_NONE && g->identity[0] && w->identity[0] &&
	       strcmp(g->identity, w->identity) != 0;
}

static void another_vm_answer(struct guest *g, struct peer *from, const struct word *w)
{
	char why[256];

	if (w->word != WORD_OFFER) {
		answer_send(g, from, WORD_DROPPED, w->term, NULL);
		return;
	}
	snprintf(why, sizeof(why),
		 "%s has another VM of that name (%s): give one of them a new one",
		 g->agent->config.name, guest_state_name(g));
	log_warn("%s: an offer by %s is refused: it is another VM of that name", g->name,
		 peer_config(from)->name);
	answer_send(g, from, WORD_REFUSE, w->term, why);
}

/* A host that is not the other side of this VM (any more) may still hold a copy of long
 * ago: it is told who owns the VM, and that is all. */
static void stranger_answer(struct guest *g, struct peer *from, const struct word *w)
{
	const struct ownership_record *r = &g->own.record;
	bool owner = r->role == ROLE_OWNER || r->role == ROLE_PRIMARY;

	char why[256];

	snprintf(why, sizeof(why), "%s knows it with %s as the other host (%s)",
		 g->agent->config.name, g->peer, guest_state_name(g));
	if (owner && !g->own.storing && r->term > w->term)
		answer_send(g, from, WORD_OWN, r->term, NULL);
	else if (w->word == WORD_OFFER)
		answer_send(g, from, WORD_REFUSE, w->term, why);
}

/* Whose words count: the other side's; and who offers us a twin, or owned the VM before
 * we ever heard of it, becomes the other side when there is nothing here to lose. */
static bool other_side(struct guest *g, struct peer *from, const struct word *w)
{
	const char *name = peer_config(from)->name;
	bool nothing_here = g->own.state == OWN_NONE;

	if (!strcmp(g->peer, name))
		return true;
	if (!g->peer[0] || nothing_here) {
		guest_peer_set(g, name);
		return true;
	}
	return false;
}

static void word_feed(struct guest *g, const struct word *w)
{
	bool handover = w->word == WORD_OFFER && g->offer && g->offer->session.term == w->term &&
			g->offer->session.options.handover;

	/* Of an offer; later, and when repeated, it says less than what is known already. */
	if (w->why[0] && (g->own.state == OWN_PRIMARY || g->own.state == OWN_FREEZING ||
			  g->own.state == OWN_HANDED))
		guest_why(g, "%s refuses: %s", g->peer, w->why);
	guest_feed(g, &(struct ownership_input){.type = OWN_EV_WORD,
						.word = w->word,
						.term = w->term,
						.can_fence = w->can_fence,
						.handover = handover});
}

static int guest_of_word(struct agent *a, const struct word *w, struct guest **out)
{
	struct error e = {0};
	int rc;

	*out = guest_find(a, w->vm);
	if (*out)
		return 0;
	rc = guest_create(a, w->vm, out, &e);
	if (rc)
		log_warn("%s", e.text);
	else
		guest_feed_type(*out, OWN_EV_START);
	return rc;
}

static void word_take(struct agent *a, struct peer *from, struct word *w)
{
	struct guest *g;

	if (guest_of_word(a, w, &g))
		return;
	log_debug("%s: from %s: %s %llu", g->name, peer_config(from)->name,
		  ownership_word_name(w->word), (unsigned long long)w->term);
	if (of_another_vm(g, w)) {
		another_vm_answer(g, from, w);
		return;
	}
	if (w->word == WORD_OFFER && g->own.state == OWN_NONE)
		snprintf(g->identity, sizeof(g->identity), "%s", w->identity);
	if (!other_side(g, from, w)) {
		stranger_answer(g, from, w);
		return;
	}
	if (w->offer && (!g->offer || w->term > g->offer->session.term)) {
		offer_free(g->offer);
		g->offer = w->offer;
		g->offer->session.term = w->term;
		w->offer = NULL;
	}
	if (w->word == WORD_RELEASED)
		guest_released_heard(g);
	if (w->word == WORD_OWN)
		guest_took(g, &w->took);
	word_feed(g, w);
}

void guest_message(struct agent *a, struct peer *from, const json_t *message)
{
	const char *type = json_text_of(message, "type");
	struct error e = {0};
	struct word w;

	if (!strcmp(type, "recover") || !strcmp(type, "recovered")) {
		guest_recover_message(a, from, message);
		return;
	}
	if (!strcmp(type, "probe") || !strcmp(type, "probed")) {
		guest_probe_message(a, from, message);
		return;
	}
	if (!strcmp(type, "check") || !strcmp(type, "checked")) {
		guest_check_message(a, from, message);
		return;
	}
	if (strcmp(type, "word") != 0) {
		log_warn("%s sent a message of unknown type \"%.32s\"", peer_config(from)->name,
			 type);
		return;
	}
	if (word_parse(message, &w, &e))
		log_warn("%s sent a word that cannot be read: %s", peer_config(from)->name, e.text);
	else
		word_take(a, from, &w);
	offer_free(w.offer);
}
