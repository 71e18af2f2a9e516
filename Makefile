# SPDX-License-Identifier: Apache-2.0
#
# `make help` lists the targets.  Each folder is a library of all its *.c files
# (its program's main excepted); a library may use those named in its deps_ line,
# top first, and no others.  No path may contain a space, a comma or a colon.

FOLDERS := cli agent vm-process migrate replicate netbuf disk-mirror hypervisor channel base

deps_base        :=
deps_hypervisor  := base
deps_channel     := base
deps_netbuf      := hypervisor base
deps_disk-mirror := hypervisor base
deps_replicate   := netbuf disk-mirror hypervisor channel base
deps_migrate     := replicate $(deps_replicate)
deps_vm-process  := migrate $(deps_migrate)
deps_agent       := vm-process $(deps_vm-process)
deps_cli         := agent $(deps_agent)

pkg_base        :=
pkg_hypervisor  := liburing libconfig
pkg_channel     := openssl
pkg_netbuf      :=
pkg_disk-mirror :=
pkg_replicate   := liblz4 zlib libxxhash
pkg_migrate     := openssl libxxhash
pkg_vm-process  := jansson libcap-ng
pkg_agent       := jansson libconfig libmicrohttpd openssl libxxhash
pkg_cli         := jansson libcurl openssl

PROGRAMS := pollux polluxd pollux-vm
main_pollux    := cli/pollux.c
main_polluxd   := agent/polluxd.c
main_pollux-vm := vm-process/pollux-vm.c

# ---- how to compile: CC=clang, SAN=address,undefined, SAN=thread -------------

ifeq ($(origin CC),default)
CC := gcc
endif
comma := ,
SAN ?=
BUILD ?= build$(if $(filter-out gcc,$(CC)),-$(CC))$(if $(SAN),-$(subst $(comma),-,$(SAN)))
PREFIX ?= /usr/local
DESTDIR ?=
EXTRA_CFLAGS ?=

WARNINGS := -Wall -Wextra -Werror -Wno-unused-parameter -Wstrict-prototypes -Wmissing-prototypes -Wvla \
	$(if $(filter clang%,$(CC)),-Wno-gnu-variable-sized-type-not-at-end)
ifeq ($(SAN),)
HARDENING := -O2 -D_FORTIFY_SOURCE=2
else
# gcc's flow warnings are guesses once the sanitizers have rewritten the code.
HARDENING := -O1 -fno-omit-frame-pointer -fsanitize=$(SAN) -fno-sanitize-recover=all \
	$(if $(filter gcc%,$(CC)),-Wno-maybe-uninitialized -Wno-format-truncation \
		-Wno-stringop-overflow -Wno-tsan)
LINK_SAN := -fsanitize=$(SAN)
endif
ifdef FUZZ
HARDENING += -fsanitize=fuzzer-no-link
endif

PACKAGES := $(sort $(foreach f,$(FOLDERS),$(pkg_$f)))
PACKAGE_CFLAGS := $(shell pkg-config --cflags $(PACKAGES) 2>/dev/null)
CPPFLAGS += -I. -D_GNU_SOURCE $(PACKAGE_CFLAGS)
CFLAGS = -std=gnu17 -g $(HARDENING) $(WARNINGS) -fstack-protector-strong -pthread $(EXTRA_CFLAGS)
LDFLAGS += -pthread $(LINK_SAN) -Wl,-z,relro,-z,now

# Quiet unless V=1.
say = $(if $(V),,@echo "  $1  $@";)
COMPILE = $(call say,CC  )$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<
pkg_libs = $(if $1,$(shell pkg-config --libs $1))

# ---- folders as libraries -----------------------------------------------------

mains := $(foreach p,$(PROGRAMS),$(main_$p))
sources = $(filter-out $(mains),$(wildcard $1/*.c $1/*/*.c))
existing = $(foreach f,$1,$(if $(call sources,$f),$f))
# $(call closure,FOLDER): the folder and those below it that have sources
closure = $(call existing,$1 $(deps_$1))
archives = $(foreach f,$1,$(BUILD)/lib$f.a)
libs = $(call pkg_libs,$(sort $(foreach f,$1,$(pkg_$f)))) -lm

