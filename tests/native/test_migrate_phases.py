# SPDX-License-Identifier: Apache-2.0
"""Mishaps in phases of a migration that need a hand to be hit: nothing has been sent yet; the guest
has been handed over and does not run yet, or its memory follows it."""
import os
import signal

from case import case
from hosts import Hosts, goes_on, reaped, wait_until
from moves import FOLLOWS, arrived, copying, ended, moves, pulling, started, stays


def in_phase(hosts, phase):
    def it_is():
        return (hosts.a.vm().get("operation") or {}).get("phase") == phase
    wait_until(it_is, 20, lambda: f"{phase}, not {hosts.a.vm().get('operation')}")


def polluxd_killed(hosts):
    hosts.b.daemon.kill()
    hosts.b.daemon.wait()


def goes_nowhere(hosts, command):
    """It runs on here, and goes when it is tried again."""
    ended(command, 1, "the VM runs on here")
    hosts.b.up()
    hosts.wait_connected()
    stays(hosts)
    moves(hosts)


@case("migrate-target-polluxd-dies-checking")
def target_dies_checking(t):
    """It is asked what is in the way, and never says it."""
    hosts = started(t)
    os.kill(hosts.b.daemon.pid, signal.SIGSTOP)
    command = hosts.a.pollux("migrate", "demo", "hostb", background=True)
    in_phase(hosts, "checking")
    polluxd_killed(hosts)
    goes_nowhere(hosts, command)


class Halted:
    """A VM program of all hosts that stops before it is one, once."""

    def __init__(self, t):
        self.t, self.path, self.told = t, t.path("halted"), t.path("halted.pid")
        with open(self.path, "w") as f:
            f.write(f"""#!/bin/sh
[ -e {self.told}.next ] && mv {self.told}.next {self.told} && echo $$ >{self.told} && kill -STOP $$
exec {t.build}/pollux-vm "$@"
""")
        os.chmod(self.path, 0o755)

    def extra(self):
        return f'\nvm_program = "{self.path}";'

    def arm(self):
        open(self.told + ".next", "w").close()

    def pid(self):
        """When there is one."""
        def told():
            return os.path.exists(self.told) and os.path.getsize(self.told)
        wait_until(told, 20, "the program has begun")
        with open(self.told) as f:
            pid = int(f.read())

        def stopped():
            with open(f"/proc/{pid}/stat") as f:
                return f.read().rsplit(")", 1)[1].split()[0] == "T"
        wait_until(stopped, 20, "it has stopped")
        return pid


def connecting(t):
    """A migration whose target's process has begun and says nothing. The hosts, the command and that
    process."""
    halted = Halted(t)
    hosts = Hosts(t, extra=halted.extra())
    hosts.a.do("start", hosts.vm_file(cmdline="pages=1500 rate=20000 report=5"))
    goes_on(hosts.a)
    halted.arm()
    command = hosts.a.pollux("migrate", "demo", "hostb", background=True)
    pid = halted.pid()
    in_phase(hosts, "connecting")
    return hosts, command, pid


@case("migrate-target-process-dies-connecting")
def target_process_dies_connecting(t):
    hosts, command, pid = connecting(t)
    os.kill(pid, signal.SIGKILL)
    ended(command, 1, "the VM runs on here")
    stays(hosts)
    moves(hosts)


@case("migrate-target-polluxd-dies-connecting")
def target_polluxd_dies_connecting(t):
    """Its process finds nobody who could tell it what it is for, and ends."""
    hosts, command, pid = connecting(t)
    polluxd_killed(hosts)
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: reaped(pid), 20, "the process has ended")
    goes_nowhere(hosts, command)


def handed(t):
    """RELEASED is said, and the target's polluxd has not heard it: it stands still itself. Returns
    the hosts, the command, and the target's process."""
    hosts = started(t, loss={"loss_ms": 20000}, cmdline="pages=2000 rate=200 report=1")
    command = copying(hosts, "--downtime", "2000")
    pid = hosts.b.vm_pids()[0]
    t.cleanup(lambda: os.kill(hosts.b.daemon.pid, signal.SIGCONT))
    os.kill(hosts.b.daemon.pid, signal.SIGSTOP)
    hosts.a.wait("handed-over")
    return hosts, command, pid


@case("migrate-target-process-dies-handed-over")
def target_process_dies_handed(t):
    """Past the commit point, and before it has run there: it is given back."""
    hosts, command, pid = handed(t)
    os.kill(pid, signal.SIGKILL)
    os.kill(hosts.b.daemon.pid, signal.SIGCONT)
    ended(command, 1, "the VM runs on here")
    stays(hosts)
    moves(hosts)


@case("migrate-source-process-dies-handed-over")
def source_process_dies_handed(t):
    """What it had is whole over there."""
    hosts, command, _ = handed(t)
    os.kill(hosts.a.vm_pids()[0], signal.SIGKILL)
    os.kill(hosts.b.daemon.pid, signal.SIGCONT)
    command.communicate(timeout=60)
    arrived(hosts.a, hosts.b)


@case("migrate-target-disk-full-at-the-end", needs=("kvm", "root"))
def target_disk_full_at_end(t):
    """What came last does not fit."""
    hosts = started(t, faults_b="replica.commit:1:28", own_disks=True, disk="demo.img")
    text = hosts.a.refuses(1, "migrate", "demo", "hostb", "--with-disks", "--overwrite")
    assert "No space left" in text and "the VM runs on here" in text, text
    stays(hosts)


@case("migrate-postcopy-target-process-dies", needs=("kvm", "root"))
def postcopy_target_process_dies(t):
    """It ran there, and is down with what it had become; what the source kept is of no use."""
    hosts = started(t, cmdline=FOLLOWS,
                    faults_a=",".join(f"postcopy.relink:{n}" for n in range(1, 5)))
    command = pulling(hosts)
    os.kill(hosts.b.vm_pids()[0], signal.SIGKILL)
    ended(command, 1)
    hosts.b.wait("stopped")
    hosts.a.wait("memory-held")
    assert "does not run there" in hosts.a.refuses(1, "migrate", "demo", "--recover")
    hosts.a.refuses(3, "start", t.path("demo.cfg"))
    hosts.a.do("stop", "demo", "--force")
    hosts.a.wait("none")
    assert hosts.a.vm_pids() == []
    hosts.b.do("start", t.path("demo.cfg"))
    goes_on(hosts.b)
