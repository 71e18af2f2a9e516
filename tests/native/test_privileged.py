# SPDX-License-Identifier: Apache-2.0
"""Privileged behaviour: the priv* guests (tests/guests/priv.h) hold an engine against the manuals.

Not under this machine's KVM: where that only interprets instructions it knows no INT n outside
of real mode, which is how a check ends, nor far calls, SYSCALL, and most of x87 and SSE. Under
kvm_amd the scenario privileged_behaviour_equals_kvm runs them."""
import os
import re
import sys
import time

from case import Console, case
from director import VmProcess

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "guests"))
import priv_known  # noqa: E402


def output(t, engine, guest):
    """What the guest prints until it is done."""
    console = Console(t.path("console"))
    t.logs += [t.path("log"), t.path("console")]
    vm = VmProcess(t.build + "/pollux-vm", t.path("log"), guest)
    t.cleanup(vm.close)
    text = (f'name="{guest}"; memory="16M"; vcpus=2; engine="{engine}"; '
            f'kernel="{t.guest(guest)}"; cmdline="linger=1";')
    vm.ask("create", console.fds(), config=text, role="primary", origin="privileged.cfg")
    console.handed_over()
    vm.ask("boot")
    deadline = time.monotonic() + 60
    while not priv_known.ended(guest, console.text) and time.monotonic() < deadline:
        time.sleep(0.05)
    vm.close()
    return console.text


def privileged(t, guest):
    text = output(t, "soft", guest)
    assert priv_known.ended(guest, text), f"it did not end: {text[-300:]}"
    bad = priv_known.bad(guest, text)
    assert not bad, "\n".join(bad)


def undefined_is_told(t):
    """What the CPU does not have is logged, the first of each kind, and counted."""
    output(t, "soft", "privtrap")
    with open(t.path("log"), encoding="utf-8") as f:
        log = f.read()
    kinds = re.findall(r"privilege 3: undefined instruction ((?:[0-9a-f]{2} ?)+)", log)
    total = re.search(r" (\d+) undefined instructions in all", log)
    assert "f0 01 c0" in [k.strip() for k in kinds], kinds
    assert total and int(total.group(1)) >= len(kinds), log[-300:]


case("undefined-is-told", seconds=90, needs=())(undefined_is_told)
for name in priv_known.GUESTS:
    case(f"privileged-{name}", seconds=90, needs=(), guest=name)(privileged)
