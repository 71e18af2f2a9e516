# SPDX-License-Identifier: Apache-2.0
"""What scenarios have in common: how a guarantee fails, and the client's and the guest's word."""
import re

SICK = ("POLLUX-GUEST-MEMORY-DAMAGED", "soft lockup", "hard LOCKUP", "rcu_sched", "rcu_preempt",
        "BUG:", "Oops", "WARNING:", "unstable", "NETDEV WATCHDOG", "I/O error", "blocked for more than",
        "nobody cared", "No irq handler", "Kernel panic")
# An interrupt that was served across a pause took that long.
HARMLESS = ("hrtimer: interrupt took",)
WARNING = 4  # syslog's
CLOCK_SLACK_MS = 100


class Violated(Exception):
    """A guarantee did not hold."""


def must(holds, what):
    if not holds:
        raise Violated(what)


def client_content(arena, running_on):
    """The client's record: the same connection, nothing lost, repeated or rolled back; then the
    disk on the host where the guest ran last."""
    verdict = arena.client_verdict()
    must(verdict["connection"] == "intact", f"the connection broke: {verdict}")
    must(verdict["order"] == "ok", f"replies contradict each other: {verdict}")
    must(verdict["replies"] == verdict["requests"], f"a reply is missing: {verdict}")
    arena.guest_stop(running_on)
    disk = arena.cluster.disk_verdict(running_on)
    must(disk["ok"], f"the disk on {running_on} does not agree with the client: {disk}")


def log_clean(console):
    """The guest's console."""
    for sign in SICK:
        must(sign not in console, f"the guest's log has {sign!r}: {console[-300:]}")


def _kernel_lines(log):
    """(level, seconds, text) of each line of a kernel's log, as syslog(2) gives it."""
    found = re.findall(r"^<(\d+)>\[ *(\d+\.\d+)\] (.*)$", log, re.MULTILINE)
    must(found, f"this is no kernel's log: {log[:200]!r}")
    return [(int(level) & 7, float(at), text) for level, at, text in found]


def kernel_log_end(log):
    return _kernel_lines(log)[-1][1]


def kernel_log_clean(log, since):
    """Nothing that the kernel warns of came later than that."""
    for level, at, text in _kernel_lines(log):
        if at > since and not any(known in text for known in HARMLESS):
            must(level > WARNING, f"the guest's kernel says: {text}")
            log_clean(text)


def clock_right(first, last, still_ms=None, apart_ms=0):
    """Two looks at the guest's clock, each [before, after, the guest's], in ns. It went neither
    ahead of its client's nor back by more than it stood still, but for what the clocks of hosts
    that it ran on are apart. Returns by how many ms it went ahead."""
    guest = (last[2] - first[2]) / 1e6
    least, most = (last[0] - first[1]) / 1e6, (last[1] - first[0]) / 1e6
    slack = CLOCK_SLACK_MS + apart_ms
    must(guest > 0, "the guest's clock went back")
    must(guest <= most + slack, f"the guest's clock went {guest - most:.0f} ms ahead")
    if still_ms is not None:
        must(guest >= least - still_ms - slack,
             f"the guest missed {least - guest:.0f} ms, and stood still for {still_ms:.0f}")
    return guest - (least + most) / 2
