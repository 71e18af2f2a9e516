// SPDX-License-Identifier: Apache-2.0
/*
 * vCPU threads: running, parking, and what is done while all of them are parked.
 *
 * A vCPU parks when a request is set and its engine has returned EXIT_INTERRUPTED:
 * then no instruction is half done. Whoever wants something sets the request under
 * run->lock, then kicks; a vCPU looks at the requests after the engine took back the
 * kick (see engine_kvm_run.c): so none is missed.
 *
 * The guest's own wishes (reset, power off) and its crash are an action. A parked vCPU
 * carries it out when all are: before a pauser gets its turn, or after that. Locks: the
 * device lock may be held when run->lock is taken, never the other way round.
 */
#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hypervisor/deterministic.h"

#define LOG_MODULE "run"
/* A vCPU parks within this time, and to be woken out of a sleep takes as long again. */
#define PARK_SPIN_NS (50 * NS_PER_US)
/* So long a thread that has parked looks out for work, before it sleeps. */
#define HELP_SPIN_NS (100 * NS_PER_US)
/* A shorter pause does not make a guest's watchdog bark. */
#define PAUSE_TELL_NS (100 * NS_PER_MS)
/* So often a wait for disks looks whether it is to go on. */
#define STOP_LOOK_NS (50 * NS_PER_MS)

enum request {
	REQUEST_PAUSE = 1,
	REQUEST_ACTION = 2,
	REQUEST_STOPPED = 4, /* powered off or crashed: for good */
	REQUEST_QUIT = 8,
	REQUEST_STALL = 16,
	REQUEST_THROTTLE = 32,
	REQUEST_START = 64, /* vm_start() has yet to let the threads go */
};

enum action { ACTION_NONE, ACTION_RESET, ACTION_POWEROFF, ACTION_CRASH };

struct vcpu_thread {
	struct vm *vm;
	unsigned index;
	unsigned tells; /* how many of run->tells its guest knows of */
	pthread_t thread;
};

struct run_state {
	pthread_mutex_t lock;
	pthread_mutex_t stepping; /* a stepped engine: one step, or the whole of a pause */
	pthread_cond_t parking;   /* all are parked, or the action is done */
	pthread_cond_t leaving;   /* a request was taken back, or QUIT */
	struct vcpu_thread vcpus[VM_VCPUS_MAX];
	unsigned threads;
	atomic_uint parked; /* changed under lock */
	bool many_cpus; /* else to wait for another thread without sleep is to keep it waiting */
	bool in_pause;  /* vm_pause() has returned */
	unsigned stall; /* who stalls it: bits of enum vm_stall_by */
	uint64_t paused_at, stalled_at;
	atomic_uint tells; /* long stops: each vCPU tells its guest before it runs again */
	/* Work for vCPU threads that have just parked. */
	atomic_bool help_open;
	atomic_uint helping;
	vm_help_fn *help;
	void *help_ctx;
	atomic_uint requests; /* changed under lock */
	atomic_bool started;
	bool loaded; /* devices must signal again before vCPUs run */
	enum action action;
	bool acting;
	char detail[160];
};

int run_create(struct vm *vm)
{
	struct run_state *run = calloc(1, sizeof(*run));

	if (!run)
		return -ENOMEM;
	pthread_mutex_init(&run->lock, NULL);
	pthread_mutex_init(&run->stepping, NULL);
	pthread_cond_init(&run->parking, NULL);
	pthread_cond_init(&run->leaving, NULL);
	run->many_cpus = sysconf(_SC_NPROCESSORS_ONLN) > 1;
	vm->run = run;
	return throttle_create(vm);
}

static void vcpus_kick(struct vm *vm)
{
	for (unsigned i = 0; i < vm->run->threads; i++)
		vm->engine_ops->vcpu_kick(vm->engine, i);
}

/* run->lock held. */
static void request_set(struct vm *vm, unsigned request)
{
	atomic_fetch_or(&vm->run->requests, request);
	vcpus_kick(vm);
}

