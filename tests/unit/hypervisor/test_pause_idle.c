// SPDX-License-Identifier: Apache-2.0
/* A pause after which no disk request is in flight. */
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <stdio.h>

#include "tests/unit/hypervisor/driver.h"

#define DISK_SIZE (UINT64_C(1) << 20)
#define REQUESTS  16u
#define LEN       4096u
#define ENOUGH_NS (60 * NS_PER_SEC) /* where none of it is missed, however busy the machine is */

static struct loop *io;
static struct vm_parts parts;
static struct vm *vm;
static struct driver d;
static uint8_t content[DISK_SIZE];
static uint64_t status[REQUESTS]; /* where a request's last byte is */
static uint64_t headers, bytes;

/* ---- a machine with vCPU threads that do nothing --------------------------------------- */

static void quiet_run(struct engine *en, unsigned vcpu, struct vcpu_exit *exit)
{
	usleep(200);
	exit->kind = EXIT_INTERRUPTED;
}

static void machine_make(struct disk_backend *disk, bool stepped)
{
	static struct engine_ops quiet;
	const struct machine_plan plan = {&quiet, double_all_devices, double_no_boot};
	struct vm_config c = {.name = "t", .memory = DOUBLE_MEMORY, .vcpus = 2, .disk_count = 1};
	struct error e = {0};

	quiet = engine_double;
	quiet.stepped = stepped;
	quiet.vcpu_run = quiet_run;
	double_with_bells = true;
	parts = (struct vm_parts){.io = io, .console_in = -1, .console_out = -1, .disks = {disk}};
	if (machine_create(&plan, &c, &parts, &vm, &e))
		fail_msg("%s", e.text);
	driver_start(&d, vm, VIRTIO_ID_BLOCK, FEATURE(VIRTIO_BLK_F_FLUSH), 1, 64);
	headers = driver_alloc(&d, 32 * REQUESTS, 32);
	bytes = driver_alloc(&d, (uint64_t)LEN * REQUESTS, LEN);
	assert_int_equal(vm_start(vm, &e), 0);
}

static void machine_end(void)
{
	vm_destroy(vm);
	loop_destroy(io);
}

/* Request `i` writes `fill` to its own place on the disk. No bell. */
static void write_add(unsigned i, uint8_t fill)
{
	struct virtio_blk_outhdr h = {.type = VIRTIO_BLK_T_OUT, .sector = i * (LEN / 512)};
	uint64_t at = headers + 32 * i;
	struct piece p[3] = {{at, sizeof(h)}, {bytes + LEN * i, LEN}, {at + 24, 1}};

	memcpy(driver_at(&d, at, sizeof(h)), &h, sizeof(h));
	memset(driver_at(&d, bytes + LEN * i, LEN), fill, LEN);
	status[i] = at + 24;
	*(uint8_t *)driver_at(&d, status[i], 1) = 0xee;
	driver_add(&d, 0, p, 2, 1);
}

static uint8_t status_get(unsigned i)
{
	return __atomic_load_n((uint8_t *)driver_at(&d, status[i], 1), __ATOMIC_RELAXED);
}

static unsigned take_all(void)
{
	uint16_t head;
	uint32_t len;
	unsigned n = 0;

	while (driver_take(&d, 0, &head, &len))
		n++;
	return n;
}

static void *loop_main(void *ctx)
{
	assert_int_equal(loop_run(io), 0);
	return NULL;
}

static pthread_t loop_begin(void)
{
	pthread_t t;

	assert_int_equal(thread_start(&t, "loop", loop_main, NULL), 0);
	return t;
}

static void loop_end(pthread_t t)
{
	loop_stop(io);
	pthread_join(t, NULL);
}

/* ---- disks in memory --------------------------------------------------------------------- */

/* A stepped machine has nobody who would complete them meanwhile. */
static void test_stepped_drains(void **state)
{
	struct disk_backend *disk;

	assert_int_equal(loop_create(&io), 0);
	assert_int_equal(disk_memory_create(content, sizeof(content), &disk), 0);
	machine_make(disk, true);
	for (unsigned i = 0; i < 3; i++)
		write_add(i, (uint8_t)(0x10 + i));
	driver_kick(&d, 0);
	double_loop_run(io);
	assert_int_equal(disk_memory_waiting(disk), 3);
	assert_int_equal(vm_pause_idle(vm, VM_PAUSE_IDLE_NS, NULL), 0);
	assert_int_equal(disk_memory_waiting(disk), 0);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(status_get(i), VIRTIO_BLK_S_OK);
		assert_int_equal(content[i * LEN], 0x10 + i);
	}
	assert_int_equal(vm_pause_idle(vm, VM_PAUSE_IDLE_NS, NULL), -EBUSY);
	assert_int_equal(vm_resume(vm), 0);
	machine_end();
	disk->ops->destroy(disk);
}