LIBRARIES := $(call archives,$(call existing,$(FOLDERS)))
BUILT := $(foreach p,$(PROGRAMS),$(if $(wildcard $(main_$p)),$(BUILD)/$p))

.PHONY: all libs programs
.DELETE_ON_ERROR:
.SECONDARY:
all: programs
libs: $(LIBRARIES)
programs: $(BUILT)
# From the default build the programs are also at hand in the top folder.
ifeq ($(BUILD),build)
programs: $(notdir $(BUILT))
$(PROGRAMS): %: build/%
	ln -sf $< $@
endif

$(BUILD)/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(COMPILE)

# What the guest's instructions touch is the guest's memory, which it shares with devices by x86's
# rules: no data races of ours. They are compiled for a program with the sanitizer, without its eyes.
ifneq ($(filter thread,$(SAN)),)
GUEST_EYES := $(wildcard $(patsubst %,hypervisor/soft/%.c,integer* sse* mmx x87* mmu walk decode \
	segment far task exception system*))
$(GUEST_EYES:%.c=$(BUILD)/%.o): HARDENING += -fno-sanitize=thread -D__SANITIZE_THREAD__
endif

# The list of members is a prerequisite: a source that went away leaves the archive too.
define library
members_$1 := $$(patsubst %.c,$(BUILD)/%.o,$$(call sources,$1)) $(if $(filter base,$1),$(BUILD)/base/version.o)
$(BUILD)/lib$1.members: FORCE
	@mkdir -p $$(@D)
	@echo '$$(members_$1)' | cmp -s - $$@ || echo '$$(members_$1)' > $$@
$(BUILD)/lib$1.a: $$(members_$1) $(BUILD)/lib$1.members
	@rm -f $$@
	$$(call say,AR  )$$(AR) rcs $$@ $$(members_$1)
endef
$(foreach f,$(FOLDERS),$(eval $(call library,$f)))

define program
$(BUILD)/$1: $(BUILD)/$(main_$1:.c=.o) $(call archives,$(call closure,$(patsubst %/,%,$(dir $(main_$1)))))
	$$(call say,LINK)$$(CC) $$(LDFLAGS) -o $$@ $$^ $$(call libs,$(call closure,$(patsubst %/,%,$(dir $(main_$1)))))
endef
$(foreach p,$(PROGRAMS),$(eval $(call program,$p)))

# Written only when the content changes, so that a change of flags rebuilds and nothing else does.
VERSION := $(shell git describe --tags --match 'v[0-9]*' --dirty 2>/dev/null || \
	git log -1 --format=0.1.0-g%h 2>/dev/null || echo 0.1.0)
VERSION := $(patsubst v%,%,$(or $(VERSION),0.1.0))
BUILD_TEXT := $(shell $(CC) --version 2>/dev/null | head -n 1 | tr -d '"\\')$(if $(SAN), sanitizers: $(SAN))
.PHONY: FORCE
$(BUILD)/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS)' | cmp -s - $@ || \
		echo '$(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS)' > $@
$(BUILD)/base/version.c: FORCE
	@mkdir -p $(@D)
	@printf '#include "base/base.h"\n\nconst char version_text[] = "%s";\nconst char version_build[] = "%s";\n' \
		'$(VERSION)' '$(BUILD_TEXT)' > $@.new; \
		if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi
$(BUILD)/base/version.o: $(BUILD)/base/version.c $(BUILD)/flags
	$(COMPILE)

# ---- tests ---------------------------------------------------------------------

