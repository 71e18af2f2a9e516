# SPDX-License-Identifier: Apache-2.0
"""The running side of a host, within the supervisor, whatever the host is made of: its life, its
fence and what is told of it."""
import asyncio
import ctypes
import os
import signal
import time

from .place import LabError

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent():
    """For preexec_fn: the child does not outlive the supervisor, whatever ends that."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class BootEnded(Exception):
    """The host ended by itself while it booted."""


class Machine:
    """States: off -> booting -> up <-> frozen, and off from each."""

    LOGS = ("console.log",)
    BOOT_TRIES = 1

    def __init__(self, spec, place, config, switch, on_fence):
        self.spec, self.place, self.config, self.switch = spec, place, config, switch
        self.state = "off"
        self.pid = self.exec_port = self.boot_seconds = None
        self._on_fence = on_fence
        self._process = self._gone = None
        self._killed = False
        self._listeners = []

    # ---- what each kind does in its own way

    async def _launch(self):
        """Starts the process, and returns it."""
        raise NotImplementedError

    async def _boot(self):
        """Returns once commands can be run on the host; BootEnded when self._gone came before."""
        raise NotImplementedError

    async def _slay(self):
        self._process.kill()

    async def _hold(self, on):
        """Freezes all that runs on the host, or lets it go on."""
        raise NotImplementedError

    def sockets(self):
        """[(name, what serves a connection)], in the host's folder."""
        return [("fence", self._serve_fence)]

    # ---- life

    def folder(self):
        return self.place.host(self.spec.name)

    async def listen(self):
        """The host connects to us: so there is nothing to poll for, and a second start finds the
        same sockets."""
        self.folder().mkdir(parents=True, exist_ok=True)
        for name, serve in self.sockets():
            sock = self.place.listen(f"hosts/{self.spec.name}/{name}.sock")
            self._listeners.append(await asyncio.start_unix_server(serve, sock=sock))

    async def start(self):
        """Returns once commands can be run on the host."""
        if self.state != "off":
            raise LabError(f"{self.spec.name} is {self.state} already")
        self._killed = False
        for tries in range(self.BOOT_TRIES, 0, -1):
            try:
                await self._start_once()
                return
            except BootEnded:
                if tries == 1 or self._killed:
                    raise LabError(f"{self.spec.name}: it ended while booting\n"
                                   f"{self._log_tail()}") from None
                print(f"{self.spec.name}: it ended while booting; once more\n"
                      f"{self._log_tail()}", flush=True)

    async def _start_once(self):
        loop = asyncio.get_running_loop()
        self.state, began = "booting", time.monotonic()
        self._gone = loop.create_future()
        try:
            self._process = await self._launch()
        except BaseException:
            self.state = "off"
            raise
        self.pid = self._process.pid
        pidfd = os.pidfd_open(self.pid)
        loop.add_reader(pidfd, self._exited, pidfd)
        await self._boot()
        self.boot_seconds = time.monotonic() - began
        self.state = "up"

    async def _boot_wait(self, work):
        """The result of an awaitable that needs the host alive."""
        work = asyncio.ensure_future(work)
        await asyncio.wait((work, self._gone), timeout=self.config["boot_timeout"],
                           return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        work.cancel()
        if self._gone.done():
            raise BootEnded
        raise LabError(f"{self.spec.name}: it does not come up\n{self._log_tail()}")

    def _log_tail(self):
        lines = []
        for name in self.LOGS:
            try:
                lines += (self.folder() / name).read_text(errors="replace").splitlines()[-12:]
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
        """Returns once all of it is gone, also where it was gone before."""
        self._killed = True
        if self.state == "off":
            return
        await self._slay()
        await self._gone

    async def freeze(self, on):
        if self.state != ("up" if on else "frozen"):
            raise LabError(f"{self.spec.name} is {self.state}")
        await self._hold(on)
        self.state = "frozen" if on else "up"

    # ---- the fence

    async def _serve_fence(self, reader, writer):
        while line := await reader.readline():
            words = line.decode(errors="replace").split()
            if words[:2] == ["boot", "ready"]:
                self._said_ready()
            elif len(words) == 3:
                asyncio.ensure_future(self._answer(writer, *words))
        writer.close()

    def _said_ready(self):
        pass

    async def _answer(self, writer, ident, action, plug):
        answer = await self._on_fence(action, plug)
        writer.write(f"{ident} {answer}\n".encode())

    def status(self):
        return {"state": self.state, "pid": self.pid, "boot_seconds": self.boot_seconds,
                "exec_port": self.exec_port, "networks": list(self.spec.networks)}
