// SPDX-License-Identifier: Apache-2.0
/*
 * vm-process/: pollux-vm, the process that holds one vm in one role, and the
 * messages by which polluxd (or `pollux run`) directs it.
 *
 * The control connection is a SOCK_SEQPACKET unix socket, fd 3 of pollux-vm: one
 * JSON object a packet, file descriptors beside it (SCM_RIGHTS). Requests carry
 * "do" and "id"; each gets exactly one reply {"reply": id, "ok": true, ...} or
 * {"reply": id, "ok": false, "code": -errno, "error": "..."}. Events carry "event".
 * When the connection closes, a pollux-vm whose vm runs as the owner goes on without
 * it (a polluxd restart is no failure) and listens for a successor on its unix
 * socket (--control PATH); a standby ends.
 *
 * requests
 *   create       {"config": text of the VM file, "origin": path,
 *                 "role": "primary"|"standby"|"successor",
 *                 "deterministic": {"seed": n, "hash_every": n, "record": path, "replay": path},
 *                     each of them if wanted,
 *                 "lazy": true if a lazy restore is to follow}
 *                console fds may come beside it
 *   boot         {}
 *                primary: load the kernel and start
 *   protect      {"session": hex, "key": hex, "term": n, "address": a, "port": p,
 *                 "mode": "interval"|"event", "interval_ms": n, "policy": "continue"|"stall",
 *                 "heartbeat_ms", "loss_ms", "streams", "window",
 *                 "compression": "auto"|"none"|"lz4"|"zlib", "delta_mb", "bandwidth_mb",
 *                 "storage": "mirror"|"shared",
 *                 "shared_disks": with "mirror", bit i: disk i is shared all the same,
 *                 "handover": true in a migration,
 *                 "migrate": {"downtime_ms", "most_downtime_ms", "fixed_us", "most_s",
 *                     "throttle_max", "rounds_max", "link_bytes_per_second": as measured,
 *                     "postcopy_after": rounds,
 *                     "postcopy_only": these have no pages (with "postcopy_after" and
 *                         "stuck": "postcopy"),
 *                     "stuck": "give-up"|"stop"|"postcopy"}}
 *                primary
 *   standby      {the same without address}
 *                standby: get ready for streams
 *   stream       {"stream": n} + the accepted socket
 *                standby
 *   ownership    {"answer": "confirmed"|"forced"|"denied"}
 *                primary, after event "state" lost
 *                {"answer": "lost"}
 *                primary: count the session as lost now
 *   unprotect    {}
 *                primary: end the session in good order
 *   load         {"term": n}
 *                standby: all of a promotion but the start
 *   promote      {"term": n}  -> {"epoch": n, "ms": x, "postcopy": memory is still to come}
 *                standby: become the vm; after load, start it
 *   shutdown     {}
 *                ACPI power button
 *   quit         {}
 *                end the session in good order, then the process
 *   recover      {as standby, or protect at the source}
 *                memory is on its way, and its link was cut: new keys; the source connects
 *   stats        {"sections", "cpuid": bool}
 *                -> see replicate_stats, netbuf, mirror; and what the last event "state" said;
 *                and, as in the reply to create, the "sections" of a state that this program
 *                writes, and "shared_disks": true, it heeds that; "cpuid": what CPU a guest that
 *                has started has, and beside it "cpu_limits"
 *   echo         {}
 *                nothing: how long does an answer take?
 *   forecast     {"fixed_us": n, "rehearsed": bool}
 *                primary, a migration: what a downtime takes beside the pages, as is known by
 *                now; rehearsed: since event "rehearse"
 *   measure      {"compression"}
 *                primary: how fast the guest writes, what its pages take; event "measured"
 *                follows. Any other request but stats and echo ends it
 *   pause, resume, console {} + fd
 *   dump-core    {"paging": bool, "live": bool} + fd of a new, empty file
 *                primary without a session; the reply says that it has begun
 *   dump-cancel  {}
 *                its end follows, if one is under way
 *   save         {"config", "origin", "identity", "term", "keep": goes on afterwards,
 *                 "key": hex, "compression"} + an empty file
 *                primary: save an image; event "image" follows; a folder beside it: with copies
 *                of the disks
 *   restore      {"key": hex, "lazy": bool} + a file
 *                new primary: load an image, instead of boot, after its disks were put back from
 *                a folder; event "image" follows
 *   go           {}
 *                ...and then start
 *   image-cancel {}
 *                the save or restore that is under way
 *
 * requests of an upgrade (docs/architecture.md): "successor" is a primary whose descriptor of
 * memory comes beside its create; it runs nothing before adopt
 *   lend         {}  -> descriptor of the memory
 *                primary: for a successor's create
 *   yield        {"next": control path of the successor}  -> {"handover": {...}} + descriptors
 *                primary: stand still, for another to go on
 *   adopt        {"handover": {...}, "control": path} + the descriptors  -> {"downtime_ns": n}
 *                successor: take the vm, and the path
 *   unyield      {}
 *                primary: go on. -EALREADY: it has been taken
 *
 * events
 *   {"event": "state", "state": name of replicator_state or replica_state, "why": text,
 *    "term": of the session, "handover": it is a migration,
 *    "frozen_ns": handed, how long the guest has stood still,
 *    "frozen_at_ns": since when (CLOCK_BOOTTIME),
 *    "pause_ns": until its epoch was sealed,
 *    "transfer_ns": from there until the target had it,
 *    "forecast_ns", "fixed_ns": the part of that which no page causes,
 *    "sent": {"bytes": on the wire, "disk_bytes": of disks, "pages", "delta_pages", "rounds",
 *        "throttle_most": percent},
 *    "end_why": a policy that was applied, or why the pause is longer than wished for,
 *    "reset": standby, lost: the other host's kernel closed the link}
 *   {"event": "rehearse"}
 *    primary, a migration: the pause is about to come, and waits up to 50 ms for a "forecast"
 *   {"event": "postcopy", "state": "waiting"|"ready"|"running"|"cut"|"done", "why",
 *    and what the stats have of it}
 *   {"event": "vm", "what": "poweroff"|"reboot"|"crash", "detail": text}
 *   {"event": "dump", "ok": true, "bytes": n, "size": n, "pause_ns": n, "segments": n,
 *    "paging_vcpu": n, "vmcoreinfo": bool}  or  {..., "ok": false, "code", "error"}
 *   {"event": "measured", "ok": true, "ram_pages", "pages": those that are not zero,
 *    "dirty": [{"ns", "pages"}] written within so long,
 *    "session": those were counted by a session,
 *    "encodings": [{"compression", "encode_ns", "wire_bytes"} of a page]}
 *    or  {..., "ok": false, "code", "error"}
 *   {"event": "progress", ...the stats of the first copy or image}
 *    about once a second
 *   {"event": "image", "what": "save"|"restore"|"memory", "ok": bool, "code", "error",
 *    "disks_touched": bool, "pages", "bytes", "ms", "pause_ms"}
 *    after a save the vm is paused, unless "keep"; "memory": all of a lazy restore is there
 */
