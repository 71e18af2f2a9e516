// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <linux/serial_reg.h>
#include <sys/socket.h>

#include "tests/unit/hypervisor/double.h"

#define PORT 0x3f8u

static struct loop *io;
static struct vm_parts parts;
static struct vm *vm;
static int in_pipe[2], out_pipe[2];

static int setup(void **state)
{
	assert_int_equal(loop_create(&io), 0);
	assert_int_equal(pipe(in_pipe), 0);
	assert_int_equal(pipe2(out_pipe, O_NONBLOCK), 0);
	parts = (struct vm_parts){.io = io, .console_in = in_pipe[0], .console_out = out_pipe[1]};
	vm = double_vm(&parts, "console=ttyS0", NULL, NULL);
	return 0;
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

static uint8_t get(unsigned reg)
{
	return (uint8_t)vm_in(vm, (uint16_t)(PORT + reg), 1);
}
static void set(unsigned reg, uint8_t v)
{
	vm_out(vm, (uint16_t)(PORT + reg), 1, v);
}
static void type(const char *text)
{
	assert_int_equal(write(in_pipe[1], text, strlen(text)), (ssize_t)strlen(text));
	double_loop_run(io);
}

static void output_appears(void **state)
{
	char text[16] = {0};

	assert_int_equal(get(UART_LSR), UART_LSR_THRE | UART_LSR_TEMT);
	for (const char *c = "hello"; *c; c++)
		set(UART_TX, (uint8_t)*c);
	assert_int_equal(read(out_pipe[0], text, sizeof(text)), 5);
	assert_string_equal(text, "hello");
}

/* One descriptor in and out, and a reader who comes late. */
static void output_waits_for_its_reader(void **state)
{
	struct vm_parts other = {.io = io};
	size_t n = 0;
	int pair[2];
	struct vm *t;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
	other.console_in = other.console_out = pair[1];
	t = double_vm(&other, "console=ttyS0", NULL, NULL);
	for (unsigned i = 0; i < 4096; i++)
		vm_out(t, PORT + UART_TX, 1, 'a');
	for (int idle = 0; idle < 3; idle++) {
		char text[4096];
		ssize_t some = read(pair[0], text, sizeof(text));

		if (some > 0) {
			n += (size_t)some;
			idle = 0;
		}
		assert_int_equal(loop_step(io, 0), 0);
	}
	assert_int_equal(n, 4096);
	vm_destroy(t);
	close(pair[0]);
	close(pair[1]);
}

/* More than the reader has made room for, and then the machine goes. */
static void last_words_are_written(void **state)
{
	struct vm_parts other = {.io = io, .console_in = -1};
	char text[4096];
	size_t n = 0;
	int pair[2];
	struct vm *t;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
	other.console_out = pair[1];
	t = double_vm(&other, "console=ttyS0", NULL, NULL);
	for (unsigned i = 0; i < sizeof(text); i++)
		vm_out(t, PORT + UART_TX, 1, 'a' + i % 26);
	vm_destroy(t);
	for (ssize_t some; (some = read(pair[0], text, sizeof(text))) > 0;)
		for (ssize_t i = 0; i < some; i++, n++)
			assert_int_equal(text[i], 'a' + n % 26);
	assert_int_equal(n, sizeof(text));
	close(pair[0]);
	close(pair[1]);
}

/* What a driver does to find out what this is. */
static void the_probe_finds_a_16550a(void **state)
{
	set(UART_SCR, 0xa5);
	assert_int_equal(get(UART_SCR), 0xa5);
	set(UART_IER, 0xff);
	assert_int_equal(get(UART_IER), 0x0f);
	set(UART_IER, 0);
	set(UART_MCR, UART_MCR_LOOP | UART_MCR_RTS | UART_MCR_OUT2);
	assert_int_equal(get(UART_MSR) & 0xf0, 0x90);
	set(UART_MCR, 0);
	assert_int_equal(get(UART_IIR) >> 6, 0);
	set(UART_FCR, UART_FCR_ENABLE_FIFO);
	assert_int_equal(get(UART_IIR) >> 6, 3);
	set(UART_LCR, UART_LCR_DLAB);
	set(UART_DLL, 1);
	set(UART_DLM, 2);
	assert_int_equal(get(UART_DLL), 1);
	assert_int_equal(get(UART_DLM), 2);
	set(UART_LCR, 3);
	assert_int_equal(get(UART_IER), 0);
}

static void input_raises_the_line(void **state)
{
	set(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_TRIGGER_4);
	set(UART_MCR, UART_MCR_OUT2);
	set(UART_IER, UART_IER_RDI);
	assert_false(vm->engine->level[4]);
	type("abcd");
	assert_true(vm->engine->level[4]);
	assert_int_equal(get(UART_IIR) & 0x0f, UART_IIR_RDI);
	assert_int_equal(get(UART_RX), 'a');
	assert_int_equal(get(UART_RX), 'b');
	assert_true(vm->engine->level[4]);
	assert_int_equal(get(UART_IIR) & 0x0f, UART_IIR_RX_TIMEOUT & 0x0f);
	assert_true(get(UART_LSR) & UART_LSR_DR);
	assert_int_equal(get(UART_RX), 'c');
	assert_int_equal(get(UART_RX), 'd');
	assert_false(vm->engine->level[4]);
	assert_int_equal(get(UART_IIR) & 0x0f, UART_IIR_NO_INT);
	assert_false(get(UART_LSR) & UART_LSR_DR);
}

static void input_waits_while_the_fifo_is_full(void **state)
{
	char text[101];

	for (unsigned i = 0; i < 100; i++)
		text[i] = (char)('0' + i % 64);
	text[100] = 0;
	set(UART_FCR, UART_FCR_ENABLE_FIFO);
	type(text);
	for (unsigned i = 0; i < 100; i++) {
		if (!(get(UART_LSR) & UART_LSR_DR))
			double_loop_run(io);
		assert_int_equal(get(UART_RX), text[i]);
	}
	double_loop_run(io);
	assert_false(get(UART_LSR) & UART_LSR_DR);
}

static void the_transmitter_interrupt_comes_and_is_read_away(void **state)
{
	set(UART_MCR, UART_MCR_OUT2);
	set(UART_IER, UART_IER_THRI);
	assert_true(vm->engine->level[4]);
	assert_int_equal(get(UART_IIR) & 0x0f, UART_IIR_THRI);
	assert_false(vm->engine->level[4]);
	assert_int_equal(get(UART_IIR) & 0x0f, UART_IIR_NO_INT);
	set(UART_TX, 'x');
	assert_true(vm->engine->level[4]);
	set(UART_MCR, 0); /* OUT2 gates the line */
	assert_false(vm->engine->level[4]);
}

static void loopback_returns_what_is_sent(void **state)
{
	char c;

	set(UART_MCR, UART_MCR_LOOP);
	set(UART_TX, 'L');
	assert_int_equal(get(UART_RX), 'L');
	assert_int_equal(read(out_pipe[0], &c, 1), -1);
}

static void nobody_reads_and_nothing_blocks(void **state)
{
	char text[4096];
	ssize_t n, total = 0;

	for (unsigned i = 0; i < 200000; i++)
		set(UART_TX, (uint8_t)(i == 199999 ? '!' : '.'));
	do {
		n = read(out_pipe[0], text, sizeof(text));
		total += n > 0 ? n : 0;
		if (n > 0 && text[n - 1] == '!')
			break;
		double_loop_run(io);
	} while (n > 0 || total < 100000);
	assert_in_range(total, 100000, 199999);
}

static void the_end_of_input_is_quiet(void **state)
{
	type("z");
	close(in_pipe[1]);
	in_pipe[1] = dup(out_pipe[1]);
	double_loop_run(io);
	assert_int_equal(get(UART_RX), 'z');
	double_loop_run(io);
	assert_false(get(UART_LSR) & UART_LSR_DR);
}

static void the_state_moves(void **state)
{
	struct vm_parts other = {.io = io, .console_in = -1, .console_out = -1};
	struct buf b = {0};
	struct error e = {0};
	struct vm *t = double_vm(&other, "console=ttyS0", NULL, NULL);

	set(UART_FCR, UART_FCR_ENABLE_FIFO);
	set(UART_MCR, UART_MCR_OUT2);
	set(UART_IER, UART_IER_RDI);
	set(UART_SCR, 0x5a);
	type("xyz");
	assert_int_equal(vm_pause(vm), 0);
	assert_int_equal(vm_state_save(vm, &b, &e), 0);
	assert_int_equal(vm_resume(vm), 0);
	if (vm_state_load(t, b.data, b.len, &e))
		fail_msg("%s", e.text);
	assert_int_equal(t->engine->raised[4], 0);
	assert_int_equal(vm_start(t, &e), 0);
	assert_int_equal(t->engine->raised[4], 1);
	assert_int_equal(vm_in(t, PORT + UART_SCR, 1), 0x5a);
	assert_int_equal(vm_in(t, PORT + UART_RX, 1), 'x');
	assert_int_equal(vm_in(t, PORT + UART_RX, 1), 'y');
	assert_int_equal(vm_in(t, PORT + UART_RX, 1), 'z');
	vm_destroy(t);
	buf_free(&b);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(output_appears),
		T(output_waits_for_its_reader),
		T(last_words_are_written),
		T(the_probe_finds_a_16550a),
		T(input_raises_the_line),
		T(input_waits_while_the_fifo_is_full),
		T(the_transmitter_interrupt_comes_and_is_read_away),
		T(loopback_returns_what_is_sent),
		T(nobody_reads_and_nothing_blocks),
		T(the_end_of_input_is_quiet),
		T(the_state_moves),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
