# SPDX-License-Identifier: Apache-2.0
"""`pollux migrate` between two polluxd: the guest goes on there, and nowhere else; or, when
anything fails before it is handed over, here."""
import json
import os
import signal
import time

from case import case
from hosts import Hosts, goes_on, passes, wait_until
from moves import (FOLLOWS, POSTCOPY, SLOW, arrived, copying, ended, migration, moves, pulling,
                   started, stays)


@case("migrate-there-and-back")
@case("migrate-there-and-back-4-streams", options=("--streams", "4"))
@case("migrate-there-and-back-with-disks", options=("--with-disks", "--overwrite"),
      vm={"disk": "demo.img", "own_disks": True}, needs=("kvm", "root"))
@case("migrate-there-and-back-shared-disk", vm={"disk": "demo.img"})
def there_and_back(t, options=(), vm=None):
    hosts = started(t, **(vm or {}))
    here, there = hosts.a, hosts.b
    for _ in range(4):
        print(here.do("migrate", "demo", there.name, *options).strip())
        arrived(here, there)
        here, there = there, here


@case("migrate-postcopy", needs=("kvm", "root"))
@case("migrate-postcopy-4-streams", options=("--streams", "4"), needs=("kvm", "root"))
@case("migrate-postcopy-soft", vm={"engine": "soft"}, needs=("root",))
def postcopy(t, options=(), vm=None):
    hosts = started(t, cmdline="pages=1500 rate=300000 report=50", **(vm or {}))
    here, there, followed = hosts.a, hosts.b, 0
    for _ in range(4):
        text = here.do("migrate", "demo", there.name, *POSTCOPY, *options).strip()
        print(text)
        later = here.whats()[-2:] == ["serving", "served"]
        assert ("memory that followed the guest" in text) == later, text
        followed += later
        arrived(here, there)
        here, there = there, here
    assert followed, "one round was good enough, each time"


@case("migrate-16-streams-differences")
def differences(t):
    """A guest that writes a word of each page, over and over: what goes again goes as what has
    changed, on each of the streams, and so takes hardly any bytes."""
    hosts = started(t, cmdline="pages=1000 report=50")
    out = hosts.a.do("migrate", "demo", "hostb", "--streams", "16", "--downtime", "0", "--stuck",
                     "stop", "--most-downtime", "60000", "--json", *SLOW)
    sent = migration(out)["sent"]
    print(sent)
    whole = sent["pages"] - sent["delta_pages"]
    assert sent["delta_pages"] >= 1000, sent
    assert sent["bytes"] < 1.05 * 4096 * whole + 128 * sent["delta_pages"] + (1 << 20), sent
    arrived(hosts.a, hosts.b)


@case("migrate-postcopy-only", needs=("kvm", "root"))
@case("migrate-postcopy-only-soft", vm={"engine": "soft"}, needs=("root",))
@case("migrate-postcopy-only-with-disks", options=("--with-disks", "--overwrite"),
      vm={"disk": "demo.img", "own_disks": True}, needs=("kvm", "root"))
def postcopy_only(t, options=(), vm=None):
    """No memory goes before the guest."""
    hosts = started(t, cmdline="pages=2000 rate=20000 report=5", **(vm or {}))
    out = hosts.a.do("migrate", "demo", "hostb", "--postcopy", "--rounds", "0", "--compression",
                     "none", "--json", *options)
    sent = migration(out)["sent"]
    print(sent)
    assert sent["postcopy_bytes"] > 1500 * 4096, sent
    assert sent["bytes"] - sent["postcopy_bytes"] - sent["disk_bytes"] < 1 << 20, sent
    assert hosts.a.whats()[-2:] == ["serving", "served"], hosts.a.whats()
    arrived(hosts.a, hosts.b)
    hosts.b.refuses(2, "migrate", "demo", "hosta", "--rounds", "2")


@case("migrate-cancel")
def cancel(t):
    hosts = started(t)
    command = copying(hosts)
    began = time.monotonic()
    assert "it runs on here" in hosts.a.do("migrate", "demo", "--cancel")
    took = time.monotonic() - began
    assert hosts.a.vm()["state"] == "running"
    ended(command, 1, "cancelled")
    assert hosts.a.between("cancel asked", "cancelled") < 4000
    stays(hosts)
    print(f"cancelled within {took:.2f} s")
    hosts.a.refuses(3, "migrate", "demo", "--cancel")
    moves(hosts)