/* run->lock held. Nobody leaves while another request is there, but an action may be due now. */
static void request_clear(struct vm *vm, unsigned request)
{
	if (!(atomic_fetch_and(&vm->run->requests, ~request) & ~request) || vm->run->action)
		pthread_cond_broadcast(&vm->run->leaving);
}

/* run->lock held. */
static void stall_set(struct vm *vm, enum vm_stall_by who)
{
	if (!vm->run->stall)
		vm->run->stalled_at = clock_ns();
	vm->run->stall |= who;
	request_set(vm, REQUEST_STALL);
}

/* ---- actions ---------------------------------------------------------------- */

/* The first one counts. Any thread; the device lock may be held. All may be parked already, for
 * something that takes long: one of them is woken for it. */
static void action_request(struct vm *vm, enum action action, const char *detail)
{
	struct run_state *run = vm->run;

	pthread_mutex_lock(&run->lock);
	if (run->action == ACTION_NONE && !(atomic_load(&run->requests) & REQUEST_STOPPED)) {
		run->action = action;
		snprintf(run->detail, sizeof(run->detail), "%s", detail);
		request_set(vm, REQUEST_ACTION);
		pthread_cond_broadcast(&run->leaving);
	}
	pthread_mutex_unlock(&run->lock);
}

void vm_request_poweroff(struct vm *vm)
{
	action_request(vm, ACTION_POWEROFF, "the guest turned itself off");
}

void vm_request_reset(struct vm *vm)
{
	action_request(vm, ACTION_RESET, "the guest asked for a reset");
}

static enum vm_event action_carry_out(struct vm *vm, enum action action, char *detail, size_t room)
{
	struct error e = {0};
	const char *failure = NULL;

	if (action != ACTION_RESET && vm->deterministic)
		failure = deterministic_end(vm);
	if (failure)
		snprintf(detail, room, "%s", failure);
	if (action == ACTION_POWEROFF && !failure)
		return VM_EVENT_POWEROFF;
	if (action != ACTION_RESET)
		return VM_EVENT_CRASH;
	if (!machine_reset(vm, &e))
		return VM_EVENT_REBOOT;
	snprintf(detail, room, "the reset failed: %.120s", e.text);
	return VM_EVENT_CRASH;
}

/* All vCPUs are parked; run->lock held, dropped meanwhile. */
static void action_perform(struct vm *vm)
{
	struct run_state *run = vm->run;
	char detail[sizeof(run->detail)];
	enum action action = run->action;
	enum vm_event event;

	memcpy(detail, run->detail, sizeof(detail));
	run->acting = true;
	pthread_mutex_unlock(&run->lock);
	event = action_carry_out(vm, action, detail, sizeof(detail));
	if (event != VM_EVENT_REBOOT)
		atomic_fetch_or(&run->requests, REQUEST_STOPPED);
	vm->parts.on_event(vm->parts.ctx, event, detail);
	pthread_mutex_lock(&run->lock);
	run->acting = false;
	run->action = ACTION_NONE;
	request_clear(vm, REQUEST_ACTION);
	pthread_cond_broadcast(&run->parking);
}

/* ---- vCPU threads --------------------------------------------------------------- */

/* A helper says that it is there, then looks whether there is work; vm_help_wait() ends
 * the work, then looks whether anyone is there: one of the two sees the other. */
static void help_give(struct run_state *run)
{
	uint64_t until = clock_ns() + HELP_SPIN_NS;

	while (!atomic_load(&run->help_open)) {
		if (!(atomic_load(&run->requests) & REQUEST_PAUSE) || clock_ns() >= until)
			return;
		__builtin_ia32_pause();
	}
	atomic_fetch_add(&run->helping, 1);
	if (atomic_load(&run->help_open))
		run->help(run->help_ctx);
	atomic_fetch_sub(&run->helping, 1);
}

/* run->lock held. In a pause the machine is the pauser's. */
static bool action_is_due(const struct run_state *run)
{
	return run->parked == run->threads && run->action && !run->acting && !run->in_pause;
}

