# SPDX-License-Identifier: Apache-2.0
"""A running guest moves to a new VM process: it must not notice, and there is always one of it."""
import json
import os
import random
import re
import select
import signal
import socket
import statistics
import subprocess
import time

from case import case
from hosts import Hosts, goes_on, heard, passes, wait_until
from test_network import Network


def processes(host):
    """The VM processes that there are, of whatever parent."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                words = f.read().split(b"\0")
            with open(f"/proc/{pid}/stat") as f:
                dead = f.read().rsplit(")", 1)[1].split()[0] == "Z"
        except OSError:
            continue
        if not dead and any(w.startswith(host.run.encode() + b"/") for w in words):
            found.append(int(pid))
    return found


def ram(pid):
    """What that process has mapped of the guest's memory: device, inode and size."""
    with open(f"/proc/{pid}/maps") as f:
        lines = [line.split() for line in f if "/memfd:guest-ram" in line]
    sizes = [[int(x, 16) for x in words[0].split("-")] for words in lines]
    return {tuple(words[3:5]) for words in lines}, sum(b - a for a, b in sizes)


def upgraded(host, name="demo"):
    """The new pid; the old process is gone, and its very memory is the new one's."""
    old = host.vm(name)["pid"]
    before = ram(old)
    vm = json.loads(host.do("upgrade", name, "--json"))
    assert vm["pid"] != old and vm["operation"]["downtime_ms"] > 0, vm
    assert len(before[0]) == 1 and ram(vm["pid"]) == before, (before, ram(vm["pid"]))
    wait_until(lambda: processes(host) == [vm["pid"]], 10, "the old process is gone")
    print(f'{name}: stood still for {vm["operation"]["downtime_ms"]:.2f} ms')
    return vm["pid"]


STILL_MS = 300  # on a busy machine as well


def usual_still_ms(host, times=7):
    """The median of so many upgrades."""
    still = []
    for _ in range(times):
        upgraded(host)
        still.append(host.vm()["operation"]["downtime_ms"])
    return statistics.median(still)


def goes_on_here(host):
    """There is one, polluxd knows it, and nothing is left of the attempt."""
    host.wait("running")
    wait_until(lambda: processes(host) == host.vm_pids(), 15, "there is one process")
    goes_on(host)
    left = [n for n in os.listdir(host.run) if re.fullmatch(r"demo\.[0-9a-f]{7}", n)]
    assert not left, left


@case("upgrade-thin", engine="kvm")
@case("upgrade-thin-soft", engine="soft", needs=())
def thin(t, engine):
    """Its memory is checked by the guest itself, pass by pass; all that it said is kept."""
    hosts = Hosts(t)
    hosts.a.do("start", hosts.vm_file(engine=engine))
    goes_on(hosts.a)
    upgraded(hosts.a)
    goes_on(hosts.a)
    said = heard(hosts.a, least=2)[:-1]  # the last one may be cut short
    assert said == list(range(5, said[-1] + 1, 5)), said
    assert re.search(r"^build +\S", hosts.a.do("status", "demo"), re.M)
    assert not hosts.a.whats().count("vm process died")


@case("upgrade-20-times", engine="kvm")
@case("upgrade-20-times-soft", engine="soft", needs=())
def many(t, engine):
    hosts = Hosts(t)
    hosts.a.do("start", hosts.vm_file(engine=engine))
    for _ in range(20):
        upgraded(hosts.a)
    goes_on(hosts.a)
    hosts.a.do("stop", "demo", "--force")
    hosts.a.wait("stopped")
    wait_until(lambda: not processes(hosts.a), 10, "the last one has ended")


def told(host, least=1):
    """The pass that the guest has last told of, when it is that far: one may take long."""
    seen = []

    def so_far():
        seen[:] = [max(passes(host.look()), default=0)]
        return seen[0] >= least
    wait_until(so_far, 180, f"the guest tells of pass {least}")
    assert "FAIL" not in host.look()
    return seen[0]


@case("upgrade-large-memory", seconds=400)
def large(t):
    """Nothing is copied: 2 GiB, of which the guest has written 800 MB, take what 16 MiB take."""
    hosts, still = Hosts(t), {}
    for memory, load in (("16M", "pages=200 rate=20000 report=5"), ("2G", "pages=200000 report=1")):
        hosts.a.do("start", hosts.vm_file(memory=memory, cmdline=load))
        told(hosts.a, 2)
        still[memory] = usual_still_ms(hosts.a)
        told(hosts.a, told(hosts.a) + 1)
        hosts.a.do("stop", "demo", "--force")
        hosts.a.wait("stopped")
    print("medians:", still)
    assert still["16M"] < STILL_MS and still["2G"] < STILL_MS, still
    assert still["2G"] < 10 * still["16M"] + 50, still


