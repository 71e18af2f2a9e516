// SPDX-License-Identifier: Apache-2.0
/*
 * Two hosts in one process, for the tests of this folder: a sim guest with a nic
 * behind a netbuf and a disk behind a mirror, replicated over real sockets that pass
 * a relay, which can be cut after a number of bytes.
 */
#ifndef TESTS_REPLICATE_TWIN_H
#define TESTS_REPLICATE_TWIN_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <xxhash.h>

#include "disk-mirror/disk-mirror.h"
#include "netbuf/netbuf.h"
#include "replicate/replicate.h"

#define TWIN_DISK_SIZE  (UINT64_C(64) << 10)
#define TWIN_EPOCHS_MAX 100000u
#define TWIN_SOON       (clock_ns() + 60 * NS_PER_SEC)

struct twin_host {
	struct loop *io;
	struct vm *vm;
	struct net_backend *net;
	struct netbuf *netbuf;
	struct disk_backend *file, *disk;
	struct mirror_source *source;
	struct mirror_target *target;
	int disk_fd;
	_Atomic uint64_t last_frame; /* sequence number that left last */
	atomic_bool frames_damaged, frames_repeated;
};

/* What the guest was at the seal of an epoch. */
struct twin_seal {
	struct sim_report report;
	uint64_t ram_hash;
};

struct twin_relay {
	int from, to;
	bool inward; /* to the standby */
	struct twin *twin;
	pthread_t thread;
};

struct twin {
	struct twin_host primary, standby;
	bool disk;
	struct replicate_config config;
	struct replicator *_Atomic replicator;
	struct replica *replica;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	enum replicator_state primary_state;
	enum replica_state standby_state;
	char primary_why[512], standby_why[512];
	struct twin_seal *seals;
	uint64_t sealed;
	atomic_bool guest_stop, relay_stop;
	atomic_bool silent; /* the relay swallows everything */
	atomic_bool deaf;   /* ...that goes to the standby */
	atomic_bool slow;   /* it keeps that for as long */
	bool copy_is_slow;  /* from the begin of the first copy on */
	atomic_bool seal_waits;
	_Atomic int64_t bytes_left;
	pthread_t guest, acceptor;
	int listener;
	struct twin_relay relays[4 * CHANNEL_STREAMS_MAX];
	unsigned relay_count;
};

/* ---- hosts ------------------------------------------------------------------- */

static inline int twin_frame(void *ctx, const void *frame, size_t len)
{
	struct twin_host *h = ctx;
	struct sim_frame f;

	if (!sim_frame_parse(frame, len, &f)) {
		atomic_store(&h->frames_damaged, true);
		return 0;
	}
	if (f.sequence != atomic_load(&h->last_frame) + 1)
		atomic_store(&h->frames_repeated, true);
	atomic_store(&h->last_frame, f.sequence);
	return 0;
}

static inline void twin_output(void *ctx)
{
	struct replicator *r = atomic_load(&((struct twin *)ctx)->replicator);

	if (r)
		replicator_output(r);
}

static inline void twin_event(void *ctx, enum vm_event event, const char *detail)
{
}

static inline void twin_host_disk(struct twin_host *h, bool primary)
{
	struct disk_config d = {0};
	struct error e = {0};

	h->disk_fd = memfd_create("disk", MFD_CLOEXEC);
	assert_true(h->disk_fd >= 0);
	assert_int_equal(ftruncate(h->disk_fd, TWIN_DISK_SIZE), 0);
	snprintf(d.path, sizeof(d.path), "/proc/self/fd/%d", h->disk_fd);
	if (disk_backend_open(&d, h->io, &h->file, &e))
		fail_msg("%s", e.text);
	h->disk = h->file;
	if (primary) {
		assert_int_equal(mirror_source_create(h->file, 0, h->io, &h->source), 0);
		h->disk = mirror_source_backend(h->source);
	} else {
		assert_int_equal(mirror_target_create(h->disk_fd, TWIN_DISK_SIZE, 0, &h->target),
				 0);
	}
}

