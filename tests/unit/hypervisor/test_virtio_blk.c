// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <stdio.h>
#include <time.h>

#include "tests/unit/hypervisor/driver.h"

#define DISK_SIZE (UINT64_C(1) << 20)
#define ALL_FEATURES                                                                               \
	(FEATURE(VIRTIO_BLK_F_FLUSH) | FEATURE(VIRTIO_BLK_F_DISCARD) |                             \
	 FEATURE(VIRTIO_BLK_F_WRITE_ZEROES) | FEATURE(VIRTIO_BLK_F_CONFIG_WCE) |                   \
	 FEATURE(VIRTIO_RING_F_INDIRECT_DESC) | FEATURE(VIRTIO_RING_F_EVENT_IDX))

static struct loop *io;
static struct vm_parts parts;
static struct vm *vm;
static struct driver d;
static uint8_t content[DISK_SIZE];
static struct disk_double fake;

/* ---- requests ---------------------------------------------------------------------- */

struct request {
	uint64_t header, data, status;
	uint32_t len;
};

static struct request request_make(uint32_t type, uint64_t sector, uint32_t len, uint8_t fill)
{
	struct virtio_blk_outhdr h = {.type = type, .sector = sector};
	struct request r = {.len = len};

	r.header = driver_alloc(&d, sizeof(h), 8);
	r.data = driver_alloc(&d, len, 512);
	r.status = driver_alloc(&d, 1, 1);
	memcpy(driver_at(&d, r.header, sizeof(h)), &h, sizeof(h));
	memset(driver_at(&d, r.data, len ? len : 1), fill, len);
	*(uint8_t *)driver_at(&d, r.status, 1) = 0xee;
	return r;
}

static void request_add(const struct request *r, bool in)
{
	struct piece p[3] = {{r->header, 16}, {r->data, r->len}, {r->status, 1}};

	if (!r->len)
		p[1] = p[2];
	driver_add(&d, 0, p, in ? 1 : r->len ? 2 : 1, in && r->len ? 2 : 1);
}

static uint8_t status_of(const struct request *r)
{
	return *(uint8_t *)driver_at(&d, r->status, 1);
}

static void wait_used(uint32_t *len)
{
	uint16_t head;

	for (int i = 0; i < 500; i++) {
		if (driver_take(&d, 0, &head, len))
			return;
		assert_int_equal(loop_step(io, 10), 0);
	}
	fail_msg("the request did not come back");
}

static uint8_t run(struct request *r, bool in)
{
	uint32_t len;

	request_add(r, in);
	driver_kick(&d, 0);
	wait_used(&len);
	return status_of(r);
}

static uint8_t run_range(uint32_t type, uint64_t sector, uint32_t sectors, uint32_t flags)
{
	struct virtio_blk_discard_write_zeroes range = {sector, sectors, flags};
	struct request r = request_make(type, 0, sizeof(range), 0);

	memcpy(driver_at(&d, r.data, sizeof(range)), &range, sizeof(range));
	return run(&r, false);
}

/* ---- with a real file ------------------------------------------------------------------ */

static char path[64];
static struct disk_backend *file;

static int setup_file_in(const char *folder, bool write_through)
{
	struct disk_config c = {.create_size = DISK_SIZE, .write_through = write_through};
	struct error e = {0};

	double_with_bells = true;
	assert_int_equal(loop_create(&io), 0);
	snprintf(path, sizeof(path), "%s/pollux-disk-%d", folder, getpid());
	unlink(path);
	strcpy(c.path, path);
	if (disk_backend_open(&c, io, &file, &e))
		fail_msg("%s", e.text);
	parts = (struct vm_parts){.io = io, .console_in = -1, .console_out = -1};
	vm = double_vm(&parts, "", NULL, file);
	driver_start(&d, vm, VIRTIO_ID_BLOCK, ALL_FEATURES, 1, 64);
	return 0;
}
static int setup_file(void **state)
{
	return setup_file_in(".", false);
}
static int setup_tmpfs(void **state)
{
	return setup_file_in("/dev/shm", true);
}
static int teardown_file(void **state)
{
	vm_destroy(vm);
	file->ops->destroy(file);
	loop_destroy(io);
	unlink(path);
	return 0;
}

