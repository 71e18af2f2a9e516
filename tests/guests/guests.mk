# SPDX-License-Identifier: Apache-2.0
#
# Test guests: freestanding x86-64 programs that boot by the PVH entry of their
# ELF file; tests/guests/guest.h says what each does.

PRIV_NAMES := privtrap privpage privseg privsys privrep privirq privold
GUEST_NAMES := dirtier echo selfcheck blk $(PRIV_NAMES)
GUESTS += $(GUEST_NAMES:%=$(BUILD)/tests/guests/%)

GUEST_FLAGS := -ffreestanding -fno-stack-protector -fno-pic -fno-pie -fcf-protection=none \
	-fno-asynchronous-unwind-tables -fno-strict-aliasing -mno-red-zone -mgeneral-regs-only \
	-mcmodel=small -Os -g -std=gnu17 -I. -Wall -Wextra -Werror -Wno-unused-parameter
GUEST_COMMON := start lib virtio
extra_selfcheck := registers
extra_privpage := priv priv_cpu privpage_code
extra_privseg := priv priv_cpu privseg_code
extra_privsys := priv priv_cpu privsys_code
extra_privrep := priv priv_cpu privrep_code
extra_privirq := priv priv_cpu
extra_privold := priv priv_cpu privold_code privold_real
extra_privtrap := priv priv_cpu privtrap_code
GUEST_OBJECTS = $(patsubst %,$(BUILD)/tests/guests/%.o,$(GUEST_COMMON) $1 $(extra_$1))
GUEST_COMPILE = $(call say,CC  )$(CC) $(GUEST_FLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/tests/guests/%.o: tests/guests/%.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(GUEST_COMPILE)
$(BUILD)/tests/guests/dirtier.o: GUEST_FLAGS += -O2
$(BUILD)/tests/guests/%.o: tests/guests/%.S $(BUILD)/flags
	@mkdir -p $(@D)
	$(GUEST_COMPILE)

define guest
$(BUILD)/tests/guests/$1: $(call GUEST_OBJECTS,$1) tests/guests/guest.ld
	$$(call say,LINK)$$(CC) -nostdlib -static -Wl,-T,tests/guests/guest.ld \
		-Wl,--build-id=none -Wl,-z,noexecstack -o $$@ $(call GUEST_OBJECTS,$1)
endef
$(foreach g,$(GUEST_NAMES),$(eval $(call guest,$g)))