@case("migrate-interrupted")
@case("migrate-interrupted-target-hangs", hangs=True)
def interrupted(t, hangs=False):
    """It is said that the VM runs on here when it does, not when that was asked for."""
    hosts = started(t)
    command = copying(hosts)
    if hangs:
        os.kill(hosts.b.vm_pids()[0], signal.SIGSTOP)
    command.send_signal(signal.SIGINT)
    ended(command, 1, "the VM runs on here")
    assert hosts.a.vm()["state"] == "running"
    stays(hosts)


@case("migrate-target-process-dies")
def target_process_dies(t):
    hosts = started(t)
    command = copying(hosts)
    os.kill(hosts.b.vm_pids()[0], signal.SIGKILL)
    ended(command, 1, "the VM runs on here")
    stays(hosts)
    moves(hosts)


@case("migrate-target-polluxd-dies")
def target_polluxd_dies(t):
    hosts = started(t)
    command = copying(hosts)
    hosts.b.daemon.kill()
    hosts.b.daemon.wait()
    ended(command, 1, "the VM runs on here")
    hosts.a.wait("running")
    goes_on(hosts.a)
    hosts.b.up()
    stays(hosts)


@case("migrate-target-host-falls-silent")
def target_host_silent(t):
    hosts = started(t)
    command = copying(hosts)
    pids = hosts.b.kill()
    ended(command, 1, "the VM runs on here")
    hosts.a.wait("running")
    goes_on(hosts.a)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    stays(hosts)


@case("migrate-source-polluxd-dies")
def source_polluxd_dies(t):
    """The process goes on with what it was told; the next polluxd hands over."""
    hosts = started(t)
    command = copying(hosts)
    hosts.a.daemon.kill()
    hosts.a.daemon.wait()
    ended(command, 4)
    hosts.a.up()
    hosts.a.wait("migrating")
    vm = hosts.a.vm()
    assert vm["operation"]["state"] == "running", vm
    assert "to hostb since" in hosts.a.do("status", "demo")
    arrived(hosts.a, hosts.b, 40)


@case("migrate-cancel-unheard")
def cancel_unheard(t):
    """The target's process hangs, and would have 60 s to say a word: it is not waited for."""
    hosts = started(t, loss={"loss_ms": 60000})
    command = copying(hosts)
    for pid in hosts.b.vm_pids():
        os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    assert "it runs on here" in hosts.a.do("migrate", "demo", "--cancel")
    took = time.monotonic() - began
    ended(command, 1, "cancelled")
    print(f"cancelled within {took:.2f} s")
    assert took < 10, took
    stays(hosts)


@case("migrate-source-polluxd-restarted-cancel")
def source_polluxd_cancel(t):
    hosts = started(t)
    command = copying(hosts)
    hosts.a.down()
    ended(command, 4)
    hosts.a.up()
    hosts.a.wait("migrating")
    hosts.a.do("migrate", "demo", "--cancel")
    stays(hosts)
    moves(hosts)


@case("migrate-source-process-dies")
def source_process_dies(t):
    """Before the last epoch: the VM has died with its process, as without a migration."""
    hosts = started(t)
    command = copying(hosts)
    os.kill(hosts.a.vm_pids()[0], signal.SIGKILL)
    ended(command, 1)
    hosts.b.wait("none")
    hosts.a.wait("stopped")
    hosts.a.do("start", hosts.vm_file())
    goes_on(hosts.a)


@case("migrate-target-disk-full", needs=("kvm", "root"))
def target_disk_full(t):
    hosts = started(t, faults_b="mirror.write:3:28", own_disks=True, disk="demo.img")
    with open(t.path("disks-hosta/demo.img"), "r+b") as f:
        f.write(os.urandom(4 << 20))
    hosts.a.refuses(1, "migrate", "demo", "hostb", "--with-disks", "--overwrite")
    stays(hosts)


def stored_late(host, state):
    """The record was tried again."""
    with open(host.log) as log:
        assert f"{state}: the ownership record could not be stored" in log.read()


@case("migrate-source-cannot-store")
def source_cannot_store(t):
    """The record that gives the VM away: tried again, while the guest stands still."""
    hosts = started(t, faults_a="record.sync:3")
    moves(hosts)
    stored_late(hosts.a, "handed under term 2")


