# SPDX-License-Identifier: Apache-2.0
"""A migration is cancelled within a second, whatever it is at, and leaves nothing behind. One that
takes longer may have been the machine's fault: the median of several is judged. Where the target
does not answer 0.5 s of it go into waiting for it: there the least is."""
import contextlib
import os
import signal
import statistics
import time

from case import case
from hosts import Hosts, goes_on, wait_until
from moves import SLOW, copies, ended, stats, stays
from test_migrate_stuck import STUCK, WRITER
from wire import BURST

WITHIN_S = 1
LONG_PAUSE = ("--bandwidth", "4", "--compression", "none", "--downtime", "20000")


def copies_disk(hosts):
    def under_way():
        disk = stats(hosts).get("disks", [{"copied": 0, "to_copy": 0}])[0]
        return 1 << 18 < disk["copied"] < disk["to_copy"]
    wait_until(under_way, 20, "a part of the disk is copied")


def throttles(hosts):
    wait_until(lambda: stats(hosts).get("throttle", 0) > 0, 90, "the guest is throttled")


def stands_still(hosts):
    """What was sent last is on a way that is slow from now on, to the target and back."""
    copies(hosts)
    hosts.proxy.delay["forward"] = 2.5
    wait_until(lambda: hosts.a.vm().get("ownership") == "freezing", 40, "the guest stands still")


def hangs(hosts):
    copies(hosts)
    os.kill(hosts.b.vm_pids()[0], signal.SIGSTOP)


# ---- before anything is copied ---------------------------------------------------------------

def checks(hosts):
    in_phase(hosts, "checking")


def connects(hosts):
    in_phase(hosts, "connecting")


def in_phase(hosts, phase):
    wait_until(lambda: hosts.a.vm()["operation"].get("phase") == phase, 20, f"the phase is {phase}")


def hangs_at_birth(hosts):
    """The target's process, and so its polluxd has nothing to say."""
    def stopped(pid):
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0] == "T"
    wait_until(lambda: any(map(stopped, hosts.b.vm_pids())), 20, "the target's process hangs")
    connects(hosts)


def target_falls_silent(hosts):
    hangs_at_birth(hosts)
    os.kill(hosts.b.daemon.pid, signal.SIGSTOP)


def measures(hosts):
    """How much the link to the other host carries, of which nothing comes back."""
    assert hosts.proxy.muted.wait(20), "the link is not measured"
    checks(hosts)


def unheard(hosts):
    assert hosts.proxy.muted.wait(20), "no stream has been connected"
    connects(hosts)


def unanswered(hosts):
    wait_until(hosts.proxy.calls, 20, "the source calls the target")
    connects(hosts)


