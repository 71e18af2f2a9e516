// SPDX-License-Identifier: Apache-2.0
/* Memory that comes later: pages, those who touch them, devices, and the end. */
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_net.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "tests/unit/hypervisor/driver.h"
#include "tests/unit/hypervisor/feeder.h"

#define PAGES     (DOUBLE_MEMORY / VM_PAGE_SIZE)
#define WORDS     (PAGES / 64)
#define READERS   4u
#define COLLAPSE  25 /* MADV_COLLAPSE, which this libc does not name */
#define DISK_SIZE (UINT64_C(1) << 20)

static struct vm *vm;
static struct vm_parts parts;
static struct driver d;
static struct feeder feeder;
static struct error e;
static uint8_t ram[DOUBLE_MEMORY]; /* what it is to be */
static uint64_t missing[WORDS];
static unsigned seed;

static struct net_double net = {.base = {.ops = &net_double_ops}};
static struct disk_double disk;
static uint8_t content[DISK_SIZE];

static int setup(void **state)
{
	e = (struct error){0};
	assert_int_equal(loop_create(&parts.io), 0);
	parts.console_in = parts.console_out = -1;
	disk = (struct disk_double){.base = {.ops = &disk_double_ops, .size = DISK_SIZE, .fd = -1},
				    .data = content};
	net.sent = 0;
	double_with_bells = true;
	vm = double_vm(&parts, "", &net.base, &disk.base);
	feeder = (struct feeder){.from = ram, .seed = seed++};
	memset(missing, 0xff, sizeof(missing));
	return 0;
}

static int teardown(void **state)
{
	if (vm)
		vm_destroy(vm);
	vm = NULL;
	loop_destroy(parts.io);
	return 0;
}

static void lazy_needed(void)
{
	if (!vm_lazy_prepare(vm, &e))
		return;
	print_message("%s\n", e.text);
	skip();
}

static uint8_t byte_of(uint64_t page)
{
	return (uint8_t)(page % 5 ? page * 7 + 1 : 0);
}

/* Each fifth page is zeros. */
static void ram_make(void)
{
	for (uint64_t i = 0; i < PAGES; i++)
		memset(ram + i * VM_PAGE_SIZE, byte_of(i), VM_PAGE_SIZE);
}

static void begin(void)
{
	lazy_needed();
	if (feeder_begin(&feeder, vm, missing, &e))
		fail_msg("%s", e.text);
}

static void end(void)
{
	feeder_join(&feeder);
	assert_int_equal(feeder.rc, 0);
	assert_int_equal(vm_lazy_left(feeder.lazy), 0);
	vm_lazy_end(feeder.lazy);
	feeder_free(&feeder);
}

/* ---- pages ------------------------------------------------------------------------------- */

struct reader {
	pthread_t thread;
	unsigned seed;
	uint64_t wrong;
};

/* In an order of its own. */
static void *reader_main(void *ctx)
{
	struct reader *r = ctx;
	uint64_t from = (uint64_t)rand_r(&r->seed) % PAGES, step = r->seed % 500 * 2 + 1;

	for (uint64_t i = 0; i < PAGES; i++) {
		uint64_t page = (from + i * step) % PAGES;
		const uint8_t *at = vm_ram(vm) + page * VM_PAGE_SIZE;

		r->wrong += memcmp(at, ram + page * VM_PAGE_SIZE, VM_PAGE_SIZE) != 0;
	}
	return NULL;
}

static void readers_begin(struct reader *r)
{
	for (unsigned i = 0; i < READERS; i++) {
		r[i] = (struct reader){.seed = seed++};
		assert_int_equal(thread_start(&r[i].thread, "reader", reader_main, &r[i]), 0);
	}
}

static void readers_end(struct reader *r)
{
	for (unsigned i = 0; i < READERS; i++) {
		pthread_join(r[i].thread, NULL);
		assert_int_equal(r[i].wrong, 0);
	}
}

static void test_pages_come(void **state)
{
	struct reader readers[READERS];

	ram_make();
	memset(vm_ram(vm), 0xaa, DOUBLE_MEMORY);
	begin();
	assert_int_equal(vm_lazy_left(feeder.lazy), PAGES);
	readers_begin(readers);
	assert_int_equal(feeder_start(&feeder), 0);
	readers_end(readers);
	end();
	assert_memory_equal(vm_ram(vm), ram, DOUBLE_MEMORY);
}

