// SPDX-License-Identifier: Apache-2.0
/*
 * hypervisor/: one x86-64 virtual machine: vCPUs, memory, log-dirty, devices,
 * machine state. Everything above the vCPU is shared by all engines; an engine
 * (kvm, sim) is one table of operations (engine.h, private).
 *
 * Threads. vm_create() starts none. vm_start() starts a thread for each vCPU;
 *          device events run on the loop that was given to vm_create(), on
 *          whichever thread runs it. vm_pause() and vm_resume() are called by
 *          one and the same thread; between them the device lock is held, so
 *          nothing but disk reads in flight changes guest memory.
 * Memory.  RAM is one memfd. "RAM page n" is page n of that file, not of guest
 *          physical space: the PCI hole below 4 GiB does not appear in it.
 */
#ifndef POLLUX_HYPERVISOR_H
#define POLLUX_HYPERVISOR_H

#include <stdatomic.h>
#include <sys/uio.h>

#include "base/base.h"

#define VM_PAGE_SIZE      4096u
#define VM_HUGE_PAGE_SIZE UINT64_C(0x200000) /* of the host, where memory is in huge pages */
#define VM_NAME_MAX       63
#define VM_VCPUS_MAX      16
#define VM_DISKS_MAX      8
#define VM_DISKS_ALL      ((1u << VM_DISKS_MAX) - 1) /* disk i is bit i */
#define VM_NICS_MAX       8

/* ---- configuration: the VM file (docs/vm-config.md), libconfig syntax ---- */

struct disk_config {
	char path[256];
	bool readonly;
	bool write_through; /* cache = "writethrough"; default "writeback" */
	uint64_t
		create_size; /* size = "64M": make a sparse file if there is none; 0 = must exist */
};

enum nic_kind { NIC_TAP, NIC_STREAM, NIC_NONE };

struct nic_config {
	enum nic_kind kind;
	uint8_t mac[6];
	char tap[16];     /* NIC_TAP: interface name, made if it is not there */
	char bridge[16];  /* NIC_TAP: joins this bridge if not empty */
	char socket[108]; /* NIC_STREAM: unix socket; frames with a big-endian u32 length before
			     each */
};

struct vm_config {
	char name[VM_NAME_MAX + 1];
	uint64_t memory; /* bytes, a multiple of 2 MiB; engine "sim": of 64 KiB */
	bool hugepages;  /* memory in huge pages of 2 MiB: then no page of it can come later */
	unsigned vcpus;
	char engine[16]; /* "auto", "kvm", "soft", "sim" */
	char cpu[16];    /* "host", "pollux-base", or "": the engine's own */
	char kernel[256], initrd[256], cmdline[1024];
	struct disk_config disks[VM_DISKS_MAX];
	unsigned disk_count;
	struct nic_config nics[VM_NICS_MAX];
	unsigned nic_count;
	char crash_cores[256]; /* folder for cores of guests that crash; "": none */
	uint64_t seed;         /* engine "sim" only */
};

/* Parse the text of a VM file. `origin` (a path) and a line number lead each
 * message. Unknown keys are refused. Returns 0, -EINVAL or -ENOMEM. */
int vm_config_parse(const char *text, const char *origin, struct vm_config *out,
		    struct error *e) MUST_CHECK;

/* ---- back ends of devices ---------------------------------------------
 * A back end is owned by whoever opened it, outlives the vm that uses it, and
 * may be wrapped: netbuf/ and disk-mirror/ are back ends on top of back ends. */

