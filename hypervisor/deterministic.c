// SPDX-License-Identifier: Apache-2.0
/* What comes from outside, its recording and its replay; epochs; random numbers. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/random.h>
#include <time.h>

#include "hypervisor/deterministic_parts.h"

#define LOG_MODULE    "deterministic"
#define EPOCH_DEFAULT UINT64_C(100000000)
#define WAITING_MOST  (UINT64_C(4) << 20) /* bytes of input that the guest has not taken */

/* ---- random numbers: splitmix64 --------------------------------------------------------- */

static uint64_t draw(uint64_t *state)
{
	uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

uint64_t deterministic_draw(struct deterministic *d)
{
	return draw(&d->schedule);
}

size_t vm_random(struct vm *vm, void *out, size_t n)
{
	uint8_t *at = out;
	size_t left = n;
	uint64_t v;

	if (!vm->deterministic) {
		ssize_t got = getrandom(out, n, 0);

		return got > 0 ? (size_t)got : 0;
	}
	while (left) {
		size_t some = left < sizeof(v) ? left : sizeof(v);

		v = draw(&vm->deterministic->entropy);
		memcpy(at, &v, some);
		at += some;
		left -= some;
	}
	return n;
}

int64_t vm_wall_seconds(struct vm *vm)
{
	const struct deterministic *d = vm->deterministic;

	if (!d)
		return time(NULL);
	return (int64_t)((DETERMINISTIC_WALL_NS + d->clock(d->engine)) / NS_PER_SEC);
}

void deterministic_clock(struct deterministic *d, uint64_t (*now)(const struct engine *en),
			 const struct engine *en)
{
	d->clock = now;
	d->engine = en;
}

/* ---- failure ------------------------------------------------------------------------------- */

const char *deterministic_failure(struct deterministic *d)
{
	return d->failure[0] ? d->failure : NULL;
}

/* The first one stays. */
void deterministic_fail(struct deterministic *d, const char *fmt, ...)
{
	va_list args;

	if (d->failure[0])
		return;
	va_start(args, fmt);
	vsnprintf(d->failure, sizeof(d->failure), fmt, args);
	va_end(args);
}

static void diverged(struct deterministic *d, const char *what)
{
	deterministic_fail(d, "the replay has left the recording in epoch %llu: %s",
			   (unsigned long long)d->epochs, what);
}

void deterministic_diverged(struct deterministic *d, const char *what)
{
	diverged(d, what);
}

int deterministic_put(struct deterministic *d, enum record_kind kind)
{
	int rc = record_put(d->record, kind, &d->body);

	if (rc)
		deterministic_fail(d, "the recording cannot be written: %s", strerror(-rc));
	return rc;
}

/* ---- epochs -----------------------------------------------------------------------------------
 */

static void epoch_replay(struct deterministic *d, uint64_t instructions, uint64_t hash)
{
	const struct record_frame *f = record_peek(d->record);
	struct cursor c = f ? f->body : (struct cursor){0};
	uint64_t epoch = cursor_u64(&c), at = cursor_u64(&c), was = cursor_u64(&c);
	char text[120];

	if (!f || f->kind != RECORD_EPOCH || epoch != d->epochs) {
		diverged(d, "something else should have happened before its end");
		return;
	}
	if ((at != instructions || was != hash) && !instructions) {
		deterministic_fail(
			d, "the replay begins as another machine than was recorded: is it the "
			   "same VM file, kernel, initrd, command line, and are its disks and "
			   "NICs the same?");
	} else if (at != instructions || was != hash) {
		snprintf(text, sizeof(text),
			 "at %llu instructions hash %016llx, recorded: "
			 "%llu, %016llx",
			 (unsigned long long)instructions, (unsigned long long)hash,
			 (unsigned long long)at, (unsigned long long)was);
		diverged(d, text);
	}
	record_next(d->record);
}

static void epoch_record(struct deterministic *d, uint64_t instructions, uint64_t hash)
{
	buf_put_u64(&d->body, d->epochs);
	buf_put_u64(&d->body, instructions);
	buf_put_u64(&d->body, hash);
	if (!deterministic_put(d, RECORD_EPOCH) && record_flush(d->record))
		deterministic_fail(d, "the recording cannot be written");
}

uint64_t deterministic_epoch(struct deterministic *d, struct deterministic_at at)
{
	uint64_t hash;
	int rc = machine_hash(d->vm, &hash);

	if (rc) {
		deterministic_fail(d, "the state of the machine cannot be hashed: %s",
				   strerror(-rc));
		return UINT64_MAX;
	}
	log_info("epoch %llu: %llu instructions, hash %016llx", (unsigned long long)d->epochs,
		 (unsigned long long)at.instructions, (unsigned long long)hash);
	if (d->on_epoch)
		d->on_epoch(d->ctx, d->epochs, at.instructions, hash);
	if (d->mode == MODE_REPLAY)
		epoch_replay(d, at.instructions, hash);
	if (d->mode == MODE_RECORD)
		epoch_record(d, at.instructions, hash);
	d->epochs++;
	/* It may end later than it should by more than a short one is long. */
	do {
		d->epoch_end += d->hash_every;
	} while (d->epoch_end <= at.instructions);
	return d->epoch_end;
}

/* ---- input
 * --------------------------------------------------------------------------------------- */

int deterministic_source(struct vm *vm, deterministic_input_fn *input, void *ctx, unsigned *source)
{
	struct deterministic *d = vm->deterministic;

	if (d->source_count == ARRAY_LEN(d->sources))
		return -ENOSPC;
	*source = d->source_count++;
	d->sources[*source].input = input;
	d->sources[*source].ctx = ctx;
	TAILQ_INIT(&d->sources[*source].waiting);
	return 0;
}

bool deterministic_listens(const struct vm *vm)
{
	return vm->deterministic->mode == MODE_RECORD;
}

size_t deterministic_room(struct vm *vm, unsigned source)
{
	struct deterministic *d = vm->deterministic;
	size_t room;

	pthread_mutex_lock(&d->lock);
	room = d->sources[source].bytes < WAITING_MOST / 2 ? WAITING_MOST / 2 : 0;
	pthread_mutex_unlock(&d->lock);
	return room;
}

static struct input *input_new(unsigned source, const void *data, size_t n)
{
	struct input *in = malloc(sizeof(*in) + n);

	if (!in)
		return NULL;
	in->source = source;
	in->len = n;
	in->at = 0;
	memcpy(in->data, data, n);
	return in;
}

int deterministic_post(struct vm *vm, unsigned source, const void *data, size_t n)
{
	struct deterministic *d = vm->deterministic;
	struct input *in = input_new(source, data, n);
	int rc = in ? 0 : -ENOMEM;

	pthread_mutex_lock(&d->lock);
	if (!rc && (d->sources[source].bytes + n > WAITING_MOST || d->mode == MODE_REPLAY))
		rc = -EAGAIN;
	if (rc) {
		free(in);
	} else {
		d->sources[source].bytes += n;
		TAILQ_INSERT_TAIL(&d->posted, in, link);
		pthread_cond_signal(&d->changed);
	}
	pthread_mutex_unlock(&d->lock);
	return rc;
}

static void input_record(struct deterministic *d, const struct input *in,
			 struct deterministic_at at)
{
	buf_put_u64(&d->body, d->turn);
	buf_put_u64(&d->body, at.now);
	buf_put_u32(&d->body, in->source);
	buf_put(&d->body, in->data, in->len);
	(void)!deterministic_put(d, RECORD_INPUT);
}

static void posted_take(struct deterministic *d, struct deterministic_at at)
{
	struct inputs taken = TAILQ_HEAD_INITIALIZER(taken);
	struct input *in;

	pthread_mutex_lock(&d->lock);
	TAILQ_CONCAT(&taken, &d->posted, link);
	pthread_mutex_unlock(&d->lock);
	while ((in = TAILQ_FIRST(&taken))) {
		TAILQ_REMOVE(&taken, in, link);
		if (d->mode == MODE_RECORD)
			input_record(d, in, at);
		TAILQ_INSERT_TAIL(&d->sources[in->source].waiting, in, link);
	}
}

/* As far as the device wants it; the rest waits for a later turn. */
static void source_feed(struct deterministic *d, struct source *s)
{
	struct input *in;
	size_t used = 0;

	while ((in = TAILQ_FIRST(&s->waiting))) {
		size_t n = s->input(s->ctx, in->data + in->at, in->len - in->at);

		in->at += n;
		used += n;
		if (in->at < in->len)
			break;
		TAILQ_REMOVE(&s->waiting, in, link);
		free(in);
	}
	pthread_mutex_lock(&d->lock);
	s->bytes -= used;
	pthread_mutex_unlock(&d->lock);
}

/* ---- replay
 * ----------------------------------------------------------------------------------------- */

struct moment {
	enum record_kind kind;
	uint64_t turn, now;
	struct cursor rest;
};

/* What the recording has next, if it is something that happens between instructions. */
static bool moment_peek(struct deterministic *d, struct moment *m)
{
	const struct record_frame *f = record_peek(d->record);
	struct cursor c;

	if (!f || (f->kind != RECORD_INPUT && f->kind != RECORD_END))
		return false;
	c = f->body;
	m->kind = f->kind;
	m->turn = cursor_u64(&c);
	m->now = cursor_u64(&c);
	m->rest = c;
	if (c.bad)
		diverged(d, "a frame of the recording is too short");
	return !c.bad;
}

/* It is the next one, and it is for now. */
static void input_replay(struct deterministic *d, struct moment *m)
{
	unsigned source = cursor_u32(&m->rest);
	struct input *in;

	if (m->rest.bad || source >= d->source_count) {
		diverged(d, "there is no such source of input");
		return;
	}
	in = input_new(source, m->rest.at, m->rest.left);
	if (!in) {
		deterministic_fail(d, "no memory for an input");
		return;
	}
	pthread_mutex_lock(&d->lock);
	d->sources[in->source].bytes += in->len;
	pthread_mutex_unlock(&d->lock);
	TAILQ_INSERT_TAIL(&d->sources[source].waiting, in, link);
	record_next(d->record);
}

static void inputs_replay(struct deterministic *d, struct deterministic_at at)
{
	struct moment m;

	while (!d->failure[0] && moment_peek(d, &m) && m.kind == RECORD_INPUT) {
		if (m.turn > d->turn)
			return;
		if (m.turn < d->turn || m.now != at.now)
			diverged(d, "an input cannot be given when it was given");
		else
			input_replay(d, &m);
	}
}

/* Where the recording was ended from outside, the replay ends. */
static bool end_replay(struct deterministic *d, struct deterministic_at at)
{
	struct moment m;

	if (!moment_peek(d, &m) || m.kind != RECORD_END || m.turn > d->turn ||
	    (m.turn == d->turn && m.now > at.now))
		return false;
	if (m.turn < d->turn || m.now < at.now)
		diverged(d, "it should have ended");
	else
		vm_request_poweroff(d->vm); /* deterministic_end() looks at the rest */
	return true;
}

/* ---- between two turns
 * ------------------------------------------------------------------------------ */

void deterministic_turn(struct deterministic *d, struct deterministic_at at)
{
	if (d->mode == MODE_REPLAY && end_replay(d, at))
		return;
	d->turn++;
	if (d->mode == MODE_REPLAY)
		inputs_replay(d, at);
	else
		posted_take(d, at);
	for (unsigned i = 0; i < d->source_count; i++)
		source_feed(d, &d->sources[i]);
	deterministic_settle(d->vm);
	if (d->mode == MODE_REPLAY)
		(void)end_replay(d, at);
}

void deterministic_wake(struct deterministic *d)
{
	pthread_mutex_lock(&d->lock);
	d->woken = true;
	pthread_cond_signal(&d->changed);
	pthread_mutex_unlock(&d->lock);
}

/* Sleeps until there is an input, somebody wakes us, or the time has come. */
static uint64_t wait_outside(struct deterministic *d, uint64_t now, uint64_t deadline, bool *kicked)
{
	uint64_t began = clock_ns(), passed;
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	t.tv_sec += (time_t)((deadline - now) / NS_PER_SEC);
	t.tv_nsec += (long)((deadline - now) % NS_PER_SEC);
	if (t.tv_nsec >= (long)NS_PER_SEC) {
		t.tv_sec++;
		t.tv_nsec -= (long)NS_PER_SEC;
	}
	pthread_mutex_lock(&d->lock);
	while (TAILQ_EMPTY(&d->posted) && !d->woken) {
		if (deadline == UINT64_MAX)
			pthread_cond_wait(&d->changed, &d->lock);
		else if (pthread_cond_timedwait(&d->changed, &d->lock, &t) == ETIMEDOUT)
			break;
	}
	*kicked = d->woken && TAILQ_EMPTY(&d->posted);
	d->woken = false;
	passed = TAILQ_EMPTY(&d->posted) ? deadline - now : clock_ns() - began;
	pthread_mutex_unlock(&d->lock);
	if (*kicked)
		return now;
	return passed < deadline - now ? now + passed : deadline;
}

static uint64_t idle_replay(struct deterministic *d, struct deterministic_at at, uint64_t deadline)
{
	struct moment m;
	bool known = moment_peek(d, &m);
	uint64_t turn = d->turn + (known && m.kind == RECORD_INPUT);

	if (known && m.turn == turn && m.now >= at.now && m.now <= deadline)
		return m.now;
	if (deadline == UINT64_MAX)
		diverged(d, "the guest waits for what did not come");
	return deadline == UINT64_MAX ? at.now : deadline;
}

static bool is_posted(struct deterministic *d)
{
	bool posted;

	pthread_mutex_lock(&d->lock);
	posted = !TAILQ_EMPTY(&d->posted);
	pthread_mutex_unlock(&d->lock);
	return posted;
}

uint64_t deterministic_idle(struct deterministic *d, struct deterministic_at at, uint64_t deadline,
			    bool *kicked)
{
	if (d->mode == MODE_REPLAY)
		return idle_replay(d, at, deadline);
	if (d->mode == MODE_CLOSED && deadline != UINT64_MAX)
		return is_posted(d) ? at.now : deadline;
	return wait_outside(d, at.now, deadline, kicked);
}

/* ---- the end
 * -------------------------------------------------------------------------------------------- */

static void end_record(struct deterministic *d, uint64_t now, uint64_t hash)
{
	buf_put_u64(&d->body, d->turn);
	buf_put_u64(&d->body, now);
	buf_put_u64(&d->body, hash);
	if (!deterministic_put(d, RECORD_END) && record_flush(d->record))
		deterministic_fail(d, "the recording cannot be written");
}

static void end_compare(struct deterministic *d, uint64_t now, uint64_t hash)
{
	struct moment m;

	if (!moment_peek(d, &m) || m.kind != RECORD_END)
		diverged(d, "it has ended too early");
	else if (m.turn != d->turn || m.now != now || cursor_u64(&m.rest) != hash)
		diverged(d, "its end is another one");
	else
		log_info("the replay is the recording, to its end");
}

const char *deterministic_end(struct vm *vm)
{
	struct deterministic *d = vm->deterministic;
	uint64_t hash = 0, now;

	if (d->ended || d->failure[0] || !d->clock || !d->turn)
		return deterministic_failure(d);
	d->ended = true;
	now = d->clock(d->engine);
	if (machine_hash(vm, &hash))
		deterministic_fail(d, "the state of the machine cannot be hashed");
	log_info("end: %llu ns, hash %016llx", (unsigned long long)now, (unsigned long long)hash);
	if (d->on_epoch)
		d->on_epoch(d->ctx, d->epochs, now, hash);
	if (d->mode == MODE_RECORD)
		end_record(d, now, hash);
	if (d->mode == MODE_REPLAY)
		end_compare(d, now, hash);
	return deterministic_failure(d);
}

/* ---- what devices do
 * ------------------------------------------------------------------------------------ */

/* The same once is enough. */
void deterministic_later(struct vm *vm, loop_fn *fn, void *ctx)
{
	struct deterministic *d = vm->deterministic;

	for (unsigned i = 0; i < d->later_count; i++)
		if (d->later[i].fn == fn && d->later[i].ctx == ctx)
			return;
	if (d->later_count == LATER_MAX) {
		deterministic_fail(d, "too much has been put off");
		return;
	}
	d->later[d->later_count].fn = fn;
	d->later[d->later_count++].ctx = ctx;
}

static bool later_run(struct vm *vm)
{
	struct deterministic *d = vm->deterministic;
	unsigned n;

	pthread_mutex_lock(&vm->lock);
	n = d->later_count;
	if (n) {
		loop_fn *fn = d->later[0].fn;
		void *ctx = d->later[0].ctx;

		memmove(d->later, d->later + 1, --d->later_count * sizeof(d->later[0]));
		fn(ctx);
	}
	pthread_mutex_unlock(&vm->lock);
	return n;
}

void deterministic_settle(struct vm *vm)
{
	while (deterministic_disks_run(vm) || later_run(vm))
		;
}

static size_t button_input(void *ctx, const uint8_t *data, size_t n)
{
	acpi_button_press(ctx);
	return n;
}

bool deterministic_button(struct vm *vm)
{
	int rc;

	if (!vm->deterministic)
		return false;
	rc = deterministic_post(vm, vm->deterministic->button, "", 1);
	if (rc)
		log_warn("the power button is not pressed: %s",
			 rc == -EAGAIN ? "a replay takes no input" : strerror(-rc));
	return true;
}

/* ---- making it
 * --------------------------------------------------------------------------------------------- */

static int record_begin(struct deterministic *d, const char *path, struct error *e)
{
	int rc = record_create(path, &d->record, e);

	if (rc)
		return rc;
	d->record_path = strdup(path);
	if (!d->record_path)
		return error_set(e, -ENOMEM, "no memory for a deterministic run");
	buf_put_u64(&d->body, d->schedule);
	buf_put_u64(&d->body, d->hash_every);
	buf_put_u32(&d->body, d->vm->config.vcpus);
	buf_put_u64(&d->body, d->vm->config.memory);
	rc = deterministic_put(d, RECORD_START);
	return rc ? error_set(e, rc, "cannot write the recording %s: %s", path, strerror(-rc)) : 0;
}

static int replay_begin(struct deterministic *d, const char *path, struct error *e)
{
	const struct record_frame *f;
	struct cursor c;
	int rc = record_open(path, &d->record, e);

	if (rc)
		return rc;
	f = record_peek(d->record);
	c = f ? f->body : (struct cursor){0};
	d->schedule = cursor_u64(&c);
	d->hash_every = cursor_u64(&c);
	if (cursor_u32(&c) != d->vm->config.vcpus || cursor_u64(&c) != d->vm->config.memory ||
	    cursor_finish(&c) || !d->hash_every)
		return error_set(e, -EINVAL,
				 "%s is the recording of a machine with other vCPUs or memory",
				 path);
	record_next(d->record);
	return 0;
}

static int deterministic_open(struct deterministic *d, const struct vm_deterministic *c,
			      struct error *e)
{
	int rc = 0;

	if (c->record && c->replay)
		return error_set(e, -EINVAL, "a run is recorded or replayed, not both");
	d->mode = c->record ? MODE_RECORD : c->replay ? MODE_REPLAY : MODE_CLOSED;
	d->schedule = c->seed;
	d->hash_every = c->hash_every ? c->hash_every : EPOCH_DEFAULT;
	if (c->record)
		rc = record_begin(d, c->record, e);
	if (c->replay)
		rc = replay_begin(d, c->replay, e);
	d->entropy = ~d->schedule;
	if (!rc)
		rc = deterministic_wrap(d->vm);
	if (!rc)
		rc = deterministic_source(d->vm, button_input, d->vm, &d->button);
	return rc;
}

int deterministic_create(struct vm *vm, const struct vm_deterministic *c, struct error *e)
{
	struct deterministic *d = calloc(1, sizeof(*d));
	pthread_condattr_t monotonic;

	if (!d)
		return error_set(e, -ENOMEM, "no memory for a deterministic run");
	d->vm = vm;
	d->on_epoch = c->on_epoch;
	d->ctx = c->ctx;
	TAILQ_INIT(&d->posted);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_mutex_init(&d->lock, NULL);
	pthread_cond_init(&d->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
	vm->deterministic = d;
	return deterministic_open(d, c, e);
}

static void inputs_free(struct inputs *list)
{
	struct input *in;

	while ((in = TAILQ_FIRST(list))) {
		TAILQ_REMOVE(list, in, link);
		free(in);
	}
}

void deterministic_destroy(struct vm *vm)
{
	struct deterministic *d = vm->deterministic;

	if (!d)
		return;
	deterministic_unwrap(vm);
	inputs_free(&d->posted);
	for (unsigned i = 0; i < d->source_count; i++)
		inputs_free(&d->sources[i].waiting);
	if (d->record_path && !d->turn)
		record_discard(d->record, d->record_path); /* it never ran */
	else
		record_close(d->record);
	free(d->record_path);
	buf_free(&d->body);
	pthread_cond_destroy(&d->changed);
	pthread_mutex_destroy(&d->lock);
	free(d);
	vm->deterministic = NULL;
}
