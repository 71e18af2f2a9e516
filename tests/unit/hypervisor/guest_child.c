// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/unit/hypervisor/feeder.h"
#include "tests/unit/hypervisor/guest_child.h"

struct machine {
	struct loop *io; /* runs on the only thread beside the vCPUs' */
	struct loop_timer *timer;
	struct vm *vm;
	struct net_backend *net;
	struct disk_backend *disk;
	atomic_bool over;
	struct feeder feeder;
};

static void machine_event(void *ctx, enum vm_event event, const char *detail)
{
	struct machine *m = ctx;
	if (event == VM_EVENT_CRASH)
		fprintf(stderr, "the guest crashed: %s\n", detail);
	atomic_store(&m->over, true);
	loop_stop(m->io);
}

static void machine_timeout(void *ctx)
{
	struct machine *m = ctx;
	loop_stop(m->io);
}

static int machine_config(const struct guest_plan *p, const struct guest_image *image,
			  struct vm_config *c)
{
	const char *engine = p->engines[image->moves % 2];
	const char *build = getenv("POLLUX_BUILD");
	memset(c, 0, sizeof(*c));
	snprintf(c->name, sizeof(c->name), "%s", p->guest);
	snprintf(c->engine, sizeof(c->engine), "%s", engine ? engine : "kvm");
	snprintf(c->cpu, sizeof(c->cpu), "%s", engine ? "pollux-base" : "");
	snprintf(c->kernel, sizeof(c->kernel), "%s/tests/guests/%s", build ? build : "build",
		 p->guest);
	snprintf(c->cmdline, sizeof(c->cmdline), "%s", p->cmdline);
	c->memory = GUEST_MEMORY;
	c->vcpus = p->vcpus;
	c->disk_count = p->disk;
	c->nic_count = p->net;
	c->nics[0] = (struct nic_config){.kind = NIC_STREAM, .mac = {2, 0, 0, 0, 0, 1}};
	snprintf(c->disks[0].path, sizeof(c->disks[0].path), "%s/disk", p->folder);
	snprintf(c->nics[0].socket, sizeof(c->nics[0].socket), "%s/net", p->folder);
	return access(c->kernel, R_OK) ? -errno : 0;
}

static int machine_make(const struct guest_plan *p, const struct guest_image *image,
			struct machine *m, struct error *e)
{
	struct vm_config c;
	int rc = machine_config(p, image, &c);
	if (rc)
		return error_set(e, rc, "the guest %s is not built", p->guest);
	rc = loop_create(&m->io);
	if (!rc && p->disk)
		rc = disk_backend_open(&c.disks[0], m->io, &m->disk, e);
	if (!rc && p->net)
		rc = net_backend_open(&c.nics[0], m->io, &m->net, e);
	struct vm_parts parts = {.io = m->io,
				 .nets = {m->net},
				 .disks = {m->disk},
				 .console_in = -1,
				 .console_out = p->console,
				 .on_event = machine_event,
				 .ctx = m};
	return rc ? rc : vm_create(&c, &parts, &m->vm, e);
}

/* All of it is missing, and the image holds still. */
static int feeder_open(struct machine *m, const struct guest_image *image, struct error *e)
{
	uint64_t all[GUEST_MEMORY / VM_PAGE_SIZE / 64];
	memset(all, 0xff, sizeof(all));
	m->feeder.from = image->ram;
	m->feeder.seed = (unsigned)image->moves;
	int rc = feeder_begin(&m->feeder, m->vm, all, e);
	return rc ? rc : feeder_start(&m->feeder);
}

static int feeder_close(struct machine *m, struct error *e)
{
	if (!m->feeder.lazy)
		return 0;
	feeder_join(&m->feeder);
	if (m->feeder.rc || vm_lazy_left(m->feeder.lazy))
		return error_set(e, -EIO, "%llu pages did not come: %s",
				 (unsigned long long)vm_lazy_left(m->feeder.lazy),
				 strerror(-m->feeder.rc));
	vm_lazy_end(m->feeder.lazy);
	feeder_free(&m->feeder);
	return 0;
}

static int machine_load(struct machine *m, struct guest_image *image, bool lazy, struct error *e)
{
	if (!image->state_len)
		return vm_boot(m->vm, e);
	if (!lazy)
		memcpy(vm_ram(m->vm), image->ram, GUEST_MEMORY);
	uint64_t from = clock_ns();
	int rc = vm_state_load(m->vm, image->state, image->state_len, e);
	image->load_ns += clock_ns() - from;
	return rc || !lazy ? rc : feeder_open(m, image, e);
}

static int machine_save(struct machine *m, struct guest_image *image, struct error *e)
{
	struct buf state = {0};
	uint64_t from = clock_ns();
	int rc = vm_pause(m->vm);
	if (!rc)
		rc = vm_state_save(m->vm, &state, e);
	image->save_ns += clock_ns() - from;
	if (!rc && state.len > GUEST_STATE_MAX)
		rc = error_set(e, -E2BIG, "the state has %zu bytes", state.len);
	if (!rc) {
		memcpy(image->state, state.data, state.len);
		image->state_len = state.len;
		memcpy(image->ram, vm_ram(m->vm), GUEST_MEMORY);
		image->moves++;
	}
	buf_free(&state);
	return rc;
}

static int machine_live(struct machine *m, struct guest_image *image, unsigned ms, struct error *e)
{
	int rc = loop_timer(m->io, machine_timeout, m, &m->timer);
	if (rc)
		return rc;
	loop_timer_set(m->timer, clock_ns() + ms * NS_PER_MS);
	rc = vm_start(m->vm, e);
	if (!rc)
		rc = loop_run(m->io);
	if (!rc)
		rc = feeder_close(m, e);
	if (rc || !atomic_load(&m->over))
		return rc ? rc : machine_save(m, image, e);
	for (unsigned i = 0; !rc && i < 100; i++)
		rc = loop_step(m->io, 1); /* the console's last words */
	return rc;
}

static void machine_end(struct machine *m)
{
	if (m->vm)
		vm_destroy(m->vm);
	if (m->net)
		m->net->ops->destroy(m->net);
	if (m->disk)
		m->disk->ops->destroy(m->disk);
	if (m->timer)
		loop_timer_free(m->timer);
	if (m->io)
		loop_destroy(m->io);
}

int guest_child(const struct guest_plan *p, struct guest_image *image, unsigned ms)
{
	struct machine m = {0};
	struct error e = {0};
	int rc = machine_make(p, image, &m, &e);
	if (!rc)
		rc = machine_load(&m, image, p->lazy, &e);
	if (!rc)
		rc = machine_live(&m, image, ms, &e);
	machine_end(&m);
	if (rc)
		fprintf(stderr, "move %llu: %d %s\n", (unsigned long long)image->moves, rc, e.text);
	return rc ? CHILD_FAILED : atomic_load(&m.over) ? CHILD_ENDED : CHILD_SAVED;
}