static inline void twin_host_make(struct twin *t, struct twin_host *h, bool primary,
				  uint64_t memory, uint64_t seed)
{
	struct netbuf_config n = {0};
	struct error e = {0};
	struct vm_config c = {.name = "twin",
			      .memory = memory,
			      .vcpus = 1,
			      .engine = "sim",
			      .disk_count = t->disk,
			      .nic_count = 1,
			      .seed = seed};

	c.nics[0].mac[0] = 2;
	h->disk_fd = -1;
	assert_int_equal(loop_create(&h->io), 0);
	assert_int_equal(net_memory_create(twin_frame, h, &h->net), 0);
	if (primary) {
		n.on_output = twin_output;
		n.ctx = t;
	}
	assert_int_equal(netbuf_create(h->net, h->io, &n, &h->netbuf), 0);
	if (t->disk)
		twin_host_disk(h, primary);
	struct vm_parts parts = {.io = h->io,
				 .nets = {netbuf_backend(h->netbuf)},
				 .disks = {h->disk},
				 .console_in = -1,
				 .console_out = -1,
				 .on_event = twin_event};
	if (vm_create(&c, &parts, &h->vm, &e))
		fail_msg("%s", e.text);
	if (primary && (vm_boot(h->vm, &e) || vm_start(h->vm, &e)))
		fail_msg("%s", e.text);
}

static inline void twin_host_end(struct twin_host *h)
{
	vm_destroy(h->vm);
	netbuf_destroy(h->netbuf);
	h->net->ops->destroy(h->net);
	mirror_source_destroy(h->source);
	mirror_target_destroy(h->target);
	if (h->file)
		h->file->ops->destroy(h->file);
	if (h->disk_fd >= 0)
		close(h->disk_fd);
	loop_destroy(h->io);
}

/* ---- the guest ------------------------------------------------------------------ */

static inline void *twin_guest_main(void *arg)
{
	struct twin *t = arg;

	while (!atomic_load(&t->guest_stop)) {
		if (vm_step(t->primary.vm, 16) == -EBUSY)
			usleep(20);
		assert_int_equal(loop_step(t->primary.io, 0), 0);
		usleep(5);
	}
	return NULL;
}

/* ---- members and outputs ----------------------------------------------------------- */

static inline int twin_member_start(void *ctx,
				    int (*emit)(void *emit_ctx, const struct iovec *iov, int n),
				    void *emit_ctx, void (*on_synced)(void *emit_ctx, int rc))
{
	return mirror_source_start(((struct twin *)ctx)->primary.source, emit, emit_ctx, 0,
				   on_synced);
}

static inline void twin_member_stop(void *ctx)
{
	mirror_source_stop(((struct twin *)ctx)->primary.source);
}

static inline int twin_member_receive(void *ctx, uint64_t epoch, bool direct,
				      const uint8_t *payload, size_t len, struct error *e)
{
	return mirror_target_receive(((struct twin *)ctx)->standby.target, epoch, direct, payload,
				     len, e);
}

static inline int twin_member_commit(void *ctx, uint64_t epoch, struct error *e)
{
	return mirror_target_commit(((struct twin *)ctx)->standby.target, epoch, e);
}

static inline void twin_member_discard(void *ctx)
{
	mirror_target_discard(((struct twin *)ctx)->standby.target);
}

static inline struct epoch_member twin_member(struct twin *t)
{
	return (struct epoch_member){.id = 1,
				     .size = TWIN_DISK_SIZE,
				     .ctx = t,
				     .start = twin_member_start,
				     .stop = twin_member_stop,
				     .receive = twin_member_receive,
				     .commit = twin_member_commit,
				     .discard = twin_member_discard};
}

/* In the pause: remember what the epoch is. */
static inline void twin_record(struct twin *t, uint64_t epoch)
{
	struct twin_seal s = {0};

	assert_true(epoch < TWIN_EPOCHS_MAX);
	assert_int_equal(vm_sim_report(t->primary.vm, &s.report), 0);
	s.ram_hash = XXH3_64bits(vm_ram(t->primary.vm), vm_ram_pages(t->primary.vm) * VM_PAGE_SIZE);
	pthread_mutex_lock(&t->lock);
	t->seals[epoch] = s;
	t->sealed = epoch;
	pthread_mutex_unlock(&t->lock);
}