struct net_backend;
struct net_backend_ops {
	/* One Ethernet frame, without virtio header. One call at a time, from any
	 * thread (a NIC calls with the device lock held, a netbuf without).
	 * 0 = taken (copied or sent). -EAGAIN = full: the sender stops and keeps the
	 * frame until `writable` is called. Other errors: the frame is dropped and
	 * counted. */
	int (*send)(struct net_backend *b, const struct iovec *iov, int iov_count);
	/* Stop or go on reading inbound frames (the guest has no free buffer). Device lock held. */
	void (*set_receiving)(struct net_backend *b, bool on);
	void (*destroy)(struct net_backend *b);
};
/* What a back end calls, on the loop's thread, without the device lock. */
struct net_front {
	int (*receive)(void *ctx, const void *frame,
		       size_t len);  /* -EAGAIN: keep it, see set_receiving */
	void (*writable)(void *ctx); /* after send() gave -EAGAIN */
	void *ctx;
};
struct net_backend {
	const struct net_backend_ops *ops;
	struct net_front front; /* set by the NIC (or by the wrapper above) before use */
};

int net_backend_open(const struct nic_config *c, struct loop *io, struct net_backend **out,
		     struct error *e) MUST_CHECK;
/* A back end from process to process, each with its loop standing still: a tap is open but
 * once, and what was received or sent of a frame must not be lost.
 *   make    as open, but connected to nothing: only for a net_backend_adopt()
 *   yield   its descriptor (it stays this one's; -1: none now) in *fd, and in `out` what it
 *           has half done; nothing changes here: it may go on, if nobody else does
 *   adopt   go on with those; takes over `fd` if it succeeds */
int net_backend_make(const struct nic_config *c, struct loop *io, struct net_backend **out,
		     struct error *e) MUST_CHECK;
void net_backend_yield(const struct nic_config *c, struct net_backend *b, int *fd, struct buf *out);
int net_backend_adopt(const struct nic_config *c, struct net_backend *b, int fd, const void *data,
		      size_t n, struct error *e) MUST_CHECK;

enum disk_op { DISK_READ, DISK_WRITE, DISK_FLUSH, DISK_DISCARD, DISK_WRITE_ZEROES };
struct disk_request {
	enum disk_op op;
	uint64_t offset, length; /* bytes, multiples of 512; 0 for a flush */
	const struct iovec *iov; /* guest memory; `length` bytes in all */
	int iov_count;
	/* DISK_WRITE, DISK_WRITE_ZEROES: done() only when the data is on stable storage. A
	 * wrapper hands it down; a back end with write_through behaves as if it was set. */
	bool durable;
	/* Called once, without the device lock, on the loop's thread or in drain(); rc is 0
	 * or -errno. */
	void (*done)(struct disk_request *r, int rc);
};
struct disk_backend;
struct disk_backend_ops {
	/* Queue the request; it ends in done(), never inside submit(). One call at a
	 * time, from any thread (virtio-blk calls with the device lock
	 * held, a mirror without). An error return means that done() will not be called. */
	int (*submit)(struct disk_backend *b, struct disk_request *r);
	/* Returns when done() has returned for everything that was submitted; may call
	 * done() itself. Any thread, device lock not held, nobody submits meanwhile. Before
	 * guest memory is freed or loaded anew, no transfer to it may be in flight. */
	void (*drain)(struct disk_backend *b);
	/* The image is this back end's: no other process, and where its file system can tell no
	 * other host, writes it (or, if it is read-only here, anybody). Nothing cached from
	 * before is read. -EBUSY: it is somebody else's. Again: nothing happens. */
	int (*claim)(struct disk_backend *b, struct error *e);
	/* Somebody else may have it: all that was submitted has reached stable storage, or waits
	 * until the next claim. Requests that have ended meanwhile may get their done() later, so
	 * that the device lock may be held. After an error the image is still claimed. */
	int (*yield)(struct disk_backend *b, struct error *e);
	void (*destroy)(struct disk_backend *b); /* drains, and yields */
};
struct disk_backend {
	const struct disk_backend_ops *ops;
	uint64_t size; /* bytes */
	bool readonly;
	bool write_through;
	int fd; /* the file or device itself, for sync and verify; -1 if there is none */
};

int disk_backend_open(const struct disk_config *c, struct loop *io, struct disk_backend **out,
		      struct error *e) MUST_CHECK;

/* From process to process: a claimed image stays so when its descriptor, the other back end's
 * `fd`, is handed on. Takes it over; nothing was submitted here yet. */
