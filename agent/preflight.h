// SPDX-License-Identifier: Apache-2.0
/*
 * Can a VM go on at another host? Everything that is in the way, before anything is begun.
 *
 *   preflight_about()     where it runs: which VM. On the loop
 *   preflight_describe()  ...and what it needs
 *   preflight_standing()  where it shall go: what that VM is there. On the loop
 *   preflight_facts()     ...and what of its needs is there
 *   preflight_judge()     holds one against the other. Pure
 *   preflight_check()     the last two
 *
 * To describe, and to find facts, is to look at files, devices and /proc, and may wait for disks:
 * these are for threads beside the loop, and know nothing of guests.
 *
 * What it needs, an offer: "vm", "identity", "term", "config",
 * "origin", "engine", "cpu", "vcpus", "memory", "cpuid": [[function, index, indexed, EAX, EBX, ECX,
 * EDX]], "sections": [{"id", "version", "name"}], "storage": "mirror" or "shared", "overwrite",
 * "assume_same", "postcopy": "asked", "if-stuck" or absent, "protect_on": where it shall be
 * protected afterwards, "protected": it is now, "disks": [{"path", "size", "readonly", "allocated",
 * "kind", "same", "wwid"}].
 *
 * The answer: {"possible": bool, "reasons": [{"code", "severity": "error" or "warning",
 * "sentence", "hint", "override": an option that lets it pass, where there is one}], "host":
 * the facts}.
 */
#ifndef POLLUX_AGENT_PREFLIGHT_H
#define POLLUX_AGENT_PREFLIGHT_H

#include "agent/guest.h"

struct preflight_options {
	bool with_disks;        /* they are copied; else both hosts see the same ones */
	bool overwrite;         /* what lies on the target's disks may go */
	bool assume_same;       /* the operator's word that shared disks are the same ones */
	const char *postcopy;   /* "asked"; "if-stuck": only if precopy does not suffice; or NULL */
	const char *protect_on; /* NULL: nowhere */
	bool is_protected;
};

/* {"vm", "identity", "term", "config", "origin", "engine"}. */
json_t *preflight_about(const struct guest *g) MUST_CHECK;
/* NULL: `e` says why. Writes a random mark to shared image files, for the other host to find. */
json_t *preflight_describe(const json_t *about, const struct preflight_options *o,
			   struct error *e) MUST_CHECK;
/* {"host": name, "guest": how it is known there, "pid": of its process there}. */
json_t *preflight_standing(struct agent *a, const json_t *offer) MUST_CHECK;
json_t *preflight_check(const json_t *standing, const json_t *offer) MUST_CHECK;

json_t *preflight_facts(const json_t *standing, const json_t *offer) MUST_CHECK;
json_t *preflight_judge(const json_t *offer, const json_t *facts) MUST_CHECK;

/* preflight_disk.c. What a disk's path is: "kind" ("none", "file", "block", "other"), "size",
 * "allocated", "wwid"; with `mark` also "same", what was written there. */
json_t *preflight_disk(const char *path);
/* The mark of an image file: -errno where there can be none. */
#define PREFLIGHT_MARK_LEN 32
int preflight_mark_write(const char *path, const char *mark) MUST_CHECK;
int preflight_mark_read(const char *path, char out[PREFLIGHT_MARK_LEN + 1]) MUST_CHECK;

/* preflight_cpu.c */
json_t *preflight_cpuid(const char *engine, const char *cpu, unsigned vcpus,
			struct error *e) MUST_CHECK;
/* Names of features that `needed` has and `there` lacks; and whether they differ otherwise: the
 * first leaf, as a sentence in `other`, or "". */
json_t *preflight_features_missing(const json_t *needed, const json_t *there) MUST_CHECK;
void preflight_leaves_differ(const json_t *needed, const json_t *there, char *other, size_t room);

#endif
