# SPDX-License-Identifier: Apache-2.0
#
# Unmodified Linux kernels under `pollux run`, in the engine without KVM:
#   make linux-test        the brief set;  make linux-test-long: all of it, and 20 boots in a row
#   and deterministic runs of one of them, which are repeated, and core files of it (long: crash
#   goes through them, with 280 MB of debug symbols that are fetched once)
#   LINUX_ARGS="--engine tcg cloud"   other arguments of tests/linux/run

LINUX_ARGS ?=
RUN_LINUX = $(RUN_TESTS) --live --timeout 3600 "tests/linux/run --build $(BUILD) $1 $(LINUX_ARGS)" \
	$(if $(LINUX_ARGS),,"tests/linux/determinism --build $(BUILD)" "tests/linux/core --build $(BUILD) $(if $1,--crash)")

.PHONY: linux-test linux-test-run linux-test-long
linux-test: programs
	$(call RUN_LINUX)
linux-test-run:
	$(call RUN_LINUX)
linux-test-long: programs
	$(call RUN_LINUX,--long)