@contextlib.contextmanager
def no_answer(hosts):
    """The target's polluxd takes what is asked, and answers later."""
    os.kill(hosts.b.daemon.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(hosts.b.daemon.pid, signal.SIGCONT)


@contextlib.contextmanager
def no_process(hosts):
    """The target's process does not get to its program."""
    program, hold = hosts.t.path("pollux-vm"), hosts.t.path("hold")
    if not os.path.exists(program):
        with open(program, "w") as f:
            f.write(f'#!/bin/sh\n[ -e {hold} ] && kill -STOP $$\n'
                    f'exec {hosts.t.build}/pollux-vm "$@"\n')
        os.chmod(program, 0o755)
        with open(hosts.b.config, "a") as f:
            f.write(f'vm_program = "{program}";\n')
        hosts.b.down()
        hosts.b.up()
        hosts.wait_connected()
    with open(hold, "w"):
        pass
    try:
        yield
    finally:
        os.unlink(hold)
        os.kill(hosts.b.daemon.pid, signal.SIGCONT)


def mute(stream):
    @contextlib.contextmanager
    def muted(hosts):
        """What connects that stream is accepted, and hears nothing."""
        hosts.proxy.mute = (stream,)
        hosts.proxy.muted.clear()
        try:
            yield
        finally:
            hosts.proxy.mute = ()
    return muted


@contextlib.contextmanager
def black_hole(hosts):
    """Once the link has been measured, whoever connects hears nothing, not even a refusal."""
    hosts.proxy.last = BURST
    try:
        yield
    finally:
        hosts.proxy.last = None
        hosts.proxy.hear()


# ---- how, and what is left ------------------------------------------------------------------

def by_command(hosts, command):
    assert "it runs on here" in hosts.a.do("migrate", "demo", "--cancel")
    return command


def by_interrupt(hosts, command):
    command.send_signal(signal.SIGINT)
    command.wait(60)
    return command


def cancelled(hosts, options, until, how, trouble):
    """Begins one and cancels it; the seconds until the guest runs on, as if nothing had been tried."""
    with trouble(hosts):
        command = hosts.a.pollux("migrate", "demo", "hostb", *options, background=True)
        until(hosts)
        began = time.monotonic()
        how(hosts, command)
        took = time.monotonic() - began
        vm = hosts.a.vm()
        assert (vm["state"], vm["operation"]["state"]) == ("running", "failed"), vm
        if hosts.proxy:
            hosts.proxy.delay["forward"] = 0
        ended(command, 1, "cancelled" if how is by_command else "the VM runs on here")
    stays(hosts)
    hosts.wait_connected()
    return took


@case("migrate-cancel-within-a-second-checking", trouble=no_answer, until=checks, how=by_command)
@case("migrate-cancel-within-a-second-checking-ctrl-c", trouble=no_answer, until=checks,
      how=by_interrupt)
@case("migrate-cancel-within-a-second-measuring", trouble=mute(BURST), until=measures, proxied=True,
      how=by_command)
@case("migrate-cancel-within-a-second-target-not-ready", trouble=no_process, until=hangs_at_birth,
      how=by_command)
@case("migrate-cancel-within-a-second-target-not-ready-ctrl-c", trouble=no_process,
      until=hangs_at_birth, how=by_interrupt)
@case("migrate-cancel-within-a-second-target-silent", trouble=no_process,
      until=target_falls_silent, how=by_command)
@case("migrate-cancel-within-a-second-connecting-mute", trouble=mute(0), until=unheard, proxied=True,
      how=by_command)
@case("migrate-cancel-within-a-second-connecting-mute-ctrl-c", trouble=mute(0), until=unheard,
      proxied=True, how=by_interrupt)
@case("migrate-cancel-within-a-second-connecting-black-hole", trouble=black_hole, until=unanswered,
      proxied=True, how=by_command)
@case("migrate-cancel-within-a-second", how=by_command)
@case("migrate-cancel-within-a-second-ctrl-c", how=by_interrupt)
@case("migrate-cancel-within-a-second-target-hangs", until=hangs, how=by_command, judged=min)
@case("migrate-cancel-within-a-second-disks", until=copies_disk, how=by_command,
      options=("--with-disks", "--overwrite"), disk="demo.img", needs=("kvm", "root"))
@case("migrate-cancel-within-a-second-disks-ctrl-c", until=copies_disk, how=by_interrupt,
      options=("--with-disks", "--overwrite"), disk="demo.img", needs=("kvm", "root"))
@case("migrate-cancel-within-a-second-shared-disk", how=by_command, shared="demo.img")
@case("migrate-cancel-within-a-second-throttled", until=throttles, how=by_command, seconds=300,
      slow=STUCK, times=3, vm=WRITER)
@case("migrate-cancel-within-a-second-pausing", until=stands_still, how=by_command, judged=min,
      slow=LONG_PAUSE, shared="demo.img", proxied=True)
@case("migrate-cancel-within-a-second-pausing-ctrl-c", until=stands_still, how=by_interrupt,
      judged=min, slow=LONG_PAUSE, proxied=True)
def cancel(t, how, until=copies, options=(), slow=SLOW, times=5, vm=None, disk=None, shared=None,
           proxied=False, judged=statistics.median, trouble=contextlib.nullcontext):
    loss = {"loss_ms": 15000} if until is stands_still else {}  # its link is slow all at once
    hosts = Hosts(t, own_disks=bool(disk), proxied=proxied, **loss)
    vm = {"cmdline": "pages=1500 rate=20000 report=5", "disk": disk or shared, **(vm or {})}
    hosts.a.do("start", hosts.vm_file(**vm))
    if disk:
        with open(t.path(f"disks-hosta/{disk}"), "r+b") as f:
            f.write(os.urandom(8 << 20))
    goes_on(hosts.a)
    took = [cancelled(hosts, (*slow, *options), until, how, trouble) for _ in range(times)]
    print("# cancelled within", " ".join(f"{s:.3f}" for s in took), "s")
    assert judged(took) < WITHIN_S, took
