# SPDX-License-Identifier: Apache-2.0
#
# `make bench` measures and prints; nothing here passes or fails by time.
#   RAW=FILE         one JSON line an epoch is appended there (default: in the build folder)
#   BENCH_SCALE=0.2  shorter runs
# `make bench-lab RUNS=3`: from the death of a host to the first reply, in the lab.

BENCHES := pause wire encode
RAW ?= $(BUILD)/bench/raw.jsonl
BENCH_SCALE ?= 1
BENCH_PROGRAMS := $(BENCHES:%=$(BUILD)/bench/bench-%)
BENCH_SHARED := $(patsubst %.c,$(BUILD)/%.o,$(filter-out bench/bench-%,$(wildcard bench/*.c)))

$(BENCH_PROGRAMS): $(BUILD)/bench/%: $(BUILD)/bench/%.o $(BENCH_SHARED) $(call archives,$(call closure,replicate))
	$(call say,LINK)$(CC) $(LDFLAGS) -o $@ $^ $(call libs,$(call closure,replicate))

.PHONY: bench bench-programs
bench-programs: $(BENCH_PROGRAMS)
bench: bench-programs $(BUILD)/tests/guests/dirtier
	@rm -f $(RAW)
	@for b in $(BENCHES); do $(BUILD)/bench/bench-$$b --raw $(RAW) --scale $(BENCH_SCALE) \
		--guest $(BUILD)/tests/guests/dirtier || exit 1; done
	@echo; echo 'raw records: $(RAW)'

RUNS ?= 3
.PHONY: bench-lab
bench-lab: programs lab-tools
	@bench/bench-lab --runs $(RUNS) --build $(BUILD) --raw $(RAW)
