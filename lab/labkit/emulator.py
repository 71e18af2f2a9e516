# SPDX-License-Identifier: Apache-2.0
"""The running side of a host, within the supervisor: its QEMU process, QMP and fence port."""
import asyncio
import ctypes
import json
import os
import re
import signal
import subprocess
import time

from . import host as hosts
from .place import LabError

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent():
    """For preexec_fn: the child does not outlive the supervisor, whatever ends that."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class Qmp:
    def __init__(self, reader, writer):
        self._reader, self._writer = reader, writer
        self._lock = asyncio.Lock()

    async def call(self, command, **arguments):
        async with self._lock:
            request = {"execute": command, "arguments": arguments}
            self._writer.write(json.dumps(request).encode() + b"\n")
            while True:
                line = await asyncio.wait_for(self._reader.readline(), 20)
                if not line:
                    raise LabError("the emulator is gone")
                answer = json.loads(line)
                if "error" in answer:
                    raise LabError(f"{command}: {answer['error']['desc']}")
                if "return" in answer:
                    return answer["return"]


# An emulated kernel now and then panics in its first second, when the machine is busy: then the
# emulator ends by itself, and another start does what the first should have done.
BOOT_TRIES = 3


class BootEnded(Exception):
    """The emulator ended by itself while the host booted."""


class Emulator:
    """States: off -> booting -> up <-> frozen, and off from each."""

    def __init__(self, spec, place, config, on_fence):
        self.spec, self.place, self.config = spec, place, config
        self.state = "off"
        self.pid = self.exec_port = self.boot_seconds = None
        self._on_fence = on_fence
        self._process = self._gone = self._ready = None
        self._killed = False
        self._listeners = []

    async def listen(self):
        """The emulator connects to us: so there is nothing to poll for, and a second start finds
        the same sockets."""
        folder = self.place.host(self.spec.name)
        folder.mkdir(parents=True, exist_ok=True)
        for name, serve in (("qmp", self._serve_qmp), ("fence", self._serve_fence)):
            sock = self.place.listen(f"hosts/{self.spec.name}/{name}.sock")
            self._listeners.append(await asyncio.start_unix_server(serve, sock=sock))

    async def start(self):
        """Returns once commands can be run on the host."""
        if self.state != "off":
            raise LabError(f"{self.spec.name} is {self.state} already")
        if not (self.place.host(self.spec.name) / "disk.img").exists():
            hosts.disk_make(self.place.host(self.spec.name) / "disk.img")
        self._killed = False
        for tries in range(BOOT_TRIES, 0, -1):
            try:
                await self._launch()
                return
            except BootEnded:
                if tries == 1 or self._killed:
                    raise LabError(f"{self.spec.name}: its emulator ended\n{self._log_tail()}") \
                        from None
                print(f"{self.spec.name}: its emulator ended while booting; once more\n"
                      f"{self._log_tail()}", flush=True)

    async def _launch(self):
        loop = asyncio.get_running_loop()
        folder = self.place.host(self.spec.name)
        self.state, began = "booting", time.monotonic()
        self._gone, self._ready = loop.create_future(), loop.create_future()
        self.qmp = loop.create_future()
        with open(folder / "emulator.log", "ab") as log:
            self._process = subprocess.Popen(
                hosts.emulator_args(self.spec, self.place, self.config), cwd=self.place.path,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=die_with_parent)
        self.pid = self._process.pid
        pidfd = os.pidfd_open(self.pid)
        loop.add_reader(pidfd, self._exited, pidfd)
        await self._boot(began)

    async def _boot(self, began):
        waits = (self._ready, self._gone)
        await asyncio.wait(waits, timeout=self.config["boot_timeout"],
                           return_when=asyncio.FIRST_COMPLETED)
        if not self._ready.done() and self._gone.done():
            raise BootEnded
        if not self._ready.done():
            raise LabError(f"{self.spec.name}: it does not come up\n{self._log_tail()}")
        text = await (await self.qmp).call("human-monitor-command", **{"command-line": "info usernet"})
        match = re.search(r"HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)", text)
        if not match:
            raise LabError(f"{self.spec.name}: no port for commands: {text}")
        self.exec_port = int(match.group(1))
        self.boot_seconds = time.monotonic() - began
        self.state = "up"

    def _log_tail(self):
        folder = self.place.host(self.spec.name)
        lines = []
        for name in ("emulator.log", "console.log"):
            try:
                lines += (folder / name).read_text(errors="replace").splitlines()[-12:]
            except OSError:
                pass
        return "\n".join(f"  | {line}" for line in lines)

    def _exited(self, pidfd):
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)
        self._process.wait()
        self.state, self.pid, self.exec_port = "off", None, None
        self._gone.set_result(None)

    async def kill(self):
        """Returns once the process is gone, also where it was gone before."""
        self._killed = True
        if self.state == "off":
            return
        self._process.kill()
        await self._gone

    async def freeze(self, on):
        if self.state != ("up" if on else "frozen"):
            raise LabError(f"{self.spec.name} is {self.state}")
        await (await self.qmp).call("stop" if on else "cont")
        self.state = "frozen" if on else "up"

    async def _serve_qmp(self, reader, writer):
        await reader.readline()
        qmp = Qmp(reader, writer)
        await qmp.call("qmp_capabilities")
        if not self.qmp.done():
            self.qmp.set_result(qmp)
        await self._gone
        writer.close()

    async def _serve_fence(self, reader, writer):
        while line := await reader.readline():
            words = line.decode(errors="replace").split()
            if words[:2] == ["boot", "ready"]:
                if not self._ready.done():
                    self._ready.set_result(None)
            elif len(words) == 3:
                asyncio.ensure_future(self._answer(writer, *words))
        writer.close()

    async def _answer(self, writer, ident, action, plug):
        answer = await self._on_fence(action, plug)
        writer.write(f"{ident} {answer}\n".encode())

    def status(self):
        return {"state": self.state, "pid": self.pid, "boot_seconds": self.boot_seconds,
                "exec_port": self.exec_port, "memory_mb": self.spec.memory,
                "networks": list(self.spec.networks)}
