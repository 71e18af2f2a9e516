# SPDX-License-Identifier: Apache-2.0
"""The one background process of a lab: it owns the switch and the hosts, answers fencing, and
takes the commands of `lab`. Its children die with it."""
import asyncio
import json
import os
import pathlib
import secrets
import shutil
import signal
import socket
import subprocess
import time

from . import host as hosts
from .emulator import Emulator
from .life import die_with_parent
from .namespaces import NamespaceHost
from .place import LabError

NETWORKS = ("repl", "front")
FENCE_MODES = ("fail", "hang")


class Switch:
    """The lab's layer 2 switch, a child process that takes lines (see labswitch.c)."""

    def __init__(self, place, program):
        self._place, self._program = place, program
        self._lock = asyncio.Lock()
        self.process = None

    async def start(self):
        ours, theirs = socket.socketpair()
        self.process = subprocess.Popen([str(self._program)], cwd=self._place.path, stdin=theirs,
                                        stdout=theirs, preexec_fn=die_with_parent)
        theirs.close()
        self._reader, self._writer = await asyncio.open_connection(sock=ours)

    async def command(self, line):
        async with self._lock:
            self._writer.write(line.encode() + b"\n")
            answer = (await self._reader.readline()).decode().strip()
        if not answer.startswith("ok"):
            raise LabError(f"switch: {line}: {answer or 'it is gone'}")
        return answer[2:].strip()


