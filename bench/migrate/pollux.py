# SPDX-License-Identifier: Apache-2.0
"""Two polluxd of this machine with certificates of their own, and `pollux migrate` between them."""
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import time

GUEST_PROGRAM = 8 << 20  # below: the guest's own data and stack
PAGE = 4096


class PolluxError(Exception):
    pass


def there(build):
    done = subprocess.run([build / "pollux", "help", "migrate"], capture_output=True, check=False)
    return done.returncode == 0


def free_ports():
    with socket.socket() as a, socket.socket() as b:
        a.bind(("127.0.0.1", 0))
        b.bind(("127.0.0.1", 0))
        return a.getsockname()[1], b.getsockname()[1]


def wait_until(condition, seconds, what):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise PolluxError(f"waited {seconds} s for: {what}")
        time.sleep(0.02)


class Host:
    def __init__(self, folder, build, name, port, peer, peer_port):
        self.build, self.config = build, folder / f"{name}.conf"
        pki, self.log = folder / "pki", folder / f"{name}.log"
        self.config.write_text(f'''name = "{name}"; address = "127.0.0.1"; port = {port};
state_dir = "{folder}/state-{name}"; run_dir = "{folder}/run-{name}"; log_level = "info"; vm_program = "{folder}/pollux-vm";
ca = "{pki}/ca.crt"; cert = "{pki}/{name}.crt"; key = "{pki}/{name}.key";
heartbeat_ms = 100; loss_ms = 5000;
peers = ( {{ name = "{peer}"; address = "127.0.0.1"; port = {peer_port}; }} );
''')
        with open(self.log, "ab") as log:
            self.daemon = subprocess.Popen([build / "polluxd", "--config", self.config], stderr=log,
                                           stdin=subprocess.DEVNULL)

    def pollux(self, *args):
        done = subprocess.run([self.build / "pollux", *args, "--config", self.config], check=False,
                              capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise PolluxError(f"pollux {' '.join(map(str, args))}: {done.stderr}{done.stdout}")
        return done.stdout

    def answers(self, *args):
        try:
            return self.pollux(*args)
        except PolluxError:
            return ""

    def vm(self):
        return json.loads(self.pollux("status", "migrant", "--json"))

    def memory(self):
        """The file of the guest's memory, which then outlives its process."""
        folder = pathlib.Path(f"/proc/{self.vm()['pid']}/fd")
        for fd in folder.iterdir():
            with contextlib.suppress(OSError):
                if os.readlink(fd).startswith("/memfd:guest-ram"):
                    return os.open(fd, os.O_RDONLY)
        raise PolluxError("the guest's memory is not to be found")

    def wait_line(self, word, limit=120):
        console = socket.socket(socket.AF_UNIX)
        seen, end = b"", time.monotonic() + limit
        console.settimeout(1)
        with console:
            console.connect(self.vm()["console"])
            while word.encode() not in seen:
                if b"FAIL" in seen or time.monotonic() > end:
                    raise PolluxError(f"the guest does not say \"{word}\": {seen[-200:]!r}")
                with contextlib.suppress(TimeoutError):
                    seen += console.recv(65536)

    def end(self):
        for vm in json.loads(self.answers("list", "--json") or '{"vms": []}')["vms"]:
            if vm["pid"]:
                os.kill(vm["pid"], signal.SIGKILL)
        self.daemon.terminate()
        self.daemon.wait(20)


def our_weight():
    try:
        return pathlib.Path("/proc/self/autogroup").read_text().split()[-1]
    except (OSError, IndexError):
        return "0"


@contextlib.contextmanager
def hosts(folder, build):
    folder = folder / "pollux"
    (folder / "pki").mkdir(parents=True, exist_ok=True)
    if not (folder / "pki/ca.crt").exists():
        for args in (["init-ca"], ["issue", "hosta"], ["issue", "hostb"]):
            subprocess.run([build / "pollux", "pki", *args, "--dir", folder / "pki"], check=True,
                           capture_output=True)
    # Its words of each round tell the forecast. A session of its own: it has to be given our weight.
    program = folder / "pollux-vm"
    program.write_text(f'#!/bin/sh\necho {our_weight()} 2>/dev/null >/proc/self/autogroup\n'
                       f'exec "{build}/pollux-vm" --debug "$@"\n')
    program.chmod(0o755)
    a, b = free_ports()
    both = []
    try:
        both.append(Host(folder, build, "hosta", a, "hostb", b))
        both.append(Host(folder, build, "hostb", b, "hosta", a))
        for host in both:
            wait_until(lambda host=host: host.answers("status"), 20, "polluxd")
        wait_until(lambda: '"connected": true' in both[0].answers("list", "--peers", "--json"), 20,
                   "the peers are connected")
        yield folder, both
    finally:
        for host in both:
            host.end()
        for rest in (*folder.glob("state-*"), *folder.glob("run-*"), *folder.glob("*.log")):
            shutil.rmtree(rest) if rest.is_dir() else rest.unlink()


def memory_compare(source, target, first, last):
    me = f"/proc/{os.getpid()}/fd"
    done = subprocess.run(["cmp", "-i", str(first), "-n", str(last - first), f"{me}/{source}",
                           f"{me}/{target}"], check=False, capture_output=True, text=True)
    if done.returncode:
        raise PolluxError(f"the memory at the target differs: {done.stdout}{done.stderr}")


def gave_up(log, limit_ms):
    """Throttled as far as it may be, and the pause would still be too long."""
    forecasts = re.findall(r"forecast ([\d.]+) ms", log)
    return "is throttled by" in log and float(forecasts[-1]) > limit_ms


def result_of(vm, log):
    """From the status of a VM that has moved away, and what its process said of each round."""
    m = vm["migration"]
    rounds = re.findall(r"round (\d+): (\d+) pages in ([\d.]+) ms, (\d+) dirty", log)
    throttles = re.findall(r"throttled by (\d+) %", log)
    return {"seconds": m["elapsed_ms"] / 1e3, "downtime_ms": m["downtime_ns"] / 1e6,
            "forecast_ms": m["forecast_ns"] / 1e6, "rounds": int(rounds[-1][0]) + 1,
            "handover_ms": {k.removesuffix("_ns"): v / 1e6 for k, v in m["handover"].items()},
            "trace": [[int(pages), float(ms), int(dirty)] for _, pages, ms, dirty in rounds],
            "throttle": max(map(int, throttles), default=0),
            "wire_bytes": m["last"]["replication"]["bytes_sent"]}


def move(source, target, streams, limit_ms, load, mib):
    memory = source.memory()
    try:
        source.wait_line("pass" if load else "filled")
        done = subprocess.run([source.build / "pollux", "migrate", "migrant", "hostb", "--streams",
                               str(streams), "--downtime", str(limit_ms), "--json", "--config",
                               source.config], check=False, capture_output=True, text=True,
                              timeout=180)
        if done.returncode:
            if gave_up(source.log.read_text(), limit_ms):
                return None
            raise PolluxError(done.stderr + done.stdout)
        result = result_of(json.loads(done.stdout.splitlines()[-1])["vm"], source.log.read_text())
        if load:
            target.wait_line("pass")
        moved = target.memory()
        # What a running guest writes is checked by itself.
        first = GUEST_PROGRAM + load[0] * PAGE if load else 0
        memory_compare(memory, moved, first, mib << 20)
        os.close(moved)
        return result
    finally:
        os.close(memory)


def migrate(folder, build, guest, cmdline, mib, *, streams, limit_ms, load):
    with hosts(folder, build) as (place, (source, target)):
        file = place / "migrant.cfg"
        file.write_text(f'name = "migrant"; memory = "{mib}M"; vcpus = 1; engine = "soft";\n'
                        f'kernel = "{guest}"; cmdline = "{cmdline}";\n')
        source.pollux("start", file)
        return move(source, target, streams, limit_ms, load, mib)
