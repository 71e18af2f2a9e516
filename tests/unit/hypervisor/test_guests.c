// SPDX-License-Identifier: Apache-2.0
/*
 * The test guests (tests/guests/) under the real KVM, also the slow emulated one.
 *
 * A guest is carried through a chain of processes: each loads RAM and state that the
 * one before it left in shared memory, runs the guest for a moment, stops it and
 * saves again. The guests check themselves; the parent reads what they print.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <cpuid.h>

#include "tests/guests/dirtier.h"
#include "tests/unit/engines.h"
#include "tests/unit/hypervisor/guest_child.h"

#define DISK_SIZE  (UINT64_C(1) << 20)
#define MOVES      50u
#define MOVES_LAZY 16u /* each waits until all memory has come */
#define RUN_MS     40u
#define LIVES_LAST 10u /* a busy machine may give one of them no time */
#define LIVES_PASS 20u
#define LONG_MS    120000u
#define TEXT_MAX   (UINT64_C(1) << 20)

static bool real_guests;

struct fixture {
	struct guest_plan plan;
	struct guest_image *shared;
	int console[2];
	int listener, stream; /* the NIC's other end */
	char *text;
	size_t text_len;
	uint64_t sequence, count; /* echo */
	bool begun;
	pid_t child;
};
/* One at a time; what a failed test leaves is cleared after it. */
static struct fixture the_fixture;

/* ---- the parent ---------------------------------------------------------------------- */

static void console_read(struct fixture *f)
{
	ssize_t n;
	while (f->text_len < TEXT_MAX - 1 &&
	       (n = read(f->console[0], f->text + f->text_len, TEXT_MAX - 1 - f->text_len)) > 0)
		f->text_len += (size_t)n;
	f->text[f->text_len] = 0;
}

/* The number after the last "<word> <number> " that was printed; 0 if there is none. */
static uint64_t console_number(struct fixture *f, const char *word)
{
	uint64_t v = 0;
	for (const char *p = strstr(f->text, word); p; p = strstr(p + 1, word))
		if (strchr(p, '\n'))
			v = strtoull(p + strlen(word), NULL, 10);
	return v;
}

static void listener_make(struct fixture *f)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	snprintf(a.sun_path, sizeof(a.sun_path), "%s/net", f->plan.folder);
	f->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	assert_true(f->listener >= 0);
	assert_int_equal(bind(f->listener, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(f->listener, 1), 0);
}

static void disk_make(struct fixture *f)
{
	char path[128];
	snprintf(path, sizeof(path), "%s/disk", f->plan.folder);
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0 && ftruncate(fd, DISK_SIZE) == 0);
	close(fd);
}

static bool kvm_usable(char *why, size_t room)
{
	struct engine_report report;
	snprintf(why, room, "there is no KVM engine in this build");
	if (!engine_report_of("kvm", &report))
		return false;
	real_guests = report.real_guests;
	snprintf(why, room, "%s", report.why);
	return report.usable;
}

/* In the test itself: cmocka takes a skip in a set-up for a failure. */
static void kvm_needed(void)
{
	static bool asked, usable;
	static char why[200];
	if (!asked)
		usable = kvm_usable(why, sizeof(why));
	asked = true;
	if (usable)
		return;
	print_message("KVM cannot be used here: %s\n", why);
	skip();
}

/* Skips the test where there is no KVM. */
static struct fixture *fixture_of(const char *guest, unsigned vcpus)
{
	kvm_needed();
	the_fixture = (struct fixture){.plan = {.guest = guest, .vcpus = vcpus}};
	return &the_fixture;
}

