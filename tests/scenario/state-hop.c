// SPDX-License-Identifier: Apache-2.0
/*
 * Moves a running vm from process to process, through bytes: pause, save the state, exec;
 * the new process loads it, and a copy of RAM, into a vm of its own and goes on.
 *
 *   state-hop VM-FILE HOPS RUN-MS [ENGINE,ENGINE...]
 *
 * Boots the vm and waits for SIGUSR1, then hops HOPS times, RUN-MS apart, and runs until
 * SIGTERM or until the guest is off. The processes take the engines in turn. The console goes
 * to standard output, a line a hop to standard error.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "hypervisor/hypervisor.h"

/* What a process gets beside the VM file; the last three only after a hop. */
enum argument { ARG_HOPS = 2, ARG_RUN_MS, ARG_ENGINES, ARG_RAM, ARG_STATE, ARG_BEGAN, ARG_END };

struct hop {
	char **argv;
	unsigned hops, run_ms;
	const char *engines; /* this process's own first; or "" */
	struct vm_config config;
	struct loop *io;
	pthread_t io_thread;
	struct net_backend *nics[VM_NICS_MAX];
	struct disk_backend *disks[VM_DISKS_MAX];
	struct vm *vm;
};

static void check(int rc, const struct error *e, const char *what)
{
	if (!rc)
		return;
	fprintf(stderr, "state-hop: %s: %s\n", what, e && e->text[0] ? e->text : strerror(-rc));
	exit(1);
}

static void on_event(void *ctx, enum vm_event event, const char *detail)
{
	fprintf(stderr, "state-hop: guest event %d: %s\n", event, detail);
	if (event != VM_EVENT_REBOOT)
		kill(getpid(), SIGTERM);
}

static void *io_main(void *ctx)
{
	check(loop_run(ctx), NULL, "device loop");
	return NULL;
}

/* The first word of the list, if there is one. */
static void engine_take(struct hop *h)
{
	size_t n = strcspn(h->engines, ",");

	if (n)
		snprintf(h->config.engine, sizeof h->config.engine, "%.*s", (int)n, h->engines);
}

/* The list for the next process: the first word goes to its end. */
static void engines_turn(const char *list, char *out, size_t room)
{
	size_t n = strcspn(list, ",");

	if (list[n])
		snprintf(out, room, "%s,%.*s", list + n + 1, (int)n, list);
	else
		snprintf(out, room, "%s", list);
}

static void machine_open(struct hop *h)
{
	struct vm_parts parts = {.on_event = on_event, .console_in = -1, .console_out = 1};
	struct error e = {0};
	struct buf text = {0};

	check(file_read(h->argv[1], 1 << 16, &text, &e), &e, "configuration");
	buf_put_u8(&text, 0);
	check(vm_config_parse((char *)text.data, h->argv[1], &h->config, &e), &e, "configuration");
	buf_free(&text);
	engine_take(h);
	check(loop_create(&h->io), NULL, "loop");
	parts.io = h->io;
	for (unsigned i = 0; i < h->config.nic_count; i++) {
		check(net_backend_open(&h->config.nics[i], h->io, &h->nics[i], &e), &e, "nic");
		parts.nets[i] = h->nics[i];
	}
	for (unsigned i = 0; i < h->config.disk_count; i++) {
		check(disk_backend_open(&h->config.disks[i], h->io, &h->disks[i], &e), &e, "disk");
		parts.disks[i] = h->disks[i];
	}
	check(vm_create(&h->config, &parts, &h->vm, &e), &e, "create");
	check(thread_start(&h->io_thread, "devices", io_main, h->io), NULL, "thread");
}

/* A new memfd is zero, and its first touch is slow in an emulated host. */
static void ram_load(int fd, uint8_t *ram, uint64_t pages)
{
	static const uint8_t zero[VM_PAGE_SIZE];
	uint8_t *from = mmap(NULL, pages * VM_PAGE_SIZE, PROT_READ, MAP_SHARED, fd, 0);

	if (from == MAP_FAILED)
		check(-errno, NULL, "ram");
	for (uint64_t i = 0; i < pages * VM_PAGE_SIZE; i += VM_PAGE_SIZE)
		if (memcmp(from + i, zero, VM_PAGE_SIZE) != 0)
			memcpy(ram + i, from + i, VM_PAGE_SIZE);
	munmap(from, pages * VM_PAGE_SIZE);
	close(fd);
}

static int state_keep(const struct buf *bytes)
{
	int fd = memfd_create("state", 0); /* inherited by the next process */

	if (fd < 0)
		check(-errno, NULL, "memfd");
	check(fd_write_all(fd, bytes->data, bytes->len), NULL, "state");
	return fd;
}

