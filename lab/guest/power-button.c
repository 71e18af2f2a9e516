// SPDX-License-Identifier: Apache-2.0
// Waits until the ACPI power button is pressed (an input device, through evdev) and returns 0.
//   power-button [DEVICE...]     default: /dev/input/event0 to event7, those that are there
#include <fcntl.h>
#include <linux/input.h>
#include <poll.h>
#include <stdio.h>
#include <unistd.h>

#define DEVICES_MAX 8

static int button_pressed(int fd)
{
	struct input_event event;

	return read(fd, &event, sizeof(event)) == sizeof(event) && event.type == EV_KEY &&
	       event.code == KEY_POWER && event.value == 1;
}

int main(int argc, char **argv)
{
	struct pollfd fds[DEVICES_MAX];
	nfds_t count = 0;
	char name[64];

	for (int i = 0; i < DEVICES_MAX; i++) {
		snprintf(name, sizeof(name), "/dev/input/event%d", i);
		int fd = argc == 1      ? open(name, O_RDONLY)
			 : i + 1 < argc ? open(argv[i + 1], O_RDONLY)
					: -1;

		if (fd >= 0)
			fds[count++] = (struct pollfd){.fd = fd, .events = POLLIN};
	}
	if (!count) {
		fprintf(stderr, "power-button: no input device\n");
		return 1;
	}
	for (;;) {
		if (poll(fds, count, -1) < 0)
			continue;
		for (nfds_t i = 0; i < count; i++) {
			if (fds[i].revents & POLLIN && button_pressed(fds[i].fd))
				return 0;
			if (fds[i].revents & (POLLHUP | POLLERR))
				fds[i].fd = -1;
		}
	}
}
