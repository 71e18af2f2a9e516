// SPDX-License-Identifier: Apache-2.0
/*
 * A VM whose memory follows it. The target owns it and runs it; the source's process,
 * frozen for good, serves what is missing, and is known here as CHILD_SERVING: no copy in
 * the sense of ownership, but nobody may end it while it is needed. A link that was cut is
 * made again on an operator's word, with new keys that the two polluxds agree upon:
 *
 *   source  "recover" (session, key) ->  target: its process takes the keys
 *   source  <- "recovered"               and the source's process connects
 */
#include <errno.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <string.h>

#include "agent/guest.h"

#define LOG_MODULE "postcopy"
#define QUICK_NS   (15 * NS_PER_SEC)

/* asked: the other host was, in vain. */
static void link_failed(struct guest *g, int rc, bool asked)
{
	char hint[sizeof(g->operation.hint)];
	int n = snprintf(hint, sizeof(hint),
			 "`pollux migrate %s --recover` on %s goes on from there", g->name,
			 g->agent->config.name);

	if (asked)
		snprintf(hint + n, sizeof(hint) - (size_t)n,
			 "; if it does not run on %s any more, nothing is left to recover, and "
			 "`pollux stop %s --force` here ends what is held",
			 g->peer, g->name);
	guest_operation_fail(g, rc, g->why, hint);
}

bool guest_memory_missing(const struct guest *g)
{
	return g->own.state == OWN_ALONE && !strcmp(g->postcopy, "cut");
}

/* ---- what processes say ----------------------------------------------------------- */

/* A record that still says so would find no process. One that is being stored says it not. */
static void serving_end(struct guest *g)
{
	struct error e = {0};

	g->serving = false;
	if (!g->own.storing && guest_store(g, &g->own.record, &e))
		log_error("%s", e.text);
}

static void link_cut(struct guest *g, const char *why)
{
	timeline_add(&g->timeline, "link cut", "%s", why);
	guest_why(g, "its memory is on two hosts, and the link between them was cut: %s", why);
	log_warn("%s: %s", g->name, g->why);
	if (g->child_role == CHILD_SERVING && guest_operation_is(g, "migrate"))
		link_failed(g, -ENOTCONN, false);
}

/* What was said of a link that was cut is over; that it is not protected yet is not. */
static void linked(struct guest *g)
{
	g->why[0] = '\0';
	if (g->again.wanted && g->own.state == OWN_ALONE)
		guest_why(g, "it has arrived, and will be protected on %s", g->again.peer);
}

static void served(struct guest *g)
{
	timeline_add(&g->timeline, "served", "%s has all of its memory", g->peer);
	serving_end(g);
	g->retiring = true;
	g->migration.total_ns = clock_ns() - g->migration.began_ns;
	json_decref(g->migration.last);
	g->migration.last = json_incref(g->stats);
	guest_vm_kill(g);
}

void guest_serve(struct guest *g)
{
	g->child_role = CHILD_SERVING;
	g->serving = true;
	timeline_add(&g->timeline, "serving", "the rest of its memory follows");
	/* The guest may have had all of it before its host has said that it runs. */
	if (g->migration.served)
		served(g);
	else if (!strcmp(g->postcopy, "cut"))
		link_cut(g, "while it was handed over");
}

void guest_postcopy_event(struct guest *g, const json_t *message)
{
	const char *state = json_text_of(message, "state"), *why = json_text_of(message, "why");
	bool source = g->child_role == CHILD_SERVING;
	bool running = source || (g->own.state == OWN_ALONE && g->late);

	if (!strcmp(json_text_of(message, "side"), "source"))
		g->migration.postcopy_bytes = (uint64_t)json_integer_of(message, "bytes", 0);
	/* At a source that may go on it says nothing of the guest's memory. */
	if (source || g->late || g->own.state == OWN_HANDED)
		snprintf(g->postcopy, sizeof(g->postcopy), "%s", state);
	if (!strcmp(state, "cut") && running)
		link_cut(g, why);
	else if (!strcmp(state, "running"))
		linked(g);
	else if (!strcmp(state, "done") && source)
		served(g);
	else if (!strcmp(state, "done") && g->own.state == OWN_HANDED)
		g->migration.served = true;
	else if (!strcmp(state, "done"))
		timeline_add(&g->timeline, "complete", "all of its memory is here");
	if (!strcmp(state, "done"))
		g->postcopy[0] = '\0';
	/* Streams may come still: of a source that did not hear of it, and asks again. */
	g->complete |= !strcmp(state, "done") && g->late;
	guest_operation_check(g);
}

