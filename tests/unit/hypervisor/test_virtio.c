// SPDX-License-Identifier: Apache-2.0
/* What all virtio devices share: negotiation, status, states that are damaged, threads. */
#include <linux/virtio_blk.h>
#include <linux/virtio_net.h>
#include <stdio.h>
#include <time.h>

#include "tests/unit/hypervisor/driver.h"

#define DISK_SIZE (UINT64_C(1) << 20)

static struct loop *io;
static struct vm_parts parts;
static struct net_double net;
static struct disk_double disk;
static uint8_t content[DISK_SIZE];
static struct vm *vm;
static struct driver d;

static struct vm *machine(struct net_double *n, struct disk_double *k, struct vm_parts *p)
{
	*n = (struct net_double){.base.ops = &net_double_ops};
	*k = (struct disk_double){.base = {.ops = &disk_double_ops, .size = DISK_SIZE, .fd = -1},
				  .data = content};
	*p = (struct vm_parts){.io = io, .console_in = -1, .console_out = -1};
	return double_vm(p, "", &n->base, &k->base);
}

static int setup(void **state)
{
	double_with_bells = true;
	assert_int_equal(loop_create(&io), 0);
	vm = machine(&net, &disk, &parts);
	return 0;
}
static int teardown(void **state)
{
	vm_destroy(vm);
	loop_destroy(io);
	return 0;
}

/* ---- negotiation ----------------------------------------------------------------- */

