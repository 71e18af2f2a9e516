# SPDX-License-Identifier: Apache-2.0
"""What the guest itself says of how it fared: its kernel's log, and its clock beside its client's."""
import json
import shlex

from judge import clock_right, kernel_log_clean, kernel_log_end, must
from labkit.cluster import GUEST_ADDRESS

# On the client: the answer to a word, and the best of some looks at the guest's clock,
# [before, after, the guest's] in ns of CLOCK_MONOTONIC here and there.
ASK = """
import socket, sys
s = socket.create_connection((sys.argv[1], 7), 30)
s.sendall(sys.argv[2].encode() + b"\\n")
if sys.argv[2].startswith("SAY"):
    s.shutdown(socket.SHUT_WR)
while data := s.recv(65536):
    sys.stdout.buffer.write(data)
"""
LOOK = """
import json, socket, sys, time
s = socket.create_connection((sys.argv[1], 7), 30)
best = None
for _ in range(10):
    before = time.monotonic_ns()
    s.sendall(b"TIME\\n")
    told = b""
    while not told.endswith(b"\\n"):
        told += s.recv(64)
    look = [before, time.monotonic_ns(), int(told.split()[0])]
    if not best or look[1] - look[0] < best[1] - best[0]:
        best = look
    time.sleep(0.02)
print(json.dumps(best))
"""


def _python(arena, program, *words):
    return arena.cluster.run("client", shlex.join(["python3", "-c", program, GUEST_ADDRESS, *words]),
                             timeout=90)[1]


def kernel_log(arena):
    return _python(arena, ASK, "LOG")


def say(arena, text):
    """A line of the guest's kernel log; begins with its level, as in <4>."""
    error = _python(arena, ASK, f"SAY {text}").strip()
    must(error == "0", f"the guest cannot write {text!r} to its log: {error!r}")


def look(arena):
    return json.loads(_python(arena, LOOK))


class Watch:
    """A guest from now on."""

    def __init__(self, arena):
        self.arena = arena
        self.log_end = kernel_log_end(kernel_log(arena))
        self.clocks, self.first = arena.clocks(), look(arena)

    def judge(self, still_ms=None):
        """still_ms: what it may have missed, standing still; None is any time."""
        kernel_log_clean(kernel_log(self.arena), self.log_end)
        hosts_ms = self.arena.clocks_apart_ms(self.clocks)
        ahead = clock_right(self.first, look(self.arena), still_ms, hosts_ms)
        print(f"# the guest's clock against its client's: {ahead:+.1f} ms; the hosts': {hosts_ms:.1f}")
