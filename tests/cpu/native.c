// SPDX-License-Identifier: Apache-2.0
/*
 * The native side: a child goes from case to case inside of a signal's handler. The
 * signal's frame holds all registers: the handler keeps what the last case left, puts
 * the next one's there and returns into it. A filter refuses every system call that
 * comes from the code under test.
 */
#include <asm/prctl.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "tests/cpu/cpu.h"

#define NO_CASE      UINT32_MAX
#define HANDLER_SIZE 65536u

static struct cpu_batch *batch;
static uint8_t *code_alias;
static uint64_t own_fs;
static unsigned now;

noreturn static void give_up(const char *what)
{
	perror(what);
	exit(2);
}

static void *map(uint64_t at, size_t size, int rights, int fd)
{
	int flags = fd < 0 ? MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE : MAP_SHARED | MAP_POPULATE;
	void *p = mmap((void *)at, size, rights, flags | (at ? MAP_FIXED_NOREPLACE : 0), fd, 0);

	if (p == MAP_FAILED)
		give_up("mmap");
	return p;
}

static void arena_map(void)
{
	int fd = memfd_create("code", 0);

	if (fd < 0 || ftruncate(fd, CODE_SIZE))
		give_up("memfd");
	code_alias = map(0, CODE_SIZE, PROT_READ | PROT_WRITE, fd);
	map(CODE, CODE_SIZE, PROT_READ | PROT_EXEC, fd);
	close(fd);
	map(ARENA, 3 * VM_PAGE_SIZE, PROT_READ | PROT_WRITE, -1);
	memcpy((void *)(ARENA + 2 * VM_PAGE_SIZE), page_readonly, VM_PAGE_SIZE);
	if (mprotect((void *)(ARENA + 2 * VM_PAGE_SIZE), VM_PAGE_SIZE, PROT_READ))
		give_up("mprotect");
	map(STACK, VM_PAGE_SIZE, PROT_READ | PROT_WRITE, -1);
}

struct cpu_batch *batch_create(void)
{
	return map(0, sizeof(struct cpu_batch), PROT_READ | PROT_WRITE, -1);
}

/* ---- one case ---------------------------------------------------------------------------- */

static void *page_at(unsigned n)
{
	return (void *)(n < 2 ? ARENA + n * VM_PAGE_SIZE : STACK);
}

static const int greg_order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
				   REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
				   REG_R12, REG_R13, REG_R14, REG_R15};

static void result_keep(const ucontext_t *uc, int number, struct cpu_result *out)
{
	const greg_t *g = uc->uc_mcontext.gregs;

	out->ending = number == SIGSYS ? SYSTEM_CALL : ENDED;
	out->vector = (unsigned)g[REG_TRAPNO];
	out->error = (uint32_t)g[REG_ERR];
	out->cr2 = (uint64_t)g[REG_CR2];
	for (unsigned i = 0; i < 16; i++)
		out->out.r[i] = (uint64_t)g[greg_order[i]];
	out->out.rip = (uint64_t)g[REG_RIP];
	out->out.flags = (uint64_t)g[REG_EFL];
	memcpy(out->out.fpu, uc->uc_mcontext.fpregs, FPU_USED);
	for (unsigned i = 0; i < PAGES_WRITABLE; i++)
		memcpy(out->memory.page[i], page_at(i), VM_PAGE_SIZE);
}

/* The frame is of XSAVE where the kernel uses that: its header says what is in it. */
static void fpu_set(const ucontext_t *uc, const struct cpu_registers *in)
{
	uint8_t *fpu = (uint8_t *)uc->uc_mcontext.fpregs;
	uint32_t magic;

	memcpy(fpu, in->fpu, 28);
	memcpy(fpu + 32, in->fpu + 32, FPU_USED - 32);
	memcpy(&magic, fpu + 464, sizeof(magic));
	if (magic == 0x46505853)
		fpu[512] |= 3;
}

static void code_set(const struct cpu_case *c)
{
	memset(code_alias, 0xcc, CODE_SIZE);
	memcpy(code_alias + (c->at - CODE), c->code, c->size);
}

