# SPDX-License-Identifier: Apache-2.0
"""polluxd and pollux over real VM processes: who runs a VM, and who is fenced for it."""
import os
import re
import signal
import subprocess
import time

from case import case
from hosts import SILENCE, Hosts, goes_on, passes, wait_until


@case("polluxd-host-dies", mode="event")
@case("polluxd-host-dies-interval", mode="interval")
def host_dies(t, mode):
    """And comes back, and takes the VM in again as a standby."""
    hosts = Hosts(t, **SILENCE)
    hosts.protected("--mode", mode)
    pids = hosts.a.kill()
    hosts.b.wait("running")
    assert hosts.fenced() == ["hosta"], hosts.fenced()
    whats = hosts.b.whats()
    order = [whats.index(w) for w in
             ("loss detected", "fence asked", "fenced", "promoting", "running")]
    assert order == sorted(order), whats
    print(f"loss to running: {hosts.b.between('loss detected', 'running'):.1f} ms")
    goes_on(hosts.b)
    wait_until(lambda: all(not os.path.exists(f"/proc/{p}") or "Z" in open(
        f"/proc/{p}/stat").read().split()[2] for p in pids), 10, "the old host is dead")
    hosts.a.daemon.wait()
    hosts.a.up()
    hosts.a.wait("none")
    hosts.a.refuses(3, "start", hosts.vm_file())
    hosts.b.do("protect", "demo", "--to", "hosta")
    hosts.a.wait("standby")
    goes_on(hosts.b)


@case("polluxd-vm-process-dies")
def vm_process_dies(t):
    """The host lives and says so itself: nobody is fenced, unless that takes a second."""
    hosts = Hosts(t)
    hosts.protected()
    hosts.only_words_decide()
    os.kill(hosts.a.vm_pids()[0], signal.SIGKILL)
    hosts.b.wait("running")
    hosts.a.wait("none")
    at = {e["what"]: e["boottime_ns"] for e in reversed(hosts.b.vm()["timeline"])}  # the first of each
    assert "fence asked" not in at or at["fence asked"] - at["loss detected"] >= 1e9, at
    goes_on(hosts.b)


@case("polluxd-vm-process-hangs")
def vm_process_hangs(t):
    """Its polluxd lives and would say so for ever: it finds out, and ends the process."""
    hosts = Hosts(t, **SILENCE)
    hosts.protected()
    hosts.only_words_decide()
    os.kill(hosts.a.vm_pids()[0], signal.SIGSTOP)
    hosts.b.wait("running")
    hosts.a.wait("none")
    goes_on(hosts.b)


@case("polluxd-standby-process-dies")
def standby_process_dies(t):
    hosts = Hosts(t)
    hosts.protected()
    hosts.only_words_decide()
    os.kill(hosts.b.vm_pids()[0], signal.SIGKILL)
    hosts.a.wait("running")
    hosts.b.wait("none")
    goes_on(hosts.a)


@case("polluxd-standby-host-dies")
def standby_host_dies(t):
    hosts = Hosts(t, **SILENCE)
    hosts.protected()
    hosts.b.kill()
    hosts.a.wait("running")
    assert hosts.fenced() == ["hostb"]
    goes_on(hosts.a)


@case("polluxd-standby-host-dies-stall")
def standby_host_dies_stall(t):
    hosts = Hosts(t, **SILENCE)
    hosts.protected("--policy", "stall")
    hosts.b.kill()
    hosts.a.wait("asking")
    time.sleep(1)
    assert hosts.a.vm()["state"] == "asking" and not hosts.fenced()
    hosts.a.refuses(3, "unprotect", "demo")
    hosts.a.do("failover", "demo", "--force")
    goes_on(hosts.a)
    hosts.b.end_dead()


@case("polluxd-fence-fails")
def fence_fails(t):
    """It waits, says why, and does not promote until an operator takes it upon himself."""
    hosts = Hosts(t, **SILENCE)
    hosts.protected()
    hosts.fence(3)
    hosts.a.kill()
    hosts.b.wait("deciding")
    wait_until(lambda: "fence failed" in hosts.b.whats(), 20, "the fence has failed")
    assert "exit code 3" in hosts.b.vm()["why"], hosts.b.vm()["why"]
    assert "make sure" in hosts.b.refuses(3, "failover", "demo")
    assert hosts.b.vm()["state"] == "deciding"
    hosts.a.end_dead()
    hosts.b.do("failover", "demo", "--force")
    goes_on(hosts.b)


@case("polluxd-restarts")
def restarts(t):
    """Twice, with the VM unprotected and protected; it is the same process all the time."""
    hosts = Hosts(t)
    hosts.a.do("start", hosts.vm_file())
    pid = hosts.a.vm_pids()
    hosts.a.down()
    hosts.a.up()
    hosts.a.wait("running")
    assert hosts.a.vm_pids() == pid
    hosts.wait_connected()
    hosts.a.do("protect", "demo", "--to", "hostb")
    hosts.a.down()
    time.sleep(0.5)
    assert hosts.b.vm()["state"] == "standby"
    hosts.a.up()
    hosts.a.wait("protected")
    assert hosts.a.vm_pids() == pid
    goes_on(hosts.a)
    hosts.a.do("unprotect", "demo")
    hosts.b.wait("none")
    goes_on(hosts.a)


