// SPDX-License-Identifier: Apache-2.0
/*
 * The host's end of a console: two descriptors between a device and the loop.
 * Output never blocks the guest: it is buffered, and when nobody reads it the
 * oldest bytes go. Input is read only while the device has room for it.
 * Private to hypervisor/.
 */
#ifndef POLLUX_HYPERVISOR_CONSOLE_H
#define POLLUX_HYPERVISOR_CONSOLE_H

#include "hypervisor/machine.h"

struct console;
struct console_front {
	/* Device lock held. How many bytes the device could take now. */
	size_t (*room)(void *ctx);
	/* Device lock held. At most what room() said. */
	void (*input)(void *ctx, const uint8_t *data, size_t n);
	void *ctx;
};

/* Two devices share the host's console: both write to it. What is typed goes to the
 * serial port, or to virtio-console if the kernel's command line says console=hvc. */
bool console_on_serial(const struct vm *vm);

/* `lock` is the device lock. A descriptor of -1 is one that is not there. */
int console_open(struct loop *io, pthread_mutex_t *lock, int in_fd, int out_fd,
		 const struct console_front *front, struct console **out,
		 struct error *e) MUST_CHECK;
void console_close(struct console *c);
/* In a deterministic machine: what is typed comes in between two turns, or not at all. */
int console_deterministic(struct console *c, struct vm *vm) MUST_CHECK;
/* Device lock held, any thread. */
void console_write(struct console *c, const void *data, size_t n);
/* Hand on what is buffered, as far as it is taken: what is left. Device lock held. */
size_t console_flush(struct console *c);
/* The device has room again. Device lock held, any thread. */
void console_pull(struct console *c);

#endif
