// SPDX-License-Identifier: Apache-2.0
/*
 * A vm around freestanding guests of a few instructions each, for the tests of the
 * hypervisor's core: no kernel, no devices but one test device. The guests are
 * assembled into the test program, so that it runs anywhere.
 *
 * Guest physical memory:
 *   0x5000 AP trampoline  0x7000 IDT  0x8000 counters  0x9000 GDT  0x10000 code
 *   0x20000.. stacks, 4 KiB a vCPU  0x100000 page tables: identity, 8 GiB
 *   0x200000.. what the dirtier writes to
 */
#ifndef POLLUX_TESTS_KVM_GUEST_H
#define POLLUX_TESTS_KVM_GUEST_H

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "hypervisor/machine.h"

#define GUEST_TRAMPOLINE  0x5000u
#define GUEST_IDT         0x7000u
#define GUEST_COUNTERS    0x8000u
#define GUEST_GDT         0x9000u
#define GUEST_CODE        0x10000u
#define GUEST_STACK       0x21000u
#define GUEST_PAGE_TABLES 0x100000u
#define GUEST_DIRTY_AREA  0x200000u

#define TEST_PORT         0x500u
#define TEST_MMIO         UINT64_C(0xd0000000)
#define TEST_DOORBELL     UINT64_C(0xd0001000)
#define TEST_IRQ          5u
#define TEST_SECTION      40u
#define TEST_VERSION      2u
#define MSI_ADDRESS       UINT64_C(0xfee00000)
#define MSI_VECTOR        0x40u

/* Counters: 64-bit words at GUEST_COUNTERS. */
enum guest_counter {
	COUNT_LOOP,
	COUNT_PIT,
	COUNT_IRQ,
	COUNT_MSI,
	COUNT_TIMER,
	COUNT_BAD,
	COUNT_XMM_BAD,
	COUNT_ONLINE,
	COUNT_CPU0,        /* and 15 more: loops of each vCPU */
	COUNT_PARAM0 = 32, /* set by the test before the start */
	COUNT_PARAM1,
	COUNT_PARAM2,
};

extern const uint8_t guest_image[], guest_image_end[], guest_trampoline[], guest_trampoline_end[];
extern const uint64_t guest_entries[], guest_vectors[];

enum guest_kind {
	GUEST_PIO,     /* reads the test port and its MMIO: each value must be the one after */
	GUEST_DIRTIER, /* a store into a random page of PARAM1 pages from address PARAM0 */
	GUEST_EVENTS,  /* PIT, IRQ line, MSI, LAPIC timer; checks xmm7; halts if PARAM0 */
	GUEST_SMP,     /* starts PARAM0 other vCPUs; all count */
	GUEST_OUT,     /* one write of PARAM1 to test port PARAM0, then loops */
	GUEST_FAULT,   /* triple fault */
	GUEST_BELL,    /* writes to TEST_DOORBELL */
	GUEST_RESET,   /* first life: marks PARAM2, asks for reset; second: loops */
	GUEST_CLOCK,   /* has its kvmclock at PARAM0, whose bit 0 is set; loops */
	GUEST_CPUID,   /* CPUID leaf PARAM0, index PARAM1: ECX to PARAM2; loops */
};

