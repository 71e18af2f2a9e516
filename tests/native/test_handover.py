# SPDX-License-Identifier: Apache-2.0
"""The requests of an upgrade, one by one: whatever comes between them, one process has the VM."""
import json
import os
import random
import socket
import time

from case import PATIENCE, case
from director import Refused, VmProcess
from pair import Pair, wait_until

FDS_MOST = 32


def ask_fds(process, what, fds=(), **values):
    """Like process.ask(), with the descriptors that come beside the reply."""
    number = process.send(what, fds, **values)
    process.sock.settimeout(PATIENCE)
    while True:
        data, came, _, _ = socket.recv_fds(process.sock, 1 << 17, FDS_MOST)
        message = json.loads(data)
        if "event" in message:
            continue
        process.sock.settimeout(None)
        assert message["reply"] == number, message
        if not message["ok"]:
            raise Refused(f"{process.name}: {what}: {message['error']}")
        return message, came


class Move:
    """An echo guest under load, its process, and another one that may take it over."""

    def __init__(self, t, **guest):
        self.t, self.control, self.count, self.made = t, t.path("control"), 0, []
        self.pair = Pair(t, arguments=["--control", self.control], **guest)
        self.side = self.pair.primary
        self.old = self.side.process
        t.cleanup(self.end)
        self.pair.load(8)

    def successor(self):
        self.count += 1
        self.next = self.t.path(f"next-{self.count}")
        self.new = VmProcess(self.t.build + "/pollux-vm", self.t.path(f"new-{self.count}.log"),
                             f"new {self.count}", arguments=["--control", self.next])
        self.t.logs.append(self.t.path(f"new-{self.count}.log"))
        self.made.append(self.new)
        _, fds = ask_fds(self.old, "lend")
        self.new.ask("create", fds, config=self.side.config(), role="successor")
        close(fds)

    def end(self):
        """Without a director they would go on."""
        self.side.killed = True
        for process in (*self.made, self.side.process):
            process.kill()

    def yields(self):
        reply, self.fds = ask_fds(self.old, "yield", next=self.next)
        self.handover = reply["handover"]

    def adopt(self):
        reply = self.new.ask("adopt", self.fds, handover=self.handover, control=self.control)
        close(self.fds)
        return reply

    def taken(self):
        """The new one has it; the old one, too, knows that."""
        assert reclaim(self.old) == "another process has the vm"
        self.side.kill()
        self.old = self.new
        self.goes_on()
        assert not os.path.exists(self.next)
        wait_until(lambda: self.old.stats()["running"], PATIENCE, "it runs, between two epochs")
        assert not self.old.stats()["yielded"]

    def kept(self):
        """It goes on in the old one."""
        self.goes_on()
        wait_until(lambda: self.old.stats()["running"], PATIENCE, "it runs, between two epochs")
        assert not os.path.exists(self.next)

    def goes_on(self):
        self.pair.observer.wait_replies(30)


def close(fds):
    for fd in fds:
        os.close(fd)


def reclaim(process):
    try:
        process.ask("unyield")
    except Refused as e:
        return str(e).split(": ")[-1]
    return None


@case("handover", engine="kvm")
@case("handover-soft", engine="soft", needs=())
def moves(t, engine):
    move = Move(t, engine=engine)
    move.successor()
    move.pair.observer.wait_replies(20)  # it has the memory already, and the guest runs on
    move.yields()
    move.pair.observer.drain()
    move.pair.observer.expect_silence(0.1)
    move.adopt()
    move.taken()
    move.pair.observer.settle()
    assert not move.pair.observer.unseen


@case("handover-of-a-paused-vm")
def paused(t):
    move = Move(t)
    move.old.ask("pause")
    move.successor()
    move.yields()
    move.adopt()
    move.pair.observer.drain()
    move.pair.observer.expect_silence(0.2)
    assert not move.new.stats()["running"]
    move.new.ask("resume")
    move.taken()


@case("handover-back-and-forth")
def withdrawn(t):
    """Who was told to go on first does, and the other one is refused."""
    move = Move(t)
    for _ in range(5):
        move.successor()
        move.yields()
        assert reclaim(move.old) is None
        move.kept()
        try:
            move.adopt()
            raise AssertionError("it adopted what was not given up")
        except Refused as e:
            assert "not given up" in str(e), e
        move.kept()
        move.new.kill()
    assert reclaim(move.old) is None  # nothing was yielded
    move.successor()
    move.yields()
    move.adopt()
    move.taken()


