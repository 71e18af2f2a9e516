// SPDX-License-Identifier: Apache-2.0
#include "bench/pair.h"

#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <xxhash.h>

#define TERM 1
/* Detection is not the subject, and a busy machine must not end a measurement. */
#define LOSS_NS (5 * NS_PER_SEC)

struct pair {
	struct pair_config config;
	struct loop *io;
	struct vm *vm;
	pthread_t io_thread;
	int listener;
	pid_t twin;
	struct pair_twin *seen; /* shared with the twin's process */
	struct replicator *replicator;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	int state; /* replicator_state or replica_state */
	uint64_t open, released, released_at;
};

static void check(int rc, const char *what, const struct error *e)
{
	if (rc)
		bench_fail(what, e && *e->text ? e->text : strerror(-rc));
}

static void on_vm_event(void *ctx, enum vm_event event, const char *detail)
{
	bench_fail("the guest ended", detail);
}

static void state_set(struct pair *p, int state)
{
	pthread_mutex_lock(&p->lock);
	p->state = state;
	pthread_cond_broadcast(&p->changed);
	pthread_mutex_unlock(&p->lock);
}

static void machine_make(struct pair *p)
{
	struct vm_config c = {
		.name = "bench", .memory = p->config.memory, .vcpus = p->config.vcpus};
	struct vm_parts parts = {.console_in = -1, .console_out = -1, .on_event = on_vm_event};
	struct error e = {0};

	snprintf(c.engine, sizeof(c.engine), "%s", p->config.engine ? p->config.engine : "kvm");
	snprintf(c.kernel, sizeof(c.kernel), "%s", p->config.kernel);
	snprintf(c.cmdline, sizeof(c.cmdline), "%s", p->config.cmdline);
	check(loop_create(&p->io), "event loop", NULL);
	parts.io = p->io;
	check(vm_create(&c, &parts, &p->vm, &e), "make the vm", &e);
}

/* ---- the twin's process ---------------------------------------------------------- */

static void on_replica_state(void *ctx, enum replica_state s, const char *why)
{
	if (s == REPLICA_BROKEN || s == REPLICA_LOST)
		fprintf(stderr, "bench: the twin: %s\n", why);
	state_set(ctx, (int)s);
}

static void streams_accept(struct pair *p, struct replica *r)
{
	for (unsigned i = 0; i <= p->config.replicate.streams; i++) {
		int fd = accept4(p->listener, NULL, NULL, SOCK_CLOEXEC);
		uint8_t bytes[PREAMBLE_SIZE];
		struct preamble preamble;
		struct error e = {0};

		check(fd < 0 ? -errno : 0, "accept", NULL);
		check(fd_read_all(fd, bytes, sizeof(bytes)), "read a preamble", NULL);
		check(preamble_decode(bytes, &preamble, &e), "preamble", &e);
		check(replica_add_stream(r, preamble.stream, fd), "stream", NULL);
	}
}

uint64_t pair_ram_hash(const struct vm *vm)
{
	return XXH3_64bits(vm_ram(vm), vm_ram_pages(vm) * VM_PAGE_SIZE);
}

static int twin_main(struct pair *p)
{
	struct replica_events events = {.state = on_replica_state, .ctx = p};
	struct replica *r;
	struct error e = {0};
	int state;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	machine_make(p);
	check(replica_create(p->vm, &p->config.replicate, NULL, 0, &events, &r, &e), "replica", &e);
	streams_accept(p, r);
	pthread_mutex_lock(&p->lock);
	while (p->state <= (int)REPLICA_READY)
		pthread_cond_wait(&p->changed, &p->lock);
	state = p->state;
	pthread_mutex_unlock(&p->lock);
	p->seen->cpu_ns = cpu_ns();
	replica_destroy(r);
	p->seen->hash = pair_ram_hash(p->vm);
	vm_destroy(p->vm);
	loop_destroy(p->io);
	return state == (int)REPLICA_RELEASED ? 0 : 1;
}

static void twin_start(struct pair *p)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);

	p->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (p->listener < 0 || bind(p->listener, (struct sockaddr *)&a, len) ||
	    listen(p->listener, CHANNEL_STREAMS_MAX) ||
	    getsockname(p->listener, (struct sockaddr *)&a, &len))
		bench_fail("listen", strerror(errno));
	p->config.replicate.port = ntohs(a.sin_port);
	strcpy(p->config.replicate.address, "127.0.0.1");
	p->config.replicate.term = TERM;
	p->config.replicate.loss_ns = LOSS_NS;
	if (getrandom(p->config.replicate.session, SESSION_ID_SIZE, 0) != SESSION_ID_SIZE ||
	    getrandom(p->config.replicate.key, SESSION_KEY_SIZE, 0) != SESSION_KEY_SIZE)
		bench_fail("getrandom", strerror(errno));
	p->seen = mmap(NULL, sizeof(*p->seen), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		       -1, 0);
	check(p->seen == MAP_FAILED ? -errno : 0, "shared memory", NULL);
	fflush(NULL);
	p->twin = fork();
	check(p->twin < 0 ? -errno : 0, "fork", NULL);
	if (!p->twin)
		_exit(twin_main(p));
	close(p->listener);
}

