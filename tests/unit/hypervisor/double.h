// SPDX-License-Identifier: Apache-2.0
/*
 * A machine for device tests: an engine that runs nothing and records what devices
 * tell it, network and disk back ends that do what the test says.
 */
#ifndef POLLUX_TESTS_DOUBLE_H
#define POLLUX_TESTS_DOUBLE_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "hypervisor/machine.h"

/* ---- engine ------------------------------------------------------------------ */

#define DOUBLE_MSIS  64u
#define DOUBLE_BELLS 64u

struct engine {
	bool level[64];
	unsigned raised[64]; /* low-to-high transitions of each GSI */
	unsigned msi_count;
	struct {
		uint64_t address;
		uint32_t data;
	} msis[DOUBLE_MSIS]; /* the last ones, msi_count modulo DOUBLE_MSIS */
	bool has_bells;
	struct {
		uint64_t address;
		int fd;
	} bells[DOUBLE_BELLS];
	unsigned resets;
};

/* Whether the next engine takes doorbells, or leaves them to MMIO. */
static bool double_with_bells;

static inline int double_create(const struct engine_params *p, struct engine **out, struct error *e)
{
	*out = calloc(1, sizeof(**out));
	(*out)->has_bells = double_with_bells;
	return *out ? 0 : -ENOMEM;
}
static inline void double_destroy(struct engine *en)
{
	for (unsigned i = 0; i < DOUBLE_BELLS; i++)
		assert_int_equal(en->bells[i].address, 0); /* each was taken away again */
	free(en);
}
static inline int double_boot(struct engine *en, const struct boot_entry *b, struct error *e)
{
	return 0;
}
static inline int double_reset(struct engine *en, struct error *e)
{
	en->resets++;
	return 0;
}
static inline void double_run(struct engine *en, unsigned vcpu, struct vcpu_exit *exit)
{
	exit->kind = EXIT_INTERRUPTED;
}
static inline void double_kick(struct engine *en, unsigned vcpu)
{
}
static inline int double_save(struct engine *en, struct buf *out, struct error *e)
{
	return 0;
}
static inline int double_load(struct engine *en, const struct state_view *v, struct error *e)
{
	return 0;
}
static inline int double_check(struct engine *en, const struct state_view *v, struct error *e)
{
	return 0;
}
static inline unsigned double_cpu_own(const struct engine *en, struct vm_cpu_leaf *out,
				      unsigned most)
{
	return 0;
}
static inline void double_cpu_limits(const struct engine *en, struct vm_cpu_limits *out)
{
	*out = (struct vm_cpu_limits){0};
}
static inline int double_after(struct engine *en, unsigned vcpu)
{
	return 0;
}
static inline int double_irq(struct engine *en, unsigned gsi, bool level)
{
	assert_in_range(gsi, 0, 63);
	en->raised[gsi] += level && !en->level[gsi];
	en->level[gsi] = level;
	return 0;
}
static inline int double_msi(struct engine *en, uint64_t address, uint32_t data)
{
	en->msis[en->msi_count % DOUBLE_MSIS].address = address;
	en->msis[en->msi_count % DOUBLE_MSIS].data = data;
	en->msi_count++;
	return 0;
}
static inline int double_doorbell(struct engine *en, uint64_t address, unsigned size, int fd,
				  bool on)
{
	if (!en->has_bells)
		return -EOPNOTSUPP;
	for (unsigned i = 0; i < DOUBLE_BELLS; i++) {
		if (en->bells[i].address != (on ? 0 : address))
			continue;
		en->bells[i].address = on ? address : 0;
		en->bells[i].fd = fd;
		return 0;
	}
	return -ENOSPC;
}
static inline int double_log_dirty(struct engine *en, bool on)
{
	return 0;
}
static inline int double_harvest(struct engine *en, uint64_t *map)
{
	return 0;
}
static inline void double_probe(struct engine_report *out)
{
	*out = (struct engine_report){.name = "double"};
}

static const struct engine_ops engine_double = {
	.name = "double",
	.stepped = true,
	.probe = double_probe,
	.create = double_create,
	.destroy = double_destroy,
	.vcpu_boot = double_boot,
	.vcpus_reset = double_reset,
	.vcpu_run = double_run,
	.vcpu_kick = double_kick,
	.state_save = double_save,
	.state_check = double_check,
	.cpu_own = double_cpu_own,
	.cpu_limits = double_cpu_limits,
	.state_load = double_load,
	.vcpu_after_pause = double_after,
	.irq_line = double_irq,
	.msi = double_msi,
	.doorbell = double_doorbell,
	.log_dirty = double_log_dirty,
	.dirty_harvest = double_harvest,
};

/* ---- a network back end --------------------------------------------------------- */

struct net_double {
	struct net_backend base;
	bool full; /* send() gives -EAGAIN */
	bool receiving;
	unsigned sent;
	size_t last_len;
	uint8_t last[65600];
};
static inline int net_double_send(struct net_backend *b, const struct iovec *iov, int count)
{
	struct net_double *n = CONTAINER_OF(b, struct net_double, base);

	if (n->full)
		return -EAGAIN;
	n->last_len = 0;
	for (int i = 0; i < count; i++) {
		memcpy(n->last + n->last_len, iov[i].iov_base, iov[i].iov_len);
		n->last_len += iov[i].iov_len;
	}
	n->sent++;
	return 0;
}
static inline void net_double_set_receiving(struct net_backend *b, bool on)
{
	CONTAINER_OF(b, struct net_double, base)->receiving = on;
}
static inline void net_double_destroy(struct net_backend *b)
{
}
static const struct net_backend_ops net_double_ops = {net_double_send, net_double_set_receiving,
						      net_double_destroy};