static inline void twin_seal_wait(struct twin *t)
{
	while (atomic_load(&t->seal_waits))
		usleep(1000);
}

static inline void twin_output_hold(void *ctx, uint64_t open_epoch)
{
	struct twin *t = ctx;

	netbuf_hold(t->primary.netbuf, open_epoch);
	if (t->sealed || open_epoch != 2)
		return;
	twin_record(t, 1);
	twin_seal_wait(t);
}

static inline void twin_output_pass(void *ctx)
{
	netbuf_pass(((struct twin *)ctx)->primary.netbuf);
}

static inline void twin_output_seal(void *ctx, uint64_t epoch)
{
	struct twin *t = ctx;

	netbuf_seal(t->primary.netbuf, epoch);
	twin_record(t, epoch);
	twin_seal_wait(t);
}

static inline void twin_output_release(void *ctx, uint64_t epoch)
{
	netbuf_release(((struct twin *)ctx)->primary.netbuf, epoch);
}

/* ---- the link: each connection passes two relays ---------------------------------------- */

static inline void *twin_relay_main(void *arg)
{
	struct twin_relay *l = arg;
	uint8_t data[4096];
	ssize_t n;

	while ((n = read(l->from, data, sizeof(data))) > 0) {
		int64_t left = atomic_fetch_sub(&l->twin->bytes_left, n);

		while (l->inward && atomic_load(&l->twin->slow))
			usleep(1000);
		if (l->inward && atomic_load(&l->twin->deaf))
			continue;
		if (left < n) {
			if (left > 0 && fd_write_all(l->to, data, (size_t)left))
				break;
			if (!atomic_load(&l->twin->silent))
				break;
		} else if (fd_write_all(l->to, data, (size_t)n)) {
			break;
		}
	}
	shutdown(l->from, SHUT_RDWR);
	shutdown(l->to, SHUT_RDWR);
	return NULL;
}

static inline void twin_relay_add(struct twin *t, int from, int to, bool inward)
{
	struct twin_relay *l = &t->relays[t->relay_count];

	assert_true(t->relay_count < ARRAY_LEN(t->relays));
	*l = (struct twin_relay){.from = from, .to = to, .inward = inward, .twin = t};
	assert_int_equal(thread_start(&l->thread, "relay", twin_relay_main, l), 0);
	t->relay_count++;
}

static inline void twin_connection(struct twin *t, int fd)
{
	uint8_t bytes[PREAMBLE_SIZE];
	struct preamble p;
	int pair[2];

	if (fd_read_all(fd, bytes, sizeof(bytes)) || preamble_decode(bytes, &p, NULL)) {
		close(fd);
		return;
	}
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	twin_relay_add(t, fd, pair[0], true);
	twin_relay_add(t, pair[0], fd, false);
	if (replica_add_stream(t->replica, p.stream, pair[1]))
		print_message("stream %u was not taken\n", p.stream);
}

static inline void *twin_accept_main(void *arg)
{
	struct twin *t = arg;
	struct pollfd p = {.fd = t->listener, .events = POLLIN};

	while (!atomic_load(&t->relay_stop)) {
		int fd;

		if (poll(&p, 1, 10) <= 0)
			continue;
		fd = accept4(t->listener, NULL, NULL, SOCK_CLOEXEC);
		if (fd >= 0)
			twin_connection(t, fd);
	}
	return NULL;
}

/* ---- states -------------------------------------------------------------------------------- */

static inline void twin_primary_state(void *ctx, enum replicator_state s, const char *why)
{
	struct twin *t = ctx;

	if (s == REPLICATOR_SYNCING && t->copy_is_slow)
		atomic_store(&t->slow, true);
	pthread_mutex_lock(&t->lock);
	t->primary_state = s;
	snprintf(t->primary_why, sizeof(t->primary_why), "%s", why);
	pthread_cond_broadcast(&t->changed);
	pthread_mutex_unlock(&t->lock);
}

