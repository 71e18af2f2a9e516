# SPDX-License-Identifier: Apache-2.0
"""Core files of running guests: whole, of one moment, and the guest goes on."""
import json
import os
import re
import resource
import signal
import socket
import subprocess

from case import case
from core import Core
from director import Refused
from hosts import Hosts, goes_on, passes, wait_until
from pair import Pair

FIRST_PAGE, PAGES = 0x800000, 200  # tests/guests/dirtier.h


def dirtier_word(page):
    return FIRST_PAGE + page * 4096 + page * 8 % 4096


def check_dirtier(core, pages=PAGES):
    """It writes page after page, so memory of one moment is of one pass up to some page, and of
    the one before from there on."""
    words = [core.word(dirtier_word(p)) for p in range(pages)]
    assert [w & 0xffffffff for w in words] == list(range(pages))
    done = [w >> 32 for w in words]
    assert done == sorted(done, reverse=True) and done[0] - done[-1] <= 1, done
    return done[0]


def gdb(*commands):
    argv = ["gdb", "-nx", "-batch"]
    for command in commands:
        argv += ["-ex", command]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout


def check_gdb(t, path, core, guest="dirtier"):
    """A second reader: it finds registers, symbols and the stack."""
    out = gdb(f"file {t.guest(guest)}", f"target core {path}", "info threads", "info registers",
              "x/s guest_name", "bt", f"x/gx {dirtier_word(7)}")
    for name, value in core.cpus[0].items():
        found = re.search(rf"^{name} +0x([0-9a-f]+)", out, re.M)
        assert not found or int(found.group(1), 16) == value, (name, out)
    assert re.search(r"^rip +0x[0-9a-f]+", out, re.M), out
    assert f'"{guest}"' in out and "guest_main" in out, out
    assert len(re.findall(r"LWP \d+", re.search(r"Id.*?\n((?:.*LWP.*\n)+)", out).group(1))) == \
        len(core.cpus), out
    assert f"{core.word(dirtier_word(7)):#018x}" in out, out


def started(t, **vm):
    hosts = Hosts(t)
    hosts.a.do("start", hosts.vm_file(**vm))
    if vm.get("engine", "kvm") != "sim":
        wait_until(lambda: passes(hosts.a.console()), 60, "the guest runs")
    return hosts


@case("dump-core")
def dump(t):
    hosts = started(t)
    out = json.loads(hosts.a.do("dump-core", "demo", t.path("a.core"), "--json"))
    core = Core(t.path("a.core"))
    core.check_registers()
    check_dirtier(core)
    check_gdb(t, t.path("a.core"), core)
    assert core.loads == [(0, 0, core.loads[0][2], 16 << 20)], core.loads
    assert core.machine[0]["cr"][0] & 0x80000001 == 0x80000001
    assert out["dump"]["size"] == core.size and not out["dump"]["vmcoreinfo"]
    assert PAGES * 4096 <= out["dump"]["bytes"] <= core.blocks < core.size // 2
    assert os.stat(t.path("a.core")).st_mode & 0o777 == 0o600
    assert "core dumped" in hosts.a.whats()
    assert [n for n in os.listdir(t.folder) if "core" in n] == ["a.core"]
    goes_on(hosts.a)


@case("dump-core-paging")
def paging(t):
    hosts = started(t)
    hosts.a.do("dump-core", "demo", t.path("a.core"), "--paging")
    core = Core(t.path("a.core"))
    check_dirtier(core)
    check_gdb(t, t.path("a.core"), core)
    assert all(va == pa for va, pa, _, _ in core.loads)
    goes_on(hosts.a)


@case("dump-core-live")
def live(t):
    hosts = started(t)
    message = hosts.a.do("dump-core", "demo", t.path("a.core"), "--live")
    assert "which was paused for" in message, message
    core = Core(t.path("a.core"))
    core.check_registers()
    words = [core.word(dirtier_word(p)) for p in range(PAGES)]
    assert [w & 0xffffffff for w in words] == list(range(PAGES))
    goes_on(hosts.a)


@case("dump-core-refused")
def refused(t):
    hosts = started(t)
    with open(t.path("there"), "w") as f:
        f.write("mine")
    assert "exists" in hosts.a.refuses(3, "dump-core", "demo", t.path("there"))
    with open(t.path("there")) as f:
        assert f.read() == "mine"
    hosts.a.refuses(1, "dump-core", "demo", t.path("no/such/folder"))
    hosts.a.refuses(3, "dump-core", "nobody", t.path("b.core"))
    hosts.a.refuses(2, "dump-core", "demo")
    hosts.a.do("dump-core", "demo", t.path("there"), "--force")
    check_dirtier(Core(t.path("there")))
    hosts.wait_connected()
    hosts.a.do("protect", "demo", "--to", "hostb")
    assert "protected" in hosts.a.refuses(3, "dump-core", "demo", t.path("b.core"))
    hosts.b.wait("standby")
    hosts.b.refuses(3, "dump-core", "demo", t.path("b.core"))
    assert not [n for n in os.listdir(t.folder) if "b.core" in n]
    goes_on(hosts.a)