static void file_holds(uint64_t at, size_t len, uint8_t c)
{
	uint8_t *data = malloc(len);
	int fd = open(path, O_RDONLY);

	assert_non_null(data);
	assert_true(fd >= 0);
	assert_int_equal(pread(fd, data, len, (off_t)at), (ssize_t)len);
	for (size_t i = 0; i < len; i++)
		if (data[i] != c)
			fail_msg("byte %zu is %02x instead of %02x", i, data[i], c);
	close(fd);
	free(data);
}

static void writes_reach_the_file_and_come_back(void **state)
{
	struct request w = request_make(VIRTIO_BLK_T_OUT, 16, 8192, 'w');
	struct request f = request_make(VIRTIO_BLK_T_FLUSH, 0, 0, 0);
	struct request r = request_make(VIRTIO_BLK_T_IN, 16, 4096, 0);
	uint32_t len;

	assert_int_equal(run(&w, false), VIRTIO_BLK_S_OK);
	assert_int_equal(run(&f, false), VIRTIO_BLK_S_OK);
	file_holds(8192, 8192, 'w');
	memory_harvest(&vm->memory, NULL);
	request_add(&r, true);
	driver_kick(&d, 0);
	wait_used(&len);
	assert_int_equal(status_of(&r), VIRTIO_BLK_S_OK);
	assert_int_equal(len, 4097);
	assert_memory_equal(driver_at(&d, r.data, 4096), driver_at(&d, w.data, 4096), 4096);
	assert_true(page_marked(vm, r.data));
	assert_true(page_marked(vm, r.status));
	assert_true(page_marked(vm, d.queues[0].used));
	assert_false(page_marked(vm, w.data + 4096)); /* wholly inside */
}

/* Data pieces that no sector boundary knows, and 700,000 bytes in one request. */
static void unaligned_buffers_work(void **state)
{
	struct request w = request_make(VIRTIO_BLK_T_OUT, 3, 1024 + 512, 'u');
	struct request r = request_make(VIRTIO_BLK_T_IN, 3, 1024 + 512, 0);
	struct request big = request_make(VIRTIO_BLK_T_OUT, 100, 512 * 1367 + 512, 'B');
	struct request back = request_make(VIRTIO_BLK_T_IN, 100, 512 * 1367, 0);
	uint64_t odd = driver_alloc(&d, 4096, 4096) + 3;
	uint32_t len;

	memcpy(driver_at(&d, odd, 1000), driver_at(&d, w.data, 1000), 1000);
	driver_add(&d, 0,
		   (struct piece[]){{w.header, 16}, {odd, 1000}, {w.data, 536}, {w.status, 1}}, 3,
		   1);
	driver_kick(&d, 0);
	wait_used(&len);
	assert_int_equal(status_of(&w), VIRTIO_BLK_S_OK);
	file_holds(3 * 512, 1536, 'u');
	driver_add_indirect(
		&d, 0, (struct piece[]){{r.header, 16}, {odd, 1}, {r.data, 1535}, {r.status, 1}}, 1,
		3);
	driver_kick(&d, 0);
	wait_used(&len);
	assert_int_equal(status_of(&r), VIRTIO_BLK_S_OK);
	assert_int_equal(*(uint8_t *)driver_at(&d, r.data + 1534, 1), 'u');

	big.data += 1;
	big.len -= 512;
	assert_int_equal(run(&big, false), VIRTIO_BLK_S_OK);
	file_holds(51200, 512 * 1367, 'B');
	back.data += 7;
	assert_int_equal(run(&back, true), VIRTIO_BLK_S_OK);
	assert_memory_equal(driver_at(&d, back.data, back.len), driver_at(&d, big.data, back.len),
			    back.len - 7);
}

