// SPDX-License-Identifier: Apache-2.0
#include "base/base.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static atomic_int verbosity = LOG_LEVEL_INFO;
static atomic_bool for_journal;
static char program_name[32];
static _Thread_local char vm_name[64];
static _Thread_local uint64_t epoch_number;

struct line {
	char text[1024]; /* with room kept for the newline */
	size_t len;
};

static void line_vadd(struct line *l, const char *fmt, va_list args)
{
	size_t room = sizeof(l->text) - 1 - l->len;
	int n = vsnprintf(l->text + l->len, room, fmt, args);

	if (n > 0)
		l->len += (size_t)n < room ? (size_t)n : room - 1;
}

static void PRINTF(2, 3) line_add(struct line *l, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	line_vadd(l, fmt, args);
	va_end(args);
}

/* journald stamps the time itself. */
static void line_start(struct line *l, enum log_level level)
{
	struct timespec now;
	struct tm tm;

	if (atomic_load(&for_journal)) {
		line_add(l, "<%d>", (int)level);
		return;
	}
	clock_gettime(CLOCK_REALTIME, &now);
	localtime_r(&now.tv_sec, &tm);
	line_add(l, "%02d:%02d:%02d.%06ld ", tm.tm_hour, tm.tm_min, tm.tm_sec, now.tv_nsec / 1000);
}

/* What the text quotes may come from outside: keep it on one line and off the terminal's controls.
 */
static void line_clean(struct line *l)
{
	for (size_t i = 0; i < l->len; i++)
		if ((unsigned char)l->text[i] < ' ' || l->text[i] == 0x7f)
			l->text[i] = '?';
}

/* systemd names the journal's socket, which children inherit: JOURNAL_STREAM=device:inode. */
static bool stderr_is_journal(void)
{
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long device, inode;
	struct stat st;

	if (!stream || sscanf(stream, "%llu:%llu", &device, &inode) != 2)
		return false;
	return !fstat(STDERR_FILENO, &st) && st.st_dev == device && st.st_ino == inode;
}

void log_setup(const char *program, enum log_level most_verbose)
{
	snprintf(program_name, sizeof(program_name), "%s", program ? program : "");
	atomic_store(&for_journal, stderr_is_journal());
	tzset();
	atomic_store(&verbosity, (int)most_verbose);
}

void log_context_vm(const char *vm)
{
	snprintf(vm_name, sizeof(vm_name), "%s", vm ? vm : "");
}

void log_context_epoch(uint64_t epoch)
{
	epoch_number = epoch;
}

bool log_wants(enum log_level level)
{
	return (int)level <= atomic_load_explicit(&verbosity, memory_order_relaxed);
}

void log_line(enum log_level level, const char *module, int error_number, const char *fmt, ...)
{
	struct line l = {.len = 0};
	int saved = errno;
	va_list args;
	ssize_t n;

	if (!log_wants(level))
		return;
	line_start(&l, level);
	line_add(&l, "%s%s%s", program_name, program_name[0] ? " " : "", module);
	if (vm_name[0])
		line_add(&l, " %s", vm_name);
	if (epoch_number)
		line_add(&l, " e%llu", (unsigned long long)epoch_number);
	line_add(&l, ": ");
	va_start(args, fmt);
	line_vadd(&l, fmt, args);
	va_end(args);
	if (error_number)
		line_add(&l, ": %s", strerrordesc_np(abs(error_number)) ?: "unknown error");
	line_clean(&l);
	l.text[l.len++] = '\n';
	/* One write a line, so that the lines of several threads and processes do not mix. */
	do {
		n = write(STDERR_FILENO, l.text, l.len);
	} while (n < 0 && errno == EINTR);
	errno = saved;
}