int disk_backend_adopt(struct disk_backend *b, int fd, struct error *e) MUST_CHECK;

/* ---- engines ---------------------------------------------------------- */

struct engine_report {
	const char *name;
	bool usable;      /* it can run test guests */
	bool real_guests; /* ...and an unmodified kernel in useful time */
	char why[200];    /* one sentence for a person */
};
/* Probes all engines of this build; returns how many were written. */
unsigned engine_probe_all(struct engine_report *out, unsigned most);

/* ---- the machine ------------------------------------------------------ */

struct vm;

enum vm_event {
	VM_EVENT_POWEROFF, /* the guest (ACPI S5) turned itself off; vCPUs have stopped */
	VM_EVENT_REBOOT,   /* the guest asked for a reset; the vm has reset itself and goes on */
	VM_EVENT_CRASH, /* triple fault or an engine error; vCPUs have stopped; detail says why */
};

/* A run that can be repeated: docs/determinism.md. Engine soft. */
struct vm_deterministic {
	uint64_t seed;
	uint64_t hash_every; /* instructions from one hash to the next; 0 = a default */
	const char *record;  /* record to this file... */
	const char *replay;  /* ...or repeat this one; NULL, both: nothing comes in */
	/* A hash of all memory, vCPUs and devices; on a vCPU's thread. May be NULL. */
	void (*on_epoch)(void *ctx, uint64_t epoch, uint64_t instructions, uint64_t hash);
	void *ctx;
};

struct vm_parts {
	struct loop *io;
	struct net_backend *nets[VM_NICS_MAX];
	struct disk_backend *disks[VM_DISKS_MAX];
	int console_in, console_out; /* serial console; -1 = none */
	/* > 0: vm_ram_fd() of a vm whose place this one will take: it has the same memory. Until
	 * the other one stands still for good nothing may be loaded or started here. It stays
	 * the caller's. */
	int ram_fd;
	const struct vm_deterministic *deterministic; /* NULL: as fast as it goes */
	/* Called on any thread, device lock not held, one at a time and in order: the guest
	 * stands still until it returns, so it must not wait for the vm. */
	void (*on_event)(void *ctx, enum vm_event event, const char *detail);
	void *ctx;
};

/* Makes the machine: memory, vCPUs, devices; loads nothing. */
int vm_create(const struct vm_config *c, const struct vm_parts *parts, struct vm **out,
	      struct error *e) MUST_CHECK;
/* Stops what runs, frees all; back ends stay. */
void vm_destroy(struct vm *vm);
/* Load kernel, initrd and tables, and set the first vCPU to its entry point. */
int vm_boot(struct vm *vm, struct error *e) MUST_CHECK;
/* Start the vCPU threads: after vm_boot(), or after vm_state_load() on a twin
 * (then every queue and interrupt is signalled again). */
int vm_start(struct vm *vm, struct error *e) MUST_CHECK;
/* All of vm_start() that can fail; without it vm_start() does it. */
int vm_prepare(struct vm *vm, struct error *e) MUST_CHECK;
/* The images of those of its disks (bit i: disk i): a vm that runs has claimed them (vm_start()
 * does), and a twin those that it writes. Yielded while it is paused, when its guest shall go on
 * elsewhere on the same images; claimed again before it goes on here after all. A claim that fails
 * leaves what was claimed as it was before. After an error of yield claim again as well. */
int vm_disks_claim(struct vm *vm, unsigned disks, struct error *e) MUST_CHECK;
int vm_disks_yield(struct vm *vm, unsigned disks, struct error *e) MUST_CHECK;
/* Ask the guest to shut down (ACPI power button). */
void vm_power_button(struct vm *vm);
/* Hand on to console_out what the guest has said, as far as there is room: the bytes left.
 * Not while paused. */