static void discard_and_write_zeroes_give_zeros(void **state)
{
	struct request w = request_make(VIRTIO_BLK_T_OUT, 0, 65536, 'w');

	assert_int_equal(run(&w, false), VIRTIO_BLK_S_OK);
	assert_int_equal(run_range(VIRTIO_BLK_T_DISCARD, 8, 16, 0), VIRTIO_BLK_S_OK);
	file_holds(0, 4096, 'w');
	file_holds(4096, 8192, 0);
	file_holds(12288, 4096, 'w');
	assert_int_equal(run_range(VIRTIO_BLK_T_WRITE_ZEROES, 65, 3, 0), VIRTIO_BLK_S_OK);
	file_holds(65 * 512, 3 * 512, 0);
	file_holds(64 * 512, 512, 'w');
	file_holds(68 * 512, 512, 'w');
	assert_int_equal(
		run_range(VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP),
		VIRTIO_BLK_S_OK);
	file_holds(0, 4096, 0);
	assert_int_equal(run_range(VIRTIO_BLK_T_DISCARD, 0, 8, 1), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(run_range(VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 2), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(run_range(VIRTIO_BLK_T_DISCARD, DISK_SIZE / 512, 1, 0),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(run_range(VIRTIO_BLK_T_DISCARD, DISK_SIZE / 512 - 1, 2, 0),
			 VIRTIO_BLK_S_IOERR);
}

static void bad_requests_get_a_status(void **state)
{
	struct request beyond = request_make(VIRTIO_BLK_T_IN, DISK_SIZE / 512 - 1, 1024, 0);
	struct request overflow = request_make(VIRTIO_BLK_T_OUT, UINT64_MAX, 512, 0);
	struct request odd = request_make(VIRTIO_BLK_T_OUT, 0, 513, 0);
	struct request unknown = request_make(99, 0, 0, 0);

	assert_int_equal(run(&beyond, true), VIRTIO_BLK_S_IOERR);
	assert_int_equal(run(&overflow, false), VIRTIO_BLK_S_IOERR);
	assert_int_equal(run(&odd, false), VIRTIO_BLK_S_IOERR);
	assert_int_equal(run(&unknown, false), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(driver_status(&d) & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
}

static void the_disk_has_a_name_and_a_geometry(void **state)
{
	struct request id = request_make(VIRTIO_BLK_T_GET_ID, 0, 20, 0);

	assert_int_equal(run(&id, true), VIRTIO_BLK_S_OK);
	assert_string_equal(driver_at(&d, id.data, 20), "pollux-0");
	assert_int_equal(vm_peek(vm, d.device, 8), DISK_SIZE / 512);
	assert_int_equal(vm_peek(vm, d.device + 12, 4), 254);
	assert_int_equal(vm_peek(vm, d.device + 20, 4), 512);
}

/* Many at once, at random places; the file and a copy in memory agree at the end. */
static void many_requests_in_flight(void **state)
{
	unsigned seed = (unsigned)time(NULL);
	struct request r[16];
	uint32_t len;

	print_message("seed %u\n", seed);
	srand(seed);
	memset(content, 0, sizeof(content));
	for (unsigned i = 0; i < 16; i++)
		r[i] = request_make(VIRTIO_BLK_T_OUT, 0, 4096, 0);
	for (unsigned round = 0; round < 20; round++) {
		for (unsigned i = 0; i < 16; i++) {
			uint64_t sector = 8 * (16u * ((unsigned)rand() % 16) + i);
			uint8_t c = (uint8_t)rand();
			memset(driver_at(&d, r[i].data, 4096), c, 4096);
			memset(content + sector * 512, c, 4096);
			memcpy(driver_at(&d, r[i].header + 8, 8), &sector, 8);
			request_add(&r[i], false);
		}
		driver_kick(&d, 0);
		for (unsigned i = 0; i < 16; i++)
			wait_used(&len);
		for (unsigned i = 0; i < 16; i++)
			assert_int_equal(status_of(&r[i]), VIRTIO_BLK_S_OK);
	}
	for (uint64_t at = 0; at < DISK_SIZE; at += 4096)
		file_holds(at, 4096, content[at]);
}

static void *loop_thread(void *ctx)
{
	assert_int_equal(loop_run(ctx), 0);
	return NULL;
}

/* The loop on its own thread; now and then a machine reset in the middle of requests. */
static void threads_get_along(void **state)
{
	struct request r[8];
	struct error e = {0};
	pthread_t t;
	uint16_t head;
	uint32_t len;

	assert_int_equal(thread_start(&t, "loop", loop_thread, io), 0);
	for (unsigned round = 0; round < 10; round++) {
		for (unsigned i = 0; i < 8; i++) {
			r[i] = request_make(i % 2 ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT, 8 * i, 4096,
					    (uint8_t)i);
			request_add(&r[i], i % 2);
		}
		driver_kick(&d, 0);
		if (round % 3 == 2) {
			assert_int_equal(machine_reset(vm, &e), 0);
			assert_int_equal(driver_status(&d), 0);
			driver_start(&d, vm, VIRTIO_ID_BLOCK, ALL_FEATURES, 1, 64);
			continue;
		}
		for (unsigned i = 0; i < 8; i++)
			while (!driver_take(&d, 0, &head, &len))
				sched_yield();
		for (unsigned i = 0; i < 8; i++)
			assert_int_equal(status_of(&r[i]), 0);
	}
	loop_stop(io);
	pthread_join(t, NULL);
}

/* ---- with a disk that ends requests when told -------------------------------------------- */

static int setup_fake_with(struct disk_double *disk)
{
	double_with_bells = false;
	assert_int_equal(loop_create(&io), 0);
	memset(content, 0, sizeof(content));
	*disk = (struct disk_double){.base = {.ops = &disk_double_ops, .size = DISK_SIZE, .fd = -1},
				     .data = content};
	parts = (struct vm_parts){.io = io, .console_in = -1, .console_out = -1};
	vm = double_vm(&parts, "", NULL, &disk->base);
	return 0;
}
static int setup_fake(void **state)
{
	return setup_fake_with(&fake);
}
static int teardown_fake(void **state)
{
	vm_destroy(vm);
	loop_destroy(io);
	return 0;
}

static void completions_may_come_in_any_order(void **state)
{
	struct request r[3];
	uint16_t head;
	uint32_t len;

	driver_start(&d, vm, VIRTIO_ID_BLOCK, ALL_FEATURES, 1, 16);
	for (unsigned i = 0; i < 3; i++) {
		r[i] = request_make(VIRTIO_BLK_T_OUT, i, 512, (uint8_t)('a' + i));
		request_add(&r[i], false);
	}
	driver_kick(&d, 0);
	assert_int_equal(fake.count, 3);
	disk_double_end(&fake, 2, 0);
	assert_true(driver_take(&d, 0, &head, &len));
	assert_int_equal(status_of(&r[2]), 0);
	assert_int_equal(status_of(&r[0]), 0xee);
	disk_double_end(&fake, 0, -EIO);
	assert_int_equal(status_of(&r[0]), VIRTIO_BLK_S_IOERR);
	disk_double_end(&fake, 0, -EOPNOTSUPP);
	assert_int_equal(status_of(&r[1]), VIRTIO_BLK_S_UNSUPP);
	fake.fail = -ENOSPC;
	r[0] = request_make(VIRTIO_BLK_T_OUT, 0, 512, 'x');
	request_add(&r[0], false);
	driver_kick(&d, 0);
	assert_int_equal(status_of(&r[0]), VIRTIO_BLK_S_IOERR);
}

static void the_write_cache_is_what_the_driver_says(void **state)
{
	struct request w;

	driver_start(&d, vm, VIRTIO_ID_BLOCK, ALL_FEATURES, 1, 16);
	assert_int_equal(vm_peek(vm, d.device + 32, 1), 1);
	w = request_make(VIRTIO_BLK_T_OUT, 0, 512, 'x');
	request_add(&w, false);
	driver_kick(&d, 0);
	assert_false(fake.held[0]->durable);
	vm_poke(vm, d.device + 32, 1, 0);
	w = request_make(VIRTIO_BLK_T_OUT, 0, 512, 'x');
	request_add(&w, false);
	driver_kick(&d, 0);
	assert_true(fake.held[1]->durable);
	disk_double_drain(&fake.base);
	common_set(&d, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	driver_start(&d, vm, VIRTIO_ID_BLOCK, 0, 1, 16); /* no flush: nothing may be lost */
	w = request_make(VIRTIO_BLK_T_OUT, 0, 512, 'x');
	request_add(&w, false);
	driver_kick(&d, 0);
	assert_true(fake.held[0]->durable);
}

/* A read in flight when the driver resets: the status stays until it has ended, and
 * then neither ring nor status byte is written. */
static void a_reset_waits_for_what_is_in_flight(void **state)
{
	struct request r;
	uint16_t head;
	uint32_t len;

	memset(content, 'c', 512);
	driver_start(&d, vm, VIRTIO_ID_BLOCK, ALL_FEATURES, 1, 16);
	r = request_make(VIRTIO_BLK_T_IN, 0, 512, 0);
	request_add(&r, true);
	driver_kick(&d, 0);
	memory_harvest(&vm->memory, NULL);
	common_set(&d, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	assert_int_not_equal(driver_status(&d), 0);
	common_set(&d, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	driver_kick(&d, 0);
	assert_int_equal(fake.count, 1);
	disk_double_end(&fake, 0, 0);
	assert_int_equal(driver_status(&d), 0);
	assert_int_equal(status_of(&r), 0xee);
	assert_false(driver_take(&d, 0, &head, &len));
	assert_true(page_marked(vm, r.data)); /* it was written, all the same */
	assert_int_equal(vm->engine->msi_count, 0);
	driver_start(&d, vm, VIRTIO_ID_BLOCK, ALL_FEATURES, 1, 16);
	r = request_make(VIRTIO_BLK_T_IN, 0, 512, 0);
	request_add(&r, true);
	driver_kick(&d, 0);
	disk_double_end(&fake, 0, 0);
	assert_int_equal(status_of(&r), 0);
}

static void a_machine_reset_waits_too(void **state)
{
	struct request r;
	struct error e = {0};

	driver_start(&d, vm, VIRTIO_ID_BLOCK, ALL_FEATURES, 1, 16);
	r = request_make(VIRTIO_BLK_T_IN, 0, 512, 0);
	request_add(&r, true);
	driver_kick(&d, 0);
	assert_int_equal(machine_reset(vm, &e), 0);
	assert_int_equal(fake.count, 0);
	assert_int_equal(driver_status(&d), 0);
	assert_int_equal(status_of(&r), 0xee);
}

static struct vm *twin_make(struct vm *from, struct disk_double *disk, struct vm_parts *p)
{
	struct buf b = {0};
	struct error e = {0};
	struct vm *t;

	*disk = (struct disk_double){.base = {.ops = &disk_double_ops, .size = DISK_SIZE, .fd = -1},
				     .data = content};
	t = double_vm(p, "", NULL, &disk->base);
	assert_int_equal(vm_pause(from), 0);
	if (vm_state_save(from, &b, &e))
		fail_msg("%s", e.text);
	memcpy(vm_ram(t), vm_ram(from), DOUBLE_MEMORY);
	if (vm_state_load(t, b.data, b.len, &e))
		fail_msg("%s", e.text);
	assert_int_equal(vm_resume(from), 0);
	buf_free(&b);
	return t;
}

static void what_is_in_flight_goes_on_in_the_twin(void **state)
{
	struct disk_double second, third;
	struct vm_parts p2 = parts, p3 = parts;
	struct vm *twin, *grandchild;
	struct request r[4];
	struct error e = {0};
	uint16_t head;
	uint32_t len;

	memset(content + 3 * 512, 'r', 512);
	driver_start(&d, vm, VIRTIO_ID_BLOCK, ALL_FEATURES, 1, 16);
	for (unsigned i = 0; i < 4; i++) {
		r[i] = request_make(i == 3 ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT, i, 512,
				    (uint8_t)('a' + i));
		request_add(&r[i], i == 3);
	}
	driver_kick(&d, 0);
	disk_double_end(&fake, 1, 0);
	assert_true(driver_take(&d, 0, &head, &len));

	twin = twin_make(vm, &second, &p2);
	assert_int_equal(second.count, 0);
	/* The state of a twin that was never started is a state too. */
	grandchild = twin_make(twin, &third, &p3);
	vm_destroy(twin);
	d.vm = grandchild;
	assert_int_equal(vm_start(grandchild, &e), 0);
	assert_int_equal(third.count, 3);
	assert_int_equal(third.held[0]->offset, 0); /* in the order of submission */
	assert_int_equal(third.held[1]->offset, 2 * 512);
	assert_int_equal(third.held[2]->op, DISK_READ);
	disk_double_drain(&third.base);
	for (unsigned i = 0; i < 3; i++)
		assert_true(driver_take(&d, 0, &head, &len));
	assert_int_equal(status_of(&r[0]), 0);
	assert_int_equal(status_of(&r[2]), 0);
	assert_int_equal(status_of(&r[3]), 0);
	assert_int_equal(*(uint8_t *)driver_at(&d, r[3].data, 1), 'r');
	assert_int_equal(content[0], 'a');
	assert_int_equal(content[1024], 'c');
	vm_destroy(grandchild);

	d.vm = vm; /* and the first machine goes on as if nothing had been */
	disk_double_drain(&fake.base);
	assert_int_equal(status_of(&r[3]), 0);
}

/* More requests than the queue holds: heads that are given again while in flight. */
static void a_queue_without_end_breaks_the_device(void **state)
{
	struct request r;
	uint16_t head;

	driver_start(&d, vm, VIRTIO_ID_BLOCK, ALL_FEATURES, 1, 8);
	r = request_make(VIRTIO_BLK_T_IN, 0, 512, 0);
	head = driver_add(&d, 0, (struct piece[]){{r.header, 16}, {r.data, 512}, {r.status, 1}}, 1,
			  2);
	for (unsigned i = 0; i < 8; i++) {
		driver_kick(&d, 0);
		driver_publish(&d, 0, head);
	}
	assert_int_equal(fake.count, 8);
	assert_int_equal(driver_status(&d) & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
	driver_kick(&d, 0);
	assert_int_equal(fake.count, 8);
	assert_true(driver_status(&d) & VIRTIO_CONFIG_S_NEEDS_RESET);
	assert_int_equal(driver_msis(&d, 0), 1);
	/* Broken, it can be saved and loaded still, and be reset. */
	disk_double_end(&fake, 0, 0);
	{
		struct disk_double second;
		struct vm_parts p = parts;
		struct error e = {0};
		struct vm *twin = twin_make(vm, &second, &p);
		assert_int_equal(vm_start(twin, &e), 0);
		assert_int_equal(second.count, 0);
		vm_destroy(twin);
	}
	common_set(&d, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	disk_double_drain(&fake.base);
	assert_int_equal(driver_status(&d), 0);
}

/* Another CPU of the guest puts a request in the ring whenever one was taken. */
enum { REFILLS = 2000 };
static unsigned refills;
static uint16_t refill_head;
static int submit_refilling(struct disk_backend *b, struct disk_request *r)
{
	if (++refills < REFILLS)
		driver_publish(&d, 0, refill_head);
	return -EIO;
}

static void a_ring_that_never_empties_does_not_hold_the_device(void **state)
{
	static const struct disk_backend_ops refilling = {submit_refilling, disk_double_drain,
							  disk_double_claim, disk_double_claim,
							  disk_double_destroy};
	struct request r;

	driver_start(&d, vm, VIRTIO_ID_BLOCK, ALL_FEATURES, 1, 8);
	r = request_make(VIRTIO_BLK_T_IN, 0, 512, 0);
	refills = 0;
	fake.base.ops = &refilling;
	refill_head = driver_add(
		&d, 0, (struct piece[]){{r.header, 16}, {r.data, 512}, {r.status, 1}}, 1, 2);
	driver_kick(&d, 0);
	assert_in_range(refills, 1, REFILLS / 2);
	for (unsigned i = 0; i < REFILLS && refills < REFILLS; i++)
		assert_int_equal(loop_step(io, 10), 0);
	assert_int_equal(refills, REFILLS);
	assert_int_equal(*ring16(&d, d.queues[0].used + 2), REFILLS);
	fake.base.ops = &disk_double_ops;
}

static void a_read_only_disk_is_not_written(void **state)
{
	struct request w;

	vm_destroy(vm);
	fake.base.readonly = true;
	vm = double_vm(&parts, "", NULL, &fake.base);
	driver_start(&d, vm, VIRTIO_ID_BLOCK, FEATURE(VIRTIO_BLK_F_RO), 1, 8);
	w = request_make(VIRTIO_BLK_T_OUT, 0, 512, 'x');
	request_add(&w, false);
	driver_kick(&d, 0);
	assert_int_equal(fake.count, 0);
	assert_int_equal(status_of(&w), VIRTIO_BLK_S_IOERR);
}

int main(void)
{
#define FILE_TEST(f)                                                                               \
	cmocka_unit_test_setup_teardown(f, setup_file, teardown_file),                             \
		cmocka_unit_test_setup_teardown(f, setup_tmpfs, teardown_file)
#define FAKE_TEST(f) cmocka_unit_test_setup_teardown(f, setup_fake, teardown_fake)
	const struct CMUnitTest tests[] = {
		FILE_TEST(writes_reach_the_file_and_come_back),
		FILE_TEST(unaligned_buffers_work),
		FILE_TEST(discard_and_write_zeroes_give_zeros),
		FILE_TEST(bad_requests_get_a_status),
		FILE_TEST(the_disk_has_a_name_and_a_geometry),
		FILE_TEST(many_requests_in_flight),
		FILE_TEST(threads_get_along),
		FAKE_TEST(completions_may_come_in_any_order),
		FAKE_TEST(the_write_cache_is_what_the_driver_says),
		FAKE_TEST(a_reset_waits_for_what_is_in_flight),
		FAKE_TEST(a_machine_reset_waits_too),
		FAKE_TEST(what_is_in_flight_goes_on_in_the_twin),
		FAKE_TEST(a_queue_without_end_breaks_the_device),
		FAKE_TEST(a_ring_that_never_empties_does_not_hold_the_device),
		FAKE_TEST(a_read_only_disk_is_not_written),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