@case("migrate-target-cannot-store")
def target_cannot_store(t):
    hosts = started(t, faults_b="guest.store:2")
    moves(hosts)
    stored_late(hosts.b, "none under term 1")


@case("migrate-target-cannot-load")
def target_cannot_load(t):
    """After the source has given the VM up: it is given back."""
    hosts = started(t, faults_b="replica.load:1")
    assert "load the state" in hosts.a.refuses(1, "migrate", "demo", "hostb")
    stays(hosts)
    hosts.b.down()
    hosts.b.up()
    hosts.wait_connected()
    moves(hosts)


@case("migrate-unknown-section", fault="state.later", why="section 999")
@case("migrate-unknown-section-soft", fault="state.later", why="section 999",
      vm={"engine": "soft", "cmdline": "pages=200 rate=20000 report=5"}, needs=())
@case("migrate-unknown-record", fault="sender.later", why="a record of type 999")
def later_version(t, fault, why, vm=None):
    """The source sends what only a later version knows, once: refused before the target could run
    the guest, and said here."""
    hosts = started(t, faults_a=f"{fault}:1", **(vm or {}))
    text = hosts.a.refuses(1, "migrate", "demo", "hostb")
    assert why in text and "the VM runs on here" in text, text
    stays(hosts)
    assert "handed over" not in hosts.a.whats(), hosts.a.whats()
    moves(hosts)


@case("migrate-source-cannot-claim-at-once")
def source_cannot_claim(t):
    """Given back, with a disk that is still the other host's for a moment."""
    hosts = started(t, faults_a="disk.claim:2", faults_b="replica.load:1", disk="demo.img")
    assert "load the state" in hosts.a.refuses(1, "migrate", "demo", "hostb")
    stays(hosts)
    assert "stand still" not in hosts.a.vm()["why"]


@case("migrate-source-cannot-yield")
@case("migrate-source-cannot-yield-polluxd-away", away=True)
def source_cannot_yield(t, away=False):
    """The target holds all of it, and is not told: the guest goes on here, by polluxd's word, and
    the operator reads why."""
    hosts = started(t, faults_a="disk.yield:1", disk="demo.img")
    if away:
        command = copying(hosts)
        hosts.a.down()
        ended(command, 4)
        with open(hosts.a.log) as log:
            wait_until(lambda: "not handed over" in log.read(), 30, "its process keeps it")
        hosts.a.up()
    else:
        assert "could not be handed over" in hosts.a.refuses(1, "migrate", "demo", "hostb")
    stays(hosts)
    assert "could not be handed over" in hosts.a.vm()["why"]
    assert "goes on" in hosts.a.whats()
    hosts.wait_connected()
    moves(hosts)


def cut(hosts):
    """The source's process hangs until the target counts its link as cut."""
    pid = hosts.a.vm_pids()[0]
    os.kill(pid, signal.SIGSTOP)
    hosts.b.wait("memory-missing")
    os.kill(pid, signal.SIGCONT)


@case("migrate-postcopy-link-comes-back", needs=("kvm", "root"))
def postcopy_link_comes_back(t):
    """A short cut needs no operator: the source makes the link again."""
    hosts = started(t, cmdline=FOLLOWS)
    command = pulling(hosts)
    cut(hosts)
    hosts.b.wait("running")
    ended(command, 0)
    arrived(hosts.a, hosts.b)


