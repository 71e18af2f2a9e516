// SPDX-License-Identifier: Apache-2.0
/*
 * Can a VM go on at another host? Everything that is in the way, before anything is begun.
 *
 *   preflight_describe()  where it runs: what it needs
 *   preflight_facts()     where it shall go: what of that is there. Looks at files, devices
 *                         and /proc, waits for disks at most
 *   preflight_judge()     holds one against the other. Pure
 *   preflight_check()     the last two
 *
 * What it needs, an offer: "vm", "identity", "term", "config",
 * "origin", "engine", "cpu", "vcpus", "memory", "cpuid": [[function, index, indexed, EAX, EBX, ECX,
 * EDX]], "sections": [{"id", "version", "name"}], "storage": "mirror" or "shared", "overwrite",
 * "assume_same", "protect_on": where it shall be protected afterwards, "protected": it is now,
 * "disks": [{"path", "size", "readonly", "allocated", "kind", "same", "wwid"}].
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
	const char *protect_on; /* NULL: nowhere */
	bool is_protected;
};

/* NULL: `e` says why. Writes a random mark to shared image files, for the other host to find. */
json_t *preflight_describe(const struct guest *g, const struct preflight_options *o,
			   struct error *e) MUST_CHECK;
json_t *preflight_check(struct agent *a, const json_t *offer) MUST_CHECK;

json_t *preflight_facts(struct agent *a, const json_t *offer) MUST_CHECK;
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
