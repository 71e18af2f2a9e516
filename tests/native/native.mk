# SPDX-License-Identifier: Apache-2.0
#
# pollux-vm of a later release, for upgrades to it and back: it says another version, and writes the
# next one of the machine state's frame.  All else are the objects of pollux-vm.

LATER := $(BUILD)/tests/native/pollux-vm-later
# private: $(BUILD)/flags must not have it
$(BUILD)/tests/native/state.o: private CPPFLAGS += -include hypervisor/state.h -include tests/native/later.h
$(BUILD)/tests/native/state.o: hypervisor/state.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(COMPILE)
# What is there already is not taken from a library.
$(LATER): $(BUILD)/vm-process/pollux-vm.o $(BUILD)/tests/native/state.o $(BUILD)/tests/native/later.o \
		$(call archives,$(call closure,vm-process))
	$(call say,LINK)$(CC) $(LDFLAGS) -o $@ $^ $(call libs,$(call closure,vm-process))

.PHONY: native-programs
native-programs: programs guests $(LATER)
