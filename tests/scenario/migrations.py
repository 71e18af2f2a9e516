# SPDX-License-Identifier: Apache-2.0
"""Live migration of an SMP Linux under load, as its client sees it: a memory writer that checks what
it wrote, a loop of fsync, a TCP connection that lasts from the beginning to the end."""
import json
import os
import shlex

from guest import Watch
from judge import client_content, log_clean, must
from labkit.cluster import SHARED_DISK

# In a row, by what hosts are; a long run takes 50.
MOVES = {kind: int(os.environ.get("POLLUX_MIGRATIONS", usual))
         for kind, usual in (("namespaces", 8), ("emulated", 4))}
LOAD = "mem:300,disk:10"
WAYS = ((), ("--streams", "4"), ("--postcopy", "--downtime", "0"),
        ("--postcopy", "--downtime", "0", "--streams", "4"))
COPIED = ("--with-disks", "--overwrite")
OTHER = {"hosta": "hostb", "hostb": "hosta"}
SLOW = ("--bandwidth", "4", "--compression", "none")  # so that something can come between
# Memory follows for ten seconds.
FOLLOWED = ("--postcopy", "--downtime", "0", "--bandwidth", "2", "--compression", "none")

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


def guest_well(arena, still_ms=None):
    """Its own word: it stood still for no longer than that."""
    arena.watch.judge(still_ms)
    for host in (h for h in OTHER if arena.host_state(h) == "up"):
        log_clean(arena.cluster.run(host, "cat /tmp/console 2>/dev/null; true")[1])


def up(arena, load=LOAD, **options):
    for host in OTHER:
        arena.cluster.run(host, "rm -f /tmp/console")
    arena.guest_up(load=load, **options)
    console_keep(arena, "hosta")
    arena.watch = Watch(arena)
    arena.cluster.client_start()
    arena.replies(10)


def move(arena, here, *options, timeout=120):
    """Returns its downtime in milliseconds."""
    there = OTHER[here]
    text = arena.cluster.pollux(here, "migrate", "demo", there, "--json", *options,
                                timeout=timeout)[1]
    done = json.loads(text.strip().splitlines()[-1])
    must(done["event"] == "done", f"the last event is {done['event']}")
    must(arena.state(there) == "running", f"{there} says {arena.state(there)}")
    console_keep(arena, there)
    arena.replies(10)
    return done["vm"]["migration"]["downtime_ns"] / 1e6


def _there_and_back(arena, *options):
    here, still = "hosta", []
    for n in range(MOVES[arena.cluster.kind]):
        still.append(move(arena, here, *WAYS[n % len(WAYS)], *options))
        here = OTHER[here]
    print(f"# stood still for {', '.join(f'{ms:.0f}' for ms in still)} ms")
    guest_well(arena, sum(still))
    client_content(arena, here)


def linux_migrates_with_its_disk(arena):
    """Precopy and postcopy, 1 and 4 streams; nothing of the guest's on the wire in the clear."""
    path = arena.capture()
    up(arena)
    _there_and_back(arena, *COPIED)
    arena.capture_dark(path)


def up_shared(arena):
    """With no disks to copy beside memory, which is sent again only while they are."""
    (arena.place.share / "demo.img").unlink(missing_ok=True)
    up(arena, disk=SHARED_DISK)


def linux_migrates_on_shared_storage(arena):
    up_shared(arena)
    _there_and_back(arena)


# ---- what can go wrong in the midst of it ------------------------------------------------------

def begin(arena, *options):
    """A migration from hosta that is copying."""
    arena.cluster.pollux("hosta", "migrate", "demo", "hostb", "--detach", *SLOW, *COPIED, *options)
    arena.cluster.wait("memory is being copied", lambda: _sent(arena) > 1 << 20, 60)


def _sent(arena):
    stats = arena.vm("hosta").get("stats") or {}
    return (stats.get("replication") or {}).get("bytes_sent", 0)


def _stays(arena, host="hosta"):
    arena.wait_state(host, "running", timeout=40)
    arena.replies(20)
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
