# SPDX-License-Identifier: Apache-2.0
"""Two QEMU processes of this machine, and a migration from one to the other over loopback TCP."""
import json
import os
import pathlib
import secrets
import select
import socket
import subprocess
import time


class QemuError(Exception):
    pass


class Qmp:
    def __init__(self, path, process):
        self.socket, self.pending = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), b""
        self.socket.settimeout(30)
        for _ in range(200):
            try:
                self.socket.connect(str(path))
                break
            except OSError:
                if process.poll() is not None:
                    raise QemuError("qemu has ended") from None
                time.sleep(0.05)
        self._read()
        self("qmp_capabilities")

    def _read(self):
        while b"\n" not in self.pending:
            data = self.socket.recv(65536)
            if not data:
                raise QemuError("qemu has ended")
            self.pending += data
        line, self.pending = self.pending.split(b"\n", 1)
        return json.loads(line)

    def __call__(self, command, **arguments):
        request = {"execute": command, "arguments": arguments}
        self.socket.sendall(json.dumps(request).encode() + b"\n")
        while True:
            answer = self._read()
            if "error" in answer:
                raise QemuError(f"{command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]


class Qemu:
    """One side: its memory is a file, so that both sides' can be compared."""

    def __init__(self, folder, name, guest, cmdline, mib, key=None, incoming=False):
        self.memory = pathlib.Path(folder) / f"{name}.ram"
        qmp = pathlib.Path(folder) / f"{name}.qmp"
        command = ["qemu-system-x86_64", "-machine", "pc,memory-backend=ram", "-accel", "tcg",
                   "-cpu", "qemu64", "-smp", "1", "-m", str(mib), "-nodefaults", "-no-user-config",
                   "-display", "none", "-serial", "stdio", "-qmp", f"unix:{qmp},server=on,wait=off",
                   "-object", f"memory-backend-file,id=ram,size={mib}M,mem-path={self.memory},share=on",
                   "-kernel", str(guest), "-append", cmdline]
        if key:
            end = "server" if incoming else "client,username=bench"
            command += ["-object", f"tls-creds-psk,id=tls,dir={key},endpoint={end}"]
        if incoming:
            command += ["-incoming", "defer", "-S"]
        self.text, self.error = b"", pathlib.Path(folder) / f"{name}.err"
        with open(self.error, "wb") as error:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL,
                                            stdout=subprocess.PIPE, stderr=error)
        try:
            self.qmp = Qmp(qmp, self.process)
        except (QemuError, OSError) as err:
            self.end()
            raise QemuError(f"{err}: {self.error.read_text()}") from None

    def wait_line(self, word, limit=120):
        """Until a line with this word is printed after now."""
        deadline, seen = time.monotonic() + limit, b""
        while word.encode() not in seen:
            left = deadline - time.monotonic()
            if left <= 0 or b"FAIL" in seen:
                raise QemuError(f"the guest does not say \"{word}\": {seen[-200:]!r}")
            if select.select([self.process.stdout], [], [], left)[0]:
                data = os.read(self.process.stdout.fileno(), 65536)
                if not data:
                    raise QemuError(f"qemu has ended: {self.error.read_text()}")
                seen += data

    def cpu_seconds(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self):
        self.process.kill()
        self.process.stdout.close()
        self.process.wait()
        self.memory.unlink(missing_ok=True)


def version():
    done = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True,
                          check=True)
    return done.stdout.splitlines()[0]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def configure(qmp, channels, limit_ms, tls):
    capabilities = {"multifd": True, "auto-converge": limit_ms is not None}
    qmp("migrate-set-capabilities",
        capabilities=[{"capability": c, "state": s} for c, s in capabilities.items()])
    parameters = {"multifd-channels": channels, "max-bandwidth": 1 << 40}
    if limit_ms is not None:
        parameters["downtime-limit"] = limit_ms
    if tls:
        parameters["tls-creds"] = "tls"
    qmp("migrate-set-parameters", **parameters)


def wait_completed(source, limit):
    deadline = time.monotonic() + limit
    while True:
        info = source.qmp("query-migrate")
        if info.get("status") in ("completed", "failed", "cancelled"):
            return info
        if time.monotonic() > deadline:
            return None
        time.sleep(0.02)


def run(source, target, port, limit):
    """One migration; None when it has not converged within `limit` seconds."""
    cpu = source.cpu_seconds(), target.cpu_seconds()
    target.qmp("migrate-incoming", uri=f"tcp:127.0.0.1:{port}")
    source.qmp("migrate", uri=f"tcp:127.0.0.1:{port}")
    info = wait_completed(source, limit)
    if info is None:
        return None
    if info["status"] != "completed":
        raise QemuError(f"migration {info['status']}: {info.get('error-desc', '')}"
                        f" {target.error.read_text()}")
    for _ in range(500):
        if target.qmp("query-status")["status"] != "inmigrate":
            break
        time.sleep(0.01)
    ram = info["ram"]
    return {"seconds": info["total-time"] / 1e3, "downtime_ms": info["downtime"],
            "wire_bytes": ram["transferred"], "mbps": ram["mbps"],
            "rounds": ram["dirty-sync-count"],
            "sender_cpu_seconds": source.cpu_seconds() - cpu[0],
            "receiver_cpu_seconds": target.cpu_seconds() - cpu[1]}


def migrate(folder, guest, cmdline, mib, *, channels, tls, limit_ms=None, dirtying=False, limit=60):
    """Start both, migrate, compare memory, let the guest go on. `limit_ms`: of downtime, with
    auto-converge; None: QEMU's own, without."""
    key = None
    if tls:
        key = pathlib.Path(folder) / "psk"
        key.mkdir(exist_ok=True)
        (key / "keys.psk").write_text(f"bench:{secrets.token_hex(32)}\n")
    sides = []
    try:
        sides.append(Qemu(folder, "source", guest, cmdline, mib, key))
        sides.append(Qemu(folder, "target", guest, cmdline, mib, key, incoming=True))
        source, target = sides
        source.wait_line("pass" if dirtying else "filled")
        configure(source.qmp, channels, limit_ms, tls)
        configure(target.qmp, channels, limit_ms, tls)
        result = run(source, target, free_port(), limit)
        if result is None:
            return None
        if subprocess.run(["cmp", source.memory, target.memory], check=False).returncode:
            raise QemuError("the memory at the target differs")
        target.qmp("cont")
        if dirtying:
            target.wait_line("pass")
        return result
    finally:
        for side in sides:
            side.end()
