// SPDX-License-Identifier: Apache-2.0
/*
 * A 16550A at 0x3f8: FIFOs, received-data and transmitter-empty interrupts,
 * loopback for the driver's probe. What is written is sent at once, so the
 * transmitter is always empty.
 */
#include <errno.h>
#include <linux/serial_reg.h>
#include <stdlib.h>
#include <string.h>

#include "hypervisor/console.h"
#include "hypervisor/machine.h"

#define PORT       0x3f8u
#define PORTS      8u
#define FIFO_DEPTH 16u

struct serial {
	struct device device;
	struct console *console;
	uint8_t ier, fcr, lcr, mcr, scr;
	uint8_t divisor[2];
	bool thr_empty_pending; /* the interrupt, which reading IIR clears */
	uint8_t fifo[FIFO_DEPTH];
	unsigned count;
};

static struct serial *serial_of(struct device *d)
{
	return CONTAINER_OF(d, struct serial, device);
}

static unsigned fifo_depth(const struct serial *s)
{
	return s->fcr & UART_FCR_ENABLE_FIFO ? FIFO_DEPTH : 1;
}

static unsigned fifo_trigger(const struct serial *s)
{
	static const uint8_t levels[] = {1, 4, 8, 14};

	return s->fcr & UART_FCR_ENABLE_FIFO ? levels[s->fcr >> 6] : 1;
}

/* ---- interrupts ------------------------------------------------------------------ */

/* The cause with the highest priority. Below the trigger level data is announced as
 * a timeout at once: no timer, and nothing waits. */
static uint8_t interrupt_cause(const struct serial *s)
{
	if ((s->ier & UART_IER_RDI) && s->count)
		return s->count >= fifo_trigger(s) ? UART_IIR_RDI : UART_IIR_RX_TIMEOUT;
	if ((s->ier & UART_IER_THRI) && s->thr_empty_pending)
		return UART_IIR_THRI;
	return UART_IIR_NO_INT;
}

/* OUT2 gates the line on a PC. */
static bool interrupt_level(const struct serial *s)
{
	return interrupt_cause(s) != UART_IIR_NO_INT &&
	       (s->mcr & (UART_MCR_OUT2 | UART_MCR_LOOP)) == UART_MCR_OUT2;
}

static void interrupt_update(struct serial *s)
{
	vm_irq(s->device.vm, LAYOUT_SERIAL_GSI, interrupt_level(s));
}

/* ---- data ------------------------------------------------------------------------- */

static void fifo_put(struct serial *s, uint8_t byte)
{
	if (s->count < fifo_depth(s))
		s->fifo[s->count++] = byte;
}

static uint8_t fifo_get(struct serial *s)
{
	uint8_t byte = s->fifo[0];

	if (!s->count)
		return 0;
	s->count--;
	memmove(s->fifo, s->fifo + 1, s->count);
	console_pull(s->console);
	return byte;
}

static void data_send(struct serial *s, uint8_t byte)
{
	if (s->mcr & UART_MCR_LOOP)
		fifo_put(s, byte);
	else
		console_write(s->console, &byte, 1);
	s->thr_empty_pending = true;
}

static size_t console_room(void *ctx)
{
	const struct serial *s = ctx;

	return s->mcr & UART_MCR_LOOP ? 0 : fifo_depth(s) - s->count;
}

static void console_input(void *ctx, const uint8_t *data, size_t n)
{
	struct serial *s = ctx;

	for (size_t i = 0; i < n; i++)
		fifo_put(s, data[i]);
	interrupt_update(s);
}

/* ---- registers ---------------------------------------------------------------------- */