/* False: end the thread. */
static bool vcpu_park(struct vm *vm)
{
	struct run_state *run = vm->run;
	bool helpful = run->many_cpus;
	unsigned requests;

	pthread_mutex_lock(&run->lock);
	run->parked++;
	while ((requests = atomic_load(&run->requests)) && !(requests & REQUEST_QUIT)) {
		if (action_is_due(run)) {
			action_perform(vm);
			continue;
		}
		if (run->parked == run->threads)
			pthread_cond_broadcast(&run->parking);
		if (helpful && requests & REQUEST_PAUSE) {
			helpful = false;
			pthread_mutex_unlock(&run->lock);
			help_give(run);
			pthread_mutex_lock(&run->lock);
			continue;
		}
		pthread_cond_wait(&run->leaving, &run->lock);
	}
	run->parked--;
	pthread_mutex_unlock(&run->lock);
	return !(requests & REQUEST_QUIT);
}

/* Device lock held. A guest whose memory is lost does nothing more. */
static void access_carry_out(struct vm *vm, struct bus *bus, uint64_t address, uint8_t *data,
			     unsigned size, bool write)
{
	if (!memory_is_lost(&vm->memory))
		bus_access(bus, address, data, size, write);
	else if (!write)
		memset(data, 0xff, size);
}

static void exit_access(struct vm *vm, struct bus *bus, struct vcpu_exit *exit)
{
	pthread_mutex_lock(&vm->lock);
	for (unsigned i = 0; i < exit->count; i++)
		access_carry_out(vm, bus, exit->address, exit->data + (size_t)i * exit->size,
				 exit->size, exit->write);
	pthread_mutex_unlock(&vm->lock);
}

void run_access(void *ctx, enum exit_kind kind, uint64_t address, uint8_t *data, unsigned size,
		bool write)
{
	struct vm *vm = ctx;

	pthread_mutex_lock(&vm->lock);
	access_carry_out(vm, kind == EXIT_PIO ? &vm->ports : &vm->mmio, address, data, size, write);
	pthread_mutex_unlock(&vm->lock);
	if (vm->deterministic)
		deterministic_settle(vm);
}

static void exit_handle(struct vm *vm, struct vcpu_exit *exit)
{
	switch (exit->kind) {
	case EXIT_PIO:
		exit_access(vm, &vm->ports, exit);
		break;
	case EXIT_MMIO:
		exit_access(vm, &vm->mmio, exit);
		break;
	case EXIT_SHUTDOWN:
	case EXIT_FAILED:
		action_request(vm, ACTION_CRASH, exit->detail);
		break;
	case EXIT_INTERRUPTED:
		break;
	}
}

/* A vCPU that cannot go on parks at once: to run it again is no way to stop it. */
static bool exit_may_park(const struct vcpu_exit *exit)
{
	return exit->kind == EXIT_INTERRUPTED || exit->kind == EXIT_SHUTDOWN ||
	       exit->kind == EXIT_FAILED;
}

/* On the vCPU's own thread, as nobody else may have to wait for a page that it waits for. */
static void vcpu_tell(struct vcpu_thread *t)
{
	unsigned tells = atomic_load(&t->vm->run->tells);
	int rc;

	if (t->tells == tells)
		return;
	t->tells = tells;
	rc = t->vm->engine_ops->vcpu_after_pause(t->vm->engine, t->index);
	if (rc)
		log_warn_rc(rc, "vCPU %u may take the pause for a lockup", t->index);
}

static void *vcpu_loop(void *ctx)
{
	struct vcpu_thread *t = ctx;
	struct vm *vm = t->vm;
	struct vcpu_exit exit;

	log_context_vm(vm->config.name);
	do {
		vcpu_tell(t);
		vm->engine_ops->vcpu_run(vm->engine, t->index, &exit);
		exit_handle(vm, &exit);
	} while (!exit_may_park(&exit) || !atomic_load(&vm->run->requests) || vcpu_park(vm));
	return NULL;
}

static void threads_end(struct vm *vm)
{
	struct run_state *run = vm->run;

	pthread_mutex_lock(&run->lock);
	request_set(vm, REQUEST_QUIT);
	pthread_cond_broadcast(&run->leaving);
	pthread_mutex_unlock(&run->lock);
	for (unsigned i = 0; i < run->threads; i++)
		pthread_join(run->vcpus[i].thread, NULL);
	run->parked = 0;
	run->threads = 0;
}