size_t vm_console_flush(struct vm *vm);
const char *vm_engine_name(const struct vm *vm);
/* What its guest sees of CPUs. */
enum vm_cpu { VM_CPU_NONE /* engine sim */, VM_CPU_HOST, VM_CPU_BASE };
enum vm_cpu vm_cpu(const struct vm *vm);
const char *vm_cpu_name(enum vm_cpu cpu); /* as in a VM file */
unsigned vm_vcpus(const struct vm *vm);
/* CPUID as a guest sees it; words: EAX, EBX, ECX, EDX. */
struct vm_cpu_leaf {
	uint32_t function, index;
	bool indexed; /* the index matters */
	uint32_t words[4];
};
#define VM_CPU_LEAVES_MAX 256
/* What the first vCPU of a vm would be offered on this host. How many; `most` are written. An
 * error: this host has no such CPU. */
int vm_cpu_leaves(const char *engine, enum vm_cpu cpu, unsigned vcpus, struct vm_cpu_leaf *out,
		  unsigned most, struct error *e) MUST_CHECK;
/* What the first vCPU of this one has: what this host offered, or, after a state was loaded, what
 * its guest had before. Not while one may be loading. */
unsigned vm_cpu_own(const struct vm *vm, struct vm_cpu_leaf *out, unsigned most);
/* All that a guest's CPU has, and that one which is offered `there` lacks: 0, if it can go on
 * there. `text` is a feature's name, or else a sentence. */
#define VM_CPU_LACK_MAX 128
typedef void vm_cpu_lack_fn(void *ctx, bool feature, const char *text);
unsigned vm_cpu_lacks(const struct vm_cpu_leaf *needed, unsigned needed_count,
		      const struct vm_cpu_leaf *there, unsigned there_count, vm_cpu_lack_fn *fn,
		      void *ctx);
/* What a guest's CPU has beside CPUID, and a host may lack. */
#define VM_CPU_PROMISES_MAX 8
struct vm_cpu_promise {
	uint32_t msr;  /* in which a guest reads what its CPU is safe from, or does */
	uint64_t bits; /* its value */
};
struct vm_cpu_limits {
	uint32_t tsc_khz; /* a guest's, 0: not known; a host's that cannot scale it, 0: any does */
	unsigned promise_count;
	struct vm_cpu_promise promises[VM_CPU_PROMISES_MAX];
};
/* Like vm_cpu_leaves(), vm_cpu_own() and vm_cpu_lacks(). Nothing but with VM_CPU_HOST: no other
 * CPU insists on such things. */
int vm_cpu_limits(const char *engine, enum vm_cpu cpu, struct vm_cpu_limits *out,
		  struct error *e) MUST_CHECK;
void vm_cpu_limits_own(const struct vm *vm, struct vm_cpu_limits *out);
unsigned vm_cpu_limits_lack(const struct vm_cpu_limits *needed, const struct vm_cpu_limits *there,
			    vm_cpu_lack_fn *fn, void *ctx);
/* NULL: it has none. */
const char *vm_cpu_feature(uint32_t function, uint32_t index, unsigned word, unsigned bit);

/* Where the time of a pause went; each in nanoseconds. */
struct vm_pause_times {
	uint64_t stop, state, harvest, copy, resume;
};

/* Stop every vCPU between two instructions, then the devices. The guest's clock
 * goes on (a pause is short); after a long one KVM_KVMCLOCK_CTRL keeps its watchdogs
 * quiet. */
int vm_pause(struct vm *vm) MUST_CHECK;
int vm_resume(struct vm *vm) MUST_CHECK;
/* A pause with no disk request in flight: all that the guest had submitted has completed,
 * so nothing reaches a disk until vm_resume(). It may be in a cache still: see `durable` and
 * disk_backend.fd. Another thread runs the loop meanwhile (engine sim: the disks are
 * drained here). -ETIMEDOUT: a request took longer than `ns`, -ECANCELED: `stop` (may be NULL)
 * was set meanwhile; then the vm goes on as before. VM_PAUSE_IDLE_NS: what a guest bears. */
#define VM_PAUSE_IDLE_NS (3 * NS_PER_SEC)
int vm_pause_idle(struct vm *vm, uint64_t ns, const atomic_bool *stop) MUST_CHECK;
/* While paused: vCPU threads that have just stopped call fn(ctx) as well, beside what the
 * pausing thread does; all of them, some or none. After the wait no call is open and none
 * comes. fn does a share of work that was cut in pieces, and takes no lock. */
