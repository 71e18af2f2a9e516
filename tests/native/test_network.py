# SPDX-License-Identifier: Apache-2.0
"""Two polluxds, and an observer on the network: what it saw must go on wherever the VM does."""
import os
import signal
import socket
import time

from case import PATIENCE, case
from hosts import SILENCE, Hosts, wait_until
from wire import Frames, Observer


class Port(Frames):
    """One of the connections to the socket that both hosts' VM file names."""

    def __init__(self, path, sock):
        self.path, self.sock, self.data = path, sock, b""


class Network:
    """Whoever connects is a port. Any may speak: which of them did is for the switch to learn;
    that the history is one is for the observer to see."""

    def __init__(self, t, **hosts):
        self.t, self.observer = t, Observer(t.seed)
        self.server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.server.bind(t.path("net.sock"))
        self.server.listen(8)
        t.cleanup(self.server.close)
        t.cleanup(self.observer.close)
        self.hosts = Hosts(t, **hosts)
        self.observer.start()

    def port(self):
        """The next connection."""
        self.server.settimeout(PATIENCE)
        sock, _ = self.server.accept()
        port = Port(f"port {len(self.observer.ports) + 1}", sock)
        self.observer.add_port(port)
        return port

    def file(self):
        path = self.t.path("demo.cfg")
        with open(path, "w") as f:
            f.write(f'name = "demo"; memory = "16M"; vcpus = 1; engine = "kvm";\n'
                    f'kernel = "{self.t.guest("echo")}"; cmdline = "";\n'
                    f'nics = ( {{ socket = "{self.t.path("net.sock")}"; '
                    f'mac = "52:54:00:00:00:01"; }} );\n')
        return path

    def start(self, *options):
        """Runs on hosta, protected by hostb, under load."""
        a, b = self.hosts.a, self.hosts.b
        a.do("start", self.file())
        self.here = self.port()
        self.observer.admit(self.here)
        self.observer.load(4)
        self.observer.wait_replies(10)
        a.do("protect", "demo", "--to", "hostb", *options)
        self.there = self.port()
        b.wait("standby")
        self.observer.wait_replies(20)

    def moved(self):
        """The standby owns the VM now."""
        self.observer.wait_replies(30)
        self.here, self.there = self.there, None

    def moves(self):
        """From here on the standby may speak, and the old owner until it is known to be gone."""
        self.observer.admit(self.there)


def end(pids):
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


@case("network-host-dies", mode="event")
@case("network-host-dies-interval", mode="interval")
def host_dies(t, mode):
    """A silent host is fenced; the switch finds the guest at its new place."""
    net = Network(t, **SILENCE)
    net.start("--mode", mode)
    net.moves()
    net.hosts.a.kill()
    net.hosts.b.wait("running")
    net.moved()
    assert net.hosts.fenced() == ["hosta"]


@case("network-old-owner-comes-back")
def old_owner(t):
    """It does not run its old copy; it becomes the standby, and the owner again."""
    net = Network(t, **SILENCE)
    net.start()
    a, b = net.hosts.a, net.hosts.b
    net.moves()
    a.kill()
    b.wait("running")
    net.moved()
    a.daemon.wait()
    a.up()
    a.wait("none")
    assert not a.vm_pids()
    a.refuses(3, "start", net.file())
    b.do("protect", "demo", "--to", "hosta")
    net.there = net.port()
    a.wait("standby")
    net.observer.wait_replies(20)
    net.moves()
    end(b.vm_pids())
    a.wait("running")
    net.moved()


@case("network-vm-process-dies-10-times", seconds=400)
def hops(t):
    net = Network(t)
    net.hosts.only_words_decide()
    net.start()
    here, there = net.hosts.a, net.hosts.b
    for hop in range(10):
        net.moves()
        end(here.vm_pids())
        there.wait("running")
        net.moved()
        here.wait("none")
        here, there = there, here
        if hop < 9:
            here.do("protect", "demo", "--to", there.name, "--mode", ("event", "interval")[hop % 2])
            net.there = net.port()
            there.wait("standby")
            net.observer.wait_replies(20)


@case("network-fence-hangs")
def fence_hangs(t):
    """No answer is no permission, for as long as the fence takes; then the operator decides."""
    net = Network(t, **SILENCE)
    net.start()
    with open(t.path("fence"), "w") as f:
        f.write("#!/bin/sh\nexec sleep 600\n")
    pids = net.hosts.a.kill()
    wait_until(lambda: "fence asked" in net.hosts.b.whats(), 30, "the fence is asked")
    net.observer.drain()
    net.observer.expect_silence(2)
    assert net.hosts.b.vm()["state"] == "deciding", net.hosts.b.vm()
    end(pids)
    net.moves()
    net.hosts.b.do("failover", "demo", "--force")
    net.hosts.b.wait("running")
    net.moved()