static inline void twin_standby_state(void *ctx, enum replica_state s, const char *why)
{
	struct twin *t = ctx;

	pthread_mutex_lock(&t->lock);
	t->standby_state = s;
	snprintf(t->standby_why, sizeof(t->standby_why), "%s", why);
	pthread_cond_broadcast(&t->changed);
	pthread_mutex_unlock(&t->lock);
}

#define BIT_OF(s) (1u << (s))
/* What no other state follows, whatever a test waits for. */
#define TWIN_ENDS (BIT_OF(REPLICATOR_UNPROTECTED) | BIT_OF(REPLICATOR_FENCED))

static inline enum replicator_state twin_wait_primary(struct twin *t, unsigned states)
{
	enum replicator_state s;

	pthread_mutex_lock(&t->lock);
	while (!(states & BIT_OF(t->primary_state)) && !(TWIN_ENDS & BIT_OF(t->primary_state)))
		pthread_cond_wait(&t->changed, &t->lock);
	s = t->primary_state;
	if (!(states & BIT_OF(s)))
		fail_msg("the session has ended in state %u: %s", s, t->primary_why);
	pthread_mutex_unlock(&t->lock);
	return s;
}

static inline enum replica_state twin_wait_standby(struct twin *t, unsigned states)
{
	enum replica_state s;

	pthread_mutex_lock(&t->lock);
	while (!(states & BIT_OF(t->standby_state)))
		pthread_cond_wait(&t->changed, &t->lock);
	s = t->standby_state;
	pthread_mutex_unlock(&t->lock);
	return s;
}

/* ---- all together ------------------------------------------------------------------------------
 */

static inline struct replicate_config twin_config(void)
{
	struct replicate_config c;

	replicate_config_defaults(&c);
	c.mode = REPLICATE_INTERVAL;
	c.interval_ns = 2 * NS_PER_MS;
	c.heartbeat_ns = 50 * NS_PER_MS;
	c.loss_ns = 10 * NS_PER_SEC;
	c.term = 7;
	memset(c.session, 0x51, sizeof(c.session));
	memset(c.key, 0x23, sizeof(c.key));
	snprintf(c.address, sizeof(c.address), "127.0.0.1");
	return c;
}

static inline uint16_t twin_port(int fd)
{
	struct sockaddr_storage a;
	socklen_t n = sizeof(a);

	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &n), 0);
	return (uint16_t)(((uint8_t *)&a)[2] << 8 | ((uint8_t *)&a)[3]);
}

/* `standby` may differ from `primary` where a test wants a refusal. */
static inline struct twin *twin_make(const struct replicate_config *primary,
				     const struct replicate_config *standby, bool disk,
				     uint64_t memory, uint64_t seed)
{
	struct replica_events events = {.state = twin_standby_state};
	struct twin *t = calloc(1, sizeof(*t));
	struct epoch_member member;
	struct error e = {0};

	assert_non_null(t);
	t->disk = disk;
	t->seals = calloc(TWIN_EPOCHS_MAX, sizeof(*t->seals));
	t->config = *primary;
	t->bytes_left = INT64_MAX / 2;
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->changed, NULL);
	twin_host_make(t, &t->primary, true, memory, seed);
	twin_host_make(t, &t->standby, false, memory, seed);
	assert_int_equal(channel_listen("127.0.0.1", 0, &t->listener, NULL), 0);
	t->config.port = twin_port(t->listener);
	events.ctx = t;
	member = twin_member(t);
	if (replica_create(t->standby.vm, standby, &member, disk, &events, &t->replica, &e))
		fail_msg("%s", e.text);
	assert_int_equal(thread_start(&t->acceptor, "accept", twin_accept_main, t), 0);
	assert_int_equal(thread_start(&t->guest, "guest", twin_guest_main, t), 0);
	return t;
}

