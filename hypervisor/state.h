// SPDX-License-Identifier: Apache-2.0
/*
 * Machine state: a header, then sections. Little-endian; see docs/state-format.md.
 *
 *   header   u32 magic 'PLXS'  u16 format version  u16 zero  u32 sections  u32 total bytes
 *   section  u16 id  u16 instance  u16 version  u16 flags (1 = mandatory)
 *            u32 payload bytes  u32 zero, payload, padding to 8 bytes
 *
 * A reader that does not know a mandatory section, or its version, refuses the
 * state; an optional one it skips. Engine-neutral: architecture-defined formats
 * only, no KVM structs. Private to hypervisor/.
 */
#ifndef POLLUX_HYPERVISOR_STATE_H
#define POLLUX_HYPERVISOR_STATE_H

#include "base/base.h"

enum state_id {
	STATE_CONFIG = 1, /* vcpus, memory, devices: must equal the loader's own */
	STATE_VCPU = 2,
	STATE_PIC = 3, /* instance 0 and 1 */
	STATE_IOAPIC = 4,
	STATE_PIT = 5,
	STATE_CLOCK = 6,
	STATE_SIM = 7,
	STATE_CPUID = 8,
	STATE_SERIAL = 16,
	STATE_RTC = 17,
	STATE_ACPI = 18,
	STATE_PCI = 19,
	STATE_VIRTIO_NET = 32, /* instance = PCI slot, for all virtio devices */
	STATE_VIRTIO_BLK = 33,
	STATE_VIRTIO_RNG = 34,
	STATE_VIRTIO_CONSOLE = 35,
};
/* Those that the engines and the machine itself write and read; devices have their own. */
#define STATE_CONFIG_VERSION 1u
#define STATE_VCPU_VERSION   1u
#define STATE_CPUID_VERSION  1u
#define STATE_CHIP_VERSION   1u /* PIC, IOAPIC, PIT, clock */
#define STATE_SIM_VERSION    1u
#define STATE_MANDATORY      1u
#define STATE_SECTIONS_MAX   128
#define STATE_LATER          999u /* of no version yet: what tests let a program not know */
#define STATE_OLDEST         1u   /* of the frame; those of sections are in state_kinds.c */
#define STATE_VERSION        1u

struct state_section {
	uint16_t id, instance, version, flags;
	const uint8_t *data;
	uint32_t len;
};

/* A state whose frame (not yet its sections' contents) has been checked. */
struct state_view {
	struct state_section sections[STATE_SECTIONS_MAX];
	unsigned count;
};

/* Each returns where it began, for its end. */
size_t state_start(struct buf *b);
size_t state_section_begin(struct buf *b, uint16_t id, uint16_t instance, uint16_t version,
			   uint16_t flags);
void state_section_end(struct buf *b, size_t began);
int state_finish(struct buf *b, size_t began) MUST_CHECK;

int state_open(const void *data, size_t n, struct state_view *out, struct error *e) MUST_CHECK;
/* Whether it is of a kind that is no device's, in a version that is read. */
bool state_section_read(const struct state_section *s);
/* NULL when there is none. */
const struct state_section *state_find(const struct state_view *v, uint16_t id, uint16_t instance);

#endif
