// SPDX-License-Identifier: Apache-2.0
/* Between struct soft_cpu and the image of a vCPU in a state. Private to soft/state*.c. */
#ifndef POLLUX_HYPERVISOR_SOFT_STATE_H
#define POLLUX_HYPERVISOR_SOFT_STATE_H

#include "hypervisor/soft/machine.h"
#include "hypervisor/state_image.h"

/* image->xsave has STATE_XSAVE_LEAST octets. The chips' lock is held. */
void soft_image_make(struct soft_cpu *cpu, const struct state_model *model,
		     struct vcpu_image *image);
int soft_image_take(struct soft_cpu *cpu, const struct vcpu_image *image, struct error *e);

/* state_msr.c */
void soft_image_make_msrs(struct soft_cpu *cpu, const struct state_model *model,
			  struct vcpu_image *image);
int soft_image_take_msrs(struct soft_cpu *cpu, const struct vcpu_image *image,
			 struct error *e) MUST_CHECK;

/* state_event.c: what waits between two instructions. */
void soft_image_make_events(struct soft_cpu *cpu, struct vcpu_image *image);
void soft_image_take_events(struct soft_cpu *cpu, const struct vcpu_image *image);

#endif