/* clang-format off */
__asm__(
	".pushsection .rodata\n.balign 16\n"
	".globl guest_image\nguest_image:\n.code64\n"
	/* --- PIO: rbx = counters */
	"g_pio: mov $0x8000,%ebx; xor %r12,%r12\n"
	"1: mov $0x500,%dx; in %dx,%eax; inc %r12; cmp %r12d,%eax; jne g_bad\n"
	"mov $0xd0000000,%edi; mov (%rdi),%eax; inc %r12; cmp %r12d,%eax; jne g_bad\n"
	"mov $0x504,%dx; mov %r12d,%eax; out %eax,%dx; mov %eax,(%rdi)\n"
	"incq (%rbx); jmp 1b\n"
	/* --- dirtier */
	"g_dirty: mov $0x8000,%ebx; mov 256(%rbx),%r8; mov 264(%rbx),%r9; mov $0x9e3779b97f4a7c15,%r10; mov %r10,%r11\n"
	"1: imul %r10,%r11; add $12345,%r11; mov %r11,%rax; shr $33,%rax; xor %edx,%edx; div %r9\n"
	"shl $12,%rdx; lea (%r8,%rdx),%rcx; mov %r11,%rax; and $0xff8,%eax; incq (%rcx,%rax)\n"
	"mov 272(%rbx),%rcx; test %rcx,%rcx; jz 3f; 2: dec %rcx; jnz 2b\n"
	"3: incq (%rbx); jmp 1b\n"
	/* --- events */
	"g_events: mov $0x8000,%ebx; lidt g_idtr(%rip); mov $0xfee00000,%ecx\n"
	"movl $0x1ff,0xf0(%rcx); movl $0,0x80(%rcx)\n"
	"mov $0xff,%al; out %al,$0x21; out %al,$0xa1; mov $0xfec00000,%edi\n"
	"movl $0x14,(%rdi); movl $0x20,0x10(%rdi); movl $0x15,(%rdi); movl $0,0x10(%rdi)\n"
	"movl $0x1a,(%rdi); movl $0x30,0x10(%rdi); movl $0x1b,(%rdi); movl $0,0x10(%rdi)\n"
	"mov $0x34,%al; out %al,$0x43; mov $0x9c,%al; out %al,$0x40; mov $0x2e,%al; out %al,$0x40\n"
	"movl $0xb,0x3e0(%rcx); movl $0x20041,0x320(%rcx); movl $10000000,0x380(%rcx)\n"
	"mov %cr4,%rax; or $0x600,%eax; mov %rax,%cr4; fninit; mov 256(%rbx),%r14; mov $0x1122334455667788,%r15; lea 0x200(%rbx),%r13\n"
	"mov %r15,(%r13); mov %r15,8(%r13); movdqu (%r13),%xmm7; sti\n"
	"1: incq (%rbx); movq $0,(%r13); movq $0,8(%r13); movdqu %xmm7,(%r13)\n"
	"cmp %r15,(%r13); jne 3f; cmp %r15,8(%r13); jne 3f\n"
	"test %r14,%r14; jz 1b; hlt; jmp 1b\n"
	"3: incq 48(%rbx); jmp 1b\n"
	/* --- SMP: trampoline at 0x5000 */
	"g_smp: mov $0x8000,%ebx; mov 256(%rbx),%r8; mov $0xfee00000,%ecx; movl $0x1ff,0xf0(%rcx); xor %r9,%r9\n"
	"1: inc %r9; cmp %r8,%r9; ja 4f; mov %r9d,%eax; shl $24,%eax\n"
	"mov %eax,0x310(%rcx); movl $0x4500,0x300(%rcx)\n"
	"mov %eax,0x310(%rcx); movl $0x4605,0x300(%rcx)\n"
	"2: pause; cmp 56(%rbx),%r9; jne 2b; jmp 1b\n"
	"4: incq 64(%rbx); incq (%rbx); jmp 4b\n"
	"g_ap: mov $0x8000,%ebx; mov $0xfee00020,%ecx; mov (%rcx),%eax; shr $24,%eax\n"
	"lock incq 56(%rbx)\n"
	"1: incq 64(%rbx,%rax,8); jmp 1b\n"
	/* --- out */
	"g_out: mov $0x8000,%ebx; mov 256(%rbx),%dx; mov 264(%rbx),%eax; out %eax,%dx\n"
	"1: incq (%rbx); jmp 1b\n"
	/* --- triple fault */
	"g_fault: lidt g_noidt(%rip); ud2\n"
	/* --- doorbell */
	"g_bell: mov $0x8000,%ebx; mov $0xd0001000,%edi\n"
	"1: movw $7,(%rdi); incq (%rbx); jmp 1b\n"
	/* --- reset */
	"g_reset: mov $0x8000,%ebx; cmpq $0,272(%rbx); jne 1f; movq $1,272(%rbx); mov $0x508,%dx; mov $2,%eax; out %eax,%dx\n"
	"2: jmp 2b\n"
	"1: incq (%rbx); jmp 1b\n"
	/* --- kvmclock: MSR_KVM_SYSTEM_TIME_NEW */
	"g_clock: mov $0x8000,%ebx; mov 256(%rbx),%eax; xor %edx,%edx; mov $0x4b564d01,%ecx; wrmsr\n"
	"1: incq (%rbx); jmp 1b\n"
	/* --- CPUID */
	"g_cpuid: mov $0x8000,%r12d\n"
	"1: mov 256(%r12),%eax; mov 264(%r12),%ecx; cpuid; mov %rcx,272(%r12); incq (%r12); jmp 1b\n"
	"g_bad: incq 40(%rbx); mov $0x50c,%dx; out %eax,%dx; hlt\n"
	".balign 16\n"
	"isr_pit: push %rax; incq 0x8008; jmp isr_eoi\n"
	"isr_irq: push %rax; incq 0x8010; jmp isr_eoi\n"
	"isr_msi: push %rax; incq 0x8018; jmp isr_eoi\n"
	"isr_timer: push %rax; incq 0x8020; jmp isr_eoi\n"
	"isr_bad: incq 0x8028; mov $0x50c,%dx; out %eax,%dx; hlt\n"
	"isr_eoi: push %rcx; mov $0xfee000b0,%ecx; movl $0,(%rcx); pop %rcx; pop %rax; iretq\n"
	".balign 16\ng_idtr: .word 4095; .quad 0x7000\n.balign 16\ng_noidt: .word 0; .quad 0\n"
	".globl guest_image_end\nguest_image_end:\n"
	/* --- AP trampoline, copied to 0x5000 */
	".balign 16\n.globl guest_trampoline\nguest_trampoline:\n.code16\n"
	"cli; xor %ax,%ax; mov %ax,%ds; lgdtl (0x5000 + g_tgdt - guest_trampoline)\n"
	"mov $0x20,%eax; mov %eax,%cr4; mov $0x100000,%eax; mov %eax,%cr3\n"
	"mov $0xc0000080,%ecx; mov $0x100,%eax; xor %edx,%edx; wrmsr\n"
	"mov $0x80000011,%eax; mov %eax,%cr0; ljmpl $0x10,$(0x5000 + g_tlong - guest_trampoline)\n"
	".balign 8\ng_tgdt: .word 0x37; .long 0x9000\n"
	".code64\ng_tlong: mov $0x18,%eax; mov %eax,%ds; mov %eax,%ss; mov %eax,%es\n"
	"mov $(0x10000 + g_ap - guest_image),%eax; jmp *%rax\n"
	".globl guest_trampoline_end\nguest_trampoline_end:\n"
	".balign 8\n.globl guest_entries\nguest_entries:\n"
	".quad g_pio - guest_image, g_dirty - guest_image, g_events - guest_image, g_smp - guest_image\n"
	".quad g_out - guest_image, g_fault - guest_image, g_bell - guest_image, g_reset - guest_image\n"
	".quad g_clock - guest_image, g_cpuid - guest_image\n"
	".globl guest_vectors\nguest_vectors:\n"
	".quad isr_pit - guest_image, isr_irq - guest_image, isr_msi - guest_image\n"
	".quad isr_timer - guest_image, isr_bad - guest_image\n"
	".popsection\n");
