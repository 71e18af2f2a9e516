// SPDX-License-Identifier: Apache-2.0
/*
 * Test guests: freestanding programs that run on any engine with a CPU, also on
 * the software-emulated /dev/kvm where an ordinary kernel is too slow.
 *
 * Each prints lines on the serial port and ends by turning the machine off:
 *   "<name>: start ..."  "<name>: <progress>"  "<name>: ok ..."  or  "<name>: FAIL ..."
 * Parameters come on the kernel command line as key=number. What an instruction
 * emulator lacks (xsave, AVX) is used only with avx=1, and if CPUID offers it.
 *
 *   dirtier    writes one word in each of `pages` pages, `rate` pages a second (0 = as
 *              fast as can be), `passes` times over (0 = for ever), and checks on each
 *              pass what the one before it left; a line each `report` passes. With
 *              `content` other than 0 (dirtier.h) it writes more, checks nothing and
 *              goes on for ever. With crash=1 it ends in a triple fault
 *   echo       answers ARP, ICMP echo and UDP for address `ip` (a number), and frames of
 *              type 0x88b5, to which it adds its count and hash of all frames so far;
 *              turns off after `frames` frames (0 = never)
 *   selfcheck  all registers, FPU and SSE state, timers, IPIs and TSC on every vCPU, for
 *              `ticks` timer interrupts, `cpus` vCPUs; cr8=0 leaves the task priority
 *              alone. Under QEMU 7.2 without KVM, a nested guest needs cr8=0 (a write
 *              aborts QEMU) and avx=0 (its XSETBV is not intercepted, so XCR0 is lost)
 *   blk        writes, reads back and flushes `blocks` blocks of a disk, `depth` requests
 *              in flight, `ops` requests in all (0 = for ever); with linger=1 it stays on
 */
#ifndef POLLUX_TESTS_GUEST_H
#define POLLUX_TESTS_GUEST_H

#define GUEST_CPUS_MAX 16
#define TRAMPOLINE     0x10000

#ifndef __ASSEMBLER__

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

/* ---- what a guest provides --------------------------------------------------- */

extern const char guest_name[];
void guest_main(void); /* vCPU 0; a return is success */
void guest_ap_main(unsigned cpu);

/* ---- output, parameters, end --------------------------------------------------- */

/* %u %x (both 64 bits wide) and %s. */
void say(const char *fmt, ...);
/* One line "<name>: ..." */
void report(const char *fmt, ...);
void fail(const char *fmt, ...) __attribute__((noreturn)); /* "<name>: FAIL ...", then off */
void power_off(void) __attribute__((noreturn));
uint64_t parameter(const char *key, uint64_t otherwise);

void *memset(void *to, int c, size_t n);
void *memcpy(void *to, const void *from, size_t n);
int memcmp(const void *a, const void *b, size_t n);

/* ---- the CPU ---------------------------------------------------------------------- */

static inline void out8(uint16_t port, uint8_t v)
{
	__asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port) : "memory");
}
static inline void out16(uint16_t port, uint16_t v)
{
	__asm__ volatile("outw %0, %1" : : "a"(v), "Nd"(port) : "memory");
}
static inline uint8_t in8(uint16_t port)
{
	uint8_t v;
	__asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}
static inline uint64_t tsc(void)
{
	uint32_t low, high;
	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
	return low | (uint64_t)high << 32;
}
static inline uint64_t msr_read(uint32_t msr)
{
	uint32_t low, high;
	__asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
	return low | (uint64_t)high << 32;
}
static inline void msr_write(uint32_t msr, uint64_t v)
{
	__asm__ volatile("wrmsr" : : "c"(msr), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)));
}
static inline void interrupts_on(void)
{
	__asm__ volatile("sti" : : : "memory");
}
static inline void interrupts_off(void)
{
	__asm__ volatile("cli" : : : "memory");
}
/* Interrupts are off; wait for one. The sti takes effect after the hlt: none is missed. */
static inline void wait_for_interrupt(void)
{
	__asm__ volatile("sti; hlt; cli" : : : "memory");
}
static inline void pause(void)
{
	__asm__ volatile("pause" : : : "memory");
}

extern volatile uint32_t guest_cpus; /* that have started */

/* ---- interrupts ------------------------------------------------------------------------ */

struct frame {
	uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
	uint64_t vector, error, rip, cs, rflags, rsp, ss;
};
typedef void handler_fn(struct frame *f);
void handler_set(unsigned vector,
		 handler_fn *fn); /* of all vCPUs; the LAPIC's EOI is given after it */

void lapic_enable(void); /* each vCPU */
unsigned lapic_id(void);
/* KVM's LAPIC timer counts nanoseconds. One interrupt; 0 stops it. */
void lapic_timer(unsigned vector, uint32_t ns, bool periodic);
void ipi(unsigned cpu, unsigned vector);
/* Start the others and wait for them: true if `cpus` run in the end. */
bool cpus_start(unsigned cpus);
/* Route a line of the IOAPIC to this vCPU. */
void ioapic_route(unsigned gsi, unsigned vector);
/* The PIT's channel 0: a square wave of this many Hz on GSI 2. */
void pit_start(unsigned hz);

/* ---- virtio ------------------------------------------------------------------------------- */

#define VQ_SIZE 64

struct vq_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};
struct vq {
	struct vq_desc desc[VQ_SIZE] __attribute__((aligned(4096)));
	struct {
		uint16_t flags, index, ring[VQ_SIZE], event;
	} avail;
	struct {
		uint16_t flags, index;
		struct {
			uint32_t id, len;
		} ring[VQ_SIZE];
		uint16_t event;
	} used __attribute__((aligned(4096)));
	volatile uint16_t *bell;
	uint16_t number, seen;
};
#define VQ_NEXT  1
#define VQ_WRITE 2

struct virtio {
	volatile uint8_t *common, *config;
	volatile uint8_t *notify;
	volatile uint8_t *msix;
	uint32_t notify_multiplier;
	unsigned slot;
};

/* The `nth` device of this kind; false = there is none. Features: those wanted of the
 * low 32, beside VERSION_1. */
bool virtio_find(struct virtio *v, unsigned kind, unsigned nth);
void virtio_start(struct virtio *v, uint32_t features);
void virtio_queue(struct virtio *v, struct vq *q, unsigned number, unsigned vector);
void virtio_ready(struct virtio *v);
void vq_offer(struct vq *q, uint16_t head);
void vq_kick(struct vq *q);
/* The head that came back, or -1. */
int vq_reap(struct vq *q, uint32_t *len);

#endif
#endif