static void only_offered_features_are_accepted(void **state)
{
	uint64_t offered;

	driver_find(&d, vm, VIRTIO_ID_BLOCK);
	offered = driver_offered(&d);
	assert_true(driver_negotiate(&d, offered));
	common_set(&d, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	assert_false(driver_negotiate(&d, offered | FEATURE(VIRTIO_BLK_F_MQ)));
	common_set(&d, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	assert_false(driver_negotiate(&d, offered & ~FEATURE(VIRTIO_F_VERSION_1)));
	common_set(&d, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	assert_true(driver_negotiate(&d, FEATURE(VIRTIO_F_VERSION_1)));
	common_set(&d, VIRTIO_PCI_COMMON_GFSELECT, 4, 0); /* too late */
	common_set(&d, VIRTIO_PCI_COMMON_GF, 4, 1u << VIRTIO_BLK_F_MQ);
	assert_int_equal(common_get(&d, VIRTIO_PCI_COMMON_GF, 4), 0);
	common_set(&d, VIRTIO_PCI_COMMON_DFSELECT, 4, 2);
	assert_int_equal(common_get(&d, VIRTIO_PCI_COMMON_DF, 4), 0);
	common_set(&d, VIRTIO_PCI_COMMON_GFSELECT, 4, 7);
	common_set(&d, VIRTIO_PCI_COMMON_GF, 4, ~0u);
	assert_int_equal(common_get(&d, VIRTIO_PCI_COMMON_GF, 4), 0);
}

static void a_driver_must_negotiate_before_it_is_ok(void **state)
{
	driver_find(&d, vm, VIRTIO_ID_BLOCK);
	driver_set_status(&d, VIRTIO_CONFIG_S_DRIVER_OK);
	assert_int_equal(driver_status(&d) & VIRTIO_CONFIG_S_DRIVER_OK, 0);
	common_set(&d, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	assert_int_equal(common_get(&d, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
	driver_set_status(&d, VIRTIO_CONFIG_S_NEEDS_RESET); /* not the driver's to set */
	assert_int_equal(driver_status(&d), 0);
}

static void registers_hold_what_is_written(void **state)
{
	driver_find(&d, vm, VIRTIO_ID_BLOCK);
	assert_int_equal(common_get(&d, VIRTIO_PCI_COMMON_NUMQ, 2), 1);
	assert_int_equal(common_get(&d, VIRTIO_PCI_COMMON_Q_SIZE, 2), 256);
	common_set(&d, VIRTIO_PCI_COMMON_Q_SIZE, 2, 257);
	assert_int_equal(common_get(&d, VIRTIO_PCI_COMMON_Q_SIZE, 2), 256);
	common_set(&d, VIRTIO_PCI_COMMON_Q_DESCLO, 8, UINT64_C(0x1122334455667788));
	assert_int_equal(common_get(&d, VIRTIO_PCI_COMMON_Q_DESCLO, 4), 0x55667788);
	assert_int_equal(common_get(&d, VIRTIO_PCI_COMMON_Q_DESCLO, 8),
			 UINT64_C(0x1122334455667788));
	common_set(&d, VIRTIO_PCI_COMMON_Q_MSIX, 2, 1);
	assert_int_equal(common_get(&d, VIRTIO_PCI_COMMON_Q_MSIX, 2), 1);
	common_set(&d, VIRTIO_PCI_COMMON_Q_MSIX, 2, 2); /* there are two: 0 and 1 */
	assert_int_equal(common_get(&d, VIRTIO_PCI_COMMON_Q_MSIX, 2), 0xffff);
	common_set(&d, VIRTIO_PCI_COMMON_Q_SELECT, 2, 1);
	assert_int_equal(common_get(&d, VIRTIO_PCI_COMMON_Q_SIZE, 2), 0);
	common_set(&d, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	assert_int_equal(common_get(&d, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
	(void)common_get(&d, VIRTIO_PCI_COMMON_STATUS, 4); /* no such access */
	common_set(&d, 0xff8, 8, ~UINT64_C(0));
}

static void a_queue_outside_memory_breaks_the_device(void **state)
{
	driver_find(&d, vm, VIRTIO_ID_BLOCK);
	assert_true(driver_negotiate(&d, FEATURE(VIRTIO_F_VERSION_1)));
	common_set(&d, VIRTIO_PCI_COMMON_Q_DESCLO, 4, 0xc0000000);
	common_set(&d, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	assert_int_equal(common_get(&d, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
	assert_true(driver_status(&d) & VIRTIO_CONFIG_S_NEEDS_RESET);
	common_set(&d, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	assert_int_equal(driver_status(&d), 0);
}

static void kicks_of_nothing_do_nothing(void **state)
{
	driver_find(&d, vm, VIRTIO_ID_BLOCK);
	for (unsigned i = 0; i < 64; i++)
		vm_poke(vm, d.notify + i, 2, i);
	driver_start(&d, vm, VIRTIO_ID_NET, 0, 1, 8); /* the others are not enabled */
	for (unsigned i = 0; i < 64; i++)
		vm_poke(vm, d.notify + i, 4, i);
	assert_int_equal(driver_status(&d) & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
}

static void random_bytes_arrive(void **state)
{
	static const uint8_t zeros[64];
	uint64_t gpa;
	uint16_t head;
	uint32_t len;

	driver_start(&d, vm, VIRTIO_ID_RNG, 0, 1, 8);
	gpa = driver_alloc(&d, 64, 1);
	driver_add(&d, 0, &(struct piece){gpa, 64}, 0, 1);
	driver_kick(&d, 0);
	double_loop_run(io);
	assert_true(driver_take(&d, 0, &head, &len));
	assert_int_equal(len, 64);
	assert_memory_not_equal(driver_at(&d, gpa, 64), zeros, 64);
	assert_true(page_marked(vm, gpa));
}

/* ---- states ------------------------------------------------------------------------ */

/* A machine with all drivers at work, a request in flight and a message pending. */
static void work(void)
{
	struct driver n;

	driver_start(&n, vm, VIRTIO_ID_NET, FEATURE(VIRTIO_RING_F_EVENT_IDX), 3, 32);
	driver_find(&d, vm, VIRTIO_ID_BLOCK);
	d.free = n.free;
	assert_true(driver_negotiate(&d, driver_offered(&d)));
	driver_msix_on(&d, 2);
	driver_queue_on(&d, 0, 16);
	driver_set_status(&d, VIRTIO_CONFIG_S_DRIVER_OK);
	for (unsigned i = 0; i < 2; i++) {
		uint64_t at = driver_alloc(&d, 1024, 512);
		driver_add(&d, 0, (struct piece[]){{at, 16}, {at + 512, 512}, {at + 16, 1}}, 1, 2);
	}
	vm_poke(vm, d.table + 16 + 12, 4, 1); /* mask: the completion becomes pending */
	driver_kick(&d, 0);
	double_loop_run(io);
	disk_double_end(&disk, 0, 0);
}

static void state_take(struct vm *from, struct buf *b)
{
	struct error e = {0};

	assert_int_equal(vm_pause(from), 0);
	if (vm_state_save(from, b, &e))
		fail_msg("%s", e.text);
	assert_int_equal(vm_resume(from), 0);
}

static void a_loaded_state_saves_as_the_same_bytes(void **state)
{
	struct net_double n2;
	struct disk_double k2;
	struct vm_parts p2;
	struct vm *twin = machine(&n2, &k2, &p2);
	struct buf a = {0}, b = {0};
	struct error e = {0};

	work();
	state_take(vm, &a);
	memcpy(vm_ram(twin), vm_ram(vm), DOUBLE_MEMORY);
	assert_int_equal(vm_state_load(twin, a.data, a.len, &e), 0);
	state_take(twin, &b);
	assert_int_equal(a.len, b.len);
	assert_memory_equal(a.data, b.data, a.len);
	assert_int_equal(twin->engine->msi_count, 0);
	/* The pending message goes when it is unmasked, in the twin too. */
	assert_int_equal(vm_start(twin, &e), 0);
	d.vm = twin;
	assert_int_equal(driver_msis(&d, 1), 0);
	vm_poke(twin, d.table + 16 + 12, 4, 0);
	assert_int_equal(driver_msis(&d, 1), 1);
	vm_destroy(twin);
	buf_free(&a);
	buf_free(&b);
}

static void a_state_of_another_machine_is_refused(void **state)
{
	struct net_double n2;
	struct disk_double k2;
	struct vm_parts p2;
	struct vm *other;
	struct buf a = {0};
	struct error e = {0};

	k2.base.size = 0;
	work();
	state_take(vm, &a);
	n2 = (struct net_double){.base.ops = &net_double_ops};
	k2 = (struct disk_double){
		.base = {.ops = &disk_double_ops, .size = DISK_SIZE / 2, .fd = -1},
		.data = content};
	p2 = (struct vm_parts){.io = io, .console_in = -1, .console_out = -1};
	other = double_vm(&p2, "", &n2.base, &k2.base);
	assert_int_not_equal(vm_state_check(other, a.data, a.len, &e), 0);
	assert_int_not_equal(vm_state_load(other, a.data, a.len, &e), 0);
	vm_destroy(other);
	other = double_vm(&p2, "", &n2.base, NULL);
	assert_int_not_equal(vm_state_check(other, a.data, a.len, &e), 0);
	vm_destroy(other);
	buf_free(&a);
}

static int load_fail(struct engine *en, const struct state_view *v, struct error *e)
{
	return error_set(e, -EIO, "this host does not take it");
}

/* What only the engine can find while it loads: half of a guest must never run. */
static void half_of_a_state_never_runs(void **state)
{
	struct engine_ops failing = engine_double;
	struct error e = {0};
	struct buf a = {0};

	failing.state_load = load_fail;
	state_take(vm, &a);
	vm->engine_ops = &failing;
	assert_int_equal(vm_state_load(vm, a.data, a.len, &e), -EIO);
	assert_int_equal(vm_step(vm, 1), -EBADMSG);
	assert_int_equal(vm_boot(vm, NULL), -EBADMSG);
	assert_int_equal(vm_start(vm, NULL), -EBADMSG);
	assert_int_equal(vm_pause(vm), 0);
	assert_int_equal(vm_resume(vm), -EBADMSG);
	vm->engine_ops = &engine_double;
	assert_int_equal(vm_state_load(vm, a.data, a.len, &e), 0);
	assert_int_equal(vm_resume(vm), 0);
	assert_int_equal(vm_start(vm, NULL), 0);
	buf_free(&a);
}

/* Bytes turned over: refused, or loaded into a machine that then survives being run. */
static void damaged_states_do_no_harm(void **state)
{
	unsigned seed = (unsigned)time(NULL), refused = 0, taken = 0;
	struct net_double n2;
	struct disk_double k2;
	struct vm_parts p2;
	struct buf a = {0};
	uint8_t *copy;

	print_message("seed %u\n", seed);
	srand(seed);
	work();
	state_take(vm, &a);
	copy = malloc(a.len);
	assert_non_null(copy);
	for (unsigned round = 0; round < 200; round++) {
		struct vm *twin = machine(&n2, &k2, &p2);
		struct error e = {0};
		size_t n = round % 4 ? a.len : (size_t)rand() % a.len;
		memcpy(copy, a.data, a.len);
		for (int i = rand() % 4; i >= 0 && n == a.len; i--)
			copy[(size_t)rand() % a.len] ^= (uint8_t)(1 << rand() % 8);
		memcpy(vm_ram(twin), vm_ram(vm), DOUBLE_MEMORY);
		if (vm_state_check(twin, copy, n, &e)) {
			assert_int_not_equal(vm_state_load(twin, copy, n, &e), 0);
			refused++;
		} else {
			assert_int_equal(vm_state_load(twin, copy, n, &e), 0);
			assert_int_equal(vm_start(twin, &e), 0);
			double_loop_run(io);
			taken++;
		}
		vm_destroy(twin);
	}
	print_message("%u refused, %u taken\n", refused, taken);
	assert_true(refused >= 50);
	free(copy);
	buf_free(&a);
}

/* Random writes to all registers and to all of the ring memory, by a guest gone mad. */
static void a_mad_guest_harms_itself_only(void **state)
{
	static const unsigned ids[] = {VIRTIO_ID_NET, VIRTIO_ID_BLOCK, VIRTIO_ID_RNG,
				       VIRTIO_ID_CONSOLE};
	unsigned seed = (unsigned)time(NULL);
	uint8_t frame[200] = {0};
	struct driver g[4];

	print_message("seed %u\n", seed);
	srand(seed);
	log_setup("test", LOG_LEVEL_ERROR);
	for (unsigned round = 0; round < 300; round++) {
		for (unsigned i = 0; i < ARRAY_LEN(ids); i++) {
			driver_find(&g[i], vm, ids[i]);
			common_set(&g[i], VIRTIO_PCI_COMMON_STATUS, 1, 0);
			disk_double_drain(&disk.base);
			driver_start(&g[i], vm, ids[i], driver_offered(&g[i]), i ? 1 : 3, 16);
		}
		for (unsigned step = 0; step < 200; step++) {
			struct driver *v = &g[(unsigned)rand() % 4];
			struct driver_queue *q = &v->queues[0];
			uint64_t at = v->common + (unsigned)rand() % 0x5100;
			unsigned size = 1u << rand() % 4;
			unsigned what = (unsigned)rand() % 8;
			if (what == 0)
				vm_poke(vm, at & ~(uint64_t)(size - 1), size, (uint64_t)rand());
			else if (what == 1)
				(void)vm_peek(vm, at & ~(uint64_t)(size - 1), size);
			else if (what == 2)
				*(uint8_t *)driver_at(v, q->desc + (unsigned)rand() % 512, 1) ^=
					(uint8_t)(1 << rand() % 8);
			else if (what == 3)
				driver_publish(v, 0, (uint16_t)(rand() % 17));
			else if (what == 4)
				vm_poke(vm, v->notify, 2, 0);
			else if (what == 5)
				(void)!net.base.front.receive(net.base.front.ctx, frame, 200);
			else if (what == 6 && disk.count)
				disk_double_end(&disk, (unsigned)rand() % disk.count, 0);
			else
				desc_put(v, q->desc, (unsigned)rand() % 16,
					 (struct piece){(unsigned)rand() % DOUBLE_MEMORY,
							(unsigned)rand() % 3000},
					 (uint16_t)(rand() % 8), (uint16_t)(rand() % 17));
		}
	}
	disk_double_drain(&disk.base);
	log_setup("test", LOG_LEVEL_INFO);
}

/* ---- threads ------------------------------------------------------------------------- */

static void *loop_thread(void *ctx)
{
	assert_int_equal(loop_run(ctx), 0);
	return NULL;
}

/* The loop runs on a thread of its own while the guest works and a pauser pauses. */
static void threads_get_along(void **state)
{
	uint64_t gpa;
	uint16_t head;
	uint32_t len;
	pthread_t t;

	driver_start(&d, vm, VIRTIO_ID_NET, FEATURE(VIRTIO_RING_F_EVENT_IDX), 3, 32);
	gpa = driver_alloc(&d, 100, 1);
	assert_int_equal(thread_start(&t, "loop", loop_thread, io), 0);
	for (unsigned i = 0; i < 2000; i++) {
		driver_used_event(&d, 1, d.queues[1].used_seen);
		driver_add(&d, 1, &(struct piece){gpa, 100}, 1, 0);
		driver_kick(&d, 1);
		if (i % 100 == 0) {
			assert_int_equal(vm_pause(vm), 0);
			assert_int_equal(vm_resume(vm), 0);
		}
		while (!driver_take(&d, 1, &head, &len))
			sched_yield();
	}
	loop_stop(io);
	pthread_join(t, NULL);
	assert_int_equal(net.sent, 2000);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(only_offered_features_are_accepted),
		T(a_driver_must_negotiate_before_it_is_ok),
		T(registers_hold_what_is_written),
		T(a_queue_outside_memory_breaks_the_device),
		T(kicks_of_nothing_do_nothing),
		T(random_bytes_arrive),
		T(a_loaded_state_saves_as_the_same_bytes),
		T(a_state_of_another_machine_is_refused),
		T(half_of_a_state_never_runs),
		T(damaged_states_do_no_harm),
		T(a_mad_guest_harms_itself_only),
		T(threads_get_along),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
