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
 * What it needs, an offer: "vm", "identity", "term", "config", "origin", "engine", "cpu", "vcpus",
 * "memory", "hugepages": it is in such; "cpuid": what the guest has seen, or if that is not known
 * what its host offers: [[function, index, indexed, EAX, EBX, ECX, EDX]], "cpu_limits": what it
 * has beside that, if its process says so: {"tsc_khz", "promises": [[MSR, value]]}, "sections":
 * [{"id", "version", "name"}], "storage": "mirror" or "shared", "per_disk": with "mirror", what
 * both hosts see is not copied (an older one would), "overwrite", "assume_same", "postcopy":
 * "asked", "if-stuck" or absent, "protect_on": where it shall be protected afterwards, "protected":
 * it is now, "disks": [{"path", "size", "readonly", "allocated", "kind", "same", "wwid",
 * "unique"}].
 *
 * The answer: {"possible": bool, "reasons": [{"code", "severity": "error" or "warning",
 * "sentence", "hint", "override": an option that lets it pass, where there is one, "names": all
 * CPU features that it is about}], "shared_disks": with "mirror", bit i: disk i is not copied;
 * "host": the facts}.
 */
#ifndef POLLUX_AGENT_PREFLIGHT_H
#define POLLUX_AGENT_PREFLIGHT_H

#include "agent/guest.h"
#include "agent/marks.h"

struct preflight_options {
	bool with_disks;        /* but for those that both hosts see they are copied */
	bool overwrite;         /* what lies on the target's disks may go */
	bool assume_same;       /* the operator's word that shared disks are the same ones */
	const char *postcopy;   /* "asked"; "if-stuck": only if precopy does not suffice; or NULL */
	const char *protect_on; /* NULL: nowhere */
	bool is_protected;
	struct marks *marks; /* of this polluxd */
};

/* {"vm", "identity", "term", "config", "origin", "engine", "sections": if its process says so}; and
 * "cpuid" and "cpu_limits", which are asked for as late as can be. */
json_t *preflight_about(const struct guest *g) MUST_CHECK;
/* NULL: `e` says why. Writes a mark to image files (marks.h), for the other host to find. */
json_t *preflight_describe(const json_t *about, const struct preflight_options *o,
			   struct error *e) MUST_CHECK;
/* {"host": name, "guest": how it is known there, "pid": of its process there, "standby": of the
 * host that it shall be protected on: is it "known" there, and "connected"}. */
json_t *preflight_standing(struct agent *a, const json_t *offer) MUST_CHECK;
json_t *preflight_check(const json_t *standing, const json_t *offer) MUST_CHECK;
/* One of the reasons of an answer. */
json_t *reason_json(const char *code, bool warning, const char *sentence, const char *hint);

json_t *preflight_facts(const json_t *standing, const json_t *offer) MUST_CHECK;
json_t *preflight_judge(const json_t *offer, const json_t *facts) MUST_CHECK;
/* preflight_storage.c: of an answer. */
unsigned preflight_shared_disks(const json_t *result);
/* Who knows that disks of one VM may be copied and handed over side by side. */
struct disks_heeded {
	bool target, process;
};
/* What an older one of them would do to the disks of an offer with copies, or NULL: said in the
 * answer. */
void preflight_answer_judge(const json_t *copied, struct disks_heeded heeded, json_t *result);

/* preflight_disk.c. What a disk's path is: "kind" ("none", "file", "block", "other"), "size",
 * "allocated", of a block device its name, "wwid", and "unique": no other device has it; false: it
 * is a serial number or a label, which others may have; absent: of an older host. Beside that, of a
 * file: "same", the mark that was written or found there, or "unmarked": there is none, and there
 * could be. */
json_t *preflight_disk(const char *path);
/* Names of the same device may be of two kinds, as one host sees it through multipath: UNLIKE ones
 * say nothing of each other. */
enum names_relation { NAMES_SAME, NAMES_DIFFER, NAMES_UNLIKE };
enum names_relation preflight_names_relate(const char *ours, const char *theirs);
/* The name of a device, from its folder in /sys. */
void preflight_name_put(const char *device, json_t *out);
/* The mark of an image file: -errno where there can be none. */
int preflight_mark_write(const char *path, const char *mark) MUST_CHECK;
int preflight_mark_read(const char *path, char out[MARK_LEN + 1]) MUST_CHECK;

/* preflight_cpu.c */
json_t *preflight_cpuid(const char *engine, const char *cpu, unsigned vcpus,
			struct error *e) MUST_CHECK;
/* Appends what `needed` has and `there` lacks: names of features; and phrases on what else keeps a
 * guest from going on there. */
int preflight_cpu_lacks(const json_t *needed, const json_t *there, json_t *features,
			json_t *others) MUST_CHECK;
/* The same of "cpu_limits": that of this host, and what a guest has and `there` lacks. NULL: of an
 * older build, and not judged before the state arrives. */
json_t *preflight_cpu_limits(const char *engine, const char *cpu, struct error *e) MUST_CHECK;
void preflight_limits_lack(const json_t *needed, const json_t *there, json_t *others);

#endif