/* ---- here ----------------------------------------------------------------------------- */

static void *io_main(void *arg)
{
	struct pair *p = arg;

	check(loop_run(p->io), "event loop", NULL);
	return NULL;
}

struct pair *pair_create(const struct pair_config *c)
{
	struct pair *p = calloc(1, sizeof(*p));
	struct error e = {0};

	if (!p)
		bench_fail("pair", "out of memory");
	p->config = *c;
	p->state = -1;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->changed, NULL);
	twin_start(p);
	machine_make(p);
	check(vm_boot(p->vm, &e), "load the guest", &e);
	check(thread_start(&p->io_thread, "io", io_main, p), "start a thread", NULL);
	check(vm_start(p->vm, &e), "start the guest", &e);
	return p;
}

struct vm *pair_vm(struct pair *p)
{
	return p->vm;
}

const struct pair_twin *pair_twin(const struct pair *p)
{
	return p->seen;
}

static void on_state(void *ctx, enum replicator_state s, const char *why)
{
	if (s == REPLICATOR_LOST || s == REPLICATOR_FENCED)
		bench_fail("the session is lost", why);
	state_set(ctx, (int)s);
}

static void on_epoch(void *ctx, const struct replicate_stats *s)
{
	struct pair *p = ctx;

	if (p->config.epoch)
		p->config.epoch(p->config.ctx, s);
}

static void output_hold(void *ctx, uint64_t open_epoch)
{
	struct pair *p = ctx;

	pthread_mutex_lock(&p->lock);
	p->open = open_epoch;
	pthread_mutex_unlock(&p->lock);
}

static void output_seal(void *ctx, uint64_t epoch)
{
	output_hold(ctx, epoch + 1);
}

static void output_release(void *ctx, uint64_t acknowledged_epoch)
{
	struct pair *p = ctx;

	pthread_mutex_lock(&p->lock);
	p->released = acknowledged_epoch;
	p->released_at = clock_ns();
	pthread_cond_broadcast(&p->changed);
	pthread_mutex_unlock(&p->lock);
}

static void output_pass(void *ctx)
{
	output_release(ctx, UINT64_MAX);
}

void pair_protect(struct pair *p)
{
	struct replicator_events events = {.state = on_state, .epoch = on_epoch, .ctx = p};
	struct epoch_output output = {.ctx = p,
				      .hold = output_hold,
				      .pass = output_pass,
				      .seal = output_seal,
				      .release = output_release};
	struct error e = {0};

	check(replicator_start(p->vm, &p->config.replicate, NULL, 0, &output, 1, &events,
			       &p->replicator, &e),
	      "protect", &e);
	pthread_mutex_lock(&p->lock);
	while (p->state != (int)REPLICATOR_PROTECTED)
		pthread_cond_wait(&p->changed, &p->lock);
	pthread_mutex_unlock(&p->lock);
}

uint64_t pair_output(struct pair *p)
{
	uint64_t made, mine, out;

	pthread_mutex_lock(&p->lock);
	mine = p->open;
	made = clock_ns();
	pthread_mutex_unlock(&p->lock);
	replicator_output(p->replicator);
	pthread_mutex_lock(&p->lock);
	while (p->released < mine)
		pthread_cond_wait(&p->changed, &p->lock);
	out = p->released_at;
	pthread_mutex_unlock(&p->lock);
	return out - made;
}

void pair_unprotect(struct pair *p)
{
	struct error e = {0};
	int rc, status;

	rc = replicator_stop(p->replicator, clock_ns() + 10 * NS_PER_SEC, &e);
	usleep(rc ? 100000 : 0); /* the reason is on its way to on_state() */
	check(rc, "unprotect", &e);
	replicator_destroy(p->replicator);
	p->replicator = NULL;
	if (waitpid(p->twin, &status, 0) != p->twin || status)
		bench_fail("the twin", "did not end well");
	p->twin = 0;
}

void pair_destroy(struct pair *p)
{
	if (p->twin) {
		kill(p->twin, SIGKILL);
		waitpid(p->twin, NULL, 0);
	}
	loop_stop(p->io);
	pthread_join(p->io_thread, NULL);
	vm_destroy(p->vm);
	loop_destroy(p->io);
	pthread_cond_destroy(&p->changed);
	pthread_mutex_destroy(&p->lock);
	munmap(p->seen, sizeof(*p->seen));
	free(p);
}
