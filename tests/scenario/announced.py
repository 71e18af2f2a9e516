# SPDX-License-Identifier: Apache-2.0
"""Soon after the moment at which a guest runs all that has to know knows where: switches by
RARP, neighbours by what Linux sends when it is asked to (VIRTIO_NET_F_GUEST_ANNOUNCE), bridges by
any of them."""
import shlex
import struct

from judge import must

MAC = bytes.fromhex("525400990001")
# Exits with 0 when the guest has the address that IPv6 makes of MAC: it looks for a second or two
# whether anybody else has it, and until then speaks of it to nobody.
ADDRESSED = """
import socket
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.settimeout(1)
s.connect(("fe80::5054:ff:fe99:1", 9, 0, socket.if_nametoindex("front0")))
s.send(b"?")
try:
    s.recv(1)
except ConnectionRefusedError:
    raise SystemExit(0)
"""
WITHIN_MS = 3000  # on a busy machine; what was measured is printed


def _frames(path):
    """(ns, frame) of a capture: the nanosecond variety of the classic pcap format."""
    with open(path, "rb") as f:
        data = f.read()
    must(struct.unpack_from("<I", data)[0] == 0xa1b23c4d, "the capture is of another format")
    at = 24
    while at + 16 <= len(data):
        seconds, ns, size, _whole = struct.unpack_from("<IIII", data, at)
        yield seconds * 10**9 + ns, data[at + 16:at + 16 + size]
        at += 16 + size


def _kind(frame):
    """What kind of announcement the frame is: it teaches the switches, or neighbours by IPv4 or
    IPv6."""
    kind, body = frame[12:14], frame[14:]
    if frame[6:12] != MAC:
        return None
    if kind == b"\x80\x35":
        return "RARP"
    if kind == b"\x08\x06" and body[14:18] == body[24:28]:
        return "gratuitous ARP"
    if kind == b"\x86\xdd" and body[6] == 58 and body[40] == 136 and body[24:26] == b"\xff\x02":
        return "unsolicited NA"
    return None


class Front:
    """The network of the guest's clients, from now on."""

    def __init__(self, arena):
        self.arena = arena
        arena.cluster.wait("the guest has its IPv6 address", self._is_addressed, 60)
        self.path = arena.lab("pcap", net="front", on=True)["path"]

    def _is_addressed(self):
        return self.arena.cluster.run("client", f"python3 -c {shlex.quote(ADDRESSED)} 2>/dev/null",
                                      check=False)[0] == 0

    def judge(self, host, left=None):
        """The guest has been announced at that host, having left the other one."""
        bridges = [(host, "demo0")] + ([(left, "front0")] if left else [])
        for where, port in bridges:
            self._bridge_knows(where, port)
        self.arena.linger()
        self._all_came(host)

    def _bridge_knows(self, host, port):
        mac = ":".join(f"{b:02x}" for b in MAC)
        fdb = self.arena.cluster.run(host, "bridge fdb show br br0")[1]
        must(any(line.startswith(f"{mac} dev {port} ") for line in fdb.splitlines()),
             f"the bridge of {host} does not take {mac} to be at {port}: {fdb}")

    def _resumed(self, host):
        """(it may run there from then on, polluxd knows that it does) in ns of the capture's clock.
        The process announces before polluxd has heard of it."""
        at = {event["what"]: event["realtime_ns"] for event in self.arena.vm(host)["timeline"]}
        offset, unsure = self.arena.clocks().get(host, (0, 0))
        begun = max(at[what] for what in ("promoting", "starting") if what in at)
        return begun - offset - unsure, at["running"] - offset + unsure

    def _all_came(self, host):
        self.arena.lab("pcap", net="front", on=False)
        since, runs = self._resumed(host)
        at = {}
        for ns, frame in _frames(self.path):
            kind = _kind(frame)
            if kind and ns >= since:
                at.setdefault(kind, ns)
        for kind in ("RARP", "gratuitous ARP", "unsolicited NA"):
            must(kind in at, f"no {kind} has come since it may run at {host}, but {list(at)}")
            late = (at[kind] - runs) / 1e6
            must(late < WITHIN_MS, f"the first {kind} came {late:.0f} ms after it ran at {host}")
            print(f"# {kind}: {late:.1f} ms after it ran at {host}")
