// SPDX-License-Identifier: Apache-2.0
/* The disks of a VM against those of a host: which of them both see, which are copied, and what is
 * in the way of that. Pure. */
#include <string.h>

#include "agent/preflight_judge.h"

enum sameness { SAME_NO, SAME_YES, SAME_UNKNOWN };

/* What a file is known by is its mark, and a device its name. */
static const char *name_key(const json_t *disk)
{
	return strcmp(json_text_of(disk, "kind"), "block") ? "same" : "wwid";
}

/* The same unique name is proof, and one of those says that it is unique. */
static enum sameness names_compare(const json_t *needed, const json_t *there)
{
	const json_t *ours = json_object_get(needed, "unique");
	const json_t *theirs = json_object_get(there, "unique");
	bool unique = json_is_true(ours) || json_is_true(theirs);
	bool common = json_is_false(ours) || json_is_false(theirs);

	if (unique && common)
		return SAME_UNKNOWN;
	switch (preflight_names_relate(json_text_of(needed, "wwid"), json_text_of(there, "wwid"))) {
	case NAMES_SAME:
		return unique ? SAME_YES : SAME_UNKNOWN;
	case NAMES_DIFFER:
		return SAME_NO;
	case NAMES_UNLIKE:
		break;
	}
	return SAME_UNKNOWN;
}

static enum sameness sameness(const json_t *needed, const json_t *there)
{
	const char *key = name_key(needed);
	const char *ours = json_text_of(needed, key), *theirs = json_text_of(there, key);

	if (strcmp(json_text_of(needed, "kind"), json_text_of(there, "kind")) != 0)
		return SAME_NO;
	if (*ours && *theirs && !strcmp(key, "wwid"))
		return names_compare(needed, there);
	if (*ours && *theirs && !strcmp(ours, theirs))
		return SAME_YES;
	/* An image that several VMs read may just have been marked by another host. */
	if (*ours && *theirs)
		return json_true_of(needed, "readonly") ? SAME_UNKNOWN : SAME_NO;
	/* Ours was marked, and there it would be seen. */
	return *ours && json_true_of(there, "unmarked") ? SAME_NO : SAME_UNKNOWN;
}

/* An older host does not say what its name is, and has shared storage by any. */
static bool is_older_name(const json_t *needed, const json_t *there)
{
	const char *ours = json_text_of(needed, "wwid");

	return !strcmp(name_key(needed), "wwid") && *ours &&
	       !strcmp(ours, json_text_of(there, "wwid")) &&
	       !(json_object_get(needed, "unique") && json_object_get(there, "unique"));
}

static const char *why_untold(const json_t *needed, const json_t *there)
{
	const char *ours = json_text_of(needed, "wwid");

	return *ours && preflight_names_relate(ours, json_text_of(there, "wwid")) == NAMES_SAME
		       ? ": both have the same name, but one that others may have too"
		       : "";
}

static void same_check(struct verdict *v, const json_t *needed, const json_t *there)
{
	const char *key = name_key(needed), *path = json_text_of(needed, "path");
	bool named = *json_text_of(needed, key) && *json_text_of(there, key);
	enum sameness same = sameness(needed, there);

	if (same == SAME_YES || is_older_name(needed, there))
		return;
	if (named && same == SAME_NO)
		verdict_add(v, REASON_DISK_OTHER,
			    "the disk %s there is another one of the same name", path);
	else if (!json_true_of(v->needs, "assume_same"))
		verdict_add(v, REASON_DISK_UNPROVEN,
			    "that the disk %s is the same one there cannot be proven%s", path,
			    why_untold(needed, there));
}

static void shared_check(struct verdict *v, const json_t *needed, const json_t *there)
{
	const char *path = json_text_of(needed, "path"), *kind = json_text_of(there, "kind");

	if (!strcmp(kind, "none"))
		verdict_add(v, REASON_DISK_MISSING, "the disk %s is not there", path);
	else if (*json_text_of(there, "why"))
		verdict_add(v, REASON_DISK_ACCESS, "the disk %s cannot be opened there: %s", path,
			    json_text_of(there, "why"));
	else if (strcmp(kind, json_text_of(needed, "kind")) != 0)
		verdict_add(v, REASON_DISK_KIND, "the disk %s is a %s here and a %s there", path,
			    json_text_of(needed, "kind"), kind);
	else if (json_count_of(needed, "size") != json_count_of(there, "size"))
		verdict_add(v, REASON_DISK_SIZE, "the disk %s has %llu bytes here and %llu there",
			    path, (unsigned long long)json_count_of(needed, "size"),
			    (unsigned long long)json_count_of(there, "size"));
	else
		same_check(v, needed, there);
}