struct completer {
	struct disk_double *disk;
	unsigned wanted;
};

/* Only when so many wait does it complete them: the last in first. */
static void *complete_all(void *ctx)
{
	struct completer *c = ctx;
	unsigned n;

	do {
		usleep(1000);
		pthread_mutex_lock(&vm->lock);
		n = c->disk->count;
		pthread_mutex_unlock(&vm->lock);
	} while (n < c->wanted);
	while (n--) {
		usleep(1000);
		disk_double_end(c->disk, n, n % 2 ? -EIO : 0);
	}
	return NULL;
}

static void double_make(struct disk_double *disk)
{
	*disk = (struct disk_double){.base = {.ops = &disk_double_ops, .size = DISK_SIZE, .fd = -1},
				     .data = content};
	assert_int_equal(loop_create(&io), 0);
	machine_make(&disk->base, false);
}

/* A bell that had rung before the pause is heard in the middle of it. */
static void test_waits_for_what_a_bell_submits(void **state)
{
	static struct disk_double disk;
	struct completer c = {.disk = &disk, .wanted = 4};
	pthread_t loop, completer;

	double_make(&disk);
	write_add(0, 1);
	driver_kick(&d, 0);
	double_loop_run(io);
	assert_int_equal(disk.count, 1);
	for (unsigned i = 1; i < 4; i++)
		write_add(i, 1);
	driver_kick(&d, 0);
	loop = loop_begin();
	assert_int_equal(thread_start(&completer, "completer", complete_all, &c), 0);
	assert_int_equal(vm_pause_idle(vm, ENOUGH_NS, NULL), 0);
	assert_int_equal(vm->disk_requests, 0);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(status_get(i), i % 2 ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK);
	assert_int_equal(vm_resume(vm), 0);
	pthread_join(completer, NULL);
	loop_end(loop);
	assert_int_equal(take_all(), 4);
	machine_end();
}

/* Bells that are heard while it lasts begin nothing. */
static void test_nothing_begins_meanwhile(void **state)
{
	static struct disk_double disk;
	pthread_t loop;

	double_make(&disk);
	loop = loop_begin();
	assert_int_equal(vm_pause_idle(vm, VM_PAUSE_IDLE_NS, NULL), 0);
	write_add(0, 1);
	driver_kick(&d, 0);
	usleep(20000);
	assert_int_equal(disk.count, 0);
	assert_int_equal(vm_resume(vm), 0);
	loop_end(loop);
	double_loop_run(io);
	assert_int_equal(disk.count, 1);
	disk_double_end(&disk, 0, 0);
	machine_end();
}

static void test_gives_up(void **state)
{
	static struct disk_double disk;
	pthread_t loop;

	double_make(&disk);
	write_add(0, 7);
	driver_kick(&d, 0);
	double_loop_run(io);
	loop = loop_begin();
	assert_int_equal(vm_pause_idle(vm, 20 * NS_PER_MS, NULL), -ETIMEDOUT);
	assert_true(vm_is_running(vm));
	assert_int_equal(status_get(0), 0xee);
	assert_int_equal(vm_pause(vm), 0); /* any other is as before */
	assert_int_equal(vm_resume(vm), 0);
	disk_double_end(&disk, 0, 0);
	assert_int_equal(vm_pause_idle(vm, 20 * NS_PER_MS, NULL), 0);
	assert_int_equal(status_get(0), VIRTIO_BLK_S_OK);
	assert_int_equal(vm_resume(vm), 0);
	loop_end(loop);
	machine_end();
}

/* Whoever is to end the session does not wait for a disk that hangs. */
static void test_given_up(void **state)
{
	static struct disk_double disk;
	atomic_bool stop = true;

	double_make(&disk);
	write_add(0, 7);
	driver_kick(&d, 0);
	double_loop_run(io);
	assert_int_equal(vm_pause_idle(vm, 3600 * NS_PER_SEC, &stop), -ECANCELED);
	assert_true(vm_is_running(vm));
	disk_double_end(&disk, 0, 0);
	assert_int_equal(vm_pause_idle(vm, VM_PAUSE_IDLE_NS, &stop),
			 0); /* there is nothing to wait for */
	assert_int_equal(vm_resume(vm), 0);
	machine_end();
}