/* What a process says that an earlier polluxd has known. */
void guest_postcopy_found(struct guest *g, const json_t *stats)
{
	bool target = !strcmp(json_text_of(stats, "side"), "target");
	bool later = json_integer_of(stats, "missing", 0) > 0;

	if (g->child_role == CHILD_SERVING && !later) {
		served(g);
		return;
	}
	if (!json_is_object(stats))
		return;
	g->postcopy_streams = (unsigned)json_integer_of(stats, "streams", 1);
	g->late |= target;
	g->migration.postcopy |= !target && later;
	if (g->child_role == CHILD_SERVING && g->operation.state != OPERATION_RUNNING)
		guest_operation_begin(g, "migrate");
	guest_postcopy_event(g, stats);
}

/* ---- how it is ---------------------------------------------------------------------- */

static void pages_text(const json_t *left, char *out, size_t size)
{
	double mib = (double)json_integer_value(left) * 4096 / (1 << 20);

	if (left)
		snprintf(out, size, "%lld pages (%.1f MiB)", (long long)json_integer_value(left),
			 mib);
	else
		snprintf(out, size, "some pages");
}

static void memory_text(const struct guest *g, bool source, const char *pages, char *out,
			size_t size)
{
	bool cut = !strcmp(g->postcopy, "cut");

	if (source && cut)
		snprintf(
			out, size,
			"%s are held here, and %s lacks them; the link was cut: `pollux migrate %s "
			"--recover` here goes on",
			pages, g->peer, g->name);
	else if (source)
		snprintf(out, size, "%s are still to go to %s", pages, g->peer);
	else if (cut)
		snprintf(out, size,
			 "%s are missing here, and held by %s; the link was cut, and the VM stands "
			 "still: `pollux migrate %s --recover` on %s goes on; if they are lost "
			 "there, `pollux stop --force` here",
			 pages, g->peer, g->name, g->peer);
	else
		snprintf(out, size, "%s are still to come from %s", pages, g->peer);
}

json_t *guest_postcopy_json(const struct guest *g)
{
	bool source = g->child_role == CHILD_SERVING || g->own.state == OWN_HANDED;
	const char *here = g->agent->config.name;
	json_t *left = json_object_get(json_object_get(g->stats, "postcopy"), "left");
	char pages[64], text[512];

	pages_text(left, pages, sizeof(pages));
	memory_text(g, source, pages, text, sizeof(text));
	return json_pack("{s:s, s:s, s:O*, s:s, s:s, s:b, s:s}", "side",
			 source ? "source" : "target", "link", g->postcopy, "pages", left,
			 "held_by", source ? here : g->peer, "missing_on", source ? g->peer : here,
			 "recover", !strcmp(g->postcopy, "cut"), "text", text);
}

/* The process that served has ended before it was done. */
void guest_serving_lost(struct guest *g, const char *how)
{
	log_error("%s: the process that served its memory has ended: %s", g->name, how);
	timeline_add(&g->timeline, "memory lost", "%s", how);
	guest_why(g, "what %s lacks of its memory is lost: %s", g->peer, how);
	if (guest_operation_is(g, "stop"))
		guest_operation_done(g);
	else
		guest_operation_fail(g, -EIO, g->why,
				     "the VM cannot go on: stop it there by force, and start it "
				     "again or restore it");
	serving_end(g);
}

/* ---- recovery ------------------------------------------------------------------------ */