# ---- network, disk, console ------------------------------------------------------------------


class One(Network):
    """One host's VM under load."""

    def begin(self, engine):
        with open(self.file()) as f:
            text = f.read().replace('"kvm"', f'"{engine}"')
        with open(self.file(), "w") as f:
            f.write(text)
        self.hosts.a.do("start", self.t.path("demo.cfg"))
        self.here = self.port()
        self.observer.admit(self.here)
        self.observer.load(8)
        self.observer.wait_replies(10)

    def all_answered(self):
        """No request was lost, none answered twice."""
        self.observer.settle()
        assert not self.observer.unseen, self.observer.unseen


@case("upgrade-under-traffic", engine="kvm")
@case("upgrade-under-traffic-soft", engine="soft", needs=())
def traffic(t, engine):
    """It is the same connection, with no frame lost on it and none repeated."""
    net = One(t)
    net.begin(engine)
    for _ in range(10):
        net.observer.wait_replies(random.randrange(1, 40))
        upgraded(net.hosts.a)
    net.observer.wait_replies(50)
    net.all_answered()
    assert len(net.observer.ports) == 1


@case("upgrade-then-protect-and-fail-over", needs=("kvm", "root"))
def then_protect(t):
    """The new process does all that the old one did: a session, a failover, and an upgrade again."""
    hosts = Hosts(t, own_disks=True)
    hosts.a.do("start", hosts.vm_file(disk="demo.img"))
    upgraded(hosts.a)
    hosts.a.do("protect", "demo", "--to", "hostb", "--overwrite")
    assert "unprotect it first" in hosts.a.refuses(3, "upgrade", "demo")
    assert "only a VM that runs" in hosts.b.refuses(3, "upgrade", "demo")
    hosts.a.kill()
    hosts.b.wait("running")
    upgraded(hosts.b)
    goes_on(hosts.b)
    hosts.a.daemon.wait()


@case("upgrade-protected")
def protected(t):
    """Its protection ends, and the twin of the new process is as good as that of the old one was."""
    hosts = Hosts(t)
    hosts.protected()
    old = hosts.a.vm_pids()
    said = hosts.a.do("upgrade", "demo", "--protect-again")
    assert "stood still" in said, said
    assert hosts.a.vm()["state"] == "protected" and not set(old) & set(hosts.a.vm_pids())
    hosts.b.wait("standby")
    assert hosts.a.whats().count("upgraded") == 1 and not hosts.fenced()
    goes_on(hosts.a)
    hosts.a.kill()
    hosts.b.wait("running")
    goes_on(hosts.b)
    hosts.a.daemon.wait()


@case("upgrade-under-disk-writes", engine="kvm")
@case("upgrade-under-disk-writes-soft", engine="soft", needs=())
def disk(t, engine):
    """The guest reads back what it wrote, before, across and after."""
    hosts = Hosts(t)
    hosts.a.do("start", hosts.vm_file(engine=engine, guest="blk", disk="demo.img",
                                      cmdline="blocks=64 depth=16 report=200"))

    def done():
        return hosts.a.console().count("blk: done")
    for _ in range(10):
        before = done()
        wait_until(lambda before=before: done() > before, 20, "the guest writes")
        upgraded(hosts.a)
    before = done()
    wait_until(lambda: done() > before, 20, "the guest writes")
    assert "FAIL" not in hosts.a.console()


@case("upgrade-with-a-viewer")
def viewer(t):
    """Whoever looks at the console goes on looking; nothing is missing, nothing comes twice."""
    hosts = Hosts(t)
    hosts.a.do("start", hosts.vm_file(cmdline="pages=20 rate=20000 report=1"))
    s = socket.socket(socket.AF_UNIX)
    t.cleanup(s.close)
    s.connect(hosts.a.vm()["console"])
    text = b""

    def look(seconds):
        nonlocal text
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if select.select([s], [], [], 0.02)[0]:
                text += s.recv(65536)
    for _ in range(5):
        look(0.2)
        upgraded(hosts.a)
    wait_until(lambda: look(0.3) or len(passes(text.decode())) > 20, 20, "more than 20 passes")
    said = passes(text.decode())[:-1]
    assert said == list(range(said[0], said[0] + len(said))), said


# ---- what may fail ------------------------------------------------------------------------------


