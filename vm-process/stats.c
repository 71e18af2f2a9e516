// SPDX-License-Identifier: Apache-2.0
#include "vm-process/process.h"

const char *replicator_state_name(enum replicator_state s)
{
	static const char *const names[] = {
		[REPLICATOR_CONNECTING] = "connecting",   [REPLICATOR_SYNCING] = "syncing",
		[REPLICATOR_PROTECTED] = "protected",     [REPLICATOR_FREEZING] = "freezing",
		[REPLICATOR_HANDED] = "handed",           [REPLICATOR_LOST] = "lost",
		[REPLICATOR_UNPROTECTED] = "unprotected", [REPLICATOR_FENCED] = "fenced",
	};

	return names[s];
}

const char *replica_state_name(enum replica_state s)
{
	static const char *const names[] = {
		[REPLICA_WAITING] = "waiting",   [REPLICA_SYNCING] = "syncing",
		[REPLICA_READY] = "ready",       [REPLICA_LOST] = "lost",
		[REPLICA_RELEASED] = "released", [REPLICA_BROKEN] = "broken",
		[REPLICA_PROMOTED] = "promoted",
	};

	return names[s];
}

static json_t *replication_json(const struct replicate_stats *s)
{
	return json_pack(
		"{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, "
		"s:I, s:I, s:I}",
		"epoch", (json_int_t)s->epoch, "acknowledged", (json_int_t)s->acknowledged, "pages",
		(json_int_t)s->pages, "bytes_raw", (json_int_t)s->bytes_raw, "bytes_sent",
		(json_int_t)s->bytes_sent, "sync_done", (json_int_t)s->sync_done, "sync_total",
		(json_int_t)s->sync_total, "pages_last", (json_int_t)s->pages_last, "pause_last_ns",
		(json_int_t)s->pause_last_ns, "pause_max_ns", (json_int_t)s->pause_max_ns,
		"ack_delay_last_ns", (json_int_t)s->ack_delay_last_ns, "stop_ns",
		(json_int_t)s->last.stop, "state_ns", (json_int_t)s->last.state, "harvest_ns",
		(json_int_t)s->last.harvest, "copy_ns", (json_int_t)s->last.copy, "resume_ns",
		(json_int_t)s->last.resume, "key_updates", (json_int_t)s->key_updates);
}

static json_t *nic_json(const struct process_nic *n)
{
	struct netbuf_stats s;

	netbuf_stats(n->netbuf, &s);
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "held_frames",
			 (json_int_t)s.held_frames, "held_bytes", (json_int_t)s.held_bytes,
			 "frames", (json_int_t)s.frames_in, "released",
			 (json_int_t)s.frames_released, "passed", (json_int_t)s.frames_passed,
			 "stops", (json_int_t)s.stops, "delay_mean_ns",
			 (json_int_t)(s.frames_released ? s.delay_total_ns / s.frames_released : 0),
			 "delay_max_ns", (json_int_t)s.delay_max_ns);
}

static json_t *disk_json(const struct process *p, const struct process_disk *d)
{
	struct mirror_progress m;

	mirror_source_progress(d->source, &m);
	/* The copy begins anew with the session; until then it is the one before. */
	if (p->replicator && p->replicator_state == REPLICATOR_CONNECTING)
		m.done = m.synced = 0;
	return json_pack("{s:I, s:b, s:I, s:I, s:I, s:I, s:I}", "size", (json_int_t)d->file->size,
			 "synced", m.synced, "copied", (json_int_t)m.done, "to_copy",
			 (json_int_t)(member_of(p, d) ? m.total : 0), "emitted_bytes",
			 (json_int_t)m.emitted_bytes, "emitted_records",
			 (json_int_t)m.emitted_records, "staged_bytes",
			 (json_int_t)(d->target ? mirror_target_staged_bytes(d->target) : 0));
}

static const char *state_name(const struct process *p)
{
	if (p->role == ROLE_STANDBY)
		return replica_state_name(p->replica_state);
	return replicator_state_name(p->replicator_state);
}

static void vm_put(const struct vm *vm, json_t *out)
{
	json_object_set_new(out, "engine", json_string(vm_engine_name(vm)));
	json_object_set_new(out, "throttle", json_integer(vm_throttle_now(vm)));
	json_object_set_new(out, "ram_bytes",
			    json_integer((json_int_t)(vm_ram_pages(vm) * VM_PAGE_SIZE)));
	json_object_set_new(out, "log_dirty", json_boolean(vm_is_logging_dirty(vm)));
}

void cpu_put(const struct vm *vm, json_t *out)
{
	struct vm_cpu_leaf leaves[VM_CPU_LEAVES_MAX];
	unsigned n = vm_cpu_own(vm, leaves, VM_CPU_LEAVES_MAX);
	struct vm_cpu_limits limits;

	vm_cpu_limits_own(vm, &limits);
	json_object_set_new(out, "cpuid", control_leaves(leaves, n));
	json_object_set_new(out, "cpu_limits", control_limits(&limits));
}

json_t *stats_json(struct process *p)
{
	static const char *const roles[] = {"none", "primary", "standby"};
	struct replicate_stats s = {0};
	json_t *o =
		json_pack("{s:s, s:s, s:s, s:b, s:b, s:b, s:b, s:s}", "role", roles[p->role],
			  "state", state_name(p), "why", p->state_why, "running",
			  p->vm && p->vm_started && vm_is_running(p->vm), "ended", p->vm_ended,
			  "saved", p->image_saved, "yielded", p->yielded, "build", version_text);
	json_t *nics = json_array(), *disks = json_array();

	json_object_set_new(o, "at_ns", json_integer((json_int_t)clock_ns()));
	if (p->session.term)
		json_object_set_new(o, "term", json_integer((json_int_t)p->session.term));
	json_object_set_new(o, "handover", json_boolean(p->session.handover));
	primary_handed_put(p, o);
	if (p->vm)
		vm_put(p->vm, o);
	if (p->dump)
		json_object_set_new(o, "dump", dump_json(p));
	if (p->replicator)
		replicator_stats(p->replicator, &s);
	else if (p->replica && p->role == ROLE_STANDBY) /* else the session is over */
		replica_stats(p->replica, &s);
	json_object_set_new(o, "replication", replication_json(&s));
	json_object_set_new(o, "migration", migrate_json(p));
	json_object_set_new(o, "postcopy", postcopy_json(p));
	for (unsigned i = 0; p->vm && i < p->config.nic_count; i++)
		json_array_append_new(nics, nic_json(&p->nics[i]));
	for (unsigned i = 0; p->vm && i < p->config.disk_count; i++)
		json_array_append_new(disks, disk_json(p, &p->disks[i]));
	if (p->image)
		json_object_set_new(o, "image", image_json(p));
	json_object_set_new(o, "nics", nics);
	json_object_set_new(o, "disks", disks);
	return o;
}