static json_t *keys_request(const struct session *s)
{
	json_t *o = guest_session_request(s, "recover");

	if (o)
		json_object_set_new(o, "handover", json_true());
	return o;
}

static void recover_failed(struct guest *g, int rc, const char *text)
{
	guest_why(g, "the link could not be made again: %s", text);
	link_failed(g, rc, true);
}

static void connected(void *ctx, int rc, const json_t *reply, const char *text)
{
	struct guest *g = ctx;

	session_key_wipe(&g->session);
	if (rc && rc != -EPIPE)
		recover_failed(g, rc, text);
	else if (!rc)
		timeline_add(&g->timeline, "recovered", "linked with %s again", g->peer);
}

/* The guest is off over there, with or without all of its memory. */
static void ended_there(struct guest *g)
{
	log_info("%s: it has ended on %s, and what was held for it is let go", g->name, g->peer);
	timeline_add(&g->timeline, "let go", "it has ended on %s", g->peer);
	guest_why(g, "it has ended on %s: nothing of its memory is left to recover", g->peer);
	if (guest_operation_is(g, "migrate"))
		guest_operation_fail(g, -ESHUTDOWN, g->why, "start it again there");
	serving_end(g);
	g->retiring = true;
	guest_vm_kill(g);
}

/* The target is ready. It may say so twice, when it was asked again over a new link: by then the
 * process has had the keys. */
static void recovered(struct guest *g, const json_t *message)
{
	struct peer *p = peers_find(g->agent->peers, g->peer);
	const char *why = json_text_of(message, "why");
	json_t *request;

	if (g->child_role != CHILD_SERVING || g->retiring || !p)
		return;
	if (json_is_true(json_object_get(message, "complete"))) {
		guest_answer_came(g);
		served(g);
		return;
	}
	if (json_true_of(message, "ended")) {
		guest_answer_came(g);
		ended_there(g);
		return;
	}
	if (!g->check.q.number)
		return;
	guest_answer_came(g);
	if (!json_is_true(json_object_get(message, "ok"))) {
		recover_failed(g, -EPERM, why);
		return;
	}
	request = keys_request(&g->session);
	if (request) {
		json_object_set_new(request, "address", json_string(peer_config(p)->address));
		json_object_set_new(request, "port", json_integer(peer_config(p)->port));
	}
	guest_child_ask(g, request, QUICK_NS, connected);
}

static void recovered_send(struct guest *g, int rc, const char *text)
{
	struct peer *p = peers_find(g->agent->peers, g->peer);
	json_t *o = json_pack("{s:s, s:s, s:b, s:s, s:b, s:b}", "type", "recovered", "vm", g->name,
			      "ok", !rc, "why", rc ? text : "", "complete", !rc && g->complete,
			      "ended", g->gone);

	if (!p || peer_send(p, o))
		log_warn("%s: %s could not be told about the recovery", g->name, g->peer);
}

/* The source is told unasked, so that it does not hold what nobody will ask it for. */
void guest_late_ended(struct guest *g)
{
	g->gone = true;
	recovered_send(g, g->complete ? 0 : -ESHUTDOWN, "it has ended there");
}

static void keys_taken(void *ctx, int rc, const json_t *reply, const char *text)
{
	struct guest *g = ctx;

	if (!rc && g->recovery.term) {
		g->session = g->recovery;
		session_key_wipe(&g->session);
		g->late = true;
	}
	session_wipe(&g->recovery);
	recovered_send(g, rc, text);
}

static int recovery_take(struct guest *g, const json_t *message)
{
	const struct agent_config *c = &g->agent->config;
	json_int_t term = json_integer_of(message, "term", 0);
	json_int_t streams = json_integer_of(message, "streams", 1);
	struct session *s = &g->recovery;

	*s = (struct session){.term = (uint64_t)term,
			      .options = {.mode = "event", .policy = "continue", .handover = true},
			      .heartbeat_ms = (unsigned)(c->heartbeat_ns / NS_PER_MS),
			      .loss_ms = (unsigned)(c->loss_ns / NS_PER_MS)};
	s->options.streams = (unsigned)streams;
	if (term > 0 && streams >= 0 && streams < CHANNEL_STREAMS_MAX &&
	    !hex_decode(json_text_of(message, "session"), s->id, SESSION_ID_SIZE) &&
	    !hex_decode(json_text_of(message, "key"), s->key, SESSION_KEY_SIZE))
		return 0;
	session_wipe(s);
	return -EBADMSG;
}

