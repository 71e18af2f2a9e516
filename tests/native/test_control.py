# SPDX-License-Identifier: Apache-2.0
"""The control socket: what is wrong is refused, and changes nothing."""
import json
import os
import socket

from case import case
from director import Refused
from pair import Pair


def refused(process, what, *words, fds=(), **values):
    try:
        process.ask(what, fds, **values)
    except Refused as e:
        for word in words:
            assert word in str(e), e
        return
    raise AssertionError(f"{what} {values} was not refused")


@case("control-errors-before-create")
def before_create(t):
    pair = Pair(t)
    from director import VmProcess
    t.logs.append(t.path("fresh.log"))
    p = VmProcess(t.build + "/pollux-vm", t.path("fresh.log"), "fresh")
    t.cleanup(p.close)
    for what in ("boot", "protect", "standby", "stream", "ownership", "promote", "shutdown",
                 "pause", "resume", "console", "nonsense", ""):
        refused(p, what)
    p.ask("unprotect")
    config = pair.primary.config()
    refused(p, "create", config=config)
    refused(p, "create", config=config, role="boss")
    refused(p, "create", config=7, role="primary")
    refused(p, "create", "x.cfg:2:", config='name="x";\nrubbish=1;', role="primary", origin="x.cfg")
    refused(p, "create", config="", role="primary")
    refused(p, "create", "disk", config='name="x"; memory="16M"; kernel="/none"; '
            'disks=({ path="/nonexistent/disk"; });', role="primary")
    made = p.ask("create", config='name="x"; memory="16M"; vcpus=1; kernel="/none";', role="primary")
    refused(p, "boot", "/none")
    assert p.stats()["role"] == "primary" and "sections" not in p.stats()
    sections = p.ask("stats", sections=True)["stats"]["sections"]
    assert made["shared_disks"] is True
    assert sections == made["sections"] and {"vCPU", "CPUID"} <= {s["name"] for s in sections}, sections
    assert all(s["id"] and s["version"] for s in sections), sections
    p.ask("quit")
    assert p.child.wait(10) == 0


@case("control-errors-while-running")
def while_running(t):
    pair = Pair(t)
    pair.load()
    p, good = pair.primary.process, pair.terms()
    refused(p, "create", config=pair.primary.config(), role="primary")
    refused(p, "boot")
    refused(p, "standby", **good)
    refused(p, "stream", stream=0)
    refused(p, "promote", term=2)
    for key, value in (("session", "00"), ("session", "zz" * 16), ("session", 5), ("key", ""),
                       ("term", 0), ("term", -1), ("term", "5"), ("mode", "fast"), ("mode", 1),
                       ("policy", "maybe"), ("interval_ms", 0), ("interval_ms", 1.5),
                       ("heartbeat_ms", 5000), ("loss_ms", 1), ("streams", 0), ("streams", 17),
                       ("window", 0), ("window", 65), ("delta_mb", -1), ("compression", "rar"),
                       ("term", (1 << 63) - 1.0), ("streams", 1 << 40)):
        try:
            refused(p, "protect", address="127.0.0.1", port=1, **{**good, key: value})
        except AssertionError as e:
            raise AssertionError(f"{key}={value}: {e}") from None
    pair.observer.wait_replies(20)


@case("control-bytes-that-are-no-request")
def no_request(t):
    pair = Pair(t)
    pair.load()
    p = pair.primary.process
    for data in (b"", b"\0", b"{", b"[]", b"7", b"null", b'"do"', b'{"do"', os.urandom(500),
                 b"{" * 60000, b'{"do":"stats"} {}'):
        if data:
            p.sock.send(data)
    for data in ({}, {"id": 1}, {"do": None, "id": 2}, {"do": ["stats"], "id": 3}, {"do": "x" * 9999}):
        p.sock.send(json.dumps(data).encode())
    p.sock.send(b'{"do":"stats","id":77}')
    while p.receive(20)["reply"] != 77:
        pass
    pair.observer.wait_replies(20)
    assert p.stats()["running"]


