# SPDX-License-Identifier: Apache-2.0
"""Live migration of an SMP Linux under load, as its client sees it: a memory writer that checks what
it wrote, a loop of fsync, a TCP connection that lasts from the beginning to the end."""
import json
import os
import shlex

from guest import Watch
from judge import client_content, log_clean, must
from labkit.cluster import SHARED_DISK

# In a row, by what hosts are; `make scenario-migrate` takes MOVES.
MOVES = {kind: int(os.environ.get("POLLUX_MIGRATIONS", usual))
         for kind, usual in (("namespaces", 8), ("emulated", 4))}
LOAD = "mem:300,disk:10"
# Streams are named in each: two are taken when nothing is said.
WAYS = (("--streams", "1"), ("--streams", "4"),
        ("--postcopy", "--downtime", "0", "--streams", "1"),
        ("--postcopy", "--downtime", "0", "--streams", "4"))
COPIED = ("--with-disks", "--overwrite")
OTHER = {"hosta": "hostb", "hostb": "hosta"}
SLOW = ("--bandwidth", "4", "--compression", "none")  # so that something can come between
# Memory follows for ten seconds.
FOLLOWED = ("--postcopy", "--downtime", "0", "--bandwidth", "2", "--compression", "none")

# Beyond what the guest stood still for, and as long again: TCP waits twice as long each time. The
# rest is for a busy machine.
GAP_SLACK_MS = {"namespaces": 4000, "emulated": 20000}

VIEWER = """
import os, socket
s = socket.socket(socket.AF_UNIX)
s.connect("/run/pollux/demo.console")
while data := s.recv(65536):
    os.write(1, data)
"""


def console_keep(arena, host):
    """The guest's console there, from now on, into a file of that host."""
    arena.cluster.run(host, f"setsid python3 -c {shlex.quote(VIEWER)} </dev/null "
                            f">>/tmp/console 2>/dev/null &")


# PID IMAGE: whether that process has the lock of that image.
LOCKED = """for f in /proc/$1/fd/*; do
    [ "$(readlink $f)" = "$2" ] && grep -q ^lock: /proc/$1/fdinfo/${f##*/} && exit 0
done; exit 1"""


def unburdened(arena, host):
    """As if nothing had been tried: at full speed, nothing logged, its disk its own."""
    def settled():
        """polluxd tells what it knew last, and only then asks anew."""
        stats = arena.vm(host).get("stats") or {}
        return (stats.get("throttle"), stats.get("log_dirty")) == (0, False)
    arena.cluster.wait("no throttle and no log of writes is left", settled, 10)
    image, pid = arena.cluster.disk.format(vm="demo"), str(arena.vm_pid(host))
    code, _ = arena.cluster.run(host, shlex.join(["sh", "-c", LOCKED, "sh", pid, image]),
                                check=False)
    must(code == 0, f"{image} is not locked on {host}")


def _beats(arena):
    """How often it was heard: what is wrong with its memory it says there alone."""
    return sum(int(arena.cluster.run(h, "grep -cs GUEST-CLOCK /tmp/console", check=False)[1] or 0)
               for h in OTHER if arena.host_state(h) == "up")


def guest_well(arena, still_ms=None):
    """Its own word, that it stood still for no longer than that; and nothing of it was on the wire
    in the clear since up()."""
    arena.watch.judge(still_ms)
    arena.capture_dark()
    heard = _beats(arena)
    arena.cluster.wait("the guest is heard on its console", lambda: _beats(arena) > heard, 30)
    for host in (h for h in OTHER if arena.host_state(h) == "up"):
        log_clean(arena.cluster.run(host, "cat /tmp/console 2>/dev/null; true")[1])


def up(arena, *, load=LOAD, silence_s=60, **options):
    """silence_s: then its client gives up."""
    for host in OTHER:
        arena.cluster.run(host, "rm -f /tmp/console")
    arena.capture()
    arena.guest_up(load=f"{load},clock:1", **options)
    console_keep(arena, "hosta")
    arena.watch = Watch(arena)
    arena.cluster.client_start(silence_s=silence_s)
    arena.replies(10)


def _gap_judge(arena, replies, still_ms):
    """The client's record from that reply on: no silence that the pause does not explain."""
    lines = arena.cluster.run("client", f"grep ' [0-9]*$' /tmp/client.log | tail -n +{replies}")[1]
    at = [int(line.split()[2]) for line in lines.splitlines() if line[0].isdigit()]
    gap_ms = max(after - before for before, after in zip(at, at[1:])) / 1e6
    must(gap_ms <= 2 * still_ms + GAP_SLACK_MS[arena.cluster.kind],
         f"the client had no reply for {gap_ms:.0f} ms, and the guest stood still for {still_ms:.0f}")
    print(f"# stood still for {still_ms:.1f} ms, and the client had no reply for {gap_ms:.1f}")


def move(arena, here, *options, timeout=120):
    """Returns its downtime in milliseconds, and how much memory followed it."""
    there, replies = OTHER[here], arena.cluster.client_replies()
    text = arena.cluster.pollux(here, "migrate", "demo", there, "--json", *options,
                                timeout=timeout)[1]
    done = json.loads(text.strip().splitlines()[-1])
    must(done["event"] == "done", f"the last event is {done['event']}")
    must(arena.state(there) == "running", f"{there} says {arena.state(there)}")
    console_keep(arena, there)
    arena.replies(10)
    migration = done["vm"]["migration"]
    still_ms = migration["downtime_ns"] / 1e6
    _gap_judge(arena, replies, still_ms)
    return still_ms, migration["sent"]["postcopy_bytes"]


