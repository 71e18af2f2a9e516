# SPDX-License-Identifier: Apache-2.0
#
# Instructions natively and in engine soft, compared:
#   make cpu-diff        200,000 random cases, and planted bugs;  make cpu-diff-long: 10 million
#   CPU_DIFF_ARGS="--seed 1 --only sse"   other arguments of cpu-diff

CPU_DIFF := $(BUILD)/tests/cpu/cpu-diff
# See tests/cpu/plants.c.
$(CPU_DIFF): $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/cpu/*.c)) $(call archives,$(call closure,hypervisor))
	$(call say,LINK)$(CC) $(LDFLAGS) -Wl,--wrap=soft_decode -o $@ $^ $(call libs,$(call closure,hypervisor))

CPU_DIFF_ARGS ?=
RUN_CPU_DIFF = $(RUN_TESTS) --live --timeout 600 "$(CPU_DIFF) $(or $(CPU_DIFF_ARGS),--plants)"

.PHONY: cpu-program cpu-diff cpu-diff-run cpu-diff-long
cpu-program: $(CPU_DIFF)
cpu-diff: $(CPU_DIFF)
	$(RUN_CPU_DIFF)
cpu-diff-run:
	$(RUN_CPU_DIFF)
cpu-diff-long: $(CPU_DIFF)
	$(CPU_DIFF) --cases 10000000 $(CPU_DIFF_ARGS)