static uint8_t rx_or_divisor_read(struct serial *s)
{
	return s->lcr & UART_LCR_DLAB ? s->divisor[0] : fifo_get(s);
}
static void tx_or_divisor_write(struct serial *s, uint8_t v)
{
	if (s->lcr & UART_LCR_DLAB)
		s->divisor[0] = v;
	else
		data_send(s, v);
}
static uint8_t ier_or_divisor_read(struct serial *s)
{
	return s->lcr & UART_LCR_DLAB ? s->divisor[1] : s->ier;
}
static void ier_or_divisor_write(struct serial *s, uint8_t v)
{
	if (s->lcr & UART_LCR_DLAB) {
		s->divisor[1] = v;
		return;
	}
	if ((v & ~s->ier) & UART_IER_THRI)
		s->thr_empty_pending = true; /* it is empty, and was not told yet */
	s->ier = v & 0x0f;
}
static uint8_t iir_read(struct serial *s)
{
	uint8_t cause = interrupt_cause(s);

	if (cause == UART_IIR_THRI)
		s->thr_empty_pending = false;
	return cause | (s->fcr & UART_FCR_ENABLE_FIFO ? 0xc0 : 0);
}
static void fcr_write(struct serial *s, uint8_t v)
{
	if ((v & UART_FCR_CLEAR_RCVR) || ((v ^ s->fcr) & UART_FCR_ENABLE_FIFO))
		s->count = 0;
	s->fcr = v & (UART_FCR_ENABLE_FIFO | UART_FCR_TRIGGER_MASK);
	console_pull(s->console);
}
static uint8_t lcr_read(struct serial *s)
{
	return s->lcr;
}
static void lcr_write(struct serial *s, uint8_t v)
{
	s->lcr = v;
}
static uint8_t mcr_read(struct serial *s)
{
	return s->mcr;
}
static void mcr_write(struct serial *s, uint8_t v)
{
	s->mcr = v & 0x1f;
	console_pull(s->console);
}
static uint8_t lsr_read(struct serial *s)
{
	return UART_LSR_TEMT | UART_LSR_THRE | (s->count ? UART_LSR_DR : 0);
}
/* In loopback DTR, RTS, OUT1, OUT2 come back as DSR, CTS, RI, DCD. */
static uint8_t msr_read(struct serial *s)
{
	if (!(s->mcr & UART_MCR_LOOP))
		return UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS;
	return (s->mcr & UART_MCR_DTR ? UART_MSR_DSR : 0) |
	       (s->mcr & UART_MCR_RTS ? UART_MSR_CTS : 0) |
	       (s->mcr & UART_MCR_OUT1 ? UART_MSR_RI : 0) |
	       (s->mcr & UART_MCR_OUT2 ? UART_MSR_DCD : 0);
}
static uint8_t scr_read(struct serial *s)
{
	return s->scr;
}
static void scr_write(struct serial *s, uint8_t v)
{
	s->scr = v;
}
static void read_only(struct serial *s, uint8_t v)
{
}

static const struct {
	uint8_t (*read)(struct serial *s);
	void (*write)(struct serial *s, uint8_t v);
} registers[PORTS] = {
	[UART_RX] = {rx_or_divisor_read, tx_or_divisor_write},
	[UART_IER] = {ier_or_divisor_read, ier_or_divisor_write},
	[UART_IIR] = {iir_read, fcr_write},
	[UART_LCR] = {lcr_read, lcr_write},
	[UART_MCR] = {mcr_read, mcr_write},
	[UART_LSR] = {lsr_read, read_only},
	[UART_MSR] = {msr_read, read_only},
	[UART_SCR] = {scr_read, scr_write},
};

/* Registers are bytes: a wider access reads one and all ones. */
static void port_read(void *dev, uint64_t at, void *data, unsigned size)
{
	memset(data, 0xff, size);
	*(uint8_t *)data = registers[at % PORTS].read(dev);
	interrupt_update(dev);
}

static void port_write(void *dev, uint64_t at, const void *data, unsigned size)
{
	registers[at % PORTS].write(dev, *(const uint8_t *)data);
	interrupt_update(dev);
}

static const struct bus_ops port_ops = {port_read, port_write};

