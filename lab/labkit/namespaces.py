# SPDX-License-Identifier: Apache-2.0
"""Hosts that are sets of namespaces on this machine: a process tree, a root, a /var and networks of
their own. What they are to each other is the same as for emulated hosts: frames through the lab's
switch. The lab itself has a network namespace, and for an ordinary user a user namespace."""
import asyncio
import os
import pathlib
import shutil
import signal
import socket
import subprocess

from .host import REPL_MTU
from .life import Machine, die_with_parent
from .place import CHECKOUT, LabError

HOST_FLAGS = ["--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child"]
NUMBERS = {"repl": 1, "front": 2}
STOP_LOOKS = 1000  # a hundredth of a second apart
TRY = ("mount -t proc proc /proc && mount -t sysfs sys /sys && mount -t tmpfs lab /mnt || exit 3; "
       "(: <> /dev/net/tun) || exit 4")


def _tried(prefix):
    """Whether hosts can be made so; else why not."""
    done = subprocess.run([*prefix, "unshare", *HOST_FLAGS, "sh", "-c", TRY],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode == 0:
        return None
    if done.returncode == 4:
        return "no access to /dev/net/tun"
    return (done.stderr.strip().splitlines() or ["unshare fails"])[-1]


def entrance():
    """(command that runs another one where hosts can be made, in words what that is)."""
    for program, package in (("unshare", "util-linux"), ("ip", "iproute2"),
                             ("busybox", "busybox-static")):
        if not shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin"):
            raise LabError(f"{program} is not installed (package {package})")
    reasons = []
    for flags, words in ((["--net"], "as root"),
                         (["--user", "--map-root-user", "--net"], "in a user namespace")):
        if words == "as root" and os.geteuid() != 0:
            continue
        why_not = _tried(["unshare", *flags])
        if why_not is None:
            return ["unshare", *flags, "--"], words
        reasons.append(f"{words}: {why_not}")
    raise LabError(f"hosts cannot be namespaces here: {'; '.join(reasons)}")


def _process_ids():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _parent(pid):
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(text[text.rindex(")") + 2:].split()[1])


def _runs(pid):
    """Whether it is neither stopped nor dead."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text[text.rindex(")") + 2] not in "TtZX"


def process_namespace(pid, kind="pid"):
    """The number of a process's PID namespace."""
    try:
        return os.stat(f"/proc/{pid}/ns/{kind}").st_ino
    except OSError:
        return None


def child_namespace(pid):
    """That of its children: the host's, for the pid that the host's status tells."""
    return process_namespace(pid, "pid_for_children")


class NamespaceHost(Machine):
    """The process is `unshare`, which waits for the host's first process, at whose end the kernel
    has ended all others of the host."""

    async def _launch(self):
        folder = self.folder()
        for name in ("root", "var"):
            (folder / name).mkdir(exist_ok=True)
        self._init = None
        ours, theirs = socket.socketpair()
        argv = ["unshare", *HOST_FLAGS, str(CHECKOUT / "lab/namespace-init"), self.spec.name,
                str(self.spec.index), str(REPL_MTU), "" if self.spec.client else "1", str(folder),
                str(self.place.share), self.config["build"], self.config["tools"], str(CHECKOUT)]
        with theirs, open(folder / "console.log", "ab") as log:
            process = subprocess.Popen(argv, cwd="/", stdin=theirs, stdout=log, stderr=log,
                                       preexec_fn=die_with_parent)
        self._reader, self._writer = await asyncio.open_connection(sock=ours)
        return process

    async def _boot(self):
        await self._told("made")
        (self._init,) = [p for p in _process_ids() if _parent(p) == self.pid]
        for network in self.spec.networks:
            await self._link(network)
        self._writer.write(b"go\n")
        await self._told("ready go")

    async def _told(self, what):
        line = (await self._boot_wait(self._reader.readline())).decode().strip()
        if not line:
            await self._boot_wait(asyncio.Event().wait())
        if line != what:
            raise LabError(f"{self.spec.name}: it said {line!r}, not {what!r}\n{self._log_tail()}")

    async def _link(self, network):
        """The names are the lab's, until the host gives its own to what it finds by address."""
        interface = f"{network}{self.spec.index}"
        await self.switch.command(f"tap {network} {self.spec.name} {interface}")
        for words in (f"address 52:54:00:77:{NUMBERS[network]:02x}:{self.spec.index:02x}",
                      f"netns {self.pid}"):
            done = subprocess.run(["ip", "link", "set", interface, *words.split()],
                                  capture_output=True, text=True)
            if done.returncode:
                raise LabError(f"{self.spec.name}: ip link set {interface} {words}: "
                               f"{done.stderr.strip()}")

    async def _mute(self, on):
        """A host that is dead or frozen says nothing, whatever its kernel still would: no FIN, no
        RST, no acknowledgement."""
        for network in self.spec.networks:
            await self.switch.command(f"mute {network} {self.spec.name} {'on' if on else 'off'}")

    async def _slay(self):
        if self._init is None:
            self._process.kill()
            return
        await self._mute(True)
        try:
            os.kill(self._init, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def _processes(self):
        inside = process_namespace(self._init)
        return {p for p in _process_ids() if process_namespace(p) == inside}

    async def _hold(self, on):
        if on:
            await self._mute(True)
        done = set()
        # What is stopped forks no more: until a round finds nobody new.
        while new := self._processes() - done:
            for pid in new:
                try:
                    os.kill(pid, signal.SIGSTOP if on else signal.SIGCONT)
                except ProcessLookupError:
                    pass
            done |= new
        # One that slept is woken before it stops.
        for _ in range(STOP_LOOKS):
            if not on or not any(_runs(pid) for pid in done):
                break
            await asyncio.sleep(0.01)
        if not on:
            await self._mute(False)

    def status(self):
        return {**super().status(), "exec_path": f"hosts/{self.spec.name}/exec.sock"
                if self.state in ("up", "frozen") else None}