static void case_enter(ucontext_t *uc, const struct cpu_case *c)
{
	greg_t *g = uc->uc_mcontext.gregs;

	for (unsigned i = 0; i < 16; i++)
		g[greg_order[i]] = (greg_t)c->in.r[i];
	g[REG_RIP] = (greg_t)c->in.rip;
	g[REG_CSGSFS] = (g[REG_CSGSFS] & ~(greg_t)0xffff) | (c->mode == MODE_64 ? 0x33 : 0x23);
	g[REG_EFL] = (greg_t)c->in.flags;
	fpu_set(uc, &c->in);
	code_set(c);
	for (unsigned i = 0; i < PAGES_WRITABLE; i++)
		memcpy(page_at(i), images[c->image].page[i], VM_PAGE_SIZE);
}

/* The next one, or the end. */
static const struct cpu_case *case_next(int number, ucontext_t *uc)
{
	if (now != NO_CASE) {
		result_keep(uc, number, &batch->native[now]);
		batch->at = now + 1;
	}
	for (now = batch->at; now < batch->count && batch->cases[now].skip; now++)
		;
	batch->at = now;
	if (now >= batch->count)
		_exit(0);
	case_enter(uc, &batch->cases[now]);
	return &batch->cases[now];
}

/* The stack protector's word is found by FS, which is the case's here. */
#define BARE __attribute__((no_stack_protector, noinline))

static BARE void base_set(int which, uint64_t base)
{
	long rc;

	__asm__ volatile("syscall"
			 : "=a"(rc)
			 : "0"((long)SYS_arch_prctl), "D"((long)which), "S"(base)
			 : "rcx", "r11", "memory");
}

static BARE void handler(int number, siginfo_t *info, void *context)
{
	const struct cpu_case *c;

	base_set(ARCH_SET_FS, own_fs);
	c = case_next(number, context);
	base_set(ARCH_SET_GS, c->in.gs);
	base_set(ARCH_SET_FS, c->in.fs);
}

/* ---- the child ------------------------------------------------------------------------------- */

#define LOAD(field)                                                                                \
	BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offsetof(struct seccomp_data, field))
/* Addresses as the filter sees them: the code's page numbers are all in the low half. */
static void system_calls_refuse(void)
{
	struct sock_filter filter[] = {
		LOAD(arch),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
			 (uint32_t)offsetof(struct seccomp_data, instruction_pointer) + 4),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
	};
	struct sock_fprog program = {.len = ARRAY_LEN(filter), .filter = filter};

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		give_up("seccomp");
}

static void handlers_set(void)
{
	static const int numbers[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS, SIGUSR1};
	stack_t stack = {.ss_sp = map(0, HANDLER_SIZE, PROT_READ | PROT_WRITE, -1),
			 .ss_size = HANDLER_SIZE};
	struct sigaction sa = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK};

	sigfillset(&sa.sa_mask);
	sigdelset(&sa.sa_mask, SIGALRM);
	if (sigaltstack(&stack, NULL))
		give_up("sigaltstack");
	for (unsigned i = 0; i < ARRAY_LEN(numbers); i++)
		if (sigaction(numbers[i], &sa, NULL))
			give_up("sigaction");
}

/* 64-bit code does without. */
static void segments_load(void)
{
	__asm__ volatile("mov %0, %%ds; mov %0, %%es" : : "r"(0x2b));
}

noreturn static void child_run(struct cpu_batch *b)
{
	const struct itimerval patience = {.it_value = {.tv_sec = 10}};

	batch = b;
	now = NO_CASE;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (syscall(SYS_arch_prctl, ARCH_GET_FS, &own_fs))
		give_up("arch_prctl");
	arena_map();
	segments_load();
	handlers_set();
	system_calls_refuse();
	setitimer(ITIMER_REAL, &patience, NULL);
	raise(SIGUSR1);
	_exit(3);
}

/* A case that ends the child is a result like any other. */
void native_run(struct cpu_batch *b)
{
	int status;

	b->at = 0;
	while (b->at < b->count) {
		pid_t child = fork();

		if (child < 0)
			give_up("fork");
		if (!child)
			child_run(b);
		if (waitpid(child, &status, 0) != child)
			give_up("waitpid");
		if (WIFEXITED(status) && WEXITSTATUS(status) == 2)
			exit(2);
		if (b->at < b->count) {
			b->native[b->at].ending = DIED;
			b->at++;
		}
	}
}