/* clang-format on */

/* ---- the test device: a sequence that reads advance, and a port that asks --- */

enum test_port { PORT_SEQUENCE = 0, PORT_ECHO = 4, PORT_ASK = 8, PORT_BAD = 12 };
enum test_ask { ASK_POWEROFF = 1, ASK_RESET = 2 };

struct test_device {
	struct device device;
	uint32_t sequence, echo;
	unsigned bad, mismatched, resumed;
};

struct guest {
	struct vm *vm;
	struct test_device *device;
	enum guest_kind kind;
	uint64_t param[3];
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned events[3]; /* by enum vm_event */
	char detail[160];
};

static struct guest *guest_being_made; /* machine_create() hands no context to the plan */

static void test_device_read(void *dev, uint64_t at, void *data, unsigned size)
{
	struct test_device *d = dev;
	uint32_t value = ++d->sequence;

	memset(data, 0, size);
	memcpy(data, &value, size < 4 ? size : 4);
}

static void test_device_write(void *dev, uint64_t at, const void *data, unsigned size)
{
	struct test_device *d = dev;
	uint32_t value = 0;

	memcpy(&value, data, size < 4 ? size : 4);
	if (at == PORT_ECHO || at == 0x10) {
		d->echo = value;
		d->mismatched += value != d->sequence;
	} else if (at == PORT_ASK && value == ASK_POWEROFF) {
		vm_request_poweroff(d->device.vm);
	} else if (at == PORT_ASK && value == ASK_RESET) {
		vm_request_reset(d->device.vm);
	} else if (at == PORT_BAD) {
		d->bad++;
	}
}

static void test_mmio_write(void *dev, uint64_t at, const void *data, unsigned size)
{
	test_device_write(dev, 0x10, data, size);
}

/* What the device has seen go wrong, so far. */
static inline unsigned test_device_complaints(struct guest *g)
{
	unsigned n;

	pthread_mutex_lock(&g->vm->lock);
	n = g->device->bad + g->device->mismatched;
	pthread_mutex_unlock(&g->vm->lock);
	return n;
}

static const struct bus_ops test_port_ops = {test_device_read, test_device_write};
static const struct bus_ops test_mmio_ops = {test_device_read, test_mmio_write};