/* They start parked, so that all run or none does. */
static int threads_start(struct vm *vm)
{
	struct run_state *run = vm->run;
	int rc = 0;

	pthread_mutex_lock(&run->lock);
	atomic_fetch_or(&run->requests, REQUEST_START);
	for (unsigned i = 0; !rc && i < vm->config.vcpus; i++) {
		struct vcpu_thread *t = &run->vcpus[i];
		char name[16];

		t->vm = vm;
		t->index = i;
		snprintf(name, sizeof(name), "vcpu%u", i);
		vm->engine_ops->vcpu_kick(vm->engine, i);
		rc = thread_start(&t->thread, name, vcpu_loop, t);
		if (!rc)
			run->threads++;
	}
	pthread_mutex_unlock(&run->lock);
	if (rc) {
		threads_end(vm);
		atomic_fetch_and(&run->requests, ~(unsigned)(REQUEST_QUIT | REQUEST_START));
	}
	return rc;
}

void run_destroy(struct vm *vm)
{
	struct run_state *run = vm->run;

	if (!run)
		return;
	throttle_destroy(vm);
	threads_end(vm);
	if (run_is_paused(vm) && vm->engine_ops->stepped)
		pthread_mutex_unlock(&run->stepping);
	pthread_cond_destroy(&run->parking);
	pthread_cond_destroy(&run->leaving);
	pthread_mutex_destroy(&run->stepping);
	pthread_mutex_destroy(&run->lock);
	free(run);
	vm->run = NULL;
}

/* ---- start, pause, resume --------------------------------------------------------- */

void run_loaded(struct vm *vm)
{
	vm->run->loaded = true;
}

/* After a load, before vCPUs run. Device lock held. */
static void devices_resume(struct vm *vm)
{
	if (!vm->run->loaded)
		return;
	vm->run->loaded = false;
	for (unsigned i = 0; i < vm->device_count; i++)
		vm->devices[i]->ops->resume(vm->devices[i]);
}

/* Before the vCPUs are let go. One that waits for a page was kicked meanwhile: it tells when
 * it has got that. */
static void guest_tell(struct run_state *run, uint64_t stopped_at)
{
	if (clock_ns() - stopped_at > PAUSE_TELL_NS)
		atomic_fetch_add(&run->tells, 1);
}

int vm_prepare(struct vm *vm, struct error *e)
{
	struct run_state *run = vm->run;
	int rc = 0;

	if (atomic_load(&run->started) || run_is_paused(vm))
		return error_set(e, -EBUSY, "the vm has been started already");
	if (vm->torn || memory_is_lost(&vm->memory))
		return error_set(e, -EBADMSG, "the vm holds half of a state");
	rc = vm_disks_claim(vm, VM_DISKS_ALL, e);
	if (rc)
		return rc;
	if (!vm->engine_ops->stepped && !run->threads)
		rc = threads_start(vm);
	return rc ? error_set(e, rc, "cannot start the vCPU threads: %s", strerror(-rc)) : 0;
}

int vm_start(struct vm *vm, struct error *e)
{
	struct run_state *run = vm->run;
	int rc = vm_prepare(vm, e);

	if (rc)
		return rc;
	pthread_mutex_lock(&vm->lock);
	if (run->loaded) /* the guest's clock goes on by the time that it was nowhere */
		guest_tell(run, 0);
	devices_resume(vm);
	pthread_mutex_unlock(&vm->lock);
	atomic_store(&run->started, true);
	pthread_mutex_lock(&run->lock);
	request_clear(vm, REQUEST_START);
	pthread_mutex_unlock(&run->lock);
	return 0;
}

bool run_is_paused(const struct vm *vm)
{
	return atomic_load(&vm->run->requests) & REQUEST_PAUSE;
}

bool run_is_started(const struct vm *vm)
{
	return atomic_load(&vm->run->started);
}

