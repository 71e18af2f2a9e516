# SPDX-License-Identifier: Apache-2.0
"""Pollux on a lab's hosts: polluxd on hosta and hostb, the lab's guest, a client that watches it.
What the demo and the scenarios have in common."""
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import time

from . import remote, wire
from .place import CHECKOUT, LabError

GUEST_ADDRESS = "10.78.0.100"
GUEST_CMDLINE = ("console=ttyS0 quiet no_timer_check tsc=reliable cryptomgr.notests "
                 "8250.nr_uarts=1 random.trust_cpu=on mitigations=off "
                 f"pollux.ip={GUEST_ADDRESS}/24")
DISK = "/var/lib/pollux/{vm}.img"
SHARED_DISK = "/lab/{vm}.img"
# By what the hosts are. An emulated host now and then stands still for hundreds of milliseconds.
TIMES_MS = {"emulated": {"heartbeat": 100, "loss": 1500, "fence_delay": 3000},
            "namespaces": {"heartbeat": 50, "loss": 500, "fence_delay": 1500}}

# What a host has logged, what waits for what there, and what its guest says now.
LOGS = ("cat /var/log/polluxd.log /tmp/*.out /tmp/*.log /tmp/console 2>/dev/null; dmesg | tail -50; "
        "uptime; ps -eLo pid,tid,cls,stat,time,wchan:24,comm --ppid 2 -N; "
        "timeout 10 {programs}/pollux status --json demo 2>&1; "
        "timeout 3 {programs}/pollux console demo </dev/null 2>&1")


class CommandFailed(LabError):
    def __init__(self, host, line, code, output):
        super().__init__(f"{host}: `{line}` ended with {code}: {output.strip()[-600:]}")
        self.code, self.output = code, output


def _quoted(value):
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