#ifndef POLLUX_VM_PROCESS_H
#define POLLUX_VM_PROCESS_H

#include <jansson.h>

#include "base/base.h"

#define CONTROL_MESSAGE_MAX (128u * 1024)
#define CONTROL_FDS_MAX     32

/* Send one message; blocks at most a second. 0 or -errno. */
int control_send(int fd, const json_t *message, const int *fds, unsigned fd_count) MUST_CHECK;
/* Receive one; fds are close-on-exec and become the caller's. -EPIPE: closed;
 * -EAGAIN: nothing there (non-blocking); -EBADMSG: not a JSON object or too long. */
int control_receive(int fd, json_t **out, int fds[CONTROL_FDS_MAX], unsigned *fd_count,
		    struct error *e) MUST_CHECK;

/* What is said in them, by either side. */
/* "sections" of a state, as this program writes them: [{"id", "version", "name"}]. */
json_t *control_sections(void);
/* "cpuid": [[function, index, indexed, EAX, EBX, ECX, EDX]]. */
struct vm_cpu_leaf;
json_t *control_leaves(const struct vm_cpu_leaf *leaves, unsigned n);
/* "cpu_limits": {"tsc_khz", "promises": [[MSR, value]]}. */
struct vm_cpu_limits;
json_t *control_limits(const struct vm_cpu_limits *l);

#endif