UNIT := $(patsubst %.c,$(BUILD)/%,$(wildcard tests/unit/*/test_*.c))
SIM := $(if $(wildcard tests/sim/*.c),$(BUILD)/tests/sim/sim)
FUZZERS := $(patsubst %.c,$(BUILD)/%,$(wildcard tests/fuzz/fuzz_*.c))
GUESTS :=
-include tests/guests/guests.mk lab/lab.mk bench/bench.mk tests/linux/linux.mk tests/cpu/cpu.mk \
	tests/native/native.mk

# $(call test_program,SOURCE,FOLDER); sources beside it that are not tests are shared by them.
test_helpers = $(patsubst %.c,$(BUILD)/%.o,$(filter-out tests/unit/$1/test_%,$(wildcard tests/unit/$1/*.c)))
define test_program
$(BUILD)/$(1:.c=): $(BUILD)/$(1:.c=.o) $(call test_helpers,$2) $(call archives,$(call closure,$2))
	$$(call say,LINK)$$(CC) $$(LDFLAGS) -o $$@ $$^ $$(call libs,$(call closure,$2)) $$(call pkg_libs,cmocka)
endef
$(foreach f,$(FOLDERS),$(foreach t,$(wildcard tests/unit/$f/test_*.c),$(eval $(call test_program,$t,$f))))

$(BUILD)/tests/sim/sim: $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/sim/*.c)) $(call archives,$(call closure,agent))
	$(call say,LINK)$(CC) $(LDFLAGS) -o $@ $^ $(call libs,$(call closure,agent))

$(FUZZERS): $(BUILD)/%: $(BUILD)/%.o $(call archives,$(call closure,agent))
	$(call say,LINK)$(CC) $(LDFLAGS) -fsanitize=fuzzer -o $@ $^ $(call libs,$(call closure,agent))
$(BUILD)/tests/fuzz/%.o: WARNINGS += -Wno-missing-prototypes

RUN_TESTS = @POLLUX_BUILD=$(BUILD) $(FIXED_ADDRESSES) tests/run_tests.py $(RESULTS:%=--results %) $(LABEL:%=--label %) $(AGAIN:%=--again %)
# Thread sanitizer needs its shadow where some kernels' address randomisation would put the program.
FIXED_ADDRESSES := $(if $(filter thread,$(SAN)),$(shell setarch -R true 2>/dev/null && echo setarch -R))

# Moves a guest from process to process, in the lab.
HOP := $(BUILD)/tests/scenario/state-hop
$(HOP): $(HOP).o $(call archives,$(call closure,hypervisor))
	$(call say,LINK)$(CC) $(LDFLAGS) -o $@ $^ $(call libs,$(call closure,hypervisor))

.PHONY: unit-programs sim-program fuzzers guests scenario-programs
scenario-programs: programs lab-tools guests $(HOP)
unit-programs: $(UNIT) $(GUESTS)
sim-program: $(SIM)
fuzzers: $(FUZZERS)
guests: $(GUESTS)

.PHONY: unit unit-run unit-threads-run one-test sim sim-run
UNIT_LIMIT := --timeout 900
unit: unit-programs
	$(RUN_TESTS) $(UNIT_LIMIT) $(UNIT)
# The -run targets build nothing: what did not build fails, the others still run.
unit-run:
	$(RUN_TESTS) $(UNIT_LIMIT) $(UNIT)
# Those that start threads, for SAN=thread, which makes moves of guests slow.
unit-threads-run: export POLLUX_MOVES := 15
unit-threads-run:
	$(RUN_TESTS) $(UNIT_LIMIT) $$(for t in $(UNIT); do \
		nm $$t 2>&1 | grep -Eq ' T thread_start$$| U pthread_create|No such file' && echo $$t; done)
# make one-test T=tests/unit/base/test_buf.c
# The folders below hypervisor/ and beside it need no test guests.
one-test: $(BUILD)/$(T:.c=) $(if $(filter tests/unit/base/% tests/unit/channel/% tests/unit/netbuf/%,$T),,$(GUESTS))
	POLLUX_BUILD=$(BUILD) $(FIXED_ADDRESSES) $(BUILD)/$(T:.c=)
RUN_SIM = $(RUN_TESTS) --live --timeout 900 \
	$(if $(SIM),"$(SIM) $(SIM_ARGS)","echo 'sim all skipped (tests/sim is empty)'")
sim: $(SIM)
	$(RUN_SIM)
sim-run:
	$(RUN_SIM)

# `make fuzz-brief` is part of `make check`; `make fuzz` gives each an hour, or FUZZ_SECONDS.
FUZZ_BUILD = BUILD=$(BUILD)-asan CC=clang SAN=address,undefined FUZZ=1
FUZZ_SECONDS ?= 10
fuzz_name = $(patsubst fuzz_%,%,$(notdir $1))
fuzz_command = "$1 -seed=1 -max_total_time=$(FUZZ_SECONDS) -timeout=20 -rss_limit_mb=3000 \
	-artifact_prefix=$(BUILD)/corpus/$(call fuzz_name,$1)- -print_final_stats=1 \
	$(BUILD)/corpus/$(call fuzz_name,$1) $(wildcard tests/fuzz/corpus/$(call fuzz_name,$1))"
.PHONY: fuzz-run fuzz-brief fuzz
fuzz-run:
	@mkdir -p $(foreach f,$(FUZZERS),$(BUILD)/corpus/$(call fuzz_name,$f)) $(BUILD)
	$(if $(FUZZERS),$(RUN_TESTS) --timeout $$(($(FUZZ_SECONDS) + 60)) \
		$(foreach f,$(FUZZERS),$(call fuzz_command,$f)))
fuzz-brief:
	$(MAKE) $(FUZZ_BUILD) fuzzers
	$(MAKE) $(FUZZ_BUILD) fuzz-run
fuzz:
	$(MAKE) $(FUZZ_BUILD) fuzzers
	$(MAKE) $(FUZZ_BUILD) fuzz-run FUZZ_SECONDS=$(if $(filter-out file,$(origin FUZZ_SECONDS)),$(FUZZ_SECONDS),3600)

# End to end; prints `scenario NAME ok|FAILED|skipped (reason)` lines. All of them with hosts that are
# namespaces of this machine; those that need a kernel on each host in emulated ones.
.PHONY: scenario scenario-run scenario-lab scenario-lab-run scenario-lab-long
RUN_SCENARIO = $(RUN_TESTS) --named --live --timeout 2700 "tests/scenario/run-all --lab namespaces --jobs 2"
RUN_SCENARIO_LAB = $(RUN_TESTS) --named --live --timeout 2700 "tests/scenario/run-all --lab emulated"
scenario: scenario-programs
	$(RUN_SCENARIO)
scenario-run:
	$(RUN_SCENARIO)
scenario-lab: scenario-programs
	$(RUN_SCENARIO_LAB)
scenario-lab-run:
	$(RUN_SCENARIO_LAB)
# Linux from host to host MOVES times in a row, with its disk and without; HOSTS=emulated: under KVM.
.PHONY: scenario-migrate
MOVES ?= 50
HOSTS ?= namespaces
scenario-migrate: export POLLUX_MIGRATIONS = $(MOVES)
scenario-migrate: scenario-programs
	$(RUN_TESTS) --live --timeout $$(($(MOVES) * 150 + 1200)) "tests/scenario/run-all \
		--lab $(HOSTS) --jobs 2 linux_migrates_with_its_disk linux_migrates_on_shared_storage"
# Those that take long there: a CPU in software inside of an emulated host, mishaps under KVM.
scenario-lab-long: scenario-programs
	$(RUN_TESTS) --live --timeout 7200 "tests/scenario/run-all --lab emulated --long"

# ---- lint, packages, the whole check ------------------------------------------------

.PHONY: lint tools-test lab-test native-test layers deps check demo demo-lab
lint:
	$(RUN_TESTS) tests/lint/lint.py
# Whether lint refuses what it must, results are counted right, packages get installed.
tools-test: bench-programs $(BUILD)/bench/guest/migrant
	$(RUN_TESTS) $(wildcard tests/tools/test_*.sh)
# The lab's own programs, without an emulator.
lab-test:
	$(RUN_TESTS) --timeout 900 "$(or $(wildcard tests/lab/run),echo test) $(BUILD)"
# End to end on this machine: real processes and test guests, over loopback (after native-programs).
native-test:
	$(RUN_TESTS) --named --live --timeout 4200 "tests/native/run $(BUILD)"
# "folder: folders it may use", for lint
layers:
	$(foreach f,$(FOLDERS),$(info $f: $(deps_$f)))@:
deps:
	@packaging/install-packages.sh
check: deps
	tests/check.py $(BUILD)
# A sub-make, as the packages must be there before the first compile.
demo demo-lab: deps
	@$(MAKE) -j2 programs lab-tools
	@POLLUX_BUILD=$(BUILD) lab/demo $(if $(filter demo-lab,$@),--lab emulated) $(DEMO_ARGS)

# ---- install ------------------------------------------------------------------------

# pollux and polluxd look for pollux-vm beside themselves.
bindir := $(PREFIX)/bin
mandir := $(PREFIX)/share/man
unitdir := $(PREFIX)/lib/systemd/system
docdir := $(PREFIX)/share/doc/pollux
completiondir := $(PREFIX)/share/bash-completion/completions
INSTALL ?= install

.PHONY: install uninstall
install: programs
	$(INSTALL) -d $(addprefix $(DESTDIR),$(bindir) $(unitdir) $(docdir)/examples $(completiondir))
	$(INSTALL) -m 755 $(BUILT) $(DESTDIR)$(bindir)
	$(INSTALL) -m 644 $(wildcard docs/*.md) $(DESTDIR)$(docdir)
	$(INSTALL) -m 644 $(wildcard packaging/examples/*) $(DESTDIR)$(docdir)/examples
	sed 's|@bindir@|$(bindir)|; s|@docdir@|$(docdir)|' packaging/polluxd.service \
		>$(DESTDIR)$(unitdir)/polluxd.service
	$(BUILD)/pollux completion bash >$(DESTDIR)$(completiondir)/pollux
	chmod 644 $(DESTDIR)$(unitdir)/polluxd.service $(DESTDIR)$(completiondir)/pollux
	for page in $(wildcard docs/man/*.[158]); do \
		$(INSTALL) -D -m 644 $$page $(DESTDIR)$(mandir)/man$${page##*.}/$${page##*/} || exit 1; done
uninstall:
	rm -f $(PROGRAMS:%=$(DESTDIR)$(bindir)/%) $(DESTDIR)$(unitdir)/polluxd.service
	rm -f $(foreach m,$(wildcard docs/man/*.[158]),$(DESTDIR)$(mandir)/man$(subst .,,$(suffix $m))/$(notdir $m))
	rm -f $(DESTDIR)$(completiondir)/pollux
	rm -rf $(DESTDIR)$(docdir)

.PHONY: clean help
clean:
	rm -rf build build-* $(PROGRAMS)

help:
	@echo 'make            build ./pollux, ./polluxd and ./pollux-vm (in build/)'
	@echo 'make check      everything: packages, lint, builds, unit tests, simulation, fuzzing, scenarios'
	@echo 'make demo       a VM survives the death of its host; hosts are namespaces of this machine'
	@echo 'make demo-lab   the same with emulated hosts, each with a kernel and a KVM of its own'
	@echo 'make lab        emulated hosts, left up;  make lab-down ends them'
	@echo 'make lab-guest  a Linux guest to try: vmlinux and initrd.img in build/lab/guest'
	@echo 'make bench      measure, and print the tables;  make bench-engines: beside QEMU;'
	@echo '                make bench-protect, make bench-lab: a Linux guest, its failover;'
	@echo '                make bench-migrate: moving a VM, beside raw TCP and QEMU'
	@echo 'make unit       the unit tests;  make one-test T=tests/unit/base/test_buf.c'
	@echo 'make sim        the seeded simulation;  SIM_ARGS are its arguments'
	@echo 'make cpu-diff   instructions in the software CPU and on this processor;  make cpu-diff-long: 10 million'
	@echo 'make native-test the end-to-end tests on this machine (after make native-programs)'
	@echo 'make scenario   the end-to-end tests of protection;  make scenario-lab: in emulated hosts;'
	@echo '                make scenario-lab-long: there what takes long: from engine to engine, and mishaps;'
	@echo '                make scenario-migrate MOVES=50 HOSTS=namespaces|emulated: so many migrations in a row'
	@echo 'make linux-test Linux kernels in the engine without KVM;  make linux-test-long: all of it;'
	@echo '                LINUX_ARGS=--list, or the names of some'
	@echo 'make fuzz-brief each fuzzer for FUZZ_SECONDS=10;  make fuzz: for an hour'
	@echo 'make lint       format, layering, sizes, static analysis'
	@echo 'make deps       install the Debian packages that are missing (packaging/packages.txt)'
	@echo 'make install    PREFIX=/usr/local DESTDIR=;  make uninstall'
	@echo 'make clean      remove build/ and build-*/'
	@echo
	@echo 'Variables: BUILD=folder  CC=clang  SAN=address,undefined  SAN=thread  EXTRA_CFLAGS=  V=1'

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
