# SPDX-License-Identifier: Apache-2.0
#
# The lab: its programs, `make lab` and `make lab-down`.  Also usable alone:
#   make -f lab/lab.mk BUILD=build lab-tools

BUILD ?= build
LAB_CFLAGS := -std=gnu17 -D_GNU_SOURCE -O2 -g -Wall -Wextra -Werror -Wmissing-prototypes -I.

# What runs in hosts and guests is static: it must not depend on what those have.
LAB_TOOLS := labd fence-lab labswitch counter-server guest-load power-button counter-client echo-probe disk-check
LAB_BINARIES := $(addprefix $(BUILD)/lab/,$(LAB_TOOLS))
LAB = POLLUX_BUILD=$(abspath $(BUILD)) lab/lab

.PHONY: lab-tools lab-guest lab lab-down lab-check
lab-tools: $(LAB_BINARIES)

define lab_program
$(BUILD)/lab/$(notdir $(1:.c=)): $1 $(wildcard lab/*.h lab/*/*.h) lab/lab.mk
	@mkdir -p $$(@D)
	$$(if $$(V),,@echo "  CC    $$@";)gcc $(LAB_CFLAGS) -static -o $$@ $$<
endef
$(foreach source,$(wildcard lab/*.c lab/guest/*.c lab/client/*.c),$(eval $(call lab_program,$(source))))

# build/lab/guest: vmlinuz, vmlinux, initrd.img
lab-guest: lab-tools
	$(LAB) guest

lab: lab-tools
	$(LAB) up
	@$(LAB) how-to

lab-down:
	lab/lab down

lab-check: lab-tools
	tests/lab/run $(abspath $(BUILD))