typedef void vm_help_fn(void *ctx);
void vm_help_start(struct vm *vm, vm_help_fn *fn, void *ctx);
void vm_help_wait(struct vm *vm);
/* Stop the vCPUs for a longer time, from any thread but a vCPU's: the devices stay at
 * work and the device lock free. A pause may come and go meanwhile. */
enum vm_stall_by {                      /* it lasts until each who stalls it has ended that */
		   STALL_ORDER = 1,     /* whoever runs the vm: a pause, a save, an upgrade */
		   STALL_MEMORY = 2,    /* memory that is to come does not */
		   STALL_OWNERSHIP = 4, /* somebody else may own the vm */
};
void vm_stall(struct vm *vm, enum vm_stall_by who);
/* The same, without waiting until they have stopped. */
void vm_stall_ask(struct vm *vm, enum vm_stall_by who);
void vm_unstall(struct vm *vm, enum vm_stall_by who);
/* vCPUs run (100 - percent) % of the time, in periods of 10 ms (beyond 90 %: longer ones, of
 * which they run 1 ms). 0 = full speed; at most 99. Any thread; devices and clocks do not
 * slow down. It is no part of the state, and outlasts a reset. A pause neither waits for it
 * nor ends it, and vm_is_running() does not look at it. Engine sim: does nothing, whoever
 * calls vm_step() sets the pace. */
void vm_throttle(struct vm *vm, unsigned percent);
unsigned vm_throttle_now(const struct vm *vm); /* percent */
bool vm_is_running(const struct vm *vm);
bool vm_has_ended(const struct vm *vm); /* powered off or crashed */

/* The complete machine state but for RAM and disks, in sections (docs/state-format.md).
 * Only while paused, or before vm_start(). Load checks everything before it acts;
 * after a failed load the vm can only be destroyed or loaded again. */
int vm_state_save(struct vm *vm, struct buf *out, struct error *e) MUST_CHECK;
int vm_state_check(struct vm *vm, const void *data, size_t n, struct error *e) MUST_CHECK;
int vm_state_load(struct vm *vm, const void *data, size_t n, struct error *e) MUST_CHECK;

/* What a state is made of: the sections that this program can write and read, ... */
struct vm_state_kind {
	uint16_t id;
	uint16_t oldest, newest; /* versions read; the newest is what is written */
	const char *name;
};
unsigned vm_state_kinds(struct vm_state_kind *out, unsigned most);
/* ...and those of a state, or -EBADMSG. Returns how many there are; `most` are written. */
struct vm_state_section {
	uint16_t id, instance, version;
	bool mandatory;
};
int vm_state_sections(const void *data, size_t n, struct vm_state_section *out, unsigned most,
		      struct error *e) MUST_CHECK;

/* RAM: a stable mapping of all of it, in RAM pages. Reading while the guest runs is fine. */
uint8_t *vm_ram(const struct vm *vm);
bool page_is_zero(const uint8_t *page); /* VM_PAGE_SIZE bytes */
uint64_t vm_ram_pages(const struct vm *vm);
int vm_ram_fd(const struct vm *vm);
/* None of it is still to come, or was lost: see vm_lazy_begin(). */
bool vm_ram_is_whole(const struct vm *vm);

/* Log-dirty. A harvest ORs the pages written since the last harvest into `map`
 * (vm_ram_pages() bits) and protects them again; it is destructive: merge `map`
 * back yourself when the epoch fails. Includes what devices wrote. */
/* On has one user at a time, who turns it off: -EBUSY for another, and while memory is still
 * to come (vm_lazy_begin()). */
int vm_log_dirty(struct vm *vm, bool on) MUST_CHECK;
bool vm_is_logging_dirty(const struct vm *vm);
int vm_dirty_harvest(struct vm *vm, uint64_t *map) MUST_CHECK;
/* Log for `ns` and count: how many pages were written in that time. The calling thread
 * sleeps meanwhile. -EBUSY as above; and so is vm_log_dirty(), until it has ended. */