/* Sparse as it is: what is allocated here is needed there, less what is allocated there. */
static uint64_t space_needed(const json_t *needed, const json_t *there)
{
	uint64_t want = json_count_of(needed, "allocated"),
		 have = json_count_of(there, "allocated");

	return want > have ? want - have : 0;
}

static void new_copy_check(struct verdict *v, const json_t *needed, const json_t *there)
{
	if (json_true_of(needed, "readonly"))
		verdict_add(v, REASON_DISK_MISSING, "the disk %s is only read, and is not there",
			    json_text_of(needed, "path"));
	else if (!json_true_of(there, "folder_writable"))
		verdict_add(v, REASON_DISK_ACCESS,
			    "the disk %s cannot be made there: the folder %s cannot "
			    "be written",
			    json_text_of(needed, "path"), json_text_of(there, "folder"));
}

static bool is_copy(const struct verdict *v, size_t i)
{
	return json_count_of(json_object_get(v->has, "guest"), "copies") >> i & 1;
}

static void same_add(struct verdict *v, const json_t *needed)
{
	verdict_add(v, REASON_DISK_SAME,
		    "the disk %s is the same one on both hosts: a copy would be written over the "
		    "guest's "
		    "own data",
		    json_text_of(needed, "path"));
}

/* What a copy would be written over. A disk that is the guest's own one must not be, whatever
 * the operator says. */
static void written_over_check(struct verdict *v, const json_t *needed, const json_t *there,
			       bool copy)
{
	bool may = copy || json_true_of(v->needs, "overwrite");
	const char *path = json_text_of(needed, "path");
	enum sameness same = sameness(needed, there);

	if (same == SAME_YES)
		same_add(v, needed);
	else if (same == SAME_UNKNOWN && !may)
		verdict_add(v, REASON_DISK_UNTOLD,
			    "the disk %s is there already, and whether it is the same one cannot "
			    "be told%s",
			    path, why_untold(needed, there));
	else if (!may)
		verdict_add(v, REASON_DISK_FOREIGN,
			    "the disk %s is there already, and is no earlier copy of this VM",
			    path);
}

static void old_copy_check(struct verdict *v, const json_t *needed, const json_t *there, bool copy)
{
	const char *path = json_text_of(needed, "path");

	if (*json_text_of(there, "why"))
		verdict_add(v, REASON_DISK_ACCESS, "the disk %s cannot be opened there: %s", path,
			    json_text_of(there, "why"));
	if (json_count_of(needed, "size") != json_count_of(there, "size"))
		verdict_add(v, REASON_DISK_SIZE, "the disk %s has %llu bytes here and %llu there",
			    path, (unsigned long long)json_count_of(needed, "size"),
			    (unsigned long long)json_count_of(there, "size"));
	if (!json_true_of(needed, "readonly"))
		written_over_check(v, needed, there, copy);
}

static void mirror_check(struct verdict *v, const json_t *needed, const json_t *there, bool copy)
{
	const char *kind = json_text_of(there, "kind");

	if (!strcmp(kind, "none"))
		new_copy_check(v, needed, there);
	else if (!strcmp(kind, "other"))
		verdict_add(v, REASON_DISK_KIND,
			    "the disk %s is neither a file nor a block device there",
			    json_text_of(needed, "path"));
	else
		old_copy_check(v, needed, there, copy);
}

static bool is_mirror(const json_t *offer)
{
	return !strcmp(json_text_of(offer, "storage"), "mirror");
}

/* An older source would copy it all the same. What is known to be a copy is taken for nothing
 * else on anybody's word. */
static bool is_shared(const struct verdict *v, const json_t *needed, const json_t *there, size_t i)
{
	enum sameness same = sameness(needed, there);

	if (json_true_of(needed, "readonly") || !json_true_of(v->needs, "per_disk"))
		return false;
	return same == SAME_YES ||
	       (same == SAME_UNKNOWN && json_true_of(v->needs, "assume_same") && !is_copy(v, i));
}

static unsigned shared_disks(const struct verdict *v, const json_t *disks, const json_t *there)
{
	unsigned bits = 0;

	for (size_t i = 0; is_mirror(v->needs) && i < json_array_size(disks) && i < VM_DISKS_MAX;
	     i++)
		if (is_shared(v, json_array_get(disks, i), json_array_get(there, i), i))
			bits |= 1u << i;
	return bits;
}