@case("migrate-postcopy-link-cut", restart=False, needs=("kvm", "root"))
@case("migrate-postcopy-link-cut-polluxds-restarted", restart=True, needs=("kvm", "root"))
def postcopy_link_cut(t, restart):
    """The guest stands still until the link is made again, and nothing is lost."""
    hosts = started(t, cmdline=FOLLOWS,
                    faults_a=",".join(f"postcopy.relink:{n}" for n in range(1, 5)))
    command = pulling(hosts)
    assert "is up" in hosts.a.refuses(3, "migrate", "demo", "--recover")
    assert "still to come from hosta" in hosts.b.do("status", "demo")
    cut(hosts)
    ended(command, 1, "--recover")
    if restart:
        for host in (hosts.a, hosts.b):
            host.down()
            host.up()
        hosts.wait_connected()
    hosts.b.wait("memory-missing")
    hosts.a.wait("memory-held")
    for host, side in ((hosts.a, "held here, and hostb lacks"), (hosts.b, "held by hosta")):
        wait_until(lambda: host.vm()["postcopy"].get("pages"), 10, "pages are counted")
        vm = host.vm()["postcopy"]
        assert (vm["held_by"], vm["missing_on"], vm["recover"]) == ("hosta", "hostb", True), vm
        assert vm["text"].startswith(f"{vm['pages']} pages") and side in vm["text"], vm
        assert side in host.do("status", "demo")
    seen = [0, 1]  # of what it said before a console may show less at first
    while seen[-1] != seen[-2] and len(seen) < 20:
        seen.append(max(passes(hosts.b.look()), default=0))
    assert seen[-1] == seen[-2], f"it stands still: {seen}"
    assert hosts.b.vm()["state"] == "memory-missing"
    assert "holds its memory" in hosts.b.refuses(3, "migrate", "demo", "--recover")
    text = hosts.b.refuses(3, "stop", "demo")
    assert "`pollux migrate demo --recover` on hosta" in text and "stop demo --force" in text, text
    hosts.a.do("migrate", "demo", "--recover")
    arrived(hosts.a, hosts.b)


@case("migrate-postcopy-source-dies", needs=("kvm", "root"))
def postcopy_source_dies(t):
    """What was not sent yet is lost with it: both sides say so, and nobody runs a torn guest."""
    hosts = started(t, cmdline=FOLLOWS)
    command = pulling(hosts)
    os.kill(hosts.a.vm_pids()[0], signal.SIGKILL)
    ended(command, 1, "is lost")
    hosts.b.wait("memory-missing")
    hosts.b.do("stop", "demo", "--force")
    hosts.b.wait("stopped")


@case("migrate-postcopy-source-reboots", needs=("kvm", "root"))
def postcopy_source_reboots(t):
    """The memory that it held is lost, its term is not: it goes on to know whose the VM is, though
    the other host says nothing."""
    hosts = started(t, cmdline=FOLLOWS)
    command = pulling(hosts)
    term = hosts.a.vm()["term"]
    silent = hosts.b.kill()
    pid = hosts.a.vm_pids()[0]
    for process in (hosts.a.daemon.pid, pid):
        os.kill(process, signal.SIGKILL)
    command.communicate(timeout=60)
    hosts.a.daemon.wait(10)
    for _ in range(2):
        hosts.a.up()
        assert hosts.a.vm()["term"] == term, hosts.a.vm()
        hosts.a.refuses(3, "start", t.path("demo.cfg"))
        hosts.a.down()
    hosts.a.up()
    for process in silent:
        os.kill(process, signal.SIGCONT)


@case("migrate-postcopy-given-up", needs=("kvm", "root"))
def postcopy_given_up(t):
    """By an operator at the source, who knows that the target will not come back."""
    hosts = started(t, cmdline=FOLLOWS)
    command = pulling(hosts)
    hosts.a.do("stop", "demo", "--force")
    ended(command, 1)
    hosts.a.wait("none")
    assert hosts.a.vm_pids() == []
    hosts.b.wait("memory-missing")
    hosts.b.do("stop", "demo", "--force")
    hosts.b.wait("stopped")


@case("migrate-postcopy-target-stopped", needs=("kvm", "root"))
def postcopy_target_stopped(t):
    """By force, without a part of its memory: the source does not hold that for nobody."""
    hosts = started(t, cmdline=FOLLOWS,
                    faults_a=",".join(f"postcopy.relink:{n}" for n in range(1, 5)))
    command = pulling(hosts)
    cut(hosts)
    ended(command, 1, "`pollux migrate demo --recover` on hosta")
    hosts.b.do("stop", "demo", "--force")
    hosts.b.wait("stopped")
    hosts.a.wait("none")
    assert "let go" in hosts.a.whats(), hosts.a.whats()
    assert hosts.a.vm_pids() == []


@case("migrate-while-protected")
@case("migrate-while-protected-postcopy", options=POSTCOPY, needs=("kvm", "root"))
def while_protected(t, options=()):
    """To the standby's host: which then has it, and the host that it left has the twin."""
    hosts = Hosts(t, extra="protect_again_s = 1;")
    hosts.protected()
    here, there = hosts.a, hosts.b
    for _ in range(2):
        here.do("migrate", "demo", there.name, *options)
        there.wait("protected", 40)
        here.wait("standby")
        goes_on(there)
        here, there = there, here
    assert not hosts.fenced()