static inline void twin_protect(struct twin *t)
{
	struct replicator_events events = {.state = twin_primary_state, .ctx = t};
	struct epoch_output output = {.ctx = t,
				      .hold = twin_output_hold,
				      .pass = twin_output_pass,
				      .seal = twin_output_seal,
				      .release = twin_output_release};
	struct epoch_member member = twin_member(t);
	struct replicator *r;
	struct error e = {0};

	t->primary_state = REPLICATOR_CONNECTING;
	if (replicator_start(t->primary.vm, &t->config, &member, t->disk, &output, 1, &events, &r,
			     &e))
		fail_msg("%s", e.text);
	atomic_store(&t->replicator, r);
}

static inline uint64_t twin_acknowledged(struct twin *t)
{
	struct replicate_stats s;

	replicator_stats(t->replicator, &s);
	return s.acknowledged;
}

static inline void twin_guest_end(struct twin *t)
{
	if (!atomic_exchange(&t->guest_stop, true))
		pthread_join(t->guest, NULL);
}

static inline void twin_end(struct twin *t)
{
	atomic_store(&t->silent, false);
	atomic_store(&t->slow, false);
	twin_guest_end(t);
	replicator_destroy(t->replicator);
	atomic_store(&t->relay_stop, true);
	pthread_join(t->acceptor, NULL);
	for (unsigned i = 0; i < t->relay_count; i++)
		shutdown(t->relays[i].from, SHUT_RDWR);
	replica_destroy(t->replica);
	for (unsigned i = 0; i < t->relay_count; i++)
		pthread_join(t->relays[i].thread, NULL);
	for (unsigned i = 0; i < t->relay_count; i++)
		close(t->relays[i].from);
	close(t->listener);
	twin_host_end(&t->primary);
	twin_host_end(&t->standby);
	pthread_cond_destroy(&t->changed);
	pthread_mutex_destroy(&t->lock);
	free(t->seals);
	free(t);
}

/* ---- what must hold
 * ------------------------------------------------------------------------------ */

/* After a promotion: the twin is what the guest was at the seal of one epoch, and
 * nothing that left the primary came after that. */
static inline void twin_check_promoted(struct twin *t)
{
	struct replicate_stats stats;
	struct sim_report report;
	struct error e = {0};
	const struct twin_seal *seal;

	replica_stats(t->replica, &stats);
	assert_true(stats.epoch >= 1 && stats.epoch == stats.acknowledged);
	assert_int_equal(vm_sim_report(t->standby.vm, &report), 0);
	seal = &t->seals[stats.epoch];
	assert_int_equal(report.steps, seal->report.steps);
	assert_int_equal(report.hash, seal->report.hash);
	if (!t->disk) /* a read in flight may write RAM between copy and hash */
		assert_int_equal(XXH3_64bits(vm_ram(t->standby.vm),
					     vm_ram_pages(t->standby.vm) * VM_PAGE_SIZE),
				 seal->ram_hash);
	if (vm_sim_check(t->standby.vm, &e))
		fail_msg("the twin's memory: %s", e.text);
	assert_false(atomic_load(&t->primary.frames_damaged));
	assert_false(atomic_load(&t->primary.frames_repeated));
	assert_true(atomic_load(&t->primary.last_frame) <= report.sent);
}

static inline void twin_check_disk(struct twin *t)
{
	static uint8_t bytes[TWIN_DISK_SIZE];
	struct error e = {0};

	assert_int_equal(pread(t->standby.disk_fd, bytes, sizeof(bytes), 0), sizeof(bytes));
	if (vm_sim_check_disk(t->standby.vm, 0, bytes, sizeof(bytes), &e))
		fail_msg("the twin's disk: %s", e.text);
}

/* The twin lives on. */
static inline void twin_check_alive(struct twin *t)
{
	struct error e = {0};

	if (vm_start(t->standby.vm, &e))
		fail_msg("%s", e.text);
	for (unsigned i = 0; i < 500; i++) {
		assert_int_equal(vm_step(t->standby.vm, 10), 0);
		assert_int_equal(loop_step(t->standby.io, 0), 0);
	}
	if (vm_sim_check(t->standby.vm, &e))
		fail_msg("the twin after a while: %s", e.text);
}

#endif