@case("dump-core-sim")
def no_vcpus(t):
    hosts = started(t, engine="sim")
    assert "no vCPUs" in hosts.a.refuses(1, "dump-core", "demo", t.path("a.core"))
    assert not [n for n in os.listdir(t.folder) if "core" in n]


@case("dump-core-no-file-comes")
def no_file(t):
    """A client that goes away before it has sent one, and one that sends none."""
    hosts = started(t)
    for send in (False, True):
        begun = subprocess.run(
            ["curl", "-s", "-X", "POST", "--unix-socket", f"{hosts.a.run}/polluxd.sock",
             "http://localhost/v1/vms/demo/dump-core"], capture_output=True, check=True)
        path = json.loads(begun.stdout)["dump"]["socket"]
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
            s.connect(path)
            if send:
                s.send(b"{}")
                assert s.recv(10) == b""
        wait_until(lambda: hosts.a.vm()["operation"]["state"] == "failed", 20, "it is given up")
        assert "no file" in hosts.a.vm()["operation"]["error"]
        assert not os.path.exists(path)
    goes_on(hosts.a)


@case("dump-core-interrupted")
def interrupted(t):
    """Ctrl-C, or death: no file stays, and the guest goes on."""
    hosts = started(t, memory="512M", cmdline="pages=60000 rate=200000 report=1")
    for number in (signal.SIGINT, signal.SIGKILL):
        before = hosts.a.vm()["operation"]["id"]
        p = hosts.a.pollux("dump-core", "demo", t.path("a.core"), background=True)
        wait_until(lambda: hosts.a.vm()["operation"]["id"] != before, 20, "it begins")
        assert hosts.a.vm()["operation"]["what"] == "dump-core"
        p.send_signal(number)
        _, err = p.communicate(timeout=30)
        wait_until(lambda: hosts.a.vm()["operation"]["state"] != "running", 20, "it ends")
        left = [n for n in os.listdir(t.folder) if "a.core" in n]
        if p.returncode == 0:
            Core(t.path("a.core"))
        elif number == signal.SIGINT:
            assert p.returncode == 1 and "interrupted" in err and not left, (err, left)
        else:
            assert hosts.a.vm()["operation"]["state"] == "done" or \
                all(os.path.getsize(t.path(n)) == 0 for n in left), left
        for name in left:
            os.unlink(t.path(name))
        goes_on(hosts.a)


# ---- the VM process alone ---------------------------------------------------------------------


def dump_end(process):
    return process.wait_event(lambda e: e["event"] == "dump")


def cannot(process, what, *words, fds=(), **values):
    try:
        process.ask(what, fds, **values)
    except Refused as e:
        for word in words:
            assert word in str(e), e
        return
    raise AssertionError(f"{what} {values} was not refused")