bool vm_is_running(const struct vm *vm)
{
	return atomic_load(&vm->run->started) &&
	       !(atomic_load(&vm->run->requests) & ~(unsigned)REQUEST_THROTTLE);
}

bool vm_has_ended(const struct vm *vm)
{
	return atomic_load(&vm->run->requests) & REQUEST_STOPPED;
}

static void parking_spin(const struct run_state *run)
{
	uint64_t until = clock_ns() + (run->many_cpus ? PARK_SPIN_NS : 0);

	while (atomic_load(&run->parked) < run->threads && clock_ns() < until)
		__builtin_ia32_pause();
}

int vm_pause(struct vm *vm)
{
	struct run_state *run = vm->run;

	if (run_is_paused(vm))
		return -EBUSY;
	pthread_mutex_lock(&run->lock);
	request_set(vm, REQUEST_PAUSE);
	pthread_mutex_unlock(&run->lock);
	parking_spin(run);
	pthread_mutex_lock(&run->lock);
	while (run->parked < run->threads || run->action || run->acting)
		pthread_cond_wait(&run->parking, &run->lock);
	run->in_pause = !vm->engine_ops->stepped;
	pthread_mutex_unlock(&run->lock);
	if (vm->engine_ops->stepped) {
		pthread_mutex_lock(&run->stepping);
		pthread_mutex_lock(&run->lock);
		run->in_pause = true; /* the step that had begun has ended */
		pthread_mutex_unlock(&run->lock);
	}
	pthread_mutex_lock(&vm->lock);
	run->paused_at = clock_ns();
	return 0;
}

/* Device lock held. Whoever sets `stop` cannot wait for that lock, and so wakes nobody. */
static int disks_wait(struct vm *vm, uint64_t until, const atomic_bool *stop)
{
	while (vm->disk_requests) {
		uint64_t now = clock_ns(), look = now + STOP_LOOK_NS;

		if (stop && atomic_load(stop))
			return -ECANCELED;
		if (now >= until)
			return -ETIMEDOUT;
		(void)cond_wait_until(&vm->disks_idle, &vm->lock, look < until ? look : until);
	}
	return 0;
}

/* The device lock is given up meanwhile, so that completions come through. What a doorbell
 * submits then is counted too; with the lock back and nothing in flight, nothing comes. */
int vm_pause_idle(struct vm *vm, uint64_t ns, const atomic_bool *stop)
{
	int rc = vm_pause(vm), rc_resume;

	if (rc)
		return rc;
	if (vm->engine_ops->stepped) { /* nobody else may be there to complete them */
		pthread_mutex_unlock(&vm->lock);
		machine_drain(vm);
		pthread_mutex_lock(&vm->lock);
	}
	rc = disks_wait(vm, clock_ns() + ns, stop);
	if (!rc)
		return 0;
	rc_resume = vm_resume(vm);
	return rc_resume ? rc_resume : rc;
}

void vm_help_start(struct vm *vm, vm_help_fn *fn, void *ctx)
{
	struct run_state *run = vm->run;

	run->help = fn;
	run->help_ctx = ctx;
	atomic_store(&run->help_open, true);
}

void vm_help_wait(struct vm *vm)
{
	struct run_state *run = vm->run;

	atomic_store(&run->help_open, false);
	for (unsigned spins = 0; atomic_load(&run->helping); spins++) {
		if (spins % 1024 == 1023)
			sched_yield(); /* it may have lost its CPU */
		__builtin_ia32_pause();
	}
}

int vm_resume(struct vm *vm)
{
	struct run_state *run = vm->run;

	if (!run_is_paused(vm))
		return -EINVAL;
	if (vm->torn)
		return -EBADMSG;
	guest_tell(run, run->paused_at);
	if (atomic_load(&run->started))
		devices_resume(vm);
	pthread_mutex_unlock(&vm->lock);
	if (vm->engine_ops->stepped)
		pthread_mutex_unlock(&run->stepping);
	pthread_mutex_lock(&run->lock);
	run->in_pause = false;
	request_clear(vm, REQUEST_PAUSE);
	pthread_mutex_unlock(&run->lock);
	return 0;
}

