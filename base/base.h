// SPDX-License-Identifier: Apache-2.0
/*
 * base/: what any C program needs and libc lacks.
 *
 * Errors.   A function that can fail returns 0 or -errno and is marked
 *           MUST_CHECK.  Where a person will read about it, it also takes a
 *           `struct error *` (may be NULL) and leaves a sentence there:
 *           what failed, why, and what to do.
 * Threads.  Unless a comment says otherwise a function may be called from any
 *           thread, and an object belongs to one thread at a time.
 */
#ifndef POLLUX_BASE_H
#define POLLUX_BASE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MUST_CHECK                      __attribute__((warn_unused_result))
#define PRINTF(fmt, first)              __attribute__((format(printf, fmt, first)))
#define ARRAY_LEN(a)                    (sizeof(a) / sizeof((a)[0]))
#define CONTAINER_OF(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))
#define NS_PER_SEC                      UINT64_C(1000000000)
#define NS_PER_MS                       UINT64_C(1000000)
#define NS_PER_US                       UINT64_C(1000)

/* ---- what was built ---------------------------------------------------- */

extern const char version_text[];  /* "0.1.0", or what git describe says */
extern const char version_build[]; /* compiler, sanitizers */

/* ---- errors ---------------------------------------------------------- */

struct error {
	int code; /* 0 or -errno */
	char text[512];
};

/* Record the first error and return `code` (a negative errno). A later call
 * on an error that is already set keeps the first text, but returns its own code. */
int error_set(struct error *e, int code, const char *fmt, ...) PRINTF(3, 4);
/* Put "context: " before a text that is already there; returns e->code. */
int error_context(struct error *e, const char *fmt, ...) PRINTF(2, 3);

/* ---- log --------------------------------------------------------------
 * One line per call on stderr:   time program module vm epoch: text
 * (with journald's <N> priority prefix in place of the time when stderr is the
 * journal). The level is LOG_LEVEL_INFO until log_setup(), which also comes
 * before a sandbox: it loads the time zone.
 * A source file defines LOG_MODULE before it logs. */

enum log_level { LOG_LEVEL_ERROR = 3, LOG_LEVEL_WARN = 4, LOG_LEVEL_INFO = 6, LOG_LEVEL_DEBUG = 7 };

void log_setup(const char *program, enum log_level most_verbose);
void log_context_vm(const char *vm);    /* for the calling thread; copied */
void log_context_epoch(uint64_t epoch); /* for the calling thread; 0 = none */
void log_line(enum log_level level, const char *module, int error_number, const char *fmt, ...)
	PRINTF(4, 5);
bool log_wants(enum log_level level);

#define log_error(...) log_line(LOG_LEVEL_ERROR, LOG_MODULE, 0, __VA_ARGS__)
#define log_warn(...)  log_line(LOG_LEVEL_WARN, LOG_MODULE, 0, __VA_ARGS__)
#define log_info(...)  log_line(LOG_LEVEL_INFO, LOG_MODULE, 0, __VA_ARGS__)
#define log_debug(...)                                                                             \
	do {                                                                                       \
		if (log_wants(LOG_LEVEL_DEBUG))                                                    \
			log_line(LOG_LEVEL_DEBUG, LOG_MODULE, 0, __VA_ARGS__);                     \
	} while (0)
/* The same with ": <strerror>"; `rc` may be errno or -errno. */
#define log_error_rc(rc, ...) log_line(LOG_LEVEL_ERROR, LOG_MODULE, (rc), __VA_ARGS__)
#define log_warn_rc(rc, ...)  log_line(LOG_LEVEL_WARN, LOG_MODULE, (rc), __VA_ARGS__)

/* ---- time ------------------------------------------------------------ */

uint64_t clock_ns(void); /* CLOCK_BOOTTIME: also counts a suspended host */

/* ---- bytes -----------------------------------------------------------
 * A buffer that grows; integers are written little-endian. Running out of
 * memory sets `failed`, which sticks: check once, with buf_check(), at the end. */

struct buf {
	uint8_t *data;
	size_t len, cap;
	bool failed;
};

void buf_free(struct buf *b);                  /* and back to {0} */
void buf_reset(struct buf *b);                 /* length 0, memory kept, failed cleared */
int buf_check(const struct buf *b) MUST_CHECK; /* 0 or -ENOMEM */
uint8_t *buf_extend(struct buf *b, size_t n);  /* n new bytes, unset; NULL on failure */
void buf_put(struct buf *b, const void *data, size_t n);
void buf_put_u8(struct buf *b, uint8_t v);
void buf_put_u16(struct buf *b, uint16_t v);
void buf_put_u32(struct buf *b, uint32_t v);
void buf_put_u64(struct buf *b, uint64_t v);
void buf_patch_u32(struct buf *b, size_t at, uint32_t v); /* overwrite what is there */

/* A bounded reader. Reading past the end gives zeros and sets `bad`, which
 * sticks: read everything, check once, then act. */
struct cursor {
	const uint8_t *at;
	size_t left;
	bool bad;
};

struct cursor cursor_of(const void *data, size_t n);
uint8_t cursor_u8(struct cursor *c);
uint16_t cursor_u16(struct cursor *c);
uint32_t cursor_u32(struct cursor *c);
uint64_t cursor_u64(struct cursor *c);
void cursor_copy(struct cursor *c, void *out, size_t n);
const uint8_t *cursor_take(struct cursor *c, size_t n); /* NULL when it is not there */
/* 0 when everything was read, nothing was missing and nothing is left; else -EBADMSG. */
int cursor_finish(const struct cursor *c) MUST_CHECK;