/* ---- the device -------------------------------------------------------------------------- */

static void registers_reset(struct serial *s)
{
	s->ier = s->fcr = s->lcr = s->mcr = s->scr = 0;
	s->divisor[0] = 12; /* 9600 baud */
	s->divisor[1] = 0;
	s->thr_empty_pending = false;
	s->count = 0;
}

static void serial_reset(struct device *d)
{
	registers_reset(serial_of(d));
	interrupt_update(serial_of(d));
	console_pull(serial_of(d)->console);
}

static int serial_save(struct device *d, struct buf *out)
{
	const struct serial *s = serial_of(d);
	const uint8_t all[] = {s->ier,           s->fcr,        s->lcr,        s->mcr,
			       s->scr,           s->divisor[0], s->divisor[1], s->thr_empty_pending,
			       (uint8_t)s->count};

	buf_put(out, all, sizeof(all));
	buf_put(out, s->fifo, s->count);
	return buf_check(out);
}

static int serial_load(struct device *d, struct cursor in, uint16_t version, bool check_only,
		       struct error *e)
{
	struct serial *s = serial_of(d);
	struct serial n = *s;
	uint8_t pending;

	n.ier = cursor_u8(&in);
	n.fcr = cursor_u8(&in);
	n.lcr = cursor_u8(&in);
	n.mcr = cursor_u8(&in);
	n.scr = cursor_u8(&in);
	cursor_copy(&in, n.divisor, sizeof(n.divisor));
	pending = cursor_u8(&in);
	n.thr_empty_pending = pending;
	n.count = cursor_u8(&in);
	if (pending > 1 || n.count > fifo_depth(&n))
		return error_set(e, -EBADMSG, "state: the serial section is damaged");
	cursor_copy(&in, n.fifo, n.count);
	if (cursor_finish(&in))
		return error_set(e, -EBADMSG, "state: the serial section has a wrong length");
	if (!check_only)
		*s = n;
	return 0;
}

/* The line is edge-triggered: down and up again makes one for sure. */
static void serial_resume(struct device *d)
{
	vm_irq(d->vm, LAYOUT_SERIAL_GSI, false);
	interrupt_update(serial_of(d));
	console_pull(serial_of(d)->console);
}

static void serial_destroy(struct device *d)
{
	struct serial *s = serial_of(d);

	bus_remove(&d->vm->ports, s, PORT);
	d->vm->consoles[0] = NULL;
	if (s->console)
		console_close(s->console);
	free(s);
}

const struct device_ops serial_device_ops = {
	.name = "serial",
	.section = STATE_SERIAL,
	.oldest = 1,
	.version = 1,
	.reset = serial_reset,
	.save = serial_save,
	.load = serial_load,
	.resume = serial_resume,
	.destroy = serial_destroy,
};

int serial_create(struct vm *vm, struct error *e)
{
	struct serial *s = calloc(1, sizeof(*s));
	const struct console_front front = {console_room, console_input, s};
	int in_fd = console_on_serial(vm) ? vm->parts.console_in : -1;
	int rc;

	if (!s)
		return error_set(e, -ENOMEM, "serial: out of memory");
	s->device = (struct device){.ops = &serial_device_ops, .vm = vm};
	registers_reset(s);
	rc = console_open(vm->parts.io, &vm->lock, in_fd, vm->parts.console_out, &front,
			  &s->console, e);
	if (!rc && bus_add(&vm->ports, PORT, PORTS, &port_ops, s))
		rc = error_set(e, -ENOSPC, "serial: no room on the port bus");
	if (!rc && vm->deterministic)
		rc = console_deterministic(s->console, vm);
	if (!rc)
		rc = vm_device_add(vm, &s->device);
	if (rc) {
		serial_destroy(&s->device);
		return error_set(e, rc, "serial: cannot make the device");
	}
	vm->consoles[0] = s->console;
	return 0;
}