static void test_device_reset(struct device *d)
{
	((struct test_device *)d)->sequence = 0;
}

static int test_device_save(struct device *d, struct buf *out)
{
	buf_put_u32(out, ((struct test_device *)d)->sequence);
	buf_put_u32(out, ((struct test_device *)d)->echo);
	return buf_check(out);
}

/* Version 1 had no echo. */
static int test_device_load(struct device *d, struct cursor in, uint16_t version, bool check_only,
			    struct error *e)
{
	uint32_t sequence = cursor_u32(&in), echo = version > 1 ? cursor_u32(&in) : 0;

	if (cursor_finish(&in))
		return error_set(e, -EBADMSG, "test device: damaged");
	if (!check_only) {
		((struct test_device *)d)->sequence = sequence;
		((struct test_device *)d)->echo = echo;
	}
	return 0;
}

static void test_device_resume(struct device *d)
{
	((struct test_device *)d)->resumed++;
}

static void test_device_destroy(struct device *d)
{
	free(d);
}

static const struct device_ops test_device_ops = {
	.name = "test",
	.section = TEST_SECTION,
	.oldest = 1,
	.version = TEST_VERSION,
	.reset = test_device_reset,
	.save = test_device_save,
	.load = test_device_load,
	.resume = test_device_resume,
	.destroy = test_device_destroy,
};

static int test_devices(struct vm *vm, struct error *e)
{
	struct test_device *d = calloc(1, sizeof(*d));
	int rc;

	if (!d)
		return -ENOMEM;
	d->device.ops = &test_device_ops;
	rc = vm_device_add(vm, &d->device);
	if (rc) {
		free(d);
		return rc;
	}
	guest_being_made->device = d;
	rc = bus_add(&vm->ports, TEST_PORT, 16, &test_port_ops, d);
	return rc ? rc : bus_add(&vm->mmio, TEST_MMIO, 16, &test_mmio_ops, d);
}

/* ---- loading ---------------------------------------------------------------- */

static inline uint64_t *guest_counters(struct vm *vm)
{
	return (uint64_t *)(vm->memory.base + GUEST_COUNTERS);
}

static inline uint64_t guest_count(struct vm *vm, enum guest_counter c)
{
	return __atomic_load_n(&guest_counters(vm)[c], __ATOMIC_RELAXED);
}

static void guest_tables(struct vm *vm)
{
	static const uint64_t gdt[7] = {0,
					0,
					0x00af9b000000ffff,
					0x00cf93000000ffff,
					0x00cf9b000000ffff,
					0x00008b0000000067};
	uint64_t *t = (uint64_t *)(vm->memory.base + GUEST_PAGE_TABLES);

	memset(t, 0, 10 * 4096);
	t[0] = (GUEST_PAGE_TABLES + 0x1000) | 3;
	for (unsigned i = 0; i < 8; i++)
		t[512 + i] = (GUEST_PAGE_TABLES + 0x2000 + i * 0x1000) | 3;
	for (uint64_t i = 0; i < 8 * 512; i++)
		t[1024 + i] = i << 21 | 0x83;
	memcpy(vm->memory.base + GUEST_GDT, gdt, sizeof(gdt));
	memory_mark(&vm->memory, GUEST_PAGE_TABLES, 10 * 4096);
	memory_mark(&vm->memory, GUEST_GDT, sizeof(gdt));
}

static void guest_idt(struct vm *vm)
{
	static const struct {
		unsigned vector, handler;
	} map[] = {{0x20, 0}, {0x30, 1}, {0x40, 2}, {0x41, 3}};
	uint16_t *idt = (uint16_t *)(vm->memory.base + GUEST_IDT);

	for (unsigned v = 0; v < 256; v++) {
		uint64_t to = GUEST_CODE + guest_vectors[4];
		uint16_t gate[8];

		for (unsigned i = 0; i < ARRAY_LEN(map); i++)
			if (map[i].vector == v)
				to = GUEST_CODE + guest_vectors[map[i].handler];
		memcpy(gate, (uint16_t[8]){(uint16_t)to, 0x10, 0x8e00, (uint16_t)(to >> 16)},
		       sizeof(gate));
		memcpy(idt + v * 8, gate, sizeof(gate));
	}
	memory_mark(&vm->memory, GUEST_IDT, 4096);
}

