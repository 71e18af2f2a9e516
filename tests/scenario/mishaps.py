# SPDX-License-Identifier: Apache-2.0
"""Deaths, cuts and a full disk in each phase of a migration of Linux under load: before the guest
stands still, while it does, and while its memory follows. One owner after each, and no write that a
client was told of is lost, also where the VM is."""
import shlex

from arena import SMALL
from guest import Watch
from judge import client_content, must
from migrations import (COPIED, FOLLOWED, OTHER, SLOW, begin, connected, console_keep,
                        guest_well, move, unburdened, up, up_shared)

POSTCOPY = ("--postcopy", "--downtime", "0")
# So long that what is done at the sight of a state is done within that state.
STRETCH_USEC = {"namespaces": 1500000, "emulated": 3000000}
SEEN = "/lab/seen"  # by all hosts
# TCP that meets such a delay all at once keeps silent for longer than the delay.
PATIENT_MS = {"namespaces": {"heartbeat": 100, "loss": 6000, "fence_delay": 4000},
              "emulated": {"heartbeat": 250, "loss": 12000, "fence_delay": 4000}}
# For a guest that begins anew, now here, now there: emulated hosts differ in their CPUs.
ANYWHERE = "pollux-base"
NOT_HERE = ("none", "unknown")
WITHIN_S = 150  # also on emulated hosts


def _once(condition, line, meanwhile=":"):
    """A shell line that runs another one when the condition holds, which it does in so many seconds."""
    wait = f"until {condition}; do {meanwhile}; done"
    return f"timeout {WITHIN_S} sh -c {shlex.quote(wait)} && {line}"


def _state_seen(arena, host, ownership):
    """Looks as often as it can, on that host, and tells the others."""
    status = f"{arena.cluster.programs}/pollux status demo --json 2>/dev/null"
    seen = f"{status} | grep -Eq '\"ownership\": *\"{ownership}\"'"
    arena.cluster.run(host, _once(seen, f"touch {SEEN}"), timeout=WITHIN_S + 30)


def _stretched(arena, on=True):
    """The way to hostb alone: what hosta has sent when it is frozen is under way for all of it."""
    usec = STRETCH_USEC[arena.cluster.kind] if on else 0
    arena.lab("delay", net="repl", host="hostb", usec=usec)


def _handover_begin(arena, ownership, then_hostb=None):
    """A migration from hosta, seen in that state of its end, and what hostb does at that sight. The
    link gets slow when there is a migration."""
    arena.cluster.run("hosta", f"rm -f {SEEN}")
    begin(arena, "--compression", "lz4", "--downtime", "3000")
    if then_hostb:
        line = _once(f"[ -e {SEEN} ]", then_hostb, "sleep 0.01")
        arena.cluster.background("hostb", f"sh -c {shlex.quote(line)}", "/tmp/then")
    _stretched(arena)
    _state_seen(arena, "hosta", ownership)


def _host_back(arena, host):
    _stretched(arena, False)
    arena.lab("start", host=host)
    arena.cluster.polluxd_start(host)
    connected(arena)


def _place(arena, how=("running", "stopped")):
    """Where it is, and how, when both have made up their minds."""
    def decided():
        states = {h: arena.state(h) for h in OTHER}
        must(list(states.values()).count("running") < 2, f"two run it: {states}")
        for host, other in OTHER.items():
            if states[host] in how and states[other] in NOT_HERE:
                return host, states[host]
        return None
    return arena.cluster.wait(f"it is {' or '.join(how)} on one host, and the other has nothing of it",
                              decided, 60)


def _owner(arena):
    """The host that runs it, when both have made up their minds."""
    return _place(arena, ("running",))[0]


def _stays(arena):
    host = _owner(arena)
    must(host == "hosta", f"{host} runs it")
    arena.replies(10)
    unburdened(arena, host)