static void *stop_later(void *ctx)
{
	usleep(20000);
	atomic_store((atomic_bool *)ctx, true);
	return NULL;
}

static void test_given_up_meanwhile(void **state)
{
	static struct disk_double disk;
	atomic_bool stop = false;
	pthread_t stopper;

	double_make(&disk);
	write_add(0, 7);
	driver_kick(&d, 0);
	double_loop_run(io);
	assert_int_equal(thread_start(&stopper, "stopper", stop_later, &stop), 0);
	assert_int_equal(vm_pause_idle(vm, 3600 * NS_PER_SEC, &stop), -ECANCELED);
	pthread_join(stopper, NULL);
	assert_true(vm_is_running(vm));
	disk_double_end(&disk, 0, 0);
	machine_end();
}

/* A request that a reset of the device has made an orphan writes to the disk all the same. */
static void test_counts_orphans(void **state)
{
	static struct disk_double disk;

	double_make(&disk);
	write_add(0, 7);
	driver_kick(&d, 0);
	double_loop_run(io);
	common_set(&d, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	assert_int_equal(vm_pause_idle(vm, NS_PER_MS, NULL), -ETIMEDOUT);
	disk_double_end(&disk, 0, 0);
	assert_int_equal(vm_pause_idle(vm, NS_PER_MS, NULL), 0);
	assert_int_equal(vm_resume(vm), 0);
	machine_end();
}

static void test_counts_no_refusals(void **state)
{
	static struct disk_double disk;

	double_make(&disk);
	disk.fail = -EIO;
	write_add(0, 7);
	driver_kick(&d, 0);
	double_loop_run(io);
	assert_int_equal(status_get(0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(vm_pause_idle(vm, 0, NULL), 0);
	assert_int_equal(vm_resume(vm), 0);
	machine_end();
}

/* ---- a real one ------------------------------------------------------------------------------ */

/* Random numbers of writes; after each pause all of them are in the file, and none comes. */
static void file_round(int fd, unsigned round)
{
	static uint8_t seen[LEN * REQUESTS];
	unsigned n = 1 + (unsigned)rand() % REQUESTS;
	uint8_t fill = (uint8_t)(round + 1);

	for (unsigned i = 0; i < n; i++) {
		write_add(i, fill);
		if (rand() % 2)
			driver_kick(&d, 0);
	}
	driver_kick(&d, 0);
	usleep((unsigned)rand() % 300);
	assert_int_equal(vm_pause_idle(vm, ENOUGH_NS, NULL), 0);
	assert_int_equal(vm->disk_requests, 0);
	assert_int_equal(pread(fd, seen, sizeof(seen), 0), sizeof(seen));
	for (unsigned i = 0; i < n; i++) {
		bool done = status_get(i) == VIRTIO_BLK_S_OK;

		/* What no bell was heard for has not begun. */
		assert_true(done || status_get(i) == 0xee);
		assert_int_equal(seen[i * LEN] == fill, done);
		assert_int_equal(seen[i * LEN + LEN - 1] == fill, done);
	}
	assert_int_equal(vm_resume(vm), 0);
	for (unsigned taken = 0; taken < n; usleep(100))
		taken += take_all();
}

static void test_file(void **state)
{
	struct disk_config c = {.create_size = DISK_SIZE};
	unsigned seed = (unsigned)clock_ns();
	struct disk_backend *file;
	struct error e = {0};
	pthread_t loop;
	int fd;

	print_message("seed %u\n", seed);
	srand(seed);
	snprintf(c.path, sizeof(c.path), "/tmp/pollux-idle-%d", getpid());
	(void)unlink(c.path);
	assert_int_equal(loop_create(&io), 0);
	if (disk_backend_open(&c, io, &file, &e))
		fail_msg("%s", e.text);
	fd = open(c.path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	machine_make(file, false);
	loop = loop_begin();
	for (unsigned round = 0; round < 100; round++)
		file_round(fd, round);
	loop_end(loop);
	close(fd);
	vm_destroy(vm);
	file->ops->destroy(file);
	loop_destroy(io);
	(void)unlink(c.path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_stepped_drains),
		cmocka_unit_test(test_waits_for_what_a_bell_submits),
		cmocka_unit_test(test_nothing_begins_meanwhile),
		cmocka_unit_test(test_gives_up),
		cmocka_unit_test(test_given_up),
		cmocka_unit_test(test_given_up_meanwhile),
		cmocka_unit_test(test_counts_orphans),
		cmocka_unit_test(test_counts_no_refusals),
		cmocka_unit_test(test_file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