static int guest_load(struct vm *vm, struct boot_entry *out, struct error *e)
{
	struct guest *g = vm->parts.ctx;

	guest_tables(vm);
	guest_idt(vm);
	memcpy(vm->memory.base + GUEST_CODE, guest_image, (size_t)(guest_image_end - guest_image));
	memory_mark(&vm->memory, GUEST_CODE, (size_t)(guest_image_end - guest_image));
	memcpy(vm->memory.base + GUEST_TRAMPOLINE, guest_trampoline,
	       (size_t)(guest_trampoline_end - guest_trampoline));
	if (g->kind != GUEST_RESET)
		memset(guest_counters(vm), 0, 4096);
	for (unsigned i = 0; i < 3 && g->kind != GUEST_RESET; i++)
		guest_counters(vm)[COUNT_PARAM0 + i] = g->param[i];
	*out = (struct boot_entry){.protocol = BOOT_LINUX64,
				   .rip = GUEST_CODE + guest_entries[g->kind],
				   .page_table = GUEST_PAGE_TABLES,
				   .gdt = GUEST_GDT,
				   .gdt_limit = 55,
				   .stack = GUEST_STACK};
	return 0;
}

static void guest_on_event(void *ctx, enum vm_event event, const char *detail)
{
	struct guest *g = ctx;

	pthread_mutex_lock(&g->lock);
	g->events[event]++;
	snprintf(g->detail, sizeof(g->detail), "%s", detail);
	pthread_cond_broadcast(&g->changed);
	pthread_mutex_unlock(&g->lock);
}

static inline void guest_wait_event(struct guest *g, enum vm_event event, unsigned count)
{
	bool came;

	pthread_mutex_lock(&g->lock);
	while (g->events[event] < count && (event == VM_EVENT_CRASH || !g->events[VM_EVENT_CRASH]))
		pthread_cond_wait(&g->changed, &g->lock);
	came = g->events[event] >= count;
	pthread_mutex_unlock(&g->lock);
	if (!came)
		fail_msg("the guest crashed: %s", g->detail);
}

/* What the guests that are made next run on. */
static const struct engine_ops *guest_engine = &engine_kvm;
static const char *guest_cpu = "";

/* Made, not loaded. */
static int guest_try(struct guest *g, unsigned vcpus, uint64_t memory, struct error *e)
{
	struct machine_plan plan = {
		.engine = guest_engine, .devices = test_devices, .load = guest_load};
	struct vm_config c = {.name = "test", .vcpus = vcpus, .memory = memory};
	struct vm_parts parts = {
		.console_in = -1, .console_out = -1, .on_event = guest_on_event, .ctx = g};

	snprintf(c.cpu, sizeof(c.cpu), "%s", guest_cpu);
	pthread_mutex_init(&g->lock, NULL);
	pthread_cond_init(&g->changed, NULL);
	guest_being_made = g;
	return machine_create(&plan, &c, &parts, &g->vm, e);
}

static inline void guest_make(struct guest *g, unsigned vcpus, uint64_t memory)
{
	struct error e = {0};

	if (guest_try(g, vcpus, memory, &e))
		fail_msg("%s", e.text);
}

static inline void guest_start(struct guest *g)
{
	struct error e = {0};

	if (vm_start(g->vm, &e))
		fail_msg("%s", e.text);
}

static inline void guest_boot(struct guest *g, enum guest_kind kind, unsigned vcpus,
			      uint64_t memory)
{
	struct error e = {0};

	g->kind = kind;
	guest_make(g, vcpus, memory);
	if (vm_boot(g->vm, &e))
		fail_msg("%s", e.text);
	guest_start(g);
}

static inline void guest_end(struct guest *g)
{
	if (g->vm)
		vm_destroy(g->vm);
	pthread_mutex_destroy(&g->lock);
	pthread_cond_destroy(&g->changed);
}

/* Until the guest has moved on; a guest that never does hangs the test, which its
 * runner ends. */
static inline void guest_wait_count(struct guest *g, enum guest_counter c, uint64_t at_least)
{
	while (guest_count(g->vm, c) < at_least)
		usleep(500);
}

/* True (and the test is skipped by its caller) where there is no KVM. */
static inline bool guest_no_kvm(void)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (fd < 0) {
		print_message("no /dev/kvm here: %s\n", strerror(errno));
		return true;
	}
	close(fd);
	return false;
}

/* Guests that are made next run on the next engine that this machine has; `*i` begins as 0. */
static inline bool guest_engine_next(unsigned *i)
{
	static const struct engine_ops *const engines[] = {&engine_soft, &engine_kvm};

	if (*i >= ARRAY_LEN(engines))
		return false;
	guest_engine = engines[(*i)++];
	return guest_engine != &engine_kvm || !guest_no_kvm();
}

#endif