class Supervisor:
    def __init__(self, place, config):
        self.place, self.config = place, config
        self.switch = Switch(place, pathlib.Path(config["tools"]) / "labswitch")
        kind = NamespaceHost if config["accel"] == "namespaces" else Emulator
        self.machines = {spec.name: kind(spec, place, config, self.switch, self.fence)
                         for spec in hosts.specs(config["hosts"])}
        self.broken = {}
        self.cuts = []
        self.fenced = []
        self.settled = False
        self.end = asyncio.Event()

    # ---- life

    async def run(self, control):
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.end.set)
        server = await asyncio.start_unix_server(self._serve, sock=control)
        await self.end.wait()
        server.close()
        await self.close()

    async def close(self):
        for machine in self.machines.values():
            await machine.kill()
        if self.switch.process:
            self.switch.process.kill()
            self.switch.process.wait()

    async def _serve(self, reader, writer):
        async def answer(**fields):
            writer.write(json.dumps(fields).encode() + b"\n")
            await writer.drain()

        line = await reader.readline()
        watch = asyncio.ensure_future(reader.read(1))
        try:
            request = json.loads(line)
            operation = getattr(self, "op_" + request.pop("op"))
            work = asyncio.ensure_future(operation(answer, **request))
            # Whoever asked for the lab and is gone before it is up does not want it.
            await asyncio.wait((work, watch), return_when=asyncio.FIRST_COMPLETED)
            if not work.done() and not self.settled:
                self.end.set()
                return
            await answer(ok=True, **(await work or {}))
        except (LabError, OSError, ValueError, TypeError, AttributeError) as err:
            if not self.end.is_set():
                await answer(ok=False, error=str(err))
        finally:
            watch.cancel()
            writer.close()

    # ---- operations, by the names that `lab` uses

    async def op_up(self, answer):
        await self._share_fill()
        await self.switch.start()
        for machine in self.machines.values():
            await machine.listen()

        async def one(machine):
            await machine.start()
            await answer(event=f"{machine.spec.name} is up after {machine.boot_seconds:.1f} s")

        try:
            await asyncio.gather(*(one(m) for m in self.machines.values()))
        except BaseException:
            asyncio.get_running_loop().call_later(0.5, self.end.set)
            raise
        self.settled = True

    async def _share_fill(self):
        share = self.place.share
        (share / ".hosts").write_text(hosts.hosts_file([m.spec for m in self.machines.values()]))
        token = share / ".token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(16))
        (share / "bin").mkdir(exist_ok=True)
        guest = self.config.get("guest")
        if guest and os.path.isdir(guest):
            # What is hidden is about to be renamed, by another lab that begins.
            shutil.copytree(guest, share / "guest", dirs_exist_ok=True,
                            ignore=shutil.ignore_patterns(".*"))

    def _machine(self, name):
        if name not in self.machines:
            raise LabError(f"no host {name} here: {', '.join(self.machines)}")
        return self.machines[name]

    async def op_host(self, _answer, host):
        return self._machine(host).status()

    async def op_start(self, _answer, host):
        machine = self._machine(host)
        await machine.start()
        return machine.status()

    async def op_kill(self, _answer, host):
        await self._machine(host).kill()

    async def op_freeze(self, _answer, host):
        await self._machine(host).freeze(True)

    async def op_thaw(self, _answer, host):
        await self._machine(host).freeze(False)

    async def op_cut(self, _answer, net="*", host="*", peer="*", direction="both"):
        await self._links("cut", net, host, peer, direction)
        self.cuts.append([net, host, peer, direction])

    async def op_heal(self, _answer, net="*", host="*", peer="*", direction="both"):
        await self._links("heal", net, host, peer, direction)
        if (net, host, peer, direction) == ("*", "*", "*", "both"):
            self.cuts.clear()
        else:
            self.cuts = [c for c in self.cuts if c != [net, host, peer, direction]]

    async def _links(self, verb, net, host, peer, direction):
        if direction in ("both", "out"):
            await self.switch.command(f"{verb} {net} {host} {peer}")
        if direction in ("both", "in"):
            await self.switch.command(f"{verb} {net} {peer} {host}")

    async def op_delay(self, _answer, usec, net="*", host="*"):
        await self.switch.command(f"delay {net} {host} {usec}")

    async def op_loss(self, _answer, permille, net="*", host="*"):
        await self.switch.command(f"loss {net} {host} {permille}")

    async def op_pcap(self, _answer, net, on):
        await self.switch.command(f"pcap {net} pcap/{net}.pcap" if on else f"pcap {net} off")
        return {"path": str(self.place.path / "pcap" / f"{net}.pcap")}

    async def op_fence(self, _answer, host=None, mode=None):
        """Breaks the fencing of a host, or repairs it (mode None; of all without a host)."""
        if mode is None:
            for name in [host] if host else list(self.broken):
                self.broken.pop(name, None)
            return
        if mode not in FENCE_MODES:
            raise LabError(f"a fence breaks in one of these ways: {', '.join(FENCE_MODES)}")
        self._machine(host)
        self.broken[host] = mode

    async def op_status(self, _answer):
        return {"dir": str(self.place.path), "pid": os.getpid(), "accel": self.config["accel"],
                "accel_why": self.config["accel_why"],
                "hosts": {n: m.status() for n, m in self.machines.items()},
                "cuts": self.cuts, "fence_broken": self.broken, "fenced": self.fenced,
                "switch": await self.switch.command("stats")}

    async def op_down(self, _answer):
        self.end.set()

    # ---- fencing, asked by hosts through their port

    async def fence(self, action, plug):
        if action == "monitor":
            return "ok"
        if plug not in self.machines:
            return f"fail no host {plug}"
        if self.broken.get(plug) == "hang":
            await self.end.wait()
        if self.broken.get(plug) == "fail":
            return "fail the fence device does not answer"
        machine = self.machines[plug]
        if action == "status":
            return "off" if machine.state == "off" else "on"
        if action == "off":
            began = time.monotonic()
            await machine.kill()
            self.fenced.append({"host": plug, "at": time.time(),
                                "ms": round((time.monotonic() - began) * 1000, 3)})
            return "ok"
        if action == "on":
            try:
                await machine.start()
            except LabError as err:
                return f"fail {str(err).splitlines()[0]}"
            return "ok"
        return f"fail no action {action}"


def main(place, config, control_fd):
    place.supervisor_record(os.getpid())
    control = socket.socket(fileno=control_fd)

    async def run():
        await Supervisor(place, config).run(control)

    asyncio.run(run())