void vm_stall_ask(struct vm *vm, enum vm_stall_by who)
{
	pthread_mutex_lock(&vm->run->lock);
	stall_set(vm, who);
	pthread_mutex_unlock(&vm->run->lock);
}

/* As a request it adds to a pause and outlasts it. What is to be done after that pause is not
 * waited for: the pauser may be who calls. */
void vm_stall(struct vm *vm, enum vm_stall_by who)
{
	struct run_state *run = vm->run;
	bool in_pause;

	pthread_mutex_lock(&run->lock);
	stall_set(vm, who);
	while (run->parked < run->threads || (!run->in_pause && (run->action || run->acting)))
		pthread_cond_wait(&run->parking, &run->lock);
	in_pause = run->in_pause;
	pthread_mutex_unlock(&run->lock);
	if (vm->engine_ops->stepped && !in_pause) { /* the step that has begun */
		pthread_mutex_lock(&run->stepping);
		pthread_mutex_unlock(&run->stepping);
	}
}

void vm_unstall(struct vm *vm, enum vm_stall_by who)
{
	struct run_state *run = vm->run;

	pthread_mutex_lock(&run->lock);
	if (run->stall == who) {
		guest_tell(run, run->stalled_at);
		request_clear(vm, REQUEST_STALL);
	}
	run->stall &= ~(unsigned)who;
	pthread_mutex_unlock(&run->lock);
}

void run_stop(struct vm *vm)
{
	pthread_mutex_lock(&vm->run->lock);
	request_set(vm, REQUEST_STOPPED);
	pthread_mutex_unlock(&vm->run->lock);
}

/* Nobody waits until they have parked, and no action is waited for. */
void run_throttle(struct vm *vm, bool on)
{
	pthread_mutex_lock(&vm->run->lock);
	if (on)
		request_set(vm, REQUEST_THROTTLE);
	else
		request_clear(vm, REQUEST_THROTTLE);
	pthread_mutex_unlock(&vm->run->lock);
}

/* Keeps a stepped engine's guest still for a moment; in a pause it is still already. */
bool run_still_begin(struct vm *vm)
{
	bool needed = vm->engine_ops->stepped && !run_is_paused(vm);

	if (needed)
		pthread_mutex_lock(&vm->run->stepping);
	return needed;
}

void run_still_end(struct vm *vm, bool needed)
{
	if (needed)
		pthread_mutex_unlock(&vm->run->stepping);
}

/* ---- engines without threads ---------------------------------------------------------- */

/* A pause has both locks, and one behind which a vm was handed over never gives them back. */
static int step_lock(struct vm *vm, pthread_mutex_t *lock)
{
	while (pthread_mutex_trylock(lock)) {
		if (run_is_paused(vm))
			return -EBUSY;
		sched_yield();
	}
	return 0;
}

static int step_one(struct vm *vm)
{
	struct run_state *run = vm->run;
	struct vcpu_exit exit;

	if (atomic_load(&run->requests) & REQUEST_STOPPED)
		return -ESHUTDOWN;
	if (run_is_paused(vm) || step_lock(vm, &run->stepping))
		return -EBUSY;
	if (atomic_load(&run->requests) & REQUEST_STALL) {
		pthread_mutex_unlock(&run->stepping);
		return -EBUSY;
	}
	vm->engine_ops->vcpu_run(vm->engine, 0, &exit);
	exit_handle(vm, &exit);
	pthread_mutex_unlock(&run->stepping);
	pthread_mutex_lock(&run->lock);
	if (run->action)
		action_perform(vm);
	pthread_mutex_unlock(&run->lock);
	return 0;
}

int vm_step(struct vm *vm, unsigned steps)
{
	int rc = 0;

	if (!vm->engine_ops->stepped)
		return -EOPNOTSUPP;
	if (vm->torn)
		return -EBADMSG;
	if (run_is_paused(vm) || step_lock(vm, &vm->lock))
		return -EBUSY;
	devices_resume(vm);
	pthread_mutex_unlock(&vm->lock);
	for (unsigned i = 0; !rc && i < steps; i++)
		rc = step_one(vm);
	return rc;
}
