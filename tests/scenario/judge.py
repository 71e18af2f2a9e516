# SPDX-License-Identifier: Apache-2.0
"""What scenarios have in common: how a guarantee fails, and the client's and the guest's word."""

SICK = ("POLLUX-GUEST-MEMORY-DAMAGED", "soft lockup", "rcu_sched", "rcu_preempt", "BUG:", "Oops",
        "unstable", "NETDEV WATCHDOG", "I/O error")


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
    """The guest's own log."""
    for sign in SICK:
        must(sign not in console, f"the guest's log has {sign!r}: {console[-300:]}")
