// SPDX-License-Identifier: Apache-2.0
/*
 * Messages between polluxds (docs/protocol.md, "peer"): from JSON to structs, each
 * field checked before anything is acted upon. Pure.
 */
#ifndef POLLUX_AGENT_PEER_MESSAGE_H
#define POLLUX_AGENT_PEER_MESSAGE_H

#include <jansson.h>

#include "agent/agent.h"
#include "agent/ownership.h"
#include "channel/channel.h"
#include "hypervisor/hypervisor.h"

#define OFFER_CONFIG_MAX (64u * 1024)
#define VM_IDENTITY_LEN  32 /* hexadecimal digits: two VMs of one name are not the same VM */

/* What an operator may choose for a protection; the words are those of vm-process.h. */
struct protect_options {
	char mode[16], policy[16], compression[16];
	unsigned interval_ms, streams, window, delta_mb; /* 0 = leave it to pollux-vm */
	bool overwrite; /* what lies on the standby's disks may go */
	/* Not an operator's, but said in offers. */
	bool handover;         /* a migration */
	char storage[16];      /* "mirror", or "shared": both hosts see the same ones */
	unsigned shared_disks; /* with "mirror", bit i: they do of disk i, and it is not copied */
};
/* As bits. Should the other host take over, then what this one has of those copied is old. */
unsigned session_disks_shared(const struct protect_options *p);
unsigned session_disks_copied(const struct protect_options *p);
/* {"mode", "policy", "compression", "interval_ms", "streams", "window", "delta_mb",
 * "overwrite"}, all optional; other keys are refused when `strict`. */
int protect_options_parse(const json_t *o, bool strict, struct protect_options *out,
			  struct error *e) MUST_CHECK;

/* All of them: what is in an offer, and in a record. */
json_t *session_options_json(const struct protect_options *p);
int session_options_parse(const json_t *o, struct protect_options *out, struct error *e) MUST_CHECK;

/* One protection session, as both sides know it. */
struct session {
	uint64_t term; /* 0 = none */
	uint8_t id[SESSION_ID_SIZE], key[SESSION_KEY_SIZE];
	struct protect_options options;
	unsigned heartbeat_ms, loss_ms;
};
void session_wipe(struct session *s);
void session_key_wipe(struct session *s); /* whoever needs it has it */

struct offer {
	struct session session;
	char *config, *origin;
	char then_to[AGENT_NAME_MAX + 1]; /* migration: protect it there afterwards; "" = do not */
	struct protect_options then;
	unsigned disk_count;
	struct offered_disk {
		char path[256];
		char wwid[128]; /* a unique name of a block device; "" = none, or not said */
		uint64_t size;
		bool readonly;
	} disks[VM_DISKS_MAX];
};
void offer_free(struct offer *o);
json_t *offer_json(const struct offer *o);
int offer_parse(const json_t *json, struct offer **out, struct error *e) MUST_CHECK;

/* With the OWN that ends a migration: what the target took; nanoseconds. */
struct word_took {
	uint64_t all; /* from RELEASED on, of which: */
	uint64_t load, store, start;
};
json_t *word_took_json(const struct word_took *t);

struct word {
	char vm[VM_NAME_MAX + 1];
	char identity[VM_IDENTITY_LEN + 1]; /* "" = not said */
	enum ownership_word word;
	uint64_t term;
	bool can_fence;
	char why[256];
	struct word_took took; /* 0: not said */
	struct offer *offer;   /* WORD_OFFER only; the receiver takes it */
};
bool vm_identity_ok(const char *text);
int word_parse(const json_t *message, struct word *out, struct error *e) MUST_CHECK;

#endif