static void *state_load(int fd, size_t *n)
{
	struct stat st;
	void *state;

	if (fstat(fd, &st) || lseek(fd, 0, SEEK_SET) < 0)
		check(-errno, NULL, "state");
	*n = (size_t)st.st_size;
	state = malloc(*n);
	check(state ? fd_read_all(fd, state, *n) : -ENOMEM, NULL, "state");
	close(fd);
	return state;
}

static double ms_between(uint64_t from, uint64_t to)
{
	return (double)(to - from) / 1e6;
}

/* exec ends the other threads wherever they are, and with the last user of a ring the
 * kernel cancels or ends its transfers: what was in flight is in the state, and is begun
 * again. Nothing else of this process lasts: its descriptors close on exec. */
static void hop_out(struct hop *h) __attribute__((noreturn));
static void hop_out(struct hop *h)
{
	char left[16], engines[64], ram[16], state[16], began[32];
	uint64_t start = clock_ns();
	struct buf bytes = {0};
	struct error e = {0};
	int ram_fd, state_fd;

	check(vm_pause(h->vm), NULL, "pause");
	check(vm_state_save(h->vm, &bytes, &e), &e, "save");
	state_fd = state_keep(&bytes);
	ram_fd = dup(vm_ram_fd(h->vm));
	snprintf(left, sizeof left, "%u", h->hops - 1);
	engines_turn(h->engines, engines, sizeof engines);
	snprintf(ram, sizeof ram, "%d", ram_fd);
	snprintf(state, sizeof state, "%d", state_fd);
	snprintf(began, sizeof began, "%lu", (unsigned long)start);
	execl("/proc/self/exe", "state-hop", h->argv[1], left, h->argv[ARG_RUN_MS], engines, ram,
	      state, began, NULL);
	check(-errno, NULL, "exec");
	exit(1);
}

static void hop_in(struct hop *h)
{
	uint64_t began = strtoull(h->argv[ARG_BEGAN], NULL, 10);
	struct error e = {0};
	size_t n;
	void *state = state_load(atoi(h->argv[ARG_STATE]), &n);

	ram_load(atoi(h->argv[ARG_RAM]), vm_ram(h->vm), vm_ram_pages(h->vm));
	check(vm_state_check(h->vm, state, n, &e), &e, "check");
	check(vm_state_load(h->vm, state, n, &e), &e, "load");
	free(state);
	check(vm_start(h->vm, &e), &e, "start");
	fprintf(stderr, "hop: %u left, under %s, away for %.0f ms\n", h->hops,
		vm_engine_name(h->vm), ms_between(began, clock_ns()));
}

/* Until the time is over, or for ever. What a thread has given to io_uring interrupts its waits
 * when it is done, and after a hop the first requests are this thread's. */
static void wait_signal(const sigset_t *set, uint64_t ms)
{
	uint64_t until = ms ? clock_ns() + ms * NS_PER_MS : UINT64_MAX;
	int number;

	do {
		uint64_t now = clock_ns(), left = now < until ? until - now : 0;
		struct timespec t = {(time_t)(left / NS_PER_SEC), (long)(left % NS_PER_SEC)};

		number = sigtimedwait(set, NULL, &t);
	} while (number < 0 && errno == EINTR);
	if (number == SIGTERM)
		exit(0);
}

int main(int argc, char **argv)
{
	struct hop h = {.argv = argv};
	struct error e = {0};
	sigset_t set;

	if (argc != ARG_ENGINES && argc != ARG_RAM && argc != ARG_END) {
		fprintf(stderr, "usage: state-hop VM-FILE HOPS RUN-MS [ENGINE,ENGINE...]\n");
		return 2;
	}
	h.hops = (unsigned)atoi(argv[ARG_HOPS]);
	h.run_ms = (unsigned)atoi(argv[ARG_RUN_MS]);
	h.engines = argc > ARG_ENGINES ? argv[ARG_ENGINES] : "";
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	log_setup("state-hop", LOG_LEVEL_INFO);
	machine_open(&h);
	if (argc == ARG_END) {
		hop_in(&h);
	} else {
		check(vm_boot(h.vm, &e), &e, "boot");
		check(vm_start(h.vm, &e), &e, "start");
		wait_signal(&set, 0);
	}
	if (h.hops) {
		wait_signal(&set, h.run_ms);
		hop_out(&h);
	}
	fprintf(stderr, "hop: done\n");
	wait_signal(&set, 0);
	return 0;
}