/* ---- a disk back end that ends requests when told ---------------------------------- */

#define DISK_DOUBLE_MOST 512u
struct disk_double {
	struct disk_backend base;
	struct disk_request *held[DISK_DOUBLE_MOST];
	unsigned count;
	int fail; /* submit() gives this */
	uint8_t *data;
};
static inline void disk_double_apply(struct disk_double *d, struct disk_request *r)
{
	uint64_t at = r->offset;

	if (r->op == DISK_DISCARD || r->op == DISK_WRITE_ZEROES)
		memset(d->data + at, 0, r->length);
	for (int i = 0; i < r->iov_count; i++) {
		if (r->op == DISK_READ)
			memcpy(r->iov[i].iov_base, d->data + at, r->iov[i].iov_len);
		else
			memcpy(d->data + at, r->iov[i].iov_base, r->iov[i].iov_len);
		at += r->iov[i].iov_len;
	}
	assert_int_equal(at - r->offset, r->iov_count ? r->length : 0);
}
static inline int disk_double_submit(struct disk_backend *b, struct disk_request *r)
{
	struct disk_double *d = CONTAINER_OF(b, struct disk_double, base);

	if (d->fail)
		return d->fail;
	assert_true(d->count < DISK_DOUBLE_MOST);
	d->held[d->count++] = r;
	return 0;
}
/* End the request at `i` of those held. */
static inline void disk_double_end(struct disk_double *d, unsigned i, int rc)
{
	struct disk_request *r = d->held[i];

	assert_true(i < d->count);
	memmove(&d->held[i], &d->held[i + 1], (d->count - i - 1) * sizeof(d->held[0]));
	d->count--;
	if (!rc)
		disk_double_apply(d, r);
	r->done(r, rc);
}
static inline void disk_double_drain(struct disk_backend *b)
{
	struct disk_double *d = CONTAINER_OF(b, struct disk_double, base);

	while (d->count)
		disk_double_end(d, 0, 0);
}
static inline int disk_double_claim(struct disk_backend *b, struct error *e)
{
	return 0;
}
static inline void disk_double_destroy(struct disk_backend *b)
{
}
static const struct disk_backend_ops disk_double_ops = {disk_double_submit, disk_double_drain,
							disk_double_claim, disk_double_claim,
							disk_double_destroy};

/* ---- the machine ----------------------------------------------------------------------- */

#define DOUBLE_MEMORY (UINT64_C(4) << 20)

static inline int double_no_boot(struct vm *vm, struct boot_entry *out, struct error *e)
{
	return 0;
}

static inline int double_all_devices(struct vm *vm, struct error *e)
{
	int rc = serial_create(vm, e);

	rc = rc ? rc : rtc_create(vm, e);
	rc = rc ? rc : acpi_create(vm, e);
	rc = rc ? rc : pci_create(vm, e);
	for (unsigned i = 0; !rc && i < vm->config.nic_count; i++)
		rc = virtio_net_create(vm, i, e);
	for (unsigned i = 0; !rc && i < vm->config.disk_count; i++)
		rc = virtio_blk_create(vm, i, e);
	rc = rc ? rc : virtio_rng_create(vm, e);
	return rc ? rc : virtio_console_create(vm, e);
}

/* One NIC if `net`, one disk if `disk`. */
static inline struct vm *double_vm(struct vm_parts *parts, const char *cmdline,
				   struct net_backend *net, struct disk_backend *disk)
{
	const struct machine_plan plan = {&engine_double, double_all_devices, double_no_boot};
	struct vm_config c = {.name = "t", .memory = DOUBLE_MEMORY, .vcpus = 1};
	struct error e = {0};
	struct vm *vm = NULL;

	strcpy(c.cmdline, cmdline);
	c.nic_count = net ? 1 : 0;
	c.disk_count = disk ? 1 : 0;
	memcpy(c.nics[0].mac, "\x52\x54\x00\x12\x34\x56", 6);
	parts->nets[0] = net;
	parts->disks[0] = disk;
	if (machine_create(&plan, &c, parts, &vm, &e))
		fail_msg("%s", e.text);
	return vm;
}

static inline void double_loop_run(struct loop *l)
{
	for (int i = 0; i < 20; i++)
		assert_int_equal(loop_step(l, 0), 0);
}

static inline uint64_t vm_in(struct vm *vm, uint16_t port, unsigned size)
{
	uint64_t v = 0;

	pthread_mutex_lock(&vm->lock);
	bus_access(&vm->ports, port, (uint8_t *)&v, size, false);
	pthread_mutex_unlock(&vm->lock);
	return v;
}
static inline void vm_out(struct vm *vm, uint16_t port, unsigned size, uint64_t v)
{
	pthread_mutex_lock(&vm->lock);
	bus_access(&vm->ports, port, (uint8_t *)&v, size, true);
	pthread_mutex_unlock(&vm->lock);
}
static inline uint64_t vm_peek(struct vm *vm, uint64_t at, unsigned size)
{
	uint64_t v = 0;

	pthread_mutex_lock(&vm->lock);
	bus_access(&vm->mmio, at, (uint8_t *)&v, size, false);
	pthread_mutex_unlock(&vm->lock);
	return v;
}
static inline void vm_poke(struct vm *vm, uint64_t at, unsigned size, uint64_t v)
{
	pthread_mutex_lock(&vm->lock);
	bus_access(&vm->mmio, at, (uint8_t *)&v, size, true);
	pthread_mutex_unlock(&vm->lock);
}

#endif