/* At the target: the source's polluxd has chosen new keys. The session of now stays what it is
 * until the process has taken them. */
static void recover_asked(struct guest *g, const json_t *message)
{
	if (g->complete)
		recovered_send(g, 0, "");
	else if (g->gone)
		recovered_send(g, -ESHUTDOWN, "it has ended there");
	else if (g->own.state != OWN_ALONE || g->child_role != CHILD_VM)
		recovered_send(g, -EPERM, "it does not run there");
	else if (recovery_take(g, message))
		recovered_send(g, -EBADMSG, "its keys could not be read");
	else
		guest_child_ask(g, keys_request(&g->recovery), QUICK_NS, keys_taken);
}

void guest_serving_give_up(struct guest *g)
{
	log_warn("%s: what %s lacks of its memory is given up", g->name, g->peer);
	timeline_add(&g->timeline, "given up", "by the operator");
	guest_vm_kill(g);
}

void guest_recover_message(struct agent *a, struct peer *from, const json_t *message)
{
	struct guest *g = guest_find(a, json_text_of(message, "vm"));

	if (!g || strcmp(g->peer, peer_config(from)->name) != 0) {
		log_warn("%s wants to recover a VM that is not its own", peer_config(from)->name);
		return;
	}
	if (!strcmp(json_text_of(message, "type"), "recover"))
		recover_asked(g, message);
	else
		recovered(g, message);
}

int guest_recover_send(struct guest *g)
{
	struct peer *p = peers_find(g->agent->peers, g->peer);
	char id[2 * SESSION_ID_SIZE + 1], key[2 * SESSION_KEY_SIZE + 1];
	json_t *o;

	hex_encode(g->session.id, SESSION_ID_SIZE, id);
	hex_encode(g->session.key, SESSION_KEY_SIZE, key);
	o = json_pack("{s:s, s:s, s:s, s:s, s:I, s:i}", "type", "recover", "vm", g->name, "session",
		      id, "key", key, "term", (json_int_t)g->session.term, "streams",
		      (int)g->session.options.streams);
	explicit_bzero(key, sizeof(key));
	return p ? peer_send(p, o) : -ENOTCONN;
}

int guest_migrate_recover(struct guest *g, struct error *e, const char **hint)
{
	struct protect_options o = {.mode = "event", .policy = "continue", .handover = true};
	int rc;

	if (g->child_role != CHILD_SERVING)
		return guest_refuse(e, hint, -EPERM,
				    g->postcopy[0] ? "run it on the host that holds its memory"
						   : "`pollux status` says how it is",
				    "no memory of %s waits on this host", g->name);
	if (strcmp(g->postcopy, "cut") != 0)
		return guest_refuse(e, hint, -EALREADY, "`pollux status` says how much is to come",
				    "the link to %s is up, and the memory of %s on its way",
				    g->peer, g->name);
	rc = guest_busy(g, e, hint);
	if (!rc)
		rc = guest_peer_ready(g, g->peer, e, hint);
	if (rc)
		return rc;
	o.streams = g->postcopy_streams ? g->postcopy_streams : g->session.options.streams;
	rc = guest_session_make(g, &o, e);
	if (!rc)
		rc = guest_recover_send(g);
	if (rc)
		return error_set(e, rc, "%s cannot be asked: %s", g->peer, strerror(-rc));
	guest_operation_begin(g, "migrate");
	guest_answer_wait(g);
	timeline_add(&g->timeline, "recover asked", "to %s", g->peer);
	return 0;
}
