# SPDX-License-Identifier: Apache-2.0
"""One guest under Pollux or, with the same devices, under QEMU's translator, and what it prints."""
import dataclasses
import json
import os
import pathlib
import select
import signal
import subprocess
import time

from .place import LabError

# Nearest to Pollux' own CPU model: x86-64-v1, lahf, popcnt. Without cmpxchg16b: QEMU 7.2 leaves
# rubbish in the flags after it, and Linux 6.12 panics.
TCG_CPU = "qemu64,+popcnt,+lahf-lm,-cx16,-svm"
DEFAULT_CMDLINE = "console=ttyS0"
TUNED_CMDLINE = ("console=ttyS0 quiet no_timer_check tsc=reliable cryptomgr.notests "
                 "8250.nr_uarts=1 random.trust_cpu=on mitigations=off nokaslr")
MAC = "52:54:00:79:00:02"


@dataclasses.dataclass
class Vm:
    kernel: pathlib.Path
    initrd: pathlib.Path | None
    cmdline: str
    memory: int = 256  # MiB
    vcpus: int = 1
    disks: tuple = ()
    tap: str | None = None
    name: str = "linux"

    def vm_file(self, engine):
        """Its VM file for `pollux run`."""
        def text(s):
            return json.dumps(str(s))
        lines = [f"name = {text(self.name)};", f'memory = "{self.memory}M";',
                 f"vcpus = {self.vcpus};", f"engine = {text(engine)};",
                 f"kernel = {text(self.kernel)};", f"cmdline = {text(self.cmdline)};"]
        if self.initrd:
            lines.append(f"initrd = {text(self.initrd)};")
        disks = ", ".join(f"{{ path = {text(d)}; }}" for d in self.disks)
        lines.append(f"disks = ( {disks} );")
        if self.tap:
            lines.append(f"nics = ( {{ tap = {text(self.tap)}; mac = {text(MAC)}; }} );")
        return "\n".join(lines) + "\n"

    def qemu(self):
        command = ["qemu-system-x86_64", "-machine", "q35", "-accel", "tcg,thread=multi",
                   "-cpu", TCG_CPU, "-smp", str(self.vcpus), "-m", str(self.memory),
                   "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                   "-serial", "stdio", "-kernel", str(self.kernel), "-append", self.cmdline,
                   "-device", "virtio-rng-pci"]
        if self.initrd:
            command += ["-initrd", str(self.initrd)]
        for number, disk in enumerate(self.disks):
            command += ["-drive", f"file={disk},format=raw,if=none,id=d{number}",
                        "-device", f"virtio-blk-pci,drive=d{number}"]
        if self.tap:
            command += ["-netdev", f"tap,id=n,ifname={self.tap},script=no,downscript=no",
                        "-device", f"virtio-net-pci,netdev=n,mac={MAC}"]
        return command


class Running:
    """A VM that runs: the lines of its console with the seconds since its start."""

    def __init__(self, vm, engine, folder, build, extra=()):
        """engine: one of Pollux', or "tcg" for QEMU, which also takes `extra` arguments."""
        if engine == "tcg":
            command = vm.qemu() + list(extra)
        else:
            file = pathlib.Path(folder) / f"{vm.name}.cfg"
            file.write_text(vm.vm_file(engine))
            command = [str(pathlib.Path(build) / "pollux"), "run", str(file)]
        self.text, self._line = b"", b""
        self._log = pathlib.Path(folder) / f"{vm.name}.log"  # apart: it must not cut a console line
        self.began = time.monotonic()
        try:
            with open(self._log, "wb") as log:
                self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL,
                                                stdout=subprocess.PIPE, stderr=log)
        except OSError as err:
            raise LabError(f"{command[0]}: {err.strerror}") from None

    def log(self):
        """What the program itself has said."""
        return self._log.read_text(errors="replace")

    def lines(self, limit):
        """(seconds, line) until the VM ends; LabError after `limit` seconds."""
        while True:
            left = self.began + limit - time.monotonic()
            if left <= 0:
                raise LabError(f"not done after {limit:g} s")
            if not select.select([self.process.stdout], [], [], left)[0]:
                continue
            data = os.read(self.process.stdout.fileno(), 65536)
            now = time.monotonic() - self.began
            self.text += data
            *whole, self._line = (self._line + data).split(b"\n")
            for line in whole:
                yield now, line.decode(errors="replace").rstrip("\r")
            if not data:
                yield now, self._line.decode(errors="replace")
                return

    def cpu_seconds(self):
        """Processor time so far, of the process and of the VM process that it started."""
        total, pids = 0, [self.process.pid]
        while pids:
            pid = pids.pop()
            try:
                stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
                children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text()
            except OSError:
                continue
            fields = stat[stat.rindex(")") + 2:].split()
            total += int(fields[11]) + int(fields[12])
            pids += children.split()
        return total / os.sysconf("SC_CLK_TCK")

    def end(self):
        """The exit code; a VM that still runs is asked, asked again, and killed."""
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            if self.process.poll() is None:
                self.process.send_signal(number)
                try:
                    self.process.wait(2)
                except subprocess.TimeoutExpired:
                    pass
        self.process.stdout.close()
        return self.process.wait()
