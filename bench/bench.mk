# SPDX-License-Identifier: Apache-2.0
#
# `make bench` measures and prints; nothing here passes or fails by time.
#   RAW=FILE         one JSON line an epoch is appended there (default: in the build folder)
#   BENCH_SCALE=0.2  shorter runs
# `make bench-lab RUNS=3`: from the death of a host to the first reply, the demo with an eye on it;
#   LAB_OPTIONS="--heartbeat-ms 10 --loss-ms 50 --probe-ms 10" (see bench/bench-lab).
# `make bench-protect`: pauses, output delay and a client's requests, with a Linux guest.
# `make bench-migrate RUNS=3`: a VM from process to process, beside raw TCP and QEMU; QUICK=1: 256 MiB,
#   once; MIGRATE_OPTIONS="--only raw,session" (see bench/bench-migrate). Result: $(BUILD)/bench/migrate.json
# `make bench-engines RUNS=3`: the software CPU beside QEMU's translator, the same guest and work.

BENCHES := pause wire encode
RAW ?= $(BUILD)/bench/raw.jsonl
BENCH_SCALE ?= 1
BENCH_PROGRAMS := $(BENCHES:%=$(BUILD)/bench/bench-%)
BENCH_SHARED := $(patsubst %.c,$(BUILD)/%.o,$(filter-out bench/bench-%,$(wildcard bench/*.c)))

$(BENCH_PROGRAMS): $(BUILD)/bench/%: $(BUILD)/bench/%.o $(BENCH_SHARED) $(call archives,$(call closure,replicate))
	$(call say,LINK)$(CC) $(LDFLAGS) -o $@ $^ $(call libs,$(call closure,replicate))

# Memory from process to process, for bench-migrate; the second with no TLS.
COPY_PROGRAMS := $(BUILD)/bench/bench-copy $(BUILD)/bench/bench-copy-plain
COPY_OBJECTS := $(BUILD)/bench/bench-copy.o $(BENCH_SHARED)
$(BUILD)/bench/bench-copy: $(COPY_OBJECTS) $(call archives,$(call closure,replicate))
$(BUILD)/bench/bench-copy-plain: $(COPY_OBJECTS) $(BUILD)/bench/migrate/plain.o \
		$(call archives,$(call closure,replicate))
$(COPY_PROGRAMS):
	$(call say,LINK)$(CC) $(LDFLAGS) -o $@ $^ $(call libs,$(call closure,replicate))

.PHONY: bench bench-programs
bench-programs: $(BENCH_PROGRAMS) $(COPY_PROGRAMS)
bench: bench-programs $(BUILD)/tests/guests/dirtier
	@rm -f $(RAW)
	@for b in $(BENCHES); do $(BUILD)/bench/bench-$$b --raw $(RAW) --scale $(BENCH_SCALE) \
		--guest $(BUILD)/tests/guests/dirtier || exit 1; done
	@echo; echo 'raw records: $(RAW)'

RUNS ?= 3
.PHONY: bench-lab bench-protect
bench-lab: programs lab-tools
	@mkdir -p $(dir $(RAW))
	@bench/bench-lab --runs $(RUNS) --build $(BUILD) --raw $(RAW) $(LAB_OPTIONS)
bench-protect: programs lab-tools
	@mkdir -p $(dir $(RAW))
	@bench/bench-protect --build $(BUILD) --raw $(RAW)

# Freestanding, from the parts of the test guests.
BENCH_GUESTS := integer migrant
bench_parts_integer := integer rounds
bench_parts_migrant := migrant
$(BUILD)/bench/guest/%.o: bench/guest/%.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(GUEST_COMPILE)
$(BUILD)/bench/guest/migrant.o: GUEST_FLAGS += -O2
$(BUILD)/bench/guest/%.o: bench/guest/%.S $(BUILD)/flags
	@mkdir -p $(@D)
	$(GUEST_COMPILE)
define bench_guest
$(BUILD)/bench/guest/$1: $(bench_parts_$1:%=$(BUILD)/bench/guest/%.o) \
		$(GUEST_COMMON:%=$(BUILD)/tests/guests/%.o) tests/guests/guest.ld
	$$(call say,LINK)$$(CC) -nostdlib -static -Wl,-T,tests/guests/guest.ld \
		-Wl,--build-id=none -Wl,-z,noexecstack -o $$@ $$(filter %.o,$$^)
endef
$(foreach g,$(BENCH_GUESTS),$(eval $(call bench_guest,$g)))

.PHONY: bench-engines
bench-engines: programs $(BUILD)/bench/guest/integer
	@bench/bench-engines --runs $(RUNS) --build $(BUILD) --raw $(RAW)

.PHONY: bench-migrate
bench-migrate: programs $(COPY_PROGRAMS) $(BUILD)/bench/guest/migrant
	@bench/bench-migrate --runs $(RUNS) $(if $(QUICK),--quick) --build $(BUILD) --raw $(RAW) \
		--json $(BUILD)/bench/migrate.json $(MIGRATE_OPTIONS)