/* Some are there, some are holes, and the others are missing. */
static void test_some_are_there(void **state)
{
	struct reader readers[READERS];
	uint64_t left[WORDS], count;

	ram_make();
	for (uint64_t i = 0; i < PAGES; i++) {
		if (i % 5 && (i / 5) % 3) {
			memcpy(vm_ram(vm) + i * VM_PAGE_SIZE, ram + i * VM_PAGE_SIZE, VM_PAGE_SIZE);
			bitmap_clear(missing, i);
		} else if (i % 5 == 0 && i % 2) {
			bitmap_clear(missing, i);
		}
	}
	count = bitmap_count(missing, PAGES);
	begin();
	assert_int_equal(vm_lazy_left(feeder.lazy), count);
	vm_lazy_missing(feeder.lazy, left);
	assert_memory_equal(left, missing, sizeof(left));
	readers_begin(readers);
	assert_int_equal(feeder_start(&feeder), 0);
	readers_end(readers);
	assert_true(feeder_asked(&feeder) <= count);
	end();
	assert_memory_equal(vm_ram(vm), ram, DOUBLE_MEMORY);
}

static void test_on_fault_only(void **state)
{
	ram_make();
	feeder.on_fault_only = true;
	begin();
	assert_int_equal(feeder_start(&feeder), 0);
	for (uint64_t i = 0; i < PAGES; i += 7)
		assert_int_equal(vm_ram(vm)[i * VM_PAGE_SIZE + i % VM_PAGE_SIZE], byte_of(i));
	feeder_join(&feeder);
	assert_int_equal(feeder.asked_count, (PAGES + 6) / 7);
	assert_int_equal(vm_lazy_left(feeder.lazy), PAGES - (PAGES + 6) / 7);
	for (uint64_t i = 0; i < PAGES; i++)
		assert_int_equal(vm_lazy_put(feeder.lazy, i, ram + i * VM_PAGE_SIZE), 0);
	vm_lazy_end(feeder.lazy);
	feeder_free(&feeder);
	assert_memory_equal(vm_ram(vm), ram, DOUBLE_MEMORY);
}

static void *put_all(void *ctx)
{
	for (uint64_t i = 0; i < PAGES; i++)
		if (vm_lazy_put(feeder.lazy, i, ram + i * VM_PAGE_SIZE))
			return ctx;
	return NULL;
}

/* Written as soon as it is there: no late put may undo it. */
static void test_written_pages_stay(void **state)
{
	pthread_t threads[3];
	void *failed;

	ram_make();
	begin();
	for (unsigned i = 0; i < ARRAY_LEN(threads); i++)
		assert_int_equal(thread_start(&threads[i], "put", put_all, ram), 0);
	for (uint64_t i = 0; i < PAGES; i++)
		memset(vm_ram(vm) + i * VM_PAGE_SIZE, 0x99, VM_PAGE_SIZE);
	for (unsigned i = 0; i < ARRAY_LEN(threads); i++) {
		pthread_join(threads[i], &failed);
		assert_null(failed);
	}
	assert_int_equal(vm_lazy_left(feeder.lazy), 0);
	assert_null(put_all(ram));
	for (uint64_t i = 0; i < DOUBLE_MEMORY; i++)
		assert_int_equal(vm_ram(vm)[i], 0x99);
	vm_lazy_end(feeder.lazy);
	feeder_free(&feeder);
}