def _home(arena):
    """It is at hosta again, wherever it was."""
    host = _owner(arena)
    console_keep(arena, host)
    arena.replies(10)
    if host != "hosta":
        move(arena, host, *COPIED)


# ---- the guest outlives it --------------------------------------------------------------------------

def _fill(folder):
    return f"dd if=/dev/zero of={folder}/filler bs=64k 2>/dev/null"


def _image_gone(arena):
    """At the target: what has its place on the image would find it there."""
    arena.cluster.run("hostb", f"rm -f {SMALL}/demo.img")


def _filled(arena):
    """The disk at the target is full now: the migration fails for it."""
    arena.wait_state("hosta", "running", timeout=60)
    operation = arena.vm("hosta")["operation"]
    must(operation["state"] == "failed" and "No space left" in operation["error"],
         f"the disk was full, and the migration says: {operation}")
    arena.cluster.run("hostb", f"rm {SMALL}/filler")


def _disk_full(arena):
    _image_gone(arena)
    begin(arena)
    arena.cluster.run("hostb", _fill(SMALL), check=False)
    _filled(arena)


def _disk_full_frozen(arena):
    """By the last of what the guest wrote, which is on its way then."""
    _image_gone(arena)
    _handover_begin(arena, "freezing", _fill(SMALL))
    _filled(arena)
    _stretched(arena, False)


def _target_process_dies(arena):
    begin(arena)
    arena.kill_vm("hostb")


def _target_process_dies_frozen(arena):
    _handover_begin(arena, "freezing", "killall -9 pollux-vm")
    arena.wait_state("hosta", "running", timeout=40)
    _stretched(arena, False)


def _link_cut_frozen(arena):
    _handover_begin(arena, "freezing")
    arena.cut("repl")
    arena.wait_state("hosta", "running", timeout=40)
    arena.heal()
    _stretched(arena, False)


def _target_host_dies_frozen(arena):
    _handover_begin(arena, "freezing")
    arena.lab("kill", host="hostb")
    arena.wait_state("hosta", "running", timeout=40)
    _host_back(arena, "hostb")


def _link_cut_handed(arena):
    """Where it goes on depends on whether the last word got through; somewhere it does."""
    _handover_begin(arena, "handed")
    arena.cut("repl")
    arena.linger()
    arena.heal()
    _stretched(arena, False)


def migration_fails_in_each_phase(arena):
    """One VM and one connection through all of it."""
    arena.cluster.run("hosta", f"mkdir -p {SMALL}")
    arena.cluster.run("hostb", f"mkdir -p {SMALL} && mount -t tmpfs -o size=12M small {SMALL}")
    arena.cluster.times_ms = PATIENT_MS[arena.cluster.kind]
    up(arena, disk=SMALL + "/{vm}.img")
    # The full disk while it is frozen comes first: when the guest has once written all its
    # blocks, it needs no more space.
    for mishap in (_disk_full_frozen, _disk_full, _target_process_dies, _target_process_dies_frozen,
                   _link_cut_frozen, _target_host_dies_frozen):
        mishap(arena)
        print(f"# {mishap.__name__[1:]}: hosta goes on")
        _stays(arena)
        if mishap is _disk_full:
            arena.cluster.run("hostb", f"umount {SMALL}")
    _link_cut_handed(arena)
    print(f"# link_cut_handed: {_owner(arena)} goes on")
    _home(arena)
    guest_well(arena)
    client_content(arena, _owner(arena))


# More than SLOW carries, also as differences: there is no moment at which nothing is left to follow.
CEASELESS = "mem:100000,disk:10"
SLOWER = {"namespaces": SLOW, "emulated": ("--bandwidth", "2", "--compression", "none")}