def _there_and_back(arena, *options):
    here, still, followed = "hosta", [], 0
    for n in range(MOVES[arena.cluster.kind]):
        still_ms, bytes_late = move(arena, here, *WAYS[n % len(WAYS)], *options)
        still.append(still_ms)
        followed += bytes_late
        here = OTHER[here]
    must(followed or len(still) < 3, "no memory has ever followed the guest")
    must(min(still) < 1000, f"it never stood still for less than {min(still):.0f} ms")
    guest_well(arena, sum(still))
    client_content(arena, here)


def linux_migrates_with_its_disk(arena):
    """Precopy and postcopy, 1 and 4 streams; nothing of the guest's on the wire in the clear."""
    up(arena)
    _there_and_back(arena, *COPIED)


def up_shared(arena, **options):
    """With no disks to copy beside memory, which is sent again only while they are."""
    (arena.place.share / "demo.img").unlink(missing_ok=True)
    up(arena, disk=SHARED_DISK, **options)


def linux_migrates_on_shared_storage(arena):
    up_shared(arena)
    _there_and_back(arena)


FLAGS = "grep -m1 ^flags /proc/cpuinfo"


def _checked(arena, here, vm="demo"):
    """What `migrate --check` says there."""
    return arena.cluster.pollux(here, "migrate", vm, OTHER[here], "--check", *COPIED, timeout=60,
                                check=False)


def linux_keeps_the_cpu_it_began_with(arena):
    """Begun on the lesser host it goes to the better one and back, by migration and by failover's
    way in; begun on the better one it cannot go to the lesser, and what that lacks is named."""
    flags = {h: set(arena.cluster.run(h, FLAGS)[1].split()) for h in OTHER}
    more = sorted(flags["hostb"] - flags["hosta"])
    must(more, "the hosts' CPUs are equal")
    up(arena)
    for here in ("hosta", "hostb"):
        code, text = _checked(arena, here)
        must(code == 0, f"{here} is told {text}")
        move(arena, here, *COPIED)
    arena.cluster.pollux("hosta", "protect", "demo", "--to", "hostb", timeout=120)
    arena.cluster.pollux("hosta", "unprotect", "demo", timeout=60)
    guest_well(arena)
    client_content(arena, "hosta")
    arena.cluster.guest_start("hostb", vm="other")
    arena.cluster.guest_wait()
    code, text = _checked(arena, "hostb", "other")
    must(code, "a guest of the better CPU may go to the lesser host")
    must("lacks" in text and "fsgsbase" in text, f"what is lacking is not named: {text}")
    arena.cluster.pollux("hostb", "stop", "other", "--timeout", "100", timeout=130)


# ---- what can go wrong in the midst of it ------------------------------------------------------

def connected(arena):
    """Also after a cut, or a delay that came all at once: both are taken for a silent host."""
    arena.cluster.wait("the hosts are connected",
                       lambda: all('"connected": true' in
                                   arena.cluster.pollux(h, "list", "--peers", "--json",
                                                        check=False)[1] for h in OTHER), 40)


def begin(arena, *options):
    """A migration from hosta that is copying. What it has sent is told of the one before, until its
    own streams are there."""
    connected(arena)
    before = _sent(arena)
    arena.cluster.pollux("hosta", "migrate", "demo", "hostb", "--detach", *SLOW, *COPIED, *options)
    arena.cluster.wait("memory is being copied",
                       lambda: _sent(arena) > 1 << 20 and _sent(arena) != before, 60)


def _sent(arena):
    stats = arena.vm("hosta").get("stats") or {}
    return (stats.get("replication") or {}).get("bytes_sent", 0)


def _stays(arena, host="hosta"):
    arena.wait_state(host, "running", timeout=40)
    arena.replies(20)
    unburdened(arena, host)
    guest_well(arena)
    client_content(arena, host)


def migration_target_dies(arena):
    up(arena)
    begin(arena)
    arena.lab("kill", host="hostb")
    _stays(arena)


def migration_link_cut(arena):
    """Both hosts live: the source goes on, and nobody is fenced for it."""
    up(arena)
    begin(arena)
    arena.cut("repl")
    arena.wait_state("hosta", "running", timeout=40)
    arena.replies(20)
    must(arena.host_state("hostb") == "up", "hostb was fenced for a migration")
    arena.heal()
    arena.wait_state("hostb", "none", timeout=40)
    _stays(arena)


def migration_target_frozen(arena):
    """A target that stands still, and wakes when all is over, changes nothing."""
    up(arena)
    begin(arena)
    arena.lab("freeze", host="hostb")
    arena.wait_state("hosta", "running", timeout=40)
    arena.replies(10)
    arena.lab("thaw", host="hostb")
    arena.wait_state("hostb", "none", timeout=40)
    _stays(arena)


def migration_cut_while_memory_follows(arena):
    """Postcopy: the guest stands still until the link is made again, and nothing is lost."""
    up_shared(arena)
    arena.cluster.pollux("hosta", "migrate", "demo", "hostb", "--detach", *FOLLOWED)
    arena.wait_state("hosta", "serving", timeout=90)
    console_keep(arena, "hostb")
    arena.cut("repl")
    arena.wait_state("hostb", "memory-missing", timeout=30)
    must(arena.silent(), "a guest without its memory answered")
    arena.heal()

    def linked():
        """By an operator, if the source has not made the link again by itself."""
        return (arena.cluster.pollux("hosta", "migrate", "demo", "--recover", check=False,
                                     timeout=120)[0] == 0
                or arena.state("hostb") == "running")

    arena.cluster.wait("the hosts are connected again", linked, 120, 1)
    _stays(arena, "hostb")