static uint64_t memory_held(void)
{
	struct stat st;

	assert_int_equal(fstat(vm_ram_fd(vm), &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

/* Pages that are dropped, or put as zeros, take no memory until they are touched. */
static void test_zeros_take_no_memory(void **state)
{
	memset(vm_ram(vm), 1, DOUBLE_MEMORY);
	assert_int_equal(memory_held(), DOUBLE_MEMORY);
	begin();
	assert_int_equal(memory_held(), 0);
	for (uint64_t i = 0; i < PAGES; i++)
		assert_int_equal(vm_lazy_put(feeder.lazy, i, NULL), 0);
	assert_int_equal(vm_lazy_left(feeder.lazy), 0);
	assert_int_equal(memory_held(), 0);
	assert_int_equal(vm_ram(vm)[5 * VM_PAGE_SIZE + 5], 0);
	vm_ram(vm)[9 * VM_PAGE_SIZE] = 3;
	assert_int_equal(memory_held(), 2 * VM_PAGE_SIZE);
	/* A page that has been said to be zeros is there. */
	ram_make();
	assert_int_equal(vm_lazy_put(feeder.lazy, 20, ram + VM_PAGE_SIZE), 0);
	assert_int_equal(vm_ram(vm)[20 * VM_PAGE_SIZE], 0);
	vm_lazy_end(feeder.lazy);
	assert_int_equal(vm_ram(vm)[9 * VM_PAGE_SIZE], 3);
	assert_int_equal(vm_ram(vm)[10 * VM_PAGE_SIZE], 0);
	feeder_free(&feeder);
}

static void *hole_touch(void *ctx)
{
	return (void *)(uintptr_t)(1 + vm_ram(vm)[7 * VM_PAGE_SIZE]);
}

/* Memory may be short for a moment; the end of the postcopy may be far. */
static void test_holes_come_at_last(void **state)
{
	pthread_t reader;
	void *seen;

	memset(vm_ram(vm), 1, DOUBLE_MEMORY);
	begin();
	for (uint64_t i = 0; i < PAGES; i++)
		assert_int_equal(vm_lazy_put(feeder.lazy, i, NULL), 0);
	fault_arm("lazy.zero", 1, ENOMEM);
	fault_arm("lazy.zero", 2, ENOMEM);
	assert_int_equal(thread_start(&reader, "reader", hole_touch, NULL), 0);
	pthread_join(reader, &seen);
	assert_int_equal((uintptr_t)seen, 1);
	assert_int_equal(fault_point("lazy.zero"), 0); /* both were met */
	vm_lazy_end(feeder.lazy);
	feeder_free(&feeder);
}

/* Whoever touches a hole at that moment goes on. */
static void test_ends_while_touched(void **state)
{
	struct reader readers[READERS];

	memset(ram, 0, DOUBLE_MEMORY);
	for (unsigned round = 0; round < 200; round++) {
		begin();
		for (uint64_t i = 0; i < PAGES; i++)
			assert_int_equal(vm_lazy_put(feeder.lazy, i, NULL), 0);
		readers_begin(readers);
		usleep((unsigned)rand_r(&seed) % 500);
		vm_lazy_end(feeder.lazy);
		readers_end(readers);
		feeder_free(&feeder);
	}
}

/* Through another mapping, which lies as huge pages must. */
static bool huge_pages_make(void)
{
	const uint64_t huge = UINT64_C(2) << 20;
	uint8_t *room = mmap(NULL, DOUBLE_MEMORY + huge, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			     0),
		*at;
	bool made;

	assert_true(room != MAP_FAILED);
	at = (uint8_t *)(((uintptr_t)room + huge - 1) & ~(huge - 1));
	assert_true(mmap(at, DOUBLE_MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
			 vm_ram_fd(vm), 0) == at);
	made = !madvise(at, DOUBLE_MEMORY, COLLAPSE);
	munmap(room, DOUBLE_MEMORY + huge);
	return made;
}

static void test_huge_pages(void **state)
{
	struct reader readers[READERS];

	ram_make();
	memcpy(vm_ram(vm), ram, DOUBLE_MEMORY);
	for (uint64_t i = 0; i < PAGES; i += 3)
		bitmap_clear(missing, i);
	if (!huge_pages_make()) {
		print_message("no huge pages of shared memory here: %s\n", strerror(errno));
		skip();
	}
	begin();
	assert_int_equal(memory_held(), (PAGES + 2) / 3 * VM_PAGE_SIZE);
	readers_begin(readers);
	assert_int_equal(feeder_start(&feeder), 0);
	readers_end(readers);
	assert_true(feeder_asked(&feeder) <= PAGES - (PAGES + 2) / 3);
	end();
	assert_memory_equal(vm_ram(vm), ram, DOUBLE_MEMORY);
}

static void test_refusals(void **state)
{
	struct vm_lazy_events ev = {feeder_fault, &feeder};
	struct vm_lazy *l;
	uint64_t pages;

	lazy_needed();
	assert_int_equal(vm_log_dirty(vm, true), 0);
	assert_int_equal(vm_lazy_begin(vm, missing, &ev, &l, &e), -EBUSY);
	assert_int_equal(vm_log_dirty(vm, true), -EBUSY);
	assert_int_equal(vm_dirty_sample(vm, 1, &pages), -EBUSY);
	assert_true(vm_is_logging_dirty(vm));
	assert_int_equal(vm_log_dirty(vm, false), 0);
	assert_int_equal(vm_dirty_sample(vm, 1, &pages), 0);
	assert_false(vm_is_logging_dirty(vm));
	begin();
	assert_int_equal(vm_lazy_begin(vm, missing, &ev, &l, &e), -EBUSY);
	assert_int_equal(vm_log_dirty(vm, true), -EBUSY);
	assert_int_equal(vm_dirty_sample(vm, 1, &pages), -EBUSY);
	assert_int_equal(vm_lazy_put(feeder.lazy, PAGES, NULL), -EINVAL);
	assert_int_equal(feeder_start(&feeder), 0);
	end();
	assert_int_equal(vm_log_dirty(vm, true), 0);
	assert_int_equal(vm_log_dirty(vm, false), 0);
	assert_int_equal(vm_start(vm, &e), 0);
	assert_int_equal(vm_lazy_begin(vm, missing, &ev, &l, &e), -EBUSY);
}

static void test_dirty_sample_counts(void **state)
{
	uint64_t pages = 99;

	memory_mark(&vm->memory, 0, 1); /* before */
	assert_int_equal(vm_dirty_sample(vm, 1000, &pages), 0);
	assert_int_equal(pages, 0);
}

/* ---- accesses of the kernel, of disks and of NICs ----------------------------------------------
 */

static void test_the_kernel_waits(void **state)
{
	uint8_t byte = 0x42, back[2] = {0};
	int p[2];

	ram_make();
	begin();
	assert_int_equal(pipe(p), 0);
	assert_int_equal(feeder_start(&feeder), 0);
	assert_int_equal(write(p[1], &byte, 1), 1);
	assert_int_equal(read(p[0], vm_ram(vm) + 9 * VM_PAGE_SIZE + 1, 1), 1);
	assert_int_equal(vm_ram(vm)[9 * VM_PAGE_SIZE], byte_of(9));
	assert_int_equal(vm_ram(vm)[9 * VM_PAGE_SIZE + 1], 0x42);
	assert_int_equal(write(p[1], vm_ram(vm) + 778 * VM_PAGE_SIZE, 2), 2);
	assert_int_equal(read(p[0], back, 2), 2);
	assert_int_equal(back[1], byte_of(778));
	close(p[0]);
	close(p[1]);
	end();
}

struct transfer {
	struct disk_request request;
	struct iovec iov;
	int rc;
	bool over;
};

static void transfer_done(struct disk_request *r, int rc)
{
	struct transfer *t = CONTAINER_OF(r, struct transfer, request);

	t->rc = rc;
	t->over = true;
}

static void transfer_run(struct disk_backend *b, enum disk_op op, void *at, size_t len)
{
	struct transfer t = {.request = {.op = op, .length = len, .iov_count = 1},
			     .iov = {at, len}};

	t.request.iov = &t.iov;
	t.request.done = transfer_done;
	assert_int_equal(b->ops->submit(b, &t.request), 0);
	b->ops->drain(b);
	assert_true(t.over);
	assert_int_equal(t.rc, 0);
}

/* io_uring alone, without a device that would have waited before. */
static void test_a_disk_waits(void **state)
{
	struct disk_config c = {.create_size = DISK_SIZE};
	struct disk_backend *file;
	static uint8_t copy[8 * VM_PAGE_SIZE];

	snprintf(c.path, sizeof(c.path), "./pollux-lazy-%d", getpid());
	(void)unlink(c.path);
	if (disk_backend_open(&c, parts.io, &file, &e))
		fail_msg("%s", e.text);
	ram_make();
	begin();
	assert_int_equal(feeder_start(&feeder), 0);
	transfer_run(file, DISK_WRITE, vm_ram(vm) + 100 * VM_PAGE_SIZE, sizeof(copy));
	transfer_run(file, DISK_READ, vm_ram(vm) + 900 * VM_PAGE_SIZE, sizeof(copy));
	assert_memory_equal(vm_ram(vm) + 900 * VM_PAGE_SIZE, ram + 100 * VM_PAGE_SIZE,
			    sizeof(copy));
	end();
	file->ops->destroy(file);
	(void)unlink(c.path);
}

/* ---- devices ------------------------------------------------------------------------------------
 */

static void *loop_main(void *ctx)
{
	assert_int_equal(loop_run(parts.io), 0);
	return NULL;
}

/* What the guest has set up is what will come; the machine goes on as its own twin. */
static void freeze(void)
{
	struct buf state = {0};

	lazy_needed();
	assert_int_equal(vm_state_save(vm, &state, &e), 0);
	memcpy(ram, vm_ram(vm), DOUBLE_MEMORY);
	if (vm_state_load(vm, state.data, state.len, &e))
		fail_msg("%s", e.text);
	buf_free(&state);
	begin();
}

static uint64_t request_put(uint32_t type, uint64_t sector, unsigned pages, uint8_t fill)
{
	struct virtio_blk_outhdr h = {.type = type, .sector = sector};
	uint64_t header = driver_alloc(&d, VM_PAGE_SIZE, VM_PAGE_SIZE);
	uint64_t data = driver_alloc(&d, pages * VM_PAGE_SIZE, VM_PAGE_SIZE);
	uint64_t status = driver_alloc(&d, VM_PAGE_SIZE, VM_PAGE_SIZE);
	struct piece p[3] = {{header, 16}, {data, pages * VM_PAGE_SIZE}, {status, 1}};

	memcpy(driver_at(&d, header, sizeof(h)), &h, sizeof(h));
	memset(driver_at(&d, data, pages * VM_PAGE_SIZE), fill, pages * VM_PAGE_SIZE);
	*(uint8_t *)driver_at(&d, status, 1) = 0xee;
	driver_add(&d, 0, p, type == VIRTIO_BLK_T_OUT ? 2 : 1, type == VIRTIO_BLK_T_OUT ? 1 : 2);
	return status;
}

static void blk_driver(void)
{
	driver_start(&d, vm, VIRTIO_ID_BLOCK, FEATURE(VIRTIO_BLK_F_FLUSH), 1, 64);
}

/* Ring, header, data and status: all of it is missing. */
static void test_blk(void **state)
{
	uint64_t status[2];

	blk_driver();
	memset(content, 0x31, sizeof(content));
	status[0] = request_put(VIRTIO_BLK_T_OUT, 0, 3, 0x77);
	status[1] = request_put(VIRTIO_BLK_T_IN, 800, 2, 0x55);
	freeze();
	assert_int_equal(feeder_start(&feeder), 0);
	assert_int_equal(vm_start(vm, &e), 0);
	double_loop_run(parts.io);
	assert_int_equal(disk.count, 2);
	disk_double_drain(&disk.base);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(*(uint8_t *)driver_at(&d, status[i], 1), VIRTIO_BLK_S_OK);
	assert_int_equal(content[0], 0x77);
	assert_int_equal(content[3 * VM_PAGE_SIZE - 1], 0x77);
	assert_int_equal(content[3 * VM_PAGE_SIZE], 0x31);
	assert_int_equal(*(uint8_t *)driver_at(&d, status[1] - VM_PAGE_SIZE, 1), 0x31);
	end();
}

/* What was in flight when the state was saved is read again. */
static void test_blk_in_flight(void **state)
{
	uint64_t status;

	blk_driver();
	status = request_put(VIRTIO_BLK_T_OUT, 8, 1, 0x78);
	driver_kick(&d, 0);
	double_loop_run(parts.io);
	assert_int_equal(disk.count, 1);
	freeze();
	disk.held[0]->done(disk.held[0], -EIO); /* the other side's; marks no ring of a twin */
	disk.count = 0;
	assert_int_equal(feeder_start(&feeder), 0);
	assert_int_equal(vm_start(vm, &e), 0);
	assert_int_equal(disk.count, 1);
	disk_double_drain(&disk.base);
	assert_int_equal(*(uint8_t *)driver_at(&d, status, 1), VIRTIO_BLK_S_OK);
	assert_int_equal(content[8 * 512], 0x78);
	end();
}

static void test_net(void **state)
{
	uint8_t frame[100] = {1, 2, 3};
	uint64_t rx, tx;

	driver_start(&d, vm, VIRTIO_ID_NET, 0, 2, 16);
	rx = driver_alloc(&d, VM_PAGE_SIZE, VM_PAGE_SIZE);
	tx = driver_alloc(&d, VM_PAGE_SIZE, VM_PAGE_SIZE);
	memset(driver_at(&d, tx, 200), 0, 12);
	memset(driver_at(&d, tx + 12, 100), 0x5c, 100);
	driver_add(&d, 0, &(struct piece){rx, 2000}, 0, 1);
	driver_add(&d, 1, &(struct piece){tx, 112}, 1, 0);
	freeze();
	assert_int_equal(feeder_start(&feeder), 0);
	assert_int_equal(vm_start(vm, &e), 0);
	double_loop_run(parts.io);
	assert_int_equal(net.sent, 1);
	assert_int_equal(net.last_len, 100);
	assert_int_equal(net.last[99], 0x5c);
	assert_int_equal(net.base.front.receive(net.base.front.ctx, frame, sizeof(frame)), 0);
	assert_memory_equal(driver_at(&d, rx + 12, sizeof(frame)), frame, sizeof(frame));
	end();
}

/* ---- never
 * ----------------------------------------------------------------------------------------- */

static void test_never_read(void **state)
{
	struct reader readers[READERS];

	ram_make();
	begin();
	readers_begin(readers);
	while (feeder_asked(&feeder) < 1)
		usleep(500);
	vm_lazy_abandon(feeder.lazy);
	for (unsigned i = 0; i < READERS; i++)
		pthread_join(readers[i].thread, NULL);
	assert_int_equal(vm_lazy_put(feeder.lazy, 1, ram), -ECANCELED);
	vm_lazy_abandon(feeder.lazy);
	vm_lazy_end(feeder.lazy);
	feeder_free(&feeder);
	assert_int_equal(vm_start(vm, &e), -EBADMSG);
}

struct never {
	uint64_t page; /* the only one that is missing */
	pthread_t loop;
};

/* The loop's thread serves the bell, and waits for it with the device lock held. */
static void never_begin(struct never *n)
{
	memset(missing, 0, sizeof(missing));
	bitmap_set(missing, n->page);
	freeze();
	assert_int_equal(thread_start(&n->loop, "loop", loop_main, NULL), 0);
}

static void *start_main(void *ctx)
{
	return vm_start(vm, &e) ? vm : NULL;
}

static void never_end(struct never *n)
{
	pthread_t starter;

	assert_int_equal(thread_start(&starter, "start", start_main, NULL), 0);
	while (!feeder_asked(&feeder))
		usleep(500);
	assert_int_equal(feeder.asked[0], n->page);
	vm_lazy_abandon(feeder.lazy);
	pthread_join(starter, NULL);
	loop_stop(parts.io);
	pthread_join(n->loop, NULL);
	assert_false(vm_is_running(vm));
	vm_lazy_end(feeder.lazy);
	feeder_free(&feeder);
}

/* A write of which one page is missing for ever must not reach the disk. */
static void never_written(unsigned which)
{
	uint64_t status;
	struct never n;

	blk_driver();
	status = request_put(VIRTIO_BLK_T_OUT, 0, 2, 0x77);
	n.page = status / VM_PAGE_SIZE - which;
	never_begin(&n);
	never_end(&n);
	assert_int_equal(disk.count, 0);
	assert_int_equal(vm->disk_requests, 0);
}

static void test_never_written_status(void **state)
{
	never_written(0);
}
static void test_never_written_data(void **state)
{
	never_written(1);
}
static void test_never_written_first_page(void **state)
{
	never_written(2);
}
static void test_never_written_header(void **state)
{
	never_written(3);
}

static void test_never_written_ring(void **state)
{
	struct never n;

	blk_driver();
	(void)request_put(VIRTIO_BLK_T_OUT, 0, 2, 0x77);
	n.page = d.queues[0].desc / VM_PAGE_SIZE;
	never_begin(&n);
	never_end(&n);
	assert_int_equal(disk.count, 0);
}

static void test_never_sent(void **state)
{
	struct never n;
	uint64_t tx;

	driver_start(&d, vm, VIRTIO_ID_NET, 0, 2, 16);
	tx = driver_alloc(&d, 2 * VM_PAGE_SIZE, VM_PAGE_SIZE);
	driver_add(&d, 1, &(struct piece){tx + VM_PAGE_SIZE - 100, 200}, 1, 0);
	n.page = tx / VM_PAGE_SIZE + 1;
	never_begin(&n);
	never_end(&n);
	assert_int_equal(net.sent, 0);
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_pages_come),
		T(test_some_are_there),
		T(test_on_fault_only),
		T(test_written_pages_stay),
		T(test_zeros_take_no_memory),
		T(test_holes_come_at_last),
		T(test_ends_while_touched),
		T(test_huge_pages),
		T(test_refusals),
		T(test_dirty_sample_counts),
		T(test_the_kernel_waits),
		T(test_a_disk_waits),
		T(test_blk),
		T(test_blk_in_flight),
		T(test_net),
		T(test_never_read),
		T(test_never_written_status),
		T(test_never_written_data),
		T(test_never_written_first_page),
		T(test_never_written_header),
		T(test_never_written_ring),
		T(test_never_sent),
	};

	seed = (unsigned)clock_ns();
	print_message("seed %u\n", seed);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