@case("network-fence-fails-host-wakes")
def fence_fails(t):
    """Nobody may promote; the frozen owner wakes, and holds its output until it knows."""
    net = Network(t, **SILENCE)
    net.start()
    net.hosts.fence(3)
    pids = net.hosts.a.kill()
    net.hosts.b.wait("deciding")
    wait_until(lambda: "fence failed" in net.hosts.b.whats(), 30, "the fence has failed")
    net.observer.drain()
    net.observer.expect_silence(1)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    net.hosts.a.wait("running", 60)
    net.observer.wait_replies(30)
    assert net.hosts.b.vm()["state"] != "running"


@case("network-forced-then-host-wakes")
def forced(t):
    """The operator was wrong: the old owner still lived. It must stop when it hears of the term.
    Until then it may find acknowledgements that came before: output that the twin made too."""
    net = Network(t, **SILENCE)
    net.start()
    net.hosts.fence(3)
    pids = net.hosts.a.kill()
    net.hosts.b.wait("deciding")
    wait_until(lambda: "fence failed" in net.hosts.b.whats(), 30, "the fence has failed")
    net.observer.retire(net.here, late=True)
    net.moves()
    net.hosts.b.do("failover", "demo", "--force")
    net.hosts.b.wait("running")
    net.moved()
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: net.hosts.a.vm()["state"] not in ("protected", "asking", "running"), 30,
               "the old owner stops")
    net.observer.wait_replies(50)
    assert net.hosts.b.vm()["state"] == "running"


@case("network-unprotect-then-die")
def unprotect(t):
    """After a clean end the death of the owner is the death of any unprotected VM."""
    net = Network(t, **SILENCE)
    net.start()
    net.hosts.a.do("unprotect", "demo")
    net.hosts.b.wait("none")
    net.observer.wait_replies(20)
    net.hosts.a.kill()
    time.sleep(2 * SILENCE["loss_ms"] / 1000)
    assert net.hosts.b.vm()["state"] == "none" and not net.hosts.fenced()
    net.observer.drain()
    net.observer.expect_silence(0.3)
    net.hosts.a.end_dead()


@case("network-standby-dies-continue", policy="continue")
@case("network-standby-dies-stall", policy="stall")
def standby_dies(t, policy):
    net = Network(t)
    net.start("--policy", policy)
    end(net.hosts.b.vm_pids())
    if policy == "continue":
        net.hosts.a.wait("running")
        net.observer.wait_replies(30)
        return
    wait_until(lambda: net.hosts.a.vm()["state"] not in ("protected", "running"), 20, "it stalls")
    net.observer.drain()
    net.observer.expect_silence(1)
    net.hosts.a.do("failover", "demo", "--force")
    net.observer.wait_replies(30)


@case("network-standbys-polluxd-dies")
def standby_daemon_dies(t):
    """Its twin ends with it. The owner goes on, and is protected again when it is back."""
    net = Network(t)
    net.start()
    a, b = net.hosts.a, net.hosts.b
    b.daemon.kill()
    b.daemon.wait()
    a.wait("running")
    net.observer.wait_replies(30)
    b.up()
    b.wait("none")
    net.hosts.wait_connected()
    a.do("protect", "demo", "--to", "hostb")
    net.there = net.port()
    net.observer.wait_replies(20)
    net.moves()
    end(a.vm_pids())
    b.wait("running")
    net.moved()


@case("network-polluxd-restarts")
def restarts(t):
    """polluxd is not in the way of the data, and finds its VM again."""
    net = Network(t)
    net.start()
    a = net.hosts.a
    for _ in range(3):
        a.daemon.kill()
        a.daemon.wait()
        net.observer.wait_replies(30)
        a.up()
        net.observer.wait_replies(30)
        a.wait("protected")
    net.moves()
    end(net.hosts.a.vm_pids())
    net.hosts.b.wait("running")
    net.moved()


@case("network-operator-forces-while-all-is-well")
def failover(t):
    """Two could own it for a moment: the old owner's output is held by then, and it stops."""
    net = Network(t)
    net.start()
    net.moves()
    net.hosts.b.do("failover", "demo", "--force")
    net.hosts.b.wait("running")
    net.moved()
    wait_until(lambda: net.hosts.a.vm()["state"] not in ("protected", "asking", "running"), 30,
               "the old owner gives way")
    net.observer.wait_replies(50)


@case("network-operator-fails-over-while-all-is-well")
def switch_over(t):
    """The owner answers for itself: it is either asked to give way, or the request refused."""
    net = Network(t)
    net.start()
    net.moves()
    p = net.hosts.b.pollux("failover", "demo")
    net.observer.wait_replies(50)
    states = sorted((net.hosts.a.vm()["state"], net.hosts.b.vm()["state"]))
    assert (p.returncode, *states) in ((3, "protected", "standby"), (0, "none", "running")), \
        (p.returncode, p.stderr, states)


@case("network-polluxd-and-vm-process-die")
def everything_at_a(t):
    """polluxd and VM process are killed at once: connections are reset, nobody confirms."""
    net = Network(t)
    net.start()
    net.moves()
    pids = [net.hosts.a.daemon.pid] + net.hosts.a.vm_pids()
    end(pids)
    net.hosts.a.daemon.wait()
    net.hosts.b.wait("running")
    net.moved()
    assert net.hosts.fenced() == ["hosta"]