def migration_disk_full_once_it_is_copied(arena):
    """Nothing that comes then takes space: what the guest still writes, the record of who owns it,
    and memory that follows it."""
    folder = "/var/lib/pollux"
    for host in OTHER:
        arena.cluster.run(host, f"mkdir -p {folder}")
    arena.cluster.run("hostb", f"mount -t tmpfs -o size=12M small {folder}")
    arena.cluster.run("hosta", "(head -c 4K /dev/zero; head -c 8188K /dev/urandom) >"
                               f"{folder}/demo.img")
    up(arena, load=CEASELESS)
    arena.cluster.pollux("hosta", "migrate", "demo", "hostb", "--detach", *COPIED, *POSTCOPY,
                         *SLOWER[arena.cluster.kind])
    copied = f"[ $(stat -c %b {folder}/demo.img 2>/dev/null || echo 0) -ge 16384 ]"
    arena.cluster.run("hostb", _once(copied, f"{{ {_fill(folder)}; true; }}", "sleep 0.02"),
                      timeout=WITHIN_S + 30)
    must(arena.state("hosta") == "migrating", f"hosta is {arena.state('hosta')} already")
    arena.wait_state("hosta", "none", timeout=150)
    must(arena.happened("hosta", "serving"),
         f"no memory has followed it: {[e['what'] for e in arena.vm('hosta')['timeline']]}")
    console_keep(arena, "hostb")
    arena.replies(20)
    guest_well(arena)
    client_content(arena, "hostb")


# ---- a host dies that has what nobody else has --------------------------------------------------------

# A client gives up after that. No guest that lives keeps it, also on a busy machine.
SILENCE_S = {"namespaces": 15, "emulated": 40}


def _start(arena, host, silence_s):
    """The VM that is down on that host, and a client of its own. What it said on its way down is no
    sign of what it is now: Linux has given up its disk by then."""
    for each in OTHER:
        arena.cluster.run(each, "rm -f /tmp/console")
    arena.cluster.pollux(host, "start", "/lab/demo.cfg", timeout=120)
    arena.cluster.guest_wait()
    console_keep(arena, host)
    arena.watch = Watch(arena)
    arena.cluster.client_start(silence_s=silence_s)
    arena.replies(10)


def _down(arena, host):
    """Its client sees no end, and what it was told of is on the disk of that host."""
    arena.cluster.wait("the client has given up", lambda: not arena.cluster.client_running(), 90)
    verdict = arena.client_verdict()
    must(verdict["order"] == "ok", f"replies contradict each other: {verdict}")
    must(not any(arena.state(h) == "running" for h in OTHER), "a VM that is down runs")
    disk = arena.cluster.disk_verdict(host)
    must(disk["ok"], f"the disk on {host} does not agree with the client: {disk}")


def _source_process_dies_copying(arena):
    begin(arena)
    arena.kill_vm("hosta")
    arena.wait_state("hostb", *NOT_HERE, timeout=40)
    _down(arena, "hosta")
    return "hosta"


def _source_host_dies_copying(arena):
    begin(arena)
    arena.lab("kill", host="hosta")
    _host_back(arena, "hosta")
    arena.wait_state("hosta", "stopped", timeout=40)
    arena.wait_state("hostb", *NOT_HERE, timeout=40)
    _down(arena, "hosta")
    return "hosta"


def _target_host_dies_pulling(arena):
    """hostb owned it; what hosta still has is of no use, and is ended by force."""
    _pulling(arena)
    arena.lab("kill", host="hostb")
    _host_back(arena, "hostb")
    arena.wait_state("hostb", "stopped", timeout=40)
    _recovery_refused(arena)
    must(arena.state("hosta") in ("serving", "memory-held"), f"hosta is {arena.state('hosta')}")
    arena.cluster.pollux("hosta", "stop", "demo", "--force")
    return _torn(arena)