/* ---- versions of formats: docs/protocol.md, section 6 ------------------- */

/* Whether this program reads a version: all from X_OLDEST to X_VERSION, which it writes. */
static inline bool version_within(uint64_t version, uint64_t oldest, uint64_t newest)
{
	return oldest <= version && version <= newest;
}

/* ---- bitmaps: arrays of 64-bit words -------------------------------- */

static inline size_t bitmap_words(uint64_t bits)
{
	return (size_t)((bits + 63) / 64);
}
static inline bool bitmap_test(const uint64_t *map, uint64_t bit)
{
	return (map[bit / 64] >> (bit % 64)) & 1;
}
static inline void bitmap_set(uint64_t *map, uint64_t bit)
{
	map[bit / 64] |= UINT64_C(1) << (bit % 64);
}
static inline void bitmap_clear(uint64_t *map, uint64_t bit)
{
	map[bit / 64] &= ~(UINT64_C(1) << (bit % 64));
}
void bitmap_set_range(uint64_t *map, uint64_t first, uint64_t count);
void bitmap_merge(uint64_t *into, const uint64_t *from, uint64_t bits);
uint64_t bitmap_count(const uint64_t *map, uint64_t bits);
/* The first set bit at or after `from`, or `bits` when there is none. */
uint64_t bitmap_next(const uint64_t *map, uint64_t bits, uint64_t from);

/* ---- event loop ------------------------------------------------------
 * epoll, timers and posted calls. Callbacks run on the thread that is in
 * loop_run(). Only loop_post() and loop_stop() may be called from other threads.
 * A stop that comes before loop_run() ends it at once. Watches and timers are
 * freed by their owners before loop_destroy(), which drops posted calls unrun.
 * loop_unwatch() comes before close(fd). */

struct loop;
struct loop_watch;
struct loop_timer;
typedef void loop_fd_fn(void *ctx, uint32_t epoll_events);
typedef void loop_fn(void *ctx);

int loop_create(struct loop **out) MUST_CHECK;
void loop_destroy(struct loop *l);
int loop_run(struct loop *l) MUST_CHECK;                  /* until loop_stop(); 0 or -errno */
int loop_step(struct loop *l, int timeout_ms) MUST_CHECK; /* one round; for tests and simulation */
void loop_stop(struct loop *l);
int loop_watch(struct loop *l, int fd, uint32_t epoll_events, loop_fd_fn *fn, void *ctx,
	       struct loop_watch **out) MUST_CHECK;
int loop_rewatch(struct loop_watch *w, uint32_t epoll_events) MUST_CHECK;
void loop_unwatch(struct loop_watch *w); /* safe inside any callback; does not close the fd */
int loop_timer(struct loop *l, loop_fn *fn, void *ctx, struct loop_timer **out) MUST_CHECK;
void loop_timer_set(struct loop_timer *t, uint64_t at_ns); /* clock_ns() time; 0 = off; one shot */
void loop_timer_free(struct loop_timer *t);
int loop_post(struct loop *l, loop_fn *fn,
	      void *ctx) MUST_CHECK; /* run once on the loop's thread */

/* ---- threads, files -------------------------------------------------- */

/* With all signals blocked; `name` is cut to 15 bytes. */
int thread_start(pthread_t *t, const char *name, void *(*fn)(void *), void *ctx) MUST_CHECK;

/* A condition variable whose waits may end at a clock_ns() time (UINT64_MAX = never): 0 or
 * -ETIMEDOUT. It may wake for nothing, as any. */
void cond_setup(pthread_cond_t *c);
int cond_wait_until(pthread_cond_t *c, pthread_mutex_t *lock, uint64_t until);

/* The calling thread does little, and others take its lateness for a death: heartbeats. Real-time
 * (SCHED_RR, the least priority) where that is permitted, thread_hasten() elsewhere. */
void thread_urge(void);

/* Permits that to this process's threads, and no more than that, where its user or CAP_SYS_RESOURCE
 * can: before capabilities go. A thread that keeps its CPU for 0.5 s without once waiting is an
 * ordinary one from then on, lest a fault take a CPU from all else. */
void thread_urge_permit(void);

/* The calling thread works in short bursts that others wait for: where the scheduler
 * knows slices (EEVDF, Linux 6.12), it gets a CPU soon after it wakes. Elsewhere nothing. The
 * threads that it starts are ordinary ones. */
void thread_hasten(void);

int fd_read_all(int fd, void *data, size_t n) MUST_CHECK; /* -EPIPE at an early end */
int fd_write_all(int fd, const void *data, size_t n) MUST_CHECK;
/* A whole file of at most `most` bytes, appended to `out`. */
int file_read(const char *path, size_t most, struct buf *out, struct error *e) MUST_CHECK;
/* Replace a file so that after a crash it is wholly the old or wholly the new
 * one: temporary file (PATH.XXXXXX, which a crash may leave behind), fsync,
 * rename, fsync of the folder. */
int file_replace(const char *path, const void *data, size_t n, unsigned mode,
		 struct error *e) MUST_CHECK;

/* ---- fault points ----------------------------------------------------
 * `rc = fault_point("mirror.write");` is 0 unless a test armed that name. Armed
 * by fault_arm() or by POLLUX_FAULTS="name[:nth[:errno]],..." read by fault_setup(). */

int fault_point(const char *name);
void fault_arm(const char *name, unsigned nth, int error_number); /* nth call from now, 1 = next */
void fault_disarm_all(void);
int fault_setup(struct error *e) MUST_CHECK;

#endif