static void fixture_begin(struct fixture *f)
{
	f->begun = true;
	snprintf(f->plan.folder, sizeof(f->plan.folder), "/tmp/pollux-guest-XXXXXX");
	assert_non_null(mkdtemp(f->plan.folder));
	f->shared = mmap(NULL, sizeof(*f->shared), PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(f->shared != MAP_FAILED);
	assert_int_equal(pipe2(f->console, O_CLOEXEC | O_NONBLOCK), 0);
	f->plan.console = f->console[1];
	f->text = calloc(1, TEXT_MAX);
	assert_non_null(f->text);
	f->listener = f->stream = -1;
	if (f->plan.disk)
		disk_make(f);
	if (f->plan.net)
		listener_make(f);
}

static void fixture_end(struct fixture *f)
{
	char path[128];
	const char *const names[] = {"disk", "net"};
	for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
		snprintf(path, sizeof(path), "%s/%s", f->plan.folder, names[i]);
		(void)unlink(path);
	}
	(void)rmdir(f->plan.folder);
	munmap(f->shared, sizeof(*f->shared));
	close(f->console[0]);
	close(f->console[1]);
	if (f->listener >= 0)
		close(f->listener);
	if (f->stream >= 0)
		close(f->stream);
	free(f->text);
	f->begun = false;
}

static int teardown(void **state)
{
	struct fixture *f = &the_fixture;
	if (f->child > 0) {
		kill(f->child, SIGKILL);
		waitpid(f->child, NULL, 0);
	}
	if (f->begun)
		fixture_end(f);
	*f = (struct fixture){0};
	return 0;
}

static void child_start(struct fixture *f, unsigned ms)
{
	fflush(NULL);
	f->child = fork();
	assert_true(f->child >= 0);
	if (f->child)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	_exit(guest_child(&f->plan, f->shared, ms));
}

/* Run one process of the chain. `meanwhile` is called again and again until it has ended. */
static int child_run(struct fixture *f, unsigned ms, void (*meanwhile)(struct fixture *f))
{
	int status = 0;
	child_start(f, ms);
	while (waitpid(f->child, &status, WNOHANG) == 0) {
		console_read(f);
		if (meanwhile)
			meanwhile(f);
		else
			usleep(2000);
	}
	f->child = 0;
	console_read(f);
	return WIFEXITED(status) ? WEXITSTATUS(status) : CHILD_FAILED;
}

static int chain_step(struct fixture *f, unsigned ms, void (*meanwhile)(struct fixture *f))
{
	int result = child_run(f, ms, meanwhile);
	const char *failure = strstr(f->text, "FAIL");
	if (failure && result == CHILD_SAVED && !strchr(failure, '\n'))
		result = child_run(f, 1000, NULL); /* it was stopped while it said why */
	if (failure || result == CHILD_FAILED)
		fail_msg("%s after %llu moves:\n%s",
			 failure ? "the guest complained" : "a process failed",
			 (unsigned long long)f->shared->moves, f->text);
	return result;
}

/* The guest must have lived through it. */
static void chain_move(struct fixture *f, unsigned ms, void (*meanwhile)(struct fixture *f))
{
	if (chain_step(f, ms, meanwhile) != CHILD_SAVED)
		fail_msg("the guest ended after %llu moves:\n%s",
			 (unsigned long long)f->shared->moves, f->text);
}

/* To the end in one process; the guest must say that all was well. */
static void run_to_end(struct fixture *f)
{
	fixture_begin(f);
	int status = chain_step(f, LONG_MS, NULL);
	if (status != CHILD_ENDED || !strstr(f->text, ": ok"))
		fail_msg("%s did not end well:\n%s", f->plan.guest, f->text);
}

static unsigned moves_wanted(const struct fixture *f)
{
	const char *given = getenv("POLLUX_MOVES");
	unsigned most = f->plan.lazy ? MOVES_LAZY : MOVES;
	return given ? (unsigned)strtoul(given, NULL, 10) : most;
}

