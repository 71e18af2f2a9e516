# SPDX-License-Identifier: Apache-2.0
"""Two hosts or more on one machine: a polluxd each, its VM processes, and `pollux` to rule them."""
import functools
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import time

from case import PATIENCE
from wire import Proxy

PORTS, PORTS_EACH = range(10000, 32000), 20  # below those that the kernel chooses for anybody


@functools.cache
def first_port():
    """Where no other process begins: each keeps a name of its own for as long as it lives."""
    places = len(PORTS) // PORTS_EACH
    for place in range(places):
        place = (os.getpid() + place) % places
        name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            name.bind(f"\0pollux-native-ports-{place}")
        except OSError:
            name.close()
            continue
        return place * PORTS_EACH, name
    raise AssertionError("all ranges of ports are in use")


def free_ports(n):
    """They stay free until each polluxd has bound its own, and while it is down."""
    (first, _), held = first_port(), []
    for i in range(len(PORTS)):
        s = socket.socket()
        try:
            s.bind(("127.0.0.1", PORTS[(first + i) % len(PORTS)]))
            held.append(s)
        except OSError:
            s.close()
        if len(held) == n:
            break
    ports = [s.getsockname()[1] for s in held]
    for s in held:
        s.close()
    assert len(ports) == n, "there are no free ports"
    return ports


SILENCE = {"loss_ms": 2500}  # for cases that wait until silence is a loss


def wait_until(condition, seconds, what):
    """what: a text, or a function that makes it once the wait was in vain."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, \
            f"waited {seconds} s in vain: {what() if callable(what) else what}"
        time.sleep(0.02)


def reaped(pid):
    """Whoever its parent is: polluxd, or the test, which adopts orphans."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return not os.path.exists(f"/proc/{pid}")