static void disk_check(struct verdict *v, const json_t *needed, const json_t *there, size_t i)
{
	if (!is_mirror(v->needs) || v->shared_disks >> i & 1)
		shared_check(v, needed, there);
	else
		mirror_check(v, needed, there, is_copy(v, i));
}

static bool is_copied(const struct verdict *v, const json_t *disks, size_t i)
{
	return is_mirror(v->needs) && !(v->shared_disks >> i & 1) &&
	       !json_true_of(json_array_get(disks, i), "readonly");
}

/* Disks on one file system share its space. */
static void space_check(struct verdict *v, const json_t *disks, const json_t *there, size_t first)
{
	const json_t *here = json_array_get(there, first);
	uint64_t sum = 0, free = json_count_of(here, "free");

	for (size_t i = 0; i < json_array_size(disks); i++) {
		const json_t *d = json_array_get(there, i);

		if (json_count_of(d, "filesystem") != json_count_of(here, "filesystem") ||
		    !strcmp(json_text_of(d, "kind"), "block") || !is_copied(v, disks, i))
			continue;
		if (i < first)
			return;
		sum += space_needed(json_array_get(disks, i), d);
	}
	if (sum > free)
		verdict_add(v, REASON_DISK_SPACE,
			    "the disks in %s need %llu MiB there, free are %llu",
			    json_text_of(here, "folder"), (unsigned long long)sum >> 20,
			    (unsigned long long)free >> 20);
}

void verdict_disks_check(struct verdict *v)
{
	const json_t *disks = json_object_get(v->needs, "disks");
	const json_t *there = json_object_get(v->has, "disks");

	if (*json_text_of(v->has, "config_why"))
		return;
	if (json_array_size(disks) > VM_DISKS_MAX ||
	    json_array_size(disks) != json_array_size(there)) {
		verdict_add(v, REASON_DISKS, "the VM has %zu disks here, and %zu by its file there",
			    json_array_size(disks), json_array_size(there));
		return;
	}
	v->shared_disks = shared_disks(v, disks, there);
	for (size_t i = 0; i < json_array_size(disks); i++) {
		disk_check(v, json_array_get(disks, i), json_array_get(there, i), i);
		if (is_copied(v, disks, i))
			space_check(v, disks, there, i);
	}
}

/* ---- of an answer ------------------------------------------------------------------------ */

unsigned preflight_shared_disks(const json_t *result)
{
	return (unsigned)json_integer_of(result, "shared_disks", 0) & VM_DISKS_ALL;
}

static struct verdict verdict_of(json_t *result)
{
	return (struct verdict){.found = json_object_get(result, "reasons"), .possible = true};
}

static const json_t *disk_there(const json_t *result, size_t i)
{
	const json_t *host = json_object_get(result, "host");

	return json_array_get(json_object_get(host, "disks"), i);
}

/* An older target would write a copy of a disk over itself. */
static void same_refuse(struct verdict *v, const json_t *needed, const json_t *there)
{
	if (!json_true_of(needed, "readonly") && sameness(needed, there) == SAME_YES)
		same_add(v, needed);
}

/* ...or does not ask whether the name by which it would be handed one over is unique. */
static void untold_refuse(struct verdict *v, const json_t *needed, const json_t *there)
{
	if (sameness(needed, there) != SAME_YES)
		verdict_add(v, REASON_DISK_UNTOLD,
			    "that host takes the disk %s for the same one, and that cannot be "
			    "told%s",
			    json_text_of(needed, "path"), why_untold(needed, there));
}

void preflight_answer_judge(const json_t *copied, struct disks_heeded heeded, json_t *result)
{
	const json_t *disks = json_object_get(copied, "disks");
	unsigned shared = preflight_shared_disks(result);
	struct verdict v = verdict_of(result);

	for (size_t i = 0; i < json_array_size(disks); i++) {
		const json_t *d = json_array_get(disks, i), *there = disk_there(result, i);

		if (!heeded.target)
			same_refuse(&v, d, there);
		else if (shared >> i & 1 && !json_true_of(copied, "assume_same"))
			untold_refuse(&v, d, there);
	}
	if (shared && !heeded.process)
		verdict_add(&v, REASON_PROCESS,
			    "a disk is the same one on both hosts, and the VM's process is too old "
			    "to hand that over beside others that it copies");
	if (!v.possible)
		json_object_set_new(result, "possible", json_false());
}