/* Through a chain of processes; `word` is what the guest counts in its lines. */
static void run_through_chain(struct fixture *f, const char *word,
			      void (*meanwhile)(struct fixture *f))
{
	unsigned moves = moves_wanted(f), lives = 0;
	fixture_begin(f);
	chain_move(f, 20 * RUN_MS, meanwhile);
	uint64_t first = console_number(f, word), last;
	for (unsigned i = 1; i < moves; i++)
		chain_move(f, RUN_MS, meanwhile);
	/* The last one runs for longer: what was lost must show. */
	do {
		chain_move(f, 20 * RUN_MS, meanwhile);
		last = console_number(f, word);
	} while (last <= first && ++lives < LIVES_LAST);
	print_message("%s: %u moves, %s%llu to %llu, save %llu us, load %llu us, %llu bytes\n",
		      f->plan.guest, moves, word, (unsigned long long)first,
		      (unsigned long long)last,
		      (unsigned long long)(f->shared->save_ns / f->shared->moves / 1000),
		      (unsigned long long)(f->shared->load_ns / f->shared->moves / 1000),
		      (unsigned long long)f->shared->state_len);
	if (last <= first)
		fail_msg("%s stands still:\n%s", f->plan.guest, f->text);
}

/* ---- echo: requests and answers ---------------------------------------------------------- */

#define FRAME_LEN 100u
#define ANSWER    (FRAME_LEN + 16)