def _target_process_dies_pulling(arena):
    """What hostb had become is gone with its process; its polluxd says so, and what hosta still has
    is of no use."""
    _pulling(arena)
    arena.kill_vm("hostb")
    arena.wait_state("hostb", "stopped", timeout=40)
    must(arena.happened("hostb", "vm process died"), "hostb does not tell that its process died")
    _recovery_refused(arena)
    code, text = arena.cluster.pollux("hosta", "start", "/lab/demo.cfg", check=False)
    must(code != 0, f"hosta starts what hostb owns: {text}")
    must(arena.state("hosta") in ("serving", "memory-held"), f"hosta is {arena.state('hosta')}")
    arena.cluster.pollux("hosta", "stop", "demo", "--force")
    return _torn(arena)


def _source_host_dies_pulling(arena):
    """What was not sent is lost, and both say so."""
    _pulling(arena)
    arena.lab("kill", host="hosta")
    arena.wait_state("hostb", "memory-missing", timeout=40)
    must(arena.silent(), "a guest without its memory answered")
    _host_back(arena, "hosta")
    return _memory_lost(arena)


def _source_process_dies_pulling(arena):
    _pulling(arena)
    arena.kill_vm("hosta")
    arena.wait_state("hostb", "memory-missing", timeout=40)
    must(arena.silent(), "a guest without its memory answered")
    must(arena.happened("hosta", "memory lost"), "hosta does not tell that it lost memory")
    operation = arena.vm("hosta")["operation"]
    must(operation["state"] == "failed" and "hostb lacks of its memory is lost" in operation["error"],
         f"the memory is lost, and the migration says: {operation}")
    return _memory_lost(arena)


def _memory_lost(arena):
    """hostb owns it, says what it lacks and what is left to do; and hosta leaves it alone."""
    text = arena.vm("hostb")["postcopy"]["text"]
    must("are missing here" in text and "stands still" in text and "stop --force" in text,
         f"hostb says of the memory that it lacks: {text!r}")
    _recovery_refused(arena)
    code, text = arena.cluster.pollux("hosta", "start", "/lab/demo.cfg", check=False)
    must(code != 0 and "another host owns it" in text, f"hosta starts what hostb owns: {text}")
    must(arena.state("hostb") == "memory-missing", f"hostb is {arena.state('hostb')}")
    arena.cluster.pollux("hostb", "stop", "demo", "--force")
    return _torn(arena)


def _pulling(arena):
    arena.cluster.pollux("hosta", "migrate", "demo", "hostb", "--detach", *FOLLOWED)
    arena.wait_state("hosta", "serving", timeout=90)
    arena.replies(5)


def _recovery_refused(arena):
    code, text = arena.cluster.pollux("hosta", "migrate", "demo", "--recover", check=False)
    must(code != 0, f"what is lost was recovered: {text}")


def _torn(arena):
    """It is hostb's, and down."""
    arena.wait_state("hostb", "stopped", timeout=40)
    arena.wait_state("hosta", *NOT_HERE, timeout=40)
    _down(arena, "hostb")
    return "hostb"


def migration_loses_a_host_in_each_phase(arena):
    """The VM goes with a host that alone had all of it, or a part; its disk does not."""
    up(arena, silence_s=SILENCE_S[arena.cluster.kind], cpu=ANYWHERE)
    for mishap in (_source_process_dies_copying, _source_host_dies_copying):
        host = mishap(arena)
        print(f"# {mishap.__name__[1:]}: {host} has its disk")
        _start(arena, host, SILENCE_S[arena.cluster.kind])
    guest_well(arena)
    client_content(arena, "hosta")


def migration_loses_a_host_while_memory_follows(arena):
    """Neither host has all of it then: it is down, and says so; its disk is whole."""
    up_shared(arena, silence_s=SILENCE_S[arena.cluster.kind], cpu=ANYWHERE)
    for mishap in (_target_host_dies_pulling, _target_process_dies_pulling,
                   _source_host_dies_pulling, _source_process_dies_pulling):
        host = mishap(arena)
        print(f"# {mishap.__name__[1:]}: it is of {host}")
        _start(arena, host, SILENCE_S[arena.cluster.kind])
        move(arena, host)
    guest_well(arena)
    client_content(arena, "hosta")