@case("handover-new-process-dies")
def new_dies(t):
    """At a moment that nobody chooses: it has taken the VM by then, or the old one goes on."""
    outcomes = {True: 0, False: 0}
    move = Move(t)
    for _ in range(15):
        move.successor()
        move.yields()
        move.new.send("adopt", move.fds, handover=move.handover, control=move.control)
        time.sleep(random.uniform(0, 0.004))
        move.new.kill()
        close(move.fds)
        dead = reclaim(move.old) is not None
        outcomes[dead] += 1
        if dead:  # it was the VM that was killed
            assert not os.path.exists(move.next)
            break
        move.kept()
    print(outcomes)
    if outcomes[True]:
        move.side.kill()


@case("handover-director-dies")
@case("handover-director-dies-0-ms-later", adopts=True)
@case("handover-director-dies-1-ms-later", adopts=True, later=0.001)
@case("handover-director-dies-20-ms-later", adopts=True, later=0.02)
def director_dies(t, adopts=False, later=0):
    """Both lose it: they find out by themselves which of them goes on, and the other one ends."""
    move = Move(t)
    move.successor()
    move.yields()
    if adopts:
        move.new.send("adopt", move.fds, handover=move.handover, control=move.control)
        time.sleep(later)
    both = [move.old, move.new]
    for process in random.sample(both, 2):
        process.sock.close()
    close(move.fds)
    wait_until(lambda: [p.child.poll() for p in both].count(None) == 1, 20, "one of them has ended")
    stays = move.new if move.new.child.poll() is None else move.old
    assert stays is move.old or adopts
    stays.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    stays.sock.connect(move.control)
    move.goes_on()
    assert stays.stats()["running"] and not os.path.exists(move.next)
    print(f"{stays.name} went on")


@case("handover-another-director-comes")
def successor_director(t):
    """It is not the one who asked: the old process settles it before it listens."""
    move = Move(t)
    move.successor()
    move.yields()
    other = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    other.connect(move.control)
    move.old.sock, asker = other, move.old.sock
    move.kept()
    asker.close()
    close(move.fds)


@case("handover-refused")
def refused(t):
    move = Move(t)
    p = move.old

    def no(process, what, *words, fds=(), **values):
        try:
            process.ask(what, fds, **values)
        except Refused as e:
            assert all(w in str(e) for w in words), e
            return
        raise AssertionError(f"{what} {values} was not refused")
    no(p, "yield", "next")
    no(p, "yield", "next", next="x" * 200)
    no(p, "adopt", "no successor", handover={}, control=move.control)
    move.successor()
    no(move.new, "boot")
    no(move.new, "lend", "does not run")
    no(move.new, "yield", "does not run", next="x")
    with open("/dev/null") as f:
        spare = VmProcess(t.build + "/pollux-vm", t.path("spare.log"), "spare")
        t.cleanup(spare.close)
        no(spare, "create", "memory", config=move.side.config(), role="successor")
        no(spare, "create", "sealed", fds=[f.fileno()], config=move.side.config(),
           role="successor")
    move.yields()
    for what in ("pause", "resume", "shutdown", "lend", "boot", "protect", "console", "save"):
        no(p, what, "handed to another")
    no(p, "yield", "handed to another", next="x")
    good = move.handover
    for key, value in (("version", 2), ("version", None), ("ends", []), ("fds", []),
                       ("ends", [-1] * len(good["ends"])), ("ends", good["ends"][::-1]),
                       ("ends", [1 << 40] * len(good["ends"])), ("ends", ["1"] * 3),
                       ("fds", [99] * len(good["fds"])), ("fds", [0] * len(good["fds"]))):
        no(move.new, "adopt", fds=move.fds, handover={**good, key: value}, control=move.control)
    no(move.new, "adopt", "damaged", handover=good, control=move.control)
    no(move.new, "adopt", "control", fds=move.fds, handover=good)
    assert reclaim(p) is None
    close(move.fds)
    move.kept()
    move.pair.protect()
    no(p, "lend", "unprotect first")
    no(p, "yield", "unprotect first", next=move.next)
    move.kept()