def reap_all():
    """Those that a fence has killed became the test's, and nobody else waits for them."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.02)
        except ChildProcessError:
            return


class Host:
    def __init__(self, hosts, name, ports):
        """ports: of each host, by name."""
        self.hosts, self.name, self.daemon = hosts, name, None
        t = self.t = hosts.t
        self.run, self.config = t.path(f"run-{name}"), t.path(f"{name}.conf")
        self.log = t.path(f"{name}.log")
        t.logs.append(self.log)
        with open(self.config, "w") as f:
            f.write(f'''name = "{name}"; address = "127.0.0.1"; port = {ports[name]};
state_dir = "{t.path("state-" + name)}"; run_dir = "{self.run}";
ca = "{t.path("pki/ca.crt")}"; cert = "{t.path(f"pki/{name}.crt")}"; key = "{t.path(f"pki/{name}.key")}";
heartbeat_ms = {hosts.heartbeat_ms}; loss_ms = {hosts.loss_ms}; fence_delay_ms = 300;
log_level = "debug";{hosts.extra}
peers = ( {", ".join(self.peer(p, hosts.way(name, p)) for p in ports if p != name)} );
''')

    def peer(self, name, port):
        return (f'{{ name = "{name}"; address = "127.0.0.1"; port = {port}; fence = {{ '
                f'command = "{self.t.path("fence")}"; options = {{ plug = "{name}"; }}; '
                f'timeout_s = 20; }}; }}')

    def wrapper(self):
        """With disks of its own: a folder that each host has something else in."""
        if not self.hosts.own_disks:
            return self.hosts.wrap
        own, here = self.t.path(f"disks-{self.name}"), self.t.path("disks")
        for folder in (own, here):
            os.makedirs(folder, exist_ok=True)
        return ["unshare", "-m", "sh", "-c", f'mount --bind {own} {here} && exec "$@"', "sh"]

    def up(self, faults=""):
        with open(self.log, "a") as log:
            self.daemon = subprocess.Popen(
                [*self.wrapper(), f"{self.t.build}/polluxd", "--config", self.config], stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True,
                env={**os.environ, "POLLUX_FAULTS": faults})
        with open(self.t.path(f"{self.name}.pid"), "w") as f:
            f.write(str(self.daemon.pid))
        wait_until(lambda: self.pollux("status").returncode == 0, 20, f"{self.name} answers")

    def pollux(self, *args, background=False):
        argv = [f"{self.t.build}/pollux", *args, "--config", self.config]
        if background:
            return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        return subprocess.run(argv, capture_output=True, text=True, timeout=120)

    def do(self, *args):
        p = self.pollux(*args)
        assert p.returncode == 0, f"{self.name}: pollux {' '.join(args)}: {p.returncode} {p.stderr}"
        return p.stdout

    def refuses(self, code, *args):
        p = self.pollux(*args)
        assert p.returncode == code, f"{self.name}: pollux {' '.join(args)}: {p.returncode}"
        # On a busy machine a line of progress may come before it.
        assert any(line.startswith("pollux: ") for line in p.stderr.splitlines()), p.stderr
        return p.stderr

    def connected(self):
        """With all of its peers."""
        return all(p["connected"] for p in
                   json.loads(self.do("list", "--peers", "--json"))["peers"])

    def vm(self, name="demo"):
        p = self.pollux("status", name, "--json")
        return json.loads(p.stdout) if p.returncode == 0 else {"state": "none", "timeline": []}

    def stats(self):
        """What its VM process counts; {} while it says nothing."""
        return self.vm().get("stats") or {}

    def wait(self, state, seconds=60):
        vm = {}

        def there():
            vm.update(self.vm())
            return vm["state"] == state
        wait_until(there, seconds,
                   lambda: f"{self.name}: {state}, not {vm['state']} ({vm.get('why')})")

    def whats(self):
        return [e["what"] for e in self.vm()["timeline"]]

    def between(self, first, last):
        """Milliseconds between two events of the timeline."""
        at = {e["what"]: e["boottime_ns"] for e in self.vm()["timeline"]}
        return (at[last] - at[first]) / 1e6

    def kill(self):
        """The whole host at once, as far as the other one can tell: silence, not an end."""
        pids = [self.daemon.pid] + self.vm_pids()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        with open(self.t.path(f"{self.name}.pid"), "w") as f:
            f.write(" ".join(map(str, pids)))
        return pids

    def vms(self):
        return json.loads(self.do("list", "--json"))["vms"]

    def vm_pids(self):
        return [vm["pid"] for vm in self.vms() if vm["pid"]]

    def end_dead(self):
        """What a fence would do to a host that was killed."""
        with open(self.t.path(f"{self.name}.pid")) as f:
            for pid in f.read().split():
                os.kill(int(pid), signal.SIGKILL)
        self.daemon.wait(10)

    def down(self):
        """polluxd alone; its VM processes go on."""
        self.daemon.terminate()
        assert self.daemon.wait(20) == 0, f"polluxd of {self.name} ended badly"
        self.daemon = None

    def close(self):
        if not self.daemon:
            return
        pids = [] if self.daemon.poll() is not None else self.vm_pids()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        if self.daemon.poll() is None:
            self.down()
        for pid in pids:
            wait_until(lambda pid=pid: reaped(pid), 10, "the VM process is gone")

    def console(self):
        """What the guest has said lately; it may go on saying it for ever. All have said something
        when they began: on a busy machine a look may be over before that comes."""
        text = []

        def heard():
            text[:] = [self.look()]
            return text[0]
        wait_until(heard, PATIENCE, f"{self.name}: the guest has said something")
        return text[0]

    def look(self):
        """As much as comes within a moment."""
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(0.2)
        text, end = b"", time.monotonic() + 0.3
        try:
            s.connect(self.vm()["console"])
            while time.monotonic() < end:
                text += s.recv(65536)
        except (OSError, TypeError):
            pass
        s.close()
        return text.decode(errors="replace")


class Hosts:
    def __init__(self, t, heartbeat_ms=50, loss_ms=3000, extra="", own_disks=False,
                 names=("hosta", "hostb"), proxied=False, faults=(), wrap=()):
        """proxied: hosta reaches hostb through self.proxy. faults: of each host's first polluxd.
        wrap: what each polluxd is started by."""
        self.own_disks, self.wrap, self.proxy = own_disks, wrap, None
        self.t, self.heartbeat_ms, self.loss_ms, self.extra = t, heartbeat_ms, loss_ms, extra
        t.cleanup(reap_all)
        for args in (["init-ca"], *(["issue", name] for name in names)):
            os.makedirs(t.path("pki"), exist_ok=True)
            subprocess.run([f"{t.build}/pollux", "pki", *args, "--dir", t.path("pki")],
                           check=True, capture_output=True)
        self.fence("kill")
        ports = self.ports = dict(zip(names, free_ports(len(names))))
        if proxied:
            self.proxy = Proxy(ports["hostb"])
            t.cleanup(self.proxy.close)
        self.all = [Host(self, name, ports) for name in names]
        self.a, self.b = self.all[:2]
        for host, points in itertools.zip_longest(self.all, faults, fillvalue=""):
            t.cleanup(host.close)
            host.up(points)
        t.cleanup(lambda: self.fence(1))  # hosts end one after the other: no cause to fence
        self.wait_connected()

    def way(self, name, to):
        """The port at which that host finds the other one."""
        return self.proxy.port if self.proxy and (name, to) == ("hosta", "hostb") else self.ports[to]

    def wait_connected(self):
        wait_until(lambda: all(host.connected() for host in self.all), 20,
                   "the peers are connected")

    def fence(self, how):
        """`kill` ends the processes named in PLUG.pid; anything else is an exit code."""
        path = self.t.path("fence")
        body = (f"for p in $(cat {self.t.folder}/$plug.pid); do kill -9 $p 2>/dev/null; done; exit 0"
                if how == "kill" else f"exit {how}")
        with open(path + ".new", "w") as f:
            f.write(f"#!/bin/sh\nplug=$(sed -n 's/^plug=//p')\n"
                    f"echo $plug >> {self.t.folder}/fenced\n{body}\n")
        os.chmod(path + ".new", 0o755)
        os.rename(path + ".new", path)

    def only_words_decide(self):
        """From here on no fence succeeds. It is asked for when a peer's word comes late, which on a
        busy machine is no fault."""
        self.fence(3)

    def fenced(self):
        try:
            with open(self.t.path("fenced")) as f:
                return f.read().split()
        except FileNotFoundError:
            return []

    def vm_file(self, engine="kvm", guest="dirtier", cmdline="pages=200 rate=20000 report=5",
                memory="16M", disk=None, hugepages=False):
        path = self.t.path("demo.cfg")
        kernel = f'kernel = "{self.t.guest(guest)}"; cmdline = "{cmdline}";'
        where = self.t.path("disks/" if self.own_disks else "") + (disk or "")
        disks = f'disks = ( {{ path = "{where}"; size = "8M"; }} );' if disk else ""
        with open(path, "w") as f:
            f.write(f'name = "demo"; memory = "{memory}"; vcpus = 1; engine = "{engine}";\n'
                    f'{kernel if engine != "sim" else "seed = 3;"}\n{disks}\n'
                    f'{"hugepages = true;" if hugepages else ""}\n')
        return path

    def protected(self, *options, **vm):
        self.a.do("start", self.vm_file(**vm))
        self.a.do("protect", "demo", "--to", "hostb", *options)
        assert self.a.vm()["state"] == "protected"
        self.b.wait("standby")


def passes(text):
    """The numbers of the passes that a dirtier has told of; not of one that is cut short."""
    return [int(n) for n in re.findall(r"dirtier: pass (\d+)\s", text)]


def heard(host, seconds=PATIENCE, least=1, find=passes):
    """So many passes that the guest tells of, of one look: the next may be at a quiet moment."""
    found = []

    def look():
        found[:] = find(host.console())
        return len(found) >= least
    wait_until(look, seconds, "the guest says something")
    return found


def goes_on(host, find=passes, seconds=PATIENCE):
    """The guest tells of more passes, and has found nothing wrong."""
    before, text = max(heard(host, seconds, find=find)), []

    def more():
        text[:] = [host.console()]
        return max(find(text[0]), default=0) > before
    wait_until(more, seconds, "the guest goes on")
    assert "FAIL" not in text[0] + host.console()