class Cluster:
    """engine: what guests run under; None is what their host thinks best."""

    def __init__(self, place, build, kind="emulated", engine=None, **times_ms):
        self.place, self.build, self.kind, self.engine = place, pathlib.Path(build), kind, engine
        self.fence, self.times_ms = True, {**TIMES_MS[kind], **times_ms}
        self.programs, self.disk = "/pollux", DISK

    # ---- commands on hosts ----

    def run(self, host, line, timeout=60, check=True):
        """Runs a shell line on a host; returns (exit code, what it printed)."""
        output = bytearray()
        code = remote.execute(self.place, host, line, stdout=output.extend, stderr=output.extend,
                              timeout=timeout)
        text = output.decode(errors="replace")
        if check and code:
            raise CommandFailed(host, line, code, text)
        return code, text

    def background(self, host, line, log):
        """Starts a shell line that outlives this call; its pid is in LOG.pid on the host."""
        self.run(host, f"setsid sh -c {shlex.quote(f'echo $$ > {log}.pid; exec {line}')} "
                       f"</dev/null >{log} 2>&1 &")

    def pollux(self, host, *args, timeout=60, check=True):
        line = shlex.join([f"{self.programs}/pollux", *args])
        return self.run(host, line, timeout, check)

    def status(self, host, vm):
        return json.loads(self.pollux(host, "status", vm, "--json")[1])

    def wait(self, what, condition, timeout, every=0.2):
        """Polls until condition() is true, and returns its value."""
        deadline = time.monotonic() + timeout
        while True:
            value = condition()
            if value:
                return value
            if time.monotonic() > deadline:
                raise LabError(f"after {timeout:g} s still not: {what}")
            time.sleep(every)

    # ---- polluxd ----

    def certificates(self, hosts):
        folder = self.place.share / "pki"
        if folder.exists():
            return
        pollux = [str(self.build / "pollux"), "pki"]
        for args in (["init-ca", "--dir", str(folder)],
                     *(["issue", h, "--role", "peer", "--dir", str(folder)] for h in hosts)):
            done = subprocess.run(pollux + args, capture_output=True, text=True)
            if done.returncode:
                raise LabError(f"pollux pki {' '.join(args)}: {done.stderr.strip()}")

    def _peer(self, name):
        fence = ""
        if self.fence:
            fence = (f'fence = {{ command = "/lab/bin/fence-lab"; '
                     f'options = {{ plug = {_quoted(name)}; }}; timeout_s = 10; }};')
        return f'{{ name = {_quoted(name)}; address = "{name}-repl"; port = 4077; {fence} }}'

    def _config(self, name, peers):
        pki = "/lab/pki"
        return (f'name = {_quoted(name)};\naddress = "{name}-repl";\nport = 4077;\n'
                f'state_dir = "/var/lib/pollux";\nrun_dir = "/run/pollux";\n'
                f'vm_program = "{self.programs}/pollux-vm";\n'
                f'ca = "{pki}/ca.crt";\ncert = "{pki}/{name}.crt";\nkey = "{pki}/{name}.key";\n'
                f'heartbeat_ms = {self.times_ms["heartbeat"]};\n'
                f'loss_ms = {self.times_ms["loss"]};\n'
                f'fence_delay_ms = {self.times_ms["fence_delay"]};\n'
                f'peers = ( {", ".join(self._peer(p) for p in peers)} );\n')

    def prepare(self, hosts=("hosta", "hostb")):
        self.certificates(hosts)
        for name in hosts:
            text = self._config(name, [h for h in hosts if h != name])
            (self.place.share / f"{name}.conf").write_text(text)
            self.polluxd_start(name)
        for name in hosts:
            self.wait(f"polluxd on {name} answers",
                      lambda n=name: self.pollux(n, "list", check=False)[0] == 0, 30)

    def polluxd_start(self, host):
        self.run(host, "mkdir -p /run/pollux /var/lib/pollux")
        self.background(host, f"{self.programs}/polluxd --config /lab/{host}.conf",
                        "/var/log/polluxd.log")

    # ---- the guest ----

    def guest_config(self, vm="demo", memory="96M", vcpus=2, load="", more="", engine=None,
                     cpu=None, disk=DISK):
        self.disk = disk
        cmdline = " ".join(filter(None, [GUEST_CMDLINE, load and f"pollux.load={load}", more]))
        cpu_line = f"cpu = {_quoted(cpu)};\n" if cpu else ""
        path = self.place.share / f"{vm}.cfg"
        path.write_text(
            f'name = "{vm}";\nmemory = "{memory}";\nvcpus = {vcpus};\n'
            f'kernel = "/lab/guest/vmlinux";\ninitrd = "/lab/guest/initrd.img";\n'
            f'cmdline = {_quoted(cmdline)};\n'
            f'engine = {_quoted(engine or self.engine or "auto")};\n'
            f'{cpu_line}'
            f'disks = ( {{ path = "{self.disk.format(vm=vm)}"; size = "8M"; }} );\n'
            f'nics = ( {{ tap = "{vm}0"; bridge = "br0"; mac = "52:54:00:99:00:01"; }} );\n')
        return f"/lab/{vm}.cfg"

    def guest_start(self, host="hosta", vm="demo", **options):
        self.pollux(host, "start", self.guest_config(vm, **options), timeout=120)

    def guest_wait(self, timeout=120):
        """Until the counter server answers on the front network."""
        probe = f"/lab/guest/counter-client -n 1 -t 2 -o /dev/null {GUEST_ADDRESS}"
        self.wait("the guest's server answers",
                  lambda: self.run("client", probe, timeout=20, check=False)[0] == 0, timeout, 0.5)

    # ---- the client ----

    def client_start(self, pace_ms=20, silence_s=60, log="/tmp/client"):
        self.run("client", f"rm -f {log}.*")
        self.background("client", f"/lab/guest/counter-client -p {pace_ms} -t {silence_s} "
                                  f"-o {log}.log {GUEST_ADDRESS}", f"{log}.out")

    def client_replies(self, log="/tmp/client"):
        """How many replies the client's log holds now."""
        text = self.run("client", f"grep -c ' [0-9]*$' {log}.log; true")[1].strip()
        return int(text) if text.isdigit() else 0

    def client_running(self, log="/tmp/client"):
        return self.run("client", f"kill -0 $(cat {log}.out.pid)", check=False)[0] == 0

    def client_stop(self, log="/tmp/client"):
        """Ends the client; returns its verdict, a dict, and its log's lines."""
        self.run("client", f"kill -TERM $(cat {log}.out.pid)", check=False)
        self.wait("the client has ended", lambda: not self.client_running(log), 70)
        out = self.run("client", f"cat {log}.out")[1]
        text = self.run("client", f"cat {log}.log")[1]
        verdicts = [line for line in out.splitlines() if line.startswith("{")]
        if not verdicts:
            raise LabError(f"the client gave no verdict: {out.strip()[-400:]}")
        (self.place.share / "client.log").write_text(text)
        return json.loads(verdicts[-1]), text.splitlines()

    def probe_start(self, interval_ms, log="/tmp/probe"):
        """Beside the client: echo requests, which need no retransmission to be answered."""
        self.background("client", f"/lab/guest/echo-probe -i {interval_ms} {GUEST_ADDRESS}",
                        f"{log}.out")

    def probe_stop(self, log="/tmp/probe"):
        """What the probe found, a dict."""
        self.run("client", f"kill -TERM $(cat {log}.out.pid)", check=False)
        self.wait("the probe has ended",
                  lambda: self.run("client", f"kill -0 $(cat {log}.out.pid)", check=False)[0], 10)
        text = self.run("client", f"cat {log}.out")[1].strip()
        try:
            return json.loads(text.splitlines()[-1])
        except (ValueError, IndexError):
            raise LabError(f"the probe found nothing: {text[-400:]}") from None

    def disk_verdict(self, host, vm="demo"):
        """The disk image on a host against the client's log; the guest must have ended there."""
        code, text = self.run(host, f"/lab/guest/disk-check {self.disk.format(vm=vm)} "
                                    "/lab/client.log",
                              check=False)
        try:
            verdict = json.loads(text.splitlines()[-1])
        except (ValueError, IndexError):
            raise LabError(f"disk-check on {host} ended with {code}: {text.strip()}") from None
        verdict["ok"] = code == 0
        return verdict

    # ---- clocks ----

    def clock_offset(self, host, tries=5):
        """(offset, uncertainty) in ns of the host's CLOCK_REALTIME to this machine's."""
        best = None
        for _ in range(tries):
            before = time.time_ns()
            there = int(self.run(host, "date +%s%N")[1])
            after = time.time_ns()
            if best is None or after - before < 2 * best[1]:
                best = (there - (before + after) // 2, (after - before) // 2)
        return best

    def logs_save(self, folder):
        """What each host that still answers has logged, for whoever looks into a failure."""
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, host in wire.request(self.place, "status")["hosts"].items():
            if host["state"] != "up":
                continue
            try:
                code, text = self.run(name, LOGS.format(programs=self.programs), timeout=30, check=False)
                (folder / f"{name}.log").write_text(text)
            except LabError as err:
                (folder / f"{name}.log").write_text(str(err))
            shutil.copy(self.place.host(name) / "console.log", folder / f"{name}.console")


def engine_for_guests(build):
    """(the engine that `auto` takes for an ordinary guest on this machine, why)."""
    done = subprocess.run([str(pathlib.Path(build) / "pollux"), "version", "--json"],
                          capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"pollux version: {done.stderr.strip()}")
    passed = []
    for engine in json.loads(done.stdout)["engines"]:
        if engine["usable"] and engine["real_guests"]:
            return engine["name"], "; ".join(passed) or engine["why"]
        passed.append(f"{engine['name']}: {engine['why']}")
    raise LabError(f"no engine here carries an ordinary guest ({'; '.join(passed)})")


def build_folder():
    return pathlib.Path(os.environ.get("POLLUX_BUILD") or CHECKOUT / "build").resolve()
