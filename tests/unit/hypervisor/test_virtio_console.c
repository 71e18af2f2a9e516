// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>

#include "tests/unit/hypervisor/driver.h"

static struct loop *io;
static struct vm_parts parts;
static struct vm *vm;
static struct driver d;
static int in_pipe[2], out_pipe[2];

static int setup_with(const char *cmdline)
{
	double_with_bells = true;
	assert_int_equal(loop_create(&io), 0);
	assert_int_equal(pipe(in_pipe), 0);
	assert_int_equal(pipe2(out_pipe, O_NONBLOCK), 0);
	parts = (struct vm_parts){.io = io, .console_in = in_pipe[0], .console_out = out_pipe[1]};
	vm = double_vm(&parts, cmdline, NULL, NULL);
	return 0;
}
static int setup(void **state)
{
	return setup_with("quiet console=hvc0");
}
static int setup_serial(void **state)
{
	return setup_with("console=ttyS0");
}
static int teardown(void **state)
{
	vm_destroy(vm);
	loop_destroy(io);
	for (int i = 0; i < 2; i++) {
		close(in_pipe[i]);
		close(out_pipe[i]);
	}
	return 0;
}

static void type(const char *text)
{
	assert_int_equal(write(in_pipe[1], text, strlen(text)), (ssize_t)strlen(text));
	double_loop_run(io);
}

static uint64_t text_put(const char *text)
{
	uint64_t gpa = driver_alloc(&d, strlen(text), 1);

	memcpy(driver_at(&d, gpa, strlen(text)), text, strlen(text));
	return gpa;
}

static void output_appears(void **state)
{
	char text[32] = {0};
	uint16_t head;
	uint32_t len;

	driver_start(&d, vm, VIRTIO_ID_CONSOLE, 0, 2, 8);
	driver_add(&d, 1, (struct piece[]){{text_put("hello "), 6}, {text_put("world"), 5}}, 2, 0);
	driver_kick(&d, 1);
	double_loop_run(io);
	assert_int_equal(read(out_pipe[0], text, sizeof(text)), 11);
	assert_string_equal(text, "hello world");
	assert_true(driver_take(&d, 1, &head, &len));
	assert_int_equal(driver_msis(&d, 2), 1);
}

/* One request may name 4 GiB: it ends soon, whatever becomes of its output. */
static void a_huge_request_is_cut(void **state)
{
	enum { PIECE = 2 << 20, PIECES = 4, MOST = 65536 };
	struct piece p[PIECES];
	char text[4096];
	size_t seen = 0;
	uint16_t head;
	uint32_t len;
	ssize_t n;

	driver_start(&d, vm, VIRTIO_ID_CONSOLE, 0, 2, 8);
	for (unsigned i = 0; i < PIECES; i++)
		p[i] = (struct piece){0x1000, PIECE};
	driver_add(&d, 1, p, PIECES, 0);
	driver_kick(&d, 1);
	do {
		double_loop_run(io);
		for (n = 1; n > 0; seen += n > 0 ? (size_t)n : 0)
			n = read(out_pipe[0], text, sizeof(text));
		double_loop_run(io);
	} while ((n = read(out_pipe[0], text, 1)) > 0 && ++seen);
	assert_true(driver_take(&d, 1, &head, &len));
	assert_int_equal(seen, MOST);
}

static void input_waits_for_buffers(void **state)
{
	uint64_t gpa;
	uint16_t head;
	uint32_t len;

	type("early");
	driver_start(&d, vm, VIRTIO_ID_CONSOLE, 0, 2, 8);
	double_loop_run(io);
	gpa = driver_alloc(&d, 8, 1);
	driver_add(&d, 0, &(struct piece){gpa, 3}, 0, 1);
	driver_kick(&d, 0);
	double_loop_run(io);
	assert_true(driver_take(&d, 0, &head, &len));
	assert_int_equal(len, 3);
	assert_memory_equal(driver_at(&d, gpa, 3), "ear", 3);
	driver_add(&d, 0, &(struct piece){gpa, 8}, 0, 1);
	driver_kick(&d, 0);
	double_loop_run(io);
	assert_true(driver_take(&d, 0, &head, &len));
	assert_int_equal(len, 2);
	assert_memory_equal(driver_at(&d, gpa, 2), "ly", 2);
	assert_int_equal(driver_msis(&d, 1), 2);
	assert_true(page_marked(vm, gpa));
}

/* One keyboard for two consoles: the kernel's command line decides. */
static void the_serial_port_has_the_keyboard(void **state)
{
	uint16_t head;
	uint32_t len;

	driver_start(&d, vm, VIRTIO_ID_CONSOLE, 0, 2, 8);
	driver_add(&d, 0, &(struct piece){driver_alloc(&d, 8, 1), 8}, 0, 1);
	driver_kick(&d, 0);
	type("s");
	assert_false(driver_take(&d, 0, &head, &len));
	assert_int_equal(vm_in(vm, 0x3f8, 1), 's');
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(output_appears, setup, teardown),
		cmocka_unit_test_setup_teardown(a_huge_request_is_cut, setup, teardown),
		cmocka_unit_test_setup_teardown(input_waits_for_buffers, setup, teardown),
		cmocka_unit_test_setup_teardown(the_serial_port_has_the_keyboard, setup_serial,
						teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
