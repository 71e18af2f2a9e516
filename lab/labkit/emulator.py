# SPDX-License-Identifier: Apache-2.0
"""A host that is a QEMU process, and QMP."""
import asyncio
import json
import os
import re
import subprocess

from . import host as hosts
from .life import Machine, die_with_parent
from .place import LabError


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


def one_processor(index):
    """Of the machine's, for the host with that place in the list. QEMU 7.2 marks a virtual interrupt in
    the word of a vCPU's pending interrupts without a lock (helper_vmrun() in svm_helper.c) while its
    main loop may mark the timer's there: then that is lost, and all in the host that waits for a time
    stands still until some device interrupts. Each mark is one instruction, which another thread of
    the same processor cannot split."""
    mine = sorted(os.sched_getaffinity(0))
    return {mine[(index - 1) % len(mine)]}


class Emulator(Machine):
    LOGS = ("emulator.log", "console.log")
    # An emulated kernel now and then panics in its first second, when the machine is busy: then the
    # emulator ends by itself, and another start does what the first should have done.
    BOOT_TRIES = 3

    def sockets(self):
        return [("qmp", self._serve_qmp), *super().sockets()]

    async def listen(self):
        for net in self.spec.networks:
            stem = f"net/{net}-{self.spec.name}"
            await self.switch.command(f"port {net} {self.spec.name} {stem}.sw {stem}.vm")
        await super().listen()

    async def _launch(self):
        loop = asyncio.get_running_loop()
        if not (self.folder() / "disk.img").exists():
            hosts.disk_make(self.folder() / "disk.img")
        self._ready, self.qmp = loop.create_future(), loop.create_future()
        with open(self.folder() / "emulator.log", "ab") as log:
            return subprocess.Popen(
                hosts.emulator_args(self.spec, self.place, self.config), cwd=self.place.path,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=self._prepare)

    def _prepare(self):
        die_with_parent()
        if self.config["accel"] == "tcg":
            os.sched_setaffinity(0, one_processor(self.spec.index))

    async def _boot(self):
        await self._boot_wait(self._ready)
        text = await (await self.qmp).call("human-monitor-command", **{"command-line": "info usernet"})
        match = re.search(r"HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)", text)
        if not match:
            raise LabError(f"{self.spec.name}: no port for commands: {text}")
        self.exec_port = int(match.group(1))

    def _said_ready(self):
        if not self._ready.done():
            self._ready.set_result(None)

    async def _hold(self, on):
        await (await self.qmp).call("stop" if on else "cont")

    async def _serve_qmp(self, reader, writer):
        await reader.readline()
        qmp = Qmp(reader, writer)
        await qmp.call("qmp_capabilities")
        if not self.qmp.done():
            self.qmp.set_result(qmp)
        await self._gone
        writer.close()

    def status(self):
        return {**super().status(), "memory_mb": self.spec.memory}