@case("migrate-while-protected-polluxd-restarted")
def while_protected_restarted(t):
    """The protection that was taken away is owed, whatever polluxd knows of it."""
    hosts = Hosts(t, extra="protect_again_s = 1;")
    hosts.protected(cmdline="pages=1500 rate=20000 report=5")
    command = copying(hosts)
    hosts.a.down()
    ended(command, 4)
    hosts.a.up()
    hosts.a.wait("migrating")
    assert "NOT protected" in hosts.a.do("status", "demo")
    hosts.a.do("migrate", "demo", "--cancel")
    hosts.a.wait("protected", 40)
    hosts.b.wait("standby")
    assert not hosts.a.vm()["unprotected"]
    goes_on(hosts.a)
    assert not hosts.fenced()


@case("migrate-while-protected-fails")
def while_protected_fails(t):
    """It stays, and is protected again."""
    hosts = Hosts(t, extra="protect_again_s = 1;", faults=("", "replica.load:1"))
    hosts.protected()
    assert hosts.a.pollux("migrate", "demo", "hostb").returncode == 1
    hosts.a.wait("protected", 40)
    hosts.b.wait("standby")
    goes_on(hosts.a)
    assert not hosts.fenced()


@case("migrate-limit-is-not-of-the-pause")
def limit_not_of_pause(t):
    """At 1 MB/s what is dirty would take seconds, and the last epoch does not keep to that."""
    hosts = started(t, cmdline="pages=1500 rate=600 report=1")
    m = migration(hosts.a.do("migrate", "demo", "hostb", "--json", "--downtime", "1000", *SLOW))
    print({k: m[k] for k in ("elapsed_ms", "forecast_ns", "downtime_ns")})
    assert m["elapsed_ms"] > 4000 and m["forecast_ns"] < 1e9, m
    arrived(hosts.a, hosts.b)


@case("migrate-json")
def json_events(t):
    hosts = started(t)
    lines = [json.loads(line) for line in
             hosts.a.do("migrate", "demo", "hostb", "--json", *SLOW).splitlines()]
    assert {e["event"] for e in lines[:-1]} == {"check", "progress"} and len(lines) > 5, lines
    assert lines[-1]["event"] == "done" and lines[-1]["vm"]["migration"]["downtime_ns"] > 0
    looks = [e for e in lines if e["event"] == "progress"]
    copied = [e for e in looks if e["phase"] == "copying" and e["memory_total"]]
    assert all(0 <= e["percent"] <= 100 and e["round"] >= 1 for e in copied), copied
    assert any(e["bytes_per_second"] for e in copied) and not any(e["disk_total"] for e in copied)
    assert any(e["copy_eta_s"] is not None for e in copied), copied
    sent = lines[-1]["vm"]["migration"]["sent"]
    assert sent["bytes"] >= max(e["bytes_sent"] for e in copied) and sent["rounds"] >= 1, sent
    assert sent["disk_bytes"] == sent["postcopy_bytes"] == 0, sent


@case("migrate-json-disks", needs=("kvm", "root"))
def json_disks(t):
    """Disks are told of beside memory, and all of them before the guest goes."""
    hosts = started(t, own_disks=True, disk="demo.img")
    lines = [json.loads(line) for line in
             hosts.a.do("migrate", "demo", "hostb", "--json", "--with-disks", "--overwrite",
                        *SLOW).splitlines()]
    disks = [(e["disk_done"], e["disk_total"]) for e in lines
             if e["event"] == "progress" and e["phase"] == "copying"]
    done = [d for d, total in disks if total]
    assert done and {total for _, total in disks if total} == {8 << 20}, disks
    assert done == sorted(done) and done[0] < done[-1], disks
    arrived(hosts.a, hosts.b)


@case("migrate-json-fails")
def json_failure(t):
    hosts = started(t, faults_b="replica.load:1")
    p = hosts.a.pollux("migrate", "demo", "hostb", "--json")
    lines = [json.loads(line) for line in p.stdout.splitlines()]
    assert p.returncode == lines[-1]["exit_code"] == 1, p
    assert lines[-1]["event"] == "failed" and "load the state" in lines[-1]["error"], lines[-1]
    assert lines[-1]["hint"] == "the VM runs on here", lines[-1]
