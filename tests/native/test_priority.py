# SPDX-License-Identifier: Apache-2.0
"""Real-time priority: the threads whose lateness is taken for a death have it, and no others."""
import pathlib

from case import case
from pair import Pair, wait_until

RR = 2  # linux/sched.h
URGENT = {"primary": {"control", "heartbeat"}, "standby": {"stream-0", "heartbeat"}}


def scheduled(pid):
    """{(policy, priority): names of threads}"""
    threads = {}
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        try:
            name = (task / "comm").read_text().strip()
            fields = (task / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        priority, policy = map(int, fields[37:39])  # 40th and 41st of proc(5), where 1 is the pid
        threads.setdefault((policy, priority), set()).add(name)
    return threads


def limits(pid):
    lines = pathlib.Path(f"/proc/{pid}/limits").read_text().splitlines()
    return {line[:26].strip(): line[26:].split()[:2] for line in lines}


@case("priority-of-heartbeats", needs=("rtprio",))
def of_heartbeats(t):
    pair = Pair(t, engine="soft")
    pair.load()
    pair.protect()
    for role, side in (("primary", pair.primary), ("standby", pair.standby)):
        pid = side.process.child.pid
        wait_until(lambda pid=pid, role=role: scheduled(pid).get((RR, 1), set()) >= URGENT[role],
                   20, f"{role}: its heartbeats are not urgent")
        print(role, scheduled(pid))
        threads = scheduled(pid)
        assert threads.pop((RR, 1)) == URGENT[role], threads
        assert all(priority == 0 for _, priority in threads), threads
        assert limits(pid)["Max realtime priority"] == ["1", "1"], limits(pid)
        assert limits(pid)["Max realtime timeout"][0] == "500000", limits(pid)