@case("polluxd-killed-then-host-dies")
def daemon_killed(t):
    """polluxd dies alone, is started again, and the failover still works."""
    hosts = Hosts(t)
    hosts.protected()
    hosts.a.daemon.kill()
    hosts.a.daemon.wait()
    hosts.a.up()
    hosts.a.wait("protected")
    hosts.wait_connected()
    hosts.only_words_decide()
    os.kill(hosts.a.vm_pids()[0], signal.SIGKILL)
    hosts.b.wait("running")
    goes_on(hosts.b)


@case("polluxd-stop-protected")
def stop_protected(t):
    hosts = Hosts(t)
    hosts.protected()
    hosts.a.do("stop", "demo", "--force")
    hosts.a.wait("stopped")
    hosts.b.wait("none")
    assert not hosts.a.vm_pids() and not hosts.b.vm_pids() and not hosts.fenced()
    hosts.a.do("start", hosts.vm_file())
    goes_on(hosts.a)


@case("polluxd-disks")
def disks(t):
    """The copy's file is made; one that is there is not written over unasked, and the VM's own one,
    which both hosts see here, not at all: it is locked."""
    hosts = Hosts(t)
    hosts.a.do("start", hosts.vm_file(disk="demo.img"))
    message = hosts.a.refuses(1, "protect", "demo", "--to", "hostb")
    assert "--overwrite" in message and "demo.img" in message, message
    message = hosts.a.refuses(1, "protect", "demo", "--to", "hostb", "--overwrite")
    assert "demo.img" in message and "used by process" in message, message
    assert hosts.a.vm()["state"] == "running"
    goes_on(hosts.a)


@case("polluxd-protect-interrupted")
def interrupted(t):
    """Ctrl-C during the first copy leaves the VM as it was, and says so."""
    hosts = Hosts(t)
    hosts.a.do("start", hosts.vm_file(memory="512M", cmdline="pages=60000 rate=200000 report=5"))
    p = hosts.a.pollux("protect", "demo", "--to", "hostb", background=True)
    wait_until(lambda: hosts.a.vm()["state"] in ("syncing", "protected"), 20, "the copy has begun")
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=30)
    if p.returncode == 0:
        assert "is protected" in out
        return
    assert p.returncode == 1 and "runs on, unprotected" in err, (p.returncode, err)
    hosts.a.wait("running")
    hosts.b.wait("none")


@case("polluxd-ten-hops", seconds=400)
def ten_hops(t):
    """To and fro; each time the process is killed, the guest checks its memory."""
    hosts = Hosts(t)
    hosts.only_words_decide()
    hosts.a.do("start", hosts.vm_file())
    here, there = hosts.a, hosts.b
    for _ in range(10):
        here.do("protect", "demo", "--to", there.name)
        there.wait("standby")
        os.kill(here.vm_pids()[0], signal.SIGKILL)
        there.wait("running")
        here.wait("none")
        here, there = there, here
        goes_on(here)


@case("polluxd-failover-figures")
def figures(t):
    """Figures to look at: nothing is decided by them."""
    hosts = Hosts(t, heartbeat_ms=20)
    hosts.protected()
    hosts.a.kill()
    hosts.b.wait("running")
    for first, last in (("loss detected", "fence asked"), ("fence asked", "fenced"),
                        ("fenced", "promoting"), ("promoting", "running")):
        print(f"{first} to {last}: {hosts.b.between(first, last):.2f} ms")


@case("pollux-run")
def run_directly(t):
    """Without polluxd: the console is standard output, a signal ends it."""
    hosts = Hosts(t)
    p = subprocess.Popen([f"{t.build}/pollux", "run", hosts.vm_file()], stdin=subprocess.DEVNULL,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    os.set_blocking(p.stdout.fileno(), False)
    text = b""

    def said():
        nonlocal text
        text += p.stdout.read() or b""
        return len(passes(text.decode())) >= 3
    wait_until(said, 20, "three passes")
    p.send_signal(signal.SIGTERM)
    asked = p.stderr.readline()
    assert b"shut down" in asked, asked
    p.send_signal(signal.SIGHUP)  # of a session that ends: no second word
    time.sleep(0.5)
    assert p.poll() is None, "another signal was taken for the same one again"
    p.send_signal(signal.SIGTERM)
    _, err = p.communicate(timeout=20)
    assert p.returncode == 0 and b"ending the guest" in err, (p.returncode, err)
    bad = t.path("bad.cfg")
    with open(bad, "w") as f:
        f.write('name = "x";\nmemory = "16M"; vcpus = 99;\n')
    p = subprocess.run([f"{t.build}/pollux", "run", bad], capture_output=True, text=True, timeout=20)
    assert p.returncode == 2 and re.search(r"bad\.cfg:2: ", p.stderr), p.stderr