static void request_send(struct fixture *f)
{
	uint8_t out[4 + FRAME_LEN] = {0};
	uint32_t len = htonl(FRAME_LEN);
	memcpy(out, &len, 4);
	memset(out + 4, 0xff, 6);
	memset(out + 10, 0x02, 6);
	out[16] = 0x88;
	out[17] = 0xb5;
	f->sequence++;
	memcpy(out + 18, &f->sequence, 8);
	(void)!send(f->stream, out, sizeof(out), MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* The guest's count must never come twice nor go back, whoever runs it. */
static void answer_check(struct fixture *f, const uint8_t *frame)
{
	uint64_t count = 0, sequence;
	for (unsigned i = 0; i < 8; i++)
		count = count << 8 | frame[14 + i];
	memcpy(&sequence, frame + 30, 8);
	if (count <= f->count || sequence > f->sequence)
		fail_msg("answer %llu to request %llu after answer %llu", (unsigned long long)count,
			 (unsigned long long)sequence, (unsigned long long)f->count);
	f->count = count;
}

static void stream_lost(struct fixture *f)
{
	close(f->stream);
	f->stream = -1;
}

/* Frames may be lost while nobody is connected: so a silent guest is asked again. */
static void echo_turn(struct fixture *f)
{
	uint8_t in[4 + ANSWER];
	if (f->stream < 0) {
		f->stream = accept4(f->listener, NULL, NULL, SOCK_CLOEXEC);
		if (f->stream < 0)
			usleep(1000);
		else
			request_send(f);
		return;
	}
	struct pollfd p = {.fd = f->stream, .events = POLLIN};
	if (poll(&p, 1, 20) == 0) {
		request_send(f);
		return;
	}
	ssize_t n = recv(f->stream, in, sizeof(in), MSG_DONTWAIT | MSG_PEEK);
	if (n == 0 || (n < 0 && errno != EAGAIN)) {
		stream_lost(f);
		return;
	}
	uint32_t len = 0;
	if (n >= 4)
		memcpy(&len, in, 4);
	if (n < 4 || (uint32_t)n < 4 + ntohl(len))
		return;
	assert_int_equal(ntohl(len), ANSWER);
	assert_int_equal(recv(f->stream, in, sizeof(in), 0), sizeof(in));
	answer_check(f, in + 4);
	request_send(f);
}

/* ---- tests ---------------------------------------------------------------------------------- */

static void test_dirtier(void **state)
{
	struct fixture *f = fixture_of("dirtier", 1);
	snprintf(f->plan.cmdline, sizeof(f->plan.cmdline), "pages=1000 passes=50 report=10");
	run_to_end(f);
}

/* QEMU's own emulation of the CPU below us: see guest.h. */
static bool on_tcg(void)
{
	unsigned a, b, c, d;
	__cpuid(0x40000000, a, b, c, d);
	return b == 0x54474354 && c == 0x43544743 && d == 0x47435447; /* "TCGTCGTCGTCG" */
}

static void test_selfcheck(void **state)
{
	struct fixture *f = fixture_of("selfcheck", 4);
	snprintf(f->plan.cmdline, sizeof(f->plan.cmdline), "cpus=4 ticks=300 avx=%u cr8=%u",
		 real_guests && !on_tcg(), !on_tcg());
	run_to_end(f);
}

static void test_blk(void **state)
{
	struct fixture *f = fixture_of("blk", 1);
	f->plan.disk = true;
	snprintf(f->plan.cmdline, sizeof(f->plan.cmdline), "ops=300 depth=16");
	run_to_end(f);
}

static void test_echo(void **state)
{
	struct fixture *f = fixture_of("echo", 1);
	f->plan.net = true;
	snprintf(f->plan.cmdline, sizeof(f->plan.cmdline), "frames=500");
	fixture_begin(f);
	int status = chain_step(f, LONG_MS, echo_turn);
	if (status != CHILD_ENDED || !strstr(f->text, ": ok"))
		fail_msg("echo did not end well:\n%s", f->text);
	while (f->stream >= 0) /* what it answered last */
		echo_turn(f);
	assert_true(f->count >= 490);
}

/* From the software CPU to KVM and back, again and again. */
static struct fixture *fixture_hopping(const char *guest, unsigned vcpus)
{
	struct fixture *f = fixture_of(guest, vcpus);
	f->plan.engines[0] = "soft";
	f->plan.engines[1] = "kvm";
	return f;
}

static void test_hops_selfcheck(void **state)
{
	struct fixture *f = fixture_hopping("selfcheck", 2);
	snprintf(f->plan.cmdline, sizeof(f->plan.cmdline), "cpus=2 report=10 avx=0 cr8=%u",
		 !on_tcg());
	run_through_chain(f, "tick ", NULL);
}

static void test_hops_dirtier(void **state)
{
	struct fixture *f = fixture_hopping("dirtier", 1);
	snprintf(f->plan.cmdline, sizeof(f->plan.cmdline), "pages=1000 report=10");
	run_through_chain(f, "pass ", NULL);
}

static void test_hops_blk(void **state)
{
	struct fixture *f = fixture_hopping("blk", 1);
	f->plan.disk = true;
	snprintf(f->plan.cmdline, sizeof(f->plan.cmdline), "report=10 depth=16");
	run_through_chain(f, "done ", NULL);
}

static struct fixture *fixture_lazy(const char *guest, unsigned vcpus)
{
	struct fixture *f = fixture_hopping(guest, vcpus);
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (fd < 0) {
		print_message("userfaultfd cannot be had here: %s\n", strerror(errno));
		skip();
	}
	close(fd);
	f->plan.lazy = true;
	return f;
}

/* The same with none of its memory there when it goes on. */
static void test_lazy_selfcheck(void **state)
{
	struct fixture *f = fixture_lazy("selfcheck", 2);
	snprintf(f->plan.cmdline, sizeof(f->plan.cmdline), "cpus=2 report=10 avx=0 cr8=%u",
		 !on_tcg());
	run_through_chain(f, "tick ", NULL);
}

static void test_lazy_dirtier(void **state)
{
	struct fixture *f = fixture_lazy("dirtier", 1);
	snprintf(f->plan.cmdline, sizeof(f->plan.cmdline), "pages=1000 report=10");
	run_through_chain(f, "pass ", NULL);
}

static void test_lazy_blk(void **state)
{
	struct fixture *f = fixture_lazy("blk", 1);
	f->plan.disk = true;
	snprintf(f->plan.cmdline, sizeof(f->plan.cmdline), "report=10 depth=16");
	run_through_chain(f, "done ", NULL);
}

static void test_moves_selfcheck(void **state)
{
	struct fixture *f = fixture_of("selfcheck", 2);
	snprintf(f->plan.cmdline, sizeof(f->plan.cmdline), "cpus=2 report=10 avx=%u cr8=%u",
		 real_guests && !on_tcg(), !on_tcg());
	run_through_chain(f, "tick ", NULL);
}

static void test_moves_dirtier(void **state)
{
	struct fixture *f = fixture_of("dirtier", 1);
	snprintf(f->plan.cmdline, sizeof(f->plan.cmdline), "pages=1000 report=10");
	run_through_chain(f, "pass ", NULL);
}

static void test_moves_dirtier_paced(void **state)
{
	struct fixture *f = fixture_of("dirtier", 1);
	snprintf(f->plan.cmdline, sizeof(f->plan.cmdline), "pages=500 rate=20000 report=1");
	run_through_chain(f, "pass ", NULL);
}

static void test_moves_blk(void **state)
{
	struct fixture *f = fixture_of("blk", 1);
	f->plan.disk = true;
	snprintf(f->plan.cmdline, sizeof(f->plan.cmdline), "report=10 depth=16");
	run_through_chain(f, "done ", NULL);
}

/* If not, the engine that comes next is the same one. */
static bool echo_lives(struct fixture *f)
{
	uint64_t before = f->count;
	chain_move(f, 40 * RUN_MS, echo_turn);
	if (f->count > before)
		return true;
	if (f->plan.engines[1])
		chain_move(f, RUN_MS, echo_turn);
	return false;
}

static void moves_echo(struct fixture *f)
{
	f->plan.net = true;
	unsigned moves = moves_wanted(f), lives = 0;
	fixture_begin(f);
	for (unsigned i = 0; i < moves; i++)
		chain_move(f, (i ? 2 : 20) * RUN_MS, echo_turn);
	while (!echo_lives(f))
		assert_true(++lives < LIVES_LAST);
	print_message("echo: %u moves, %llu answers\n", moves, (unsigned long long)f->count);
}

static void test_moves_echo(void **state)
{
	moves_echo(fixture_of("echo", 1));
}

static void test_hops_echo(void **state)
{
	moves_echo(fixture_hopping("echo", 1));
}

static void test_lazy_echo(void **state)
{
	moves_echo(fixture_lazy("echo", 1));
}

/* After its first pass, which checks nothing. */
static void passes_wait(struct fixture *f)
{
	unsigned lives = 0;
	do {
		assert_true(lives++ < LIVES_PASS);
		chain_move(f, 20 * RUN_MS, NULL);
	} while (!console_number(f, "pass "));
}

/* The guests' own checks can fail: a word of RAM changed on the way is found. The guest may have
 * been stopped between its look at a word and the store over it, but not at both. */
static void test_damage_is_found(void **state)
{
	struct fixture *f = fixture_of("dirtier", 1);
	snprintf(f->plan.cmdline, sizeof(f->plan.cmdline), "pages=1000 report=10");
	fixture_begin(f);
	passes_wait(f);
	f->shared->ram[dirtier_word(250)] ^= 0x10;
	f->shared->ram[dirtier_word(750)] ^= 0x10;
	int status;
	child_start(f, LONG_MS);
	assert_int_equal(waitpid(f->child, &status, 0), f->child);
	f->child = 0;
	console_read(f);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == CHILD_ENDED);
	assert_true(strstr(f->text, "FAIL page 250") || strstr(f->text, "FAIL page 750"));
}

#define GUEST_TEST(fn) cmocka_unit_test_teardown(fn, teardown)

/* test_guests [PATTERN]: only those tests */
int main(int argc, char **argv)
{
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	const struct CMUnitTest tests[] = {
		GUEST_TEST(test_dirtier),
		GUEST_TEST(test_selfcheck),
		GUEST_TEST(test_blk),
		GUEST_TEST(test_echo),
		GUEST_TEST(test_moves_selfcheck),
		GUEST_TEST(test_moves_dirtier),
		GUEST_TEST(test_moves_dirtier_paced),
		GUEST_TEST(test_moves_blk),
		GUEST_TEST(test_moves_echo),
		GUEST_TEST(test_hops_selfcheck),
		GUEST_TEST(test_hops_dirtier),
		GUEST_TEST(test_hops_blk),
		GUEST_TEST(test_hops_echo),
		GUEST_TEST(test_lazy_selfcheck),
		GUEST_TEST(test_lazy_dirtier),
		GUEST_TEST(test_lazy_blk),
		GUEST_TEST(test_lazy_echo),
		GUEST_TEST(test_damage_is_found),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