class Program:
    """vm_program: what it is can be changed while VMs run."""

    def __init__(self, t):
        self.t, self.path = t, t.path("vm-program")
        self.today()
        os.environ["POLLUX_VM"] = t.build + "/pollux-vm"

    def set(self, body):
        with open(self.path + ".new", "w") as f:
            f.write(f"#!/bin/bash\n{body}\n")
        os.chmod(self.path + ".new", 0o755)
        os.rename(self.path + ".new", self.path)

    def later(self):
        self.set(f'exec "{self.t.build}/tests/native/pollux-vm-later" "$@"')

    def today(self):
        self.set('exec "$POLLUX_VM" "$@"')

    def fault(self, name):
        self.set(f'POLLUX_FAULTS={name} exec "$POLLUX_VM" "$@"')

    def extra(self):
        return f'\nvm_program = "{self.path}";'


BROKEN = {
    "ends-at-once": "exit 1",
    "is-no-program": "exec /dev/null",
    "speaks-nonsense": "echo '{' >&3; sleep 0.1; echo nonsense >&3",
}


@case("upgrade-to-broken-programs")
def broken(t):
    """Each leaves the VM where it is, and says why."""
    program = Program(t)
    hosts = Hosts(t, extra=program.extra())
    hosts.a.do("start", hosts.vm_file())
    pid = hosts.a.vm_pids()
    for name, body in BROKEN.items():
        program.set(body)
        message = hosts.a.refuses(1, "upgrade", "demo")
        assert "runs on in its old process" in message, (name, message)
        assert hosts.a.vm_pids() == pid, name
        goes_on_here(hosts.a)
    for fault in ("upgrade.create", "upgrade.adopt", "upgrade.commit"):
        program.fault(fault)
        message = hosts.a.refuses(1, "upgrade", "demo")
        assert "Input/output error" in message and "old process" in message, (fault, message)
        assert hosts.a.vm_pids() == pid, fault
        goes_on_here(hosts.a)
    os.rename(program.path, program.path + ".gone")
    assert "cannot start" in hosts.a.refuses(3, "upgrade", "demo")
    goes_on_here(hosts.a)
    os.rename(program.path + ".gone", program.path)
    program.today()
    upgraded(hosts.a)
    goes_on_here(hosts.a)


@case("upgrade-to-a-later-release", engine="kvm")
@case("upgrade-to-a-later-release-soft", engine="soft", needs=())
def later_release(t, engine):
    """Which reads what that of today hands over; back again it is refused, as today's does not
    read what the later one does."""
    program = Program(t)
    a = Hosts(t, extra=program.extra()).a
    a.do("start", a.hosts.vm_file(engine=engine))

    def runs(build, name):
        goes_on_here(a)
        vm = a.vm()
        assert vm["build"] == build and processes(a) == [vm["pid"]], vm
        assert os.path.basename(os.readlink(f"/proc/{vm['pid']}/exe")) == name
        assert f"build        {build}\n" in a.do("status", "demo")
    today = a.vm()["build"]
    runs(today, "pollux-vm")
    program.later()
    first = upgraded(a)
    runs("later", "pollux-vm-later")
    program.today()
    message = a.refuses(1, "upgrade", "demo")
    found = re.search(r"machine state: format version (\d+), this program reads \d+ to (\d+)",
                      message)
    assert found and int(found.group(1)) == int(found.group(2)) + 1, message
    assert "the VM runs on in its old process" in message, message
    assert a.vm_pids() == [first] and today != "later"
    runs("later", "pollux-vm-later")
    program.later()
    assert upgraded(a) != first
    runs("later", "pollux-vm-later")


@case("upgrade-old-process-cannot-save")
def cannot_save(t):
    """It fails in the old process: that one goes on, and can be upgraded later."""
    program = Program(t)
    program.fault("upgrade.yield")
    hosts = Hosts(t, extra=program.extra())
    hosts.a.do("start", hosts.vm_file())
    hosts.a.refuses(1, "upgrade", "demo")
    goes_on_here(hosts.a)
    upgraded(hosts.a)
    goes_on_here(hosts.a)


@case("upgrade-new-process-hangs", seconds=200)
def hangs(t):
    """It is given ten seconds from the moment at which the old one stands still."""
    program = Program(t)
    hosts = Hosts(t, extra=program.extra())
    hosts.a.do("start", hosts.vm_file())
    old = hosts.a.vm_pids()
    program.fault("upgrade.hang")
    p = hosts.a.pollux("upgrade", "demo")
    assert p.returncode == 1 and "does not answer" in p.stderr, p
    assert hosts.a.vm_pids() == old
    goes_on_here(hosts.a)