int vm_dirty_sample(struct vm *vm, uint64_t ns, uint64_t *pages) MUST_CHECK;

/* ---- memory that comes later ------------------------------------------------
 * A guest that starts before its memory is there: postcopy, lazy restore. Whoever touches a
 * page that is missing waits until vm_lazy_put() brings it: a vCPU, or a thread with the
 * device lock (then all vCPUs that need a device wait too; engine soft: all vCPUs).
 *
 * So vm_pause(), vm_stall() and what takes the device lock may wait for pages, without a
 * limit, and so may vm_start(), which looks at the rings. Whoever brings the pages waits for
 * none of these; vm_stall_ask() does not wait. When they will never come, vm_lazy_abandon()
 * ends all such waits. It comes before anything that waits for a thread of the vm or of its
 * loop. Until all is there the vm's state cannot be saved: -EBUSY.
 *
 * Order: vm_lazy_prepare(), vm_state_load(), vm_lazy_begin(), vm_start(), vm_lazy_end(). */

struct vm_lazy;
struct vm_lazy_events {
	/* A thread waits for this RAM page; once a page, or not at all. On a thread of
	 * this folder's that holds no lock of the vm: others wait until it returns. It may
	 * come before vm_lazy_begin() has returned. */
	void (*fault)(void *ctx, uint64_t page);
	void *ctx;
};
/* Opens the userfaultfd(2): needs CAP_SYS_PTRACE, /dev/userfaultfd or
 * vm.unprivileged_userfaultfd = 1, so it comes before a sandbox. Costs nothing until used. */
int vm_lazy_prepare(struct vm *vm, struct error *e) MUST_CHECK;
int vm_lazy_probe(struct error *e) MUST_CHECK; /* could it here, for a VM without huge pages? */
/* Before vm_start(). What is in the pages whose bits are set in `missing` (vm_ram_pages() bits)
 * is dropped; the other pages stay as they are, and holes among them are zeros. No huge pages
 * until the end. After a failure the vm can only be destroyed. */
int vm_lazy_begin(struct vm *vm, const uint64_t *missing, const struct vm_lazy_events *ev,
		  struct vm_lazy **out, struct error *e) MUST_CHECK;
/* A page's bytes; NULL: zeros. Any thread, many at once. A page that is there already is left
 * alone: the guest may have written it. -ECANCELED: abandoned. Other errors: it is missing
 * still. */
int vm_lazy_put(struct vm_lazy *l, uint64_t page, const void *bytes) MUST_CHECK;
uint64_t vm_lazy_left(const struct vm_lazy *l);               /* pages that are missing still */
void vm_lazy_missing(const struct vm_lazy *l, uint64_t *map); /* which ones */
/* Any thread. With pages missing the guest has ended: vCPUs and devices do nothing more, no
 * frame and no disk write is made of what never came, and all who wait go on. Then the vm can
 * only be paused and destroyed. With none missing it does nothing. */
void vm_lazy_abandon(struct vm_lazy *l);
/* Abandons it if pages are missing; forgets all. No other call is open. vm_destroy() does
 * it too. */
void vm_lazy_end(struct vm_lazy *l);

/* Send the guest's MAC addresses out (gratuitous ARP is the guest's business; this
 * is RARP, which teaches bridges and switches): after a promotion, several times. */
void vm_announce(struct vm *vm);

/* ---- a core file: what debuggers read (docs/core-dump.md) ------------------- */