@case("dump-core-disk-full")
def disk_full(t):
    """Half-way: the guest goes on, and what was written is given back."""
    pair = Pair(t, memory="64M", vcpus=2)
    pair.load()
    p = pair.primary.process
    cannot(p, "dump-core", "descriptor")
    resource.prlimit(p.child.pid, resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
    with open(t.path("a.core"), "wb") as f:
        p.ask("dump-core", [f.fileno()])
        end = dump_end(p)
    assert not end["ok"] and "File too large" in end["error"], end
    assert os.path.getsize(t.path("a.core")) == 0
    pair.observer.wait_replies(20)
    resource.prlimit(p.child.pid, resource.RLIMIT_FSIZE,
                     (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    with open(t.path("a.core"), "wb") as f:
        p.ask("dump-core", [f.fileno()])
        assert dump_end(p)["ok"]
    core = Core(t.path("a.core"))
    core.check_registers()
    assert len(core.cpus) == 2
    pair.observer.wait_replies(20)


@case("dump-core-wrong-files")
def wrong_files(t):
    pair = Pair(t)
    pair.load()
    p = pair.primary.process
    path = t.path("file")
    with open(path, "w") as f:
        f.write("mine")
    for flags, word in ((os.O_RDWR, "empty"), (os.O_RDONLY | os.O_TRUNC, "writing"),
                        (os.O_WRONLY | os.O_TRUNC | os.O_APPEND, "writing")):
        fd = os.open(path, flags)
        p.ask("dump-core", [fd])
        os.close(fd)
        end = dump_end(p)
        assert not end["ok"] and word in end["error"], end
        if flags == os.O_RDWR:
            assert os.path.getsize(path) == 4
    for fd in os.pipe():
        p.ask("dump-core", [fd])
        os.close(fd)
        assert "new, empty file" in dump_end(p)["error"]
    pair.observer.wait_replies(20)


@case("dump-core-and-other-requests")
def meanwhile(t):
    """The control socket answers, and refuses what needs the machine."""
    pair = Pair(t, guest="dirtier", cmdline="pages=60000 report=1", memory="512M", nic=False)
    p = pair.primary.process
    pair.primary.console.wait("pass 2")
    with open(t.path("a.core"), "wb") as f:
        with p.standing_still():  # else the dump might be over before they come
            numbers = [(p.send(*request[:2], **(request[2] if len(request) > 2 else {})), *request)
                       for request in (("dump-core", [f.fileno()]), ("stats", []),
                                       ("dump-core", [f.fileno()]), ("pause", []), ("shutdown", []),
                                       ("protect", [], {"address": "127.0.0.1", "port": 1,
                                                        **pair.terms()}))]
        p.answer(numbers[0][0], "dump-core")
        assert p.answer(numbers[1][0], "stats")["stats"]["dump"]["live"] is False
        for number, what, *_ in numbers[2:]:
            try:
                p.answer(number, what)
                raise AssertionError(f"{what} was not refused")
            except Refused as e:
                assert "core" in str(e), e
        assert dump_end(p)["ok"]
    check_dirtier(Core(t.path("a.core")), 60000)
    pair.primary.console.wait_more("pass")


@case("dump-core-of-soft", needs=())
def of_soft(t):
    """Two vCPUs, of which the guest starts one; by virtual addresses, by physical ones, live."""
    pair = Pair(t, guest="dirtier", cmdline=f"pages={PAGES} report=1", engine="soft", vcpus=2,
                nic=False)
    p = pair.primary.process
    pair.primary.console.wait("pass 2")
    for name, how in (("paging.core", {"paging": True}), ("plain.core", {}),
                      ("live.core", {"live": True})):
        with open(t.path(name), "wb") as f:
            p.ask("dump-core", [f.fileno()], **how)
            end = dump_end(p)
        assert end["ok"] and end.get("paging_vcpu", 0) == 0, end
        core = Core(t.path(name))
        core.check_registers()
        assert len(core.cpus) == 2
        if "live" not in how:
            check_dirtier(core)
            check_gdb(t, t.path(name), core)
        pair.primary.console.wait_more("pass")


@case("dump-core-paused")
def while_paused(t):
    """A guest that stands still is dumped as it stands, and goes on standing."""
    pair = Pair(t)
    pair.load()
    p = pair.primary.process
    p.ask("pause")
    cores = []
    for name in ("a.core", "b.core"):
        with open(t.path(name), "wb") as f:
            p.ask("dump-core", [f.fileno()])
            assert dump_end(p)["ok"]
        cores.append(Core(t.path(name)))
    assert cores[0].cpus == cores[1].cpus and cores[0].machine == cores[1].machine
    pair.observer.drain()
    pair.observer.expect_silence(0.3)
    p.ask("resume")
    pair.observer.wait_replies(20)


@case("dump-core-quit")
def quits(t):
    """Told to end while it writes, it ends, and in good order."""
    pair = Pair(t, guest="dirtier", cmdline="pages=60000 report=1", memory="512M", nic=False)
    p = pair.primary.process
    pair.primary.console.wait("pass 2")
    with open(t.path("a.core"), "wb") as f:
        with p.standing_still():
            p.send("dump-core", [f.fileno()])
            p.send("quit")
        assert p.child.wait(20) == 0
    assert os.path.getsize(t.path("a.core")) == 0


@case("dump-core-crash", needs=(), engine="soft")
@case("dump-core-crash-kvm", engine="kvm")
def crash(t, engine):
    """A guest that has crashed leaves a core, if it is to."""
    cores = t.path("cores")
    os.mkdir(cores)
    hosts = Hosts(t)
    path = hosts.vm_file(engine=engine, cmdline="pages=200 passes=5 crash=1")
    with open(path, "a", encoding="ascii") as f:
        f.write(f'crash_cores = "{cores}";\n')
    hosts.a.do("start", path)
    hosts.a.wait("stopped")
    assert "crashed" in hosts.a.vm()["why"], hosts.a.vm()
    (name,) = os.listdir(cores)
    assert re.fullmatch(r"demo-\d{8}T\d{6}Z\.core", name), name
    core = Core(os.path.join(cores, name))
    assert check_dirtier(core) == 5
    assert len(core.cpus) == 1 and core.loads[0][2:] and core.size > 16 << 20
    # Nowhere to write it to: it ends all the same.
    os.rename(cores, cores + ".gone")
    hosts.a.do("start", path)
    hosts.a.wait("stopped")