@case("control-descriptors-nobody-wants")
def descriptors(t):
    """They are closed: a thousand of them would not fit."""
    pair = Pair(t)
    pair.load()
    fd = os.open("/dev/null", os.O_RDONLY)
    folder = f"/proc/{pair.primary.process.child.pid}/fd"
    before = len(os.listdir(folder))
    for _ in range(300):
        pair.primary.process.ask("stats", [fd] * 4)
    socket.send_fds(pair.primary.process.sock, [b'{"do":"stats","id":9999}'], [fd] * 40)
    pair.primary.process.ask("stats")  # the one with more than fit is dropped before
    os.close(fd)
    assert len(os.listdir(folder)) == before
    pair.observer.wait_replies(20)


@case("control-of-a-standby")
def of_standby(t):
    pair = Pair(t)
    pair.load()
    p = pair.add_standby().process
    for what in ("boot", "pause", "resume", "shutdown", "ownership"):
        refused(p, what)
    refused(p, "promote", "no twin", term=5)
    refused(p, "protect", address="127.0.0.1", port=1, **pair.terms())
    refused(p, "stream", stream=0)
    pair.protect()
    refused(p, "standby", "already", **pair.terms())
    refused(p, "promote", term=0)
    refused(p, "promote", "newer", term=1)
    refused(p, "promote")
    refused(p, "promote", term="9")
    assert pair.standby.stats()["state"] == "ready"
    pair.observer.wait_replies(20)
    pair.failover()
    refused(pair.primary.process, "promote", term=99)
    pair.observer.wait_replies(20)


def told(side):
    stats = side.process.ask("stats", cpuid=True)["stats"]
    return {key: stats[key] for key in ("cpuid", "cpu_limits") if key in stats}


@case("control-cpu")
@case("control-cpu-soft", engine="soft", needs=())
def cpu(t, engine="kvm"):
    """What CPU the guest has is told while it runs, also where it has come to."""
    pair = Pair(t, engine=engine)
    pair.load()
    first = told(pair.primary)
    limits = first["cpu_limits"]
    assert first["cpuid"] and (limits["tsc_khz"] > 0) == (engine == "kvm"), limits
    assert all(msr == 0x10a for msr, _ in limits["promises"]), limits
    pair.protect()
    assert told(pair.standby) == {}, "it is no guest's yet"
    pair.failover()
    pair.observer.wait_replies(20)
    assert told(pair.primary) == first


@case("pause-and-resume")
def pause(t):
    pair = Pair(t)
    pair.load()
    p = pair.primary.process
    refused(p, "resume", "running already")
    p.ask("pause")
    pair.observer.drain()
    pair.observer.expect_silence(0.7)
    refused(p, "pause", "paused already")
    refused(p, "protect", "running vm", address="127.0.0.1", port=1, **pair.terms())
    p.ask("stats")
    p.ask("resume")
    pair.observer.wait_replies(50)
    pair.protect()
    refused(p, "pause", "unprotect first")
    pair.observer.wait_replies(20)
    pair.failover()
    pair.observer.wait_replies(20)
    pair.primary.process.ask("pause")
    pair.primary.process.ask("quit")
    assert pair.primary.process.child.wait(10) == 0


@case("protect-twice")
def twice(t):
    pair = Pair(t)
    pair.load()
    pair.protect()
    refused(pair.primary.process, "protect", "unprotect first", address="127.0.0.1", port=1,
            **pair.terms())
    pair.observer.wait_replies(20)
    assert pair.primary.stats()["state"] == "protected"


@case("successor-of-a-director")
def successor(t):
    """A polluxd that died is followed by another one, over the --control path."""
    pair = Pair(t, boot=False, arguments=["--control", t.path("control")])
    pair.primary.process.ask("boot")
    pair.load()
    pair.protect()
    p = pair.primary.process
    for _ in range(3):
        p.sock.close()
        pair.observer.wait_replies(20)
        p.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        p.sock.connect(t.path("control"))
        assert p.stats()["state"] == "protected"
    pair.standby.kill()
    p.wait_state("lost")
    p.ask("ownership", answer="confirmed")
    pair.observer.wait_replies(20)
    p.ask("quit")
    assert p.child.wait(10) == 0 and not os.path.exists(t.path("control"))


@case("standby-ends-with-its-director")
def standby_ends(t):
    pair = Pair(t)
    pair.load()
    pair.protect()
    pair.standby.process.sock.close()
    assert pair.standby.process.child.wait(10) == 0
    pair.primary.process.wait_state("lost")