STEPS = ("created", "yield-asked", "yielded", "adopt-asked", "adopted")


@case("upgrade-polluxd-dies", steps=STEPS)
def daemon_dies(t, steps):
    """At each step: the VM goes on in one process, which the next polluxd finds."""
    hosts = Hosts(t)
    a = hosts.a
    a.do("start", hosts.vm_file())
    for step in steps:
        a.down()
        a.up(faults=f"polluxd.{step}")
        a.wait("running")
        old = a.vm_pids()
        p = a.pollux("upgrade", "demo", background=True)
        assert a.daemon.wait(20) == -signal.SIGABRT
        p.communicate(timeout=20)
        wait_until(lambda: len(processes(a)) == 1, 15, f"{step}: there is one process")
        a.up()
        print(step, "went on in", "the old" if a.vm_pids() == old else "the new")
        goes_on_here(a)
        assert "vm process died" not in a.whats(), a.vm()
    upgraded(a)


@case("upgrade-polluxd-killed-at-random", seconds=300)
def daemon_killed(t):
    """And started at once: it may come while the two processes decide."""
    hosts = Hosts(t)
    a = hosts.a
    a.do("start", hosts.vm_file())
    moved = 0
    for _ in range(15):
        old = a.vm_pids()
        p = a.pollux("upgrade", "demo", background=True)
        time.sleep(random.uniform(0.005, 0.2))
        a.daemon.kill()
        a.daemon.wait()
        a.up()
        p.communicate(timeout=20)
        goes_on_here(a)
        moved += a.vm_pids() != old
    print(f"{moved} of 15 had moved")
    upgraded(a)


@case("upgrade-new-process-killed-at-random", seconds=300)
def new_killed(t):
    """Until it has the VM the old one goes on; from then on it is the VM that was killed."""
    program = Program(t)
    hosts = Hosts(t, extra=program.extra())
    a = hosts.a
    a.do("start", hosts.vm_file())
    outcomes = {"old": 0, "new": 0, "dead": 0}
    for _ in range(20):
        delay = random.uniform(0.005, 0.08)
        program.set(f'(sleep {delay:.3f}; kill -9 $$) & exec "$POLLUX_VM" "$@"')
        old = a.vm_pids()
        p = a.pollux("upgrade", "demo")
        time.sleep(0.15)
        program.today()
        if a.vm_pids() == old:
            assert p.returncode == 1, p.stdout
            outcomes["old"] += 1
        else:
            outcomes["dead"] += 1
            a.wait("stopped")
            a.do("start", hosts.vm_file())
        goes_on_here(a)
    print(outcomes)


@case("upgrade-stop-by-force-meanwhile")
def stopped(t):
    """Both processes end, whichever has the VM."""
    hosts = Hosts(t)
    for _ in range(8):
        hosts.a.do("start", hosts.vm_file())
        p = hosts.a.pollux("upgrade", "demo", background=True)
        time.sleep(random.uniform(0, 0.08))
        hosts.a.do("stop", "demo", "--force")
        p.communicate(timeout=20)
        hosts.a.wait("stopped")
        wait_until(lambda: not processes(hosts.a), 10, "both have ended")


@case("upgrade-all")
def all_of_them(t):
    hosts = Hosts(t)
    for name in ("one", "two", "three"):
        with open(hosts.vm_file()) as f:
            text = f.read().replace('"demo"', f'"{name}"')
        with open(t.path(f"{name}.cfg"), "w") as f:
            f.write(text)
        hosts.a.do("start", t.path(f"{name}.cfg"))
    hosts.a.do("stop", "two", "--force")
    before = set(hosts.a.vm_pids())
    said = hosts.a.do("upgrade", "--all")
    assert len(re.findall("stood still", said)) == 2, said
    assert len(json.loads(hosts.a.do("upgrade", "--all", "--json"))["upgraded"]) == 2
    assert not before & set(hosts.a.vm_pids())
    hosts.a.do("protect", "one", "--to", "hostb")
    before = hosts.a.vm_pids()
    said = hosts.a.refuses(3, "upgrade", "--all")
    assert "unprotect it first" in said and "one was not upgraded" in said, said
    assert "1 upgraded, 1 NOT" in said and len(set(before) & set(hosts.a.vm_pids())) == 1, said
    assert hosts.a.vm("one")["state"] == "protected"
    assert subprocess.run([f"{t.build}/pollux", "upgrade"], capture_output=True).returncode == 2
    hosts.a.refuses(3, "upgrade", "two")
    hosts.a.refuses(3, "upgrade", "four")
