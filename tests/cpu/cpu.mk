# SPDX-License-Identifier: Apache-2.0
#
# Instructions natively and in engine soft, compared:
#   make cpu-diff        200,000 random cases;  make cpu-diff-long: 10 million
#   CPU_DIFF_ARGS="--seed 1 --only sse"   other arguments of cpu-diff

CPU_DIFF := $(BUILD)/tests/cpu/cpu-diff
$(CPU_DIFF): $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/cpu/*.c)) $(call archives,$(call closure,hypervisor))
	$(call say,LINK)$(CC) $(LDFLAGS) -o $@ $^ $(call libs,$(call closure,hypervisor))

CPU_DIFF_ARGS ?=
RUN_CPU_DIFF = $(RUN_TESTS) --timeout $2 "$(CPU_DIFF) --cases $1 $(CPU_DIFF_ARGS)"

.PHONY: cpu-diff cpu-diff-run cpu-diff-long
cpu-diff: $(CPU_DIFF)
	$(call RUN_CPU_DIFF,200000,600)
cpu-diff-run:
	$(call RUN_CPU_DIFF,200000,600)
cpu-diff-long: $(CPU_DIFF)
	$(call RUN_CPU_DIFF,10000000,14400)