struct vm_core_options {
	bool paging; /* addresses are virtual, as a vCPU's page tables have them; else physical */
	bool live;   /* the guest runs while its memory is written; else it is paused */
	/* False ends it with -ECANCELED. Bytes of RAM done and in all. On the caller's thread, in
	 * most cases while paused; may be NULL. */
	bool (*go_on)(void *ctx, uint64_t done, uint64_t total);
	void *ctx;
};
struct vm_core_result {
	uint64_t bytes, size; /* of RAM written (pages of zeros are holes); the file's length */
	uint64_t pause_ns;
	size_t segments;
	unsigned paging_vcpu; /* whose page tables they are */
	bool vmcoreinfo;      /* Linux's note about itself was found */
};
/* Pauses, writes, resumes; on any thread while nobody else pauses or resumes (-EBUSY: somebody
 * does). `fd`: a new and empty file, which stays open and is empty again after a failure. A vm
 * that is stalled, or that has ended, stays so. -EOPNOTSUPP: engine sim. -ENODATA: paging is
 * asked for, and the guest has none. */
int vm_dump_core(struct vm *vm, int fd, const struct vm_core_options *options,
		 struct vm_core_result *result, struct error *e) MUST_CHECK;

/* ---- engine sim: a seeded fake guest, for simulation and tests ------------
 * It finds the virtio devices on the PCI bus and drives them as a guest would: it
 * scribbles in RAM, sends and receives frames, writes, reads and flushes blocks,
 * and turns itself off when the power button is pressed. All that it knows is in
 * RAM and in STATE_SIM, so a twin goes on bit by bit the same, given the same
 * frames and completions at the same steps. RAM may be as small as 256 KiB. */

/* Run the fake guest for some steps on the calling thread, instead of vm_start().
 * -EOPNOTSUPP on other engines. -EBUSY: a pause has come, and some steps may be done. */
int vm_step(struct vm *vm, unsigned steps) MUST_CHECK;

struct sim_report {
	uint64_t seed, steps;
	uint64_t sent, received;   /* frames */
	uint64_t written, flushed; /* disk_sequence of the last write begun; of the last
				      one that a completed flush covers (least of all disks) */
	uint64_t hash;             /* of all that the guest has done and seen */
	bool running;              /* the devices are set up */
};
int vm_sim_report(struct vm *vm, struct sim_report *out) MUST_CHECK;
/* Is RAM exactly what the guest left there? -EBADMSG when it is not, or when the guest
 * itself has seen something that cannot be: rings, blocks or completions gone wrong. */
int vm_sim_check(struct vm *vm, struct error *e) MUST_CHECK;
/* Could these bytes be disk number `disk` of this guest, now? Every block must hold the
 * last write that was completed, or one that is in flight. */
int vm_sim_check_disk(struct vm *vm, unsigned disk, const void *bytes, uint64_t size,
		      struct error *e) MUST_CHECK;

/* What a frame of the fake guest says. Two frames of one seed and sequence number
 * must be equal in all: else the guest has lived twice (invariant I1). */
struct sim_frame {
	uint64_t seed, sequence, hash;
	uint64_t flushed; /* as in the report */
};
#define SIM_ETHERTYPE 0x88b5u /* IEEE 802: local experiments */
bool sim_frame_parse(const void *frame, size_t len, struct sim_frame *out);

/* A network of nobody: each frame that is sent goes to `on_frame`, whose result is
 * that of send(). Frames come in by net_memory_deliver(), on the loop's thread:
 * -EAGAIN while the guest takes none. */
typedef int net_memory_fn(void *ctx, const void *frame, size_t len);
int net_memory_create(net_memory_fn *on_frame, void *ctx, struct net_backend **out) MUST_CHECK;
int net_memory_deliver(struct net_backend *b, const void *frame, size_t len) MUST_CHECK;

/* A disk of `size` bytes of the caller's memory. Requests wait until
 * disk_memory_complete(), the `pick`-th of those that wait; a flush only completes what
 * has completed before. -ENOENT: there is none. */
int disk_memory_create(void *bytes, uint64_t size, struct disk_backend **out) MUST_CHECK;
unsigned disk_memory_waiting(const struct disk_backend *b);
int disk_memory_complete(struct disk_backend *b, unsigned pick) MUST_CHECK;
/* The host has crashed: nothing reaches the bytes any more, requests end with -EIO. */
void disk_memory_crash(struct disk_backend *b);

#endif