# ---- a host dies while the guest stands still ---------------------------------------------------------

# It is known within that time whether a guest that stood still goes on, also on a busy machine.
UNCERTAIN_S = {"namespaces": 30, "emulated": 60}


def _process_killed(arena):
    arena.cluster.run("hosta", "killall -9 pollux-vm")


def _host_killed(arena):
    arena.lab("kill", host="hosta")
    _host_back(arena, "hosta")


def _lost_unless_whole(arena):
    """hosta is gone, and said nothing: the guest is lost with it, unless hostb has all of it. It is
    down when this returns, on the host that is returned."""
    host, state = _place(arena)
    print(f"# {host} has it, {state}")
    if state == "running":
        must(host == "hostb", "a process that was killed runs")
        console_keep(arena, host)
        arena.replies(10)
        guest_well(arena)
        client_content(arena, host)
        arena.capture()
        return host
    must(host == "hosta", "the guest was lost by hostb, which had never had it")
    _down(arena, host)
    return host


def migration_source_dies_frozen(arena):
    """hosta, or the process there, is gone with a guest that stands still, before it knows that
    hostb has all of it."""
    arena.cluster.times_ms = PATIENT_MS[arena.cluster.kind]
    up(arena, silence_s=UNCERTAIN_S[arena.cluster.kind], cpu=ANYWHERE)
    for killed in (_process_killed, _host_killed):
        _handover_begin(arena, "freezing")
        killed(arena)
        _stretched(arena, False)
        host = _lost_unless_whole(arena)
        _start(arena, host, UNCERTAIN_S[arena.cluster.kind])
        if host != "hosta":
            move(arena, host, *COPIED)
    guest_well(arena)
    client_content(arena, "hosta")


# hostb's polluxd stands still for a part of that.
HELD_MS = {"heartbeat": 100, "loss": 20000, "fence_delay": 4000}


def _handed_unheard(arena):
    """hosta has handed it over, and hostb's polluxd, which stands still, has not heard of it."""
    _handover_begin(arena, "freezing", "killall -STOP polluxd")
    arena.wait_state("hosta", "handed-over", timeout=40)
    _stretched(arena, False)


# All that process $p had open is closed then: what is sent to it does not pass for heard.
ENDED = "[ ! -e /proc/$p ] || grep -q '^State:.Z' /proc/$p/status"


def _target_process_dies_handed(arena):
    _handed_unheard(arena)
    arena.cluster.run("hostb", f"p=$(pidof -s pollux-vm); kill -9 $p; until {ENDED}; do sleep 0.05; done; "
                               "killall -CONT polluxd")


def _target_host_dies_handed(arena):
    _handed_unheard(arena)
    arena.lab("kill", host="hostb")
    _host_back(arena, "hostb")


def migration_target_dies_handed(arena):
    """All of it was at hostb, and it was hostb's to begin: hosta, which has stood still, goes on when
    hostb says that there is nothing any more."""
    arena.cluster.times_ms = HELD_MS
    up(arena)
    for mishap in (_target_process_dies_handed, _target_host_dies_handed):
        mishap(arena)
        print(f"# {mishap.__name__[1:]}: hosta goes on")
        _stays(arena)
    guest_well(arena)
    client_content(arena, "hosta")


def migration_source_dies_handed(arena):
    """hosta is gone when hostb has all of it: that goes on as soon as hosta is back and says whose
    it is."""
    arena.cluster.times_ms = PATIENT_MS[arena.cluster.kind]
    up(arena)
    _handover_begin(arena, "handed")
    arena.lab("kill", host="hosta")
    _host_back(arena, "hosta")
    host = _owner(arena)
    print(f"# {host} goes on")
    console_keep(arena, host)
    arena.replies(20)
    guest_well(arena)
    client_content(arena, host)
