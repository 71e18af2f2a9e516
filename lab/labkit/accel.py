# SPDX-License-Identifier: Apache-2.0
"""Decides whether this machine's KVM can carry lab hosts that carry guests themselves."""
import os
import pathlib
import re
import subprocess

from .host import COMMAND_LINE
from .place import LabError, cache_dir

PROBE_SECONDS = 15


def _nested_possible():
    flags = re.search(r"^flags\s*:(.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    words = flags.group(1).split() if flags else []
    module = "kvm_intel" if "vmx" in words else "kvm_amd" if "svm" in words else None
    if not module:
        return "the processor offers no virtualisation (no vmx or svm)"
    try:
        nested = pathlib.Path(f"/sys/module/{module}/parameters/nested").read_text().strip()
    except OSError:
        nested = "unknown"
    return None if nested in ("Y", "1") else f"{module} does not nest (nested={nested})"


def _kernel_boots(kernel, initrd):
    """An unmodified kernel must reach its /init in seconds: a KVM that emulates every instruction
    accepts the guest and would take an hour."""
    args = ["qemu-system-x86_64", "-machine", "q35", "-accel", "kvm", "-cpu", "host", "-m", "256",
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio",
            "-kernel", kernel, "-initrd", initrd, "-append", f"{COMMAND_LINE} lab.probe=1"]
    try:
        out = subprocess.run(args, stdin=subprocess.DEVNULL, capture_output=True,
                             timeout=PROBE_SECONDS).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    return b"POLLUX-LAB-PROBE" in out


def decide(wanted, kernel, initrd):
    """Returns ("kvm" | "tcg", why). The probe's answer holds until the machine restarts."""
    if wanted == "tcg":
        return "tcg", "as asked"
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        why = "no access to /dev/kvm"
    else:
        why = _nested_possible()
    if why is None:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        memo = cache_dir() / f"kvm-probe-{boot}"
        if not memo.exists():
            memo.write_text("yes" if _kernel_boots(kernel, initrd) else "no")
        why = None if memo.read_text() == "yes" else "an ordinary kernel does not boot on it"
    if why is None:
        return "kvm", "KVM carries ordinary guests and nests"
    if wanted == "kvm":
        raise LabError(f"KVM cannot carry the lab: {why}")
    return "tcg", why
