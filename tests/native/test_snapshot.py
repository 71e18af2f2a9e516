# SPDX-License-Identifier: Apache-2.0
"""Snapshots: memory and disks of one moment. The guest checks each block that it reads."""
import json
import os
import re

from case import case
from hosts import Hosts, goes_on, heard, wait_until


def reports(text):
    return [int(n) for n in re.findall(r"blk: (?:\w+ )*?writes (\d+)\s", text)]


def guest_goes_on(host):
    goes_on(host, reports, 30)


def started(t):
    hosts = Hosts(t)
    hosts.a.do("start", hosts.vm_file(guest="blk", cmdline="blocks=500 depth=8 report=200",
                                      disk="demo.img"))
    guest_goes_on(hosts.a)
    return hosts


def names(host):
    return [s["name"] for s in json.loads(host.do("snapshots", "demo", "--json"))["snapshots"]]


def writes_on(host, least):
    """Until the guest has told of more writes than that; returns of how many."""
    wait_until(lambda: max(reports(host.console()), default=0) > least, 30, "the guest writes on")
    return max(heard(host, 30, find=reports))


class Moment:
    """A snapshot, the guest's counts about it, and such counts later as cannot be mistaken for
    them: those of a boot are lower, those of a guest that was not put back are higher."""
    def __init__(self, host, name, least):
        self.host, self.name = host, name
        self.before = writes_on(host, least)
        host.do("snapshot", "demo", name)
        self.over = max(heard(host, 30, find=reports)) + 1000
        self.later = writes_on(host, self.over)

    def back(self):
        self.host.do("rollback", "demo", self.name)
        first = min(heard(self.host, 30, find=reports))
        assert self.before < first < self.over, (self.before, first, self.over)
        guest_goes_on(self.host)


@case("snapshot-and-rollback")
def rollback(t):
    """Twice to the same one, from a VM that runs and from one that is stopped."""
    hosts = started(t)
    first = Moment(hosts.a, "first", 1000)
    assert hosts.a.vm()["state"] == "running"
    second = Moment(hosts.a, "second", first.later)
    assert sorted(names(hosts.a)) == ["first", "second"]
    assert "first" in hosts.a.do("snapshots", "demo")
    hosts.a.refuses(3, "snapshot", "demo", "first")
    hosts.a.refuses(2, "snapshot", "demo", "../evil")
    hosts.a.refuses(3, "rollback", "demo", "third")
    assert hosts.a.vm()["state"] == "running"
    for _ in range(2):
        first.back()
        hosts.a.do("stop", "demo", "--force")
    hosts.a.do("snapshot", "demo", "first", "--delete")
    assert names(hosts.a) == ["second"]
    second.back()
    assert os.listdir(t.path("state-hosta/snapshots/demo")) == ["second"]


@case("snapshot-fails", fault="image.disk:1:28", why="No space left")
@case("snapshot-cannot-be-named", fault="snapshot.rename:1:5", why="Input/output error")
def fails(t, fault, why):
    """No room for a disk, or no name for all of it: the VM runs on, and nothing is left."""
    hosts = started(t)
    hosts.a.do("stop", "demo", "--force")
    hosts.a.down()
    hosts.a.up(faults=fault)
    hosts.a.wait("stopped")
    hosts.a.do("start", t.path("demo.cfg"))
    guest_goes_on(hosts.a)
    assert why in hosts.a.refuses(1, "snapshot", "demo", "first")
    assert not os.listdir(t.path("state-hosta/snapshots/demo"))
    guest_goes_on(hosts.a)
    hosts.a.do("snapshot", "demo", "first")
    assert names(hosts.a) == ["first"]
    guest_goes_on(hosts.a)


@case("rollback-cut-short")
def cut_short(t):
    """A rollback that failed half way: the VM cannot be started, only rolled back once more."""
    hosts = started(t)
    first = Moment(hosts.a, "first", 1000)
    hosts.a.do("stop", "demo", "--force")
    hosts.a.down()
    hosts.a.up(faults="image.disk:1:5")
    hosts.a.wait("stopped")
    assert "put back disk 0" in hosts.a.refuses(1, "rollback", "demo", "first")
    hosts.a.wait("stopped")
    hosts.a.down()
    hosts.a.up()
    hosts.a.wait("stopped")
    assert "half" in hosts.a.refuses(3, "start", t.path("demo.cfg"))
    hosts.a.refuses(3, "snapshot", "demo", "first", "--delete")
    first.back()


@case("snapshot-of-a-protected-vm")
def of_protected(t):
    hosts = Hosts(t)
    hosts.protected()
    assert "unprotect" in hosts.a.refuses(3, "snapshot", "demo", "first")
    assert "unprotect" in hosts.a.refuses(3, "save", "demo", t.path("image"))
    hosts.a.do("unprotect", "demo")
    hosts.b.wait("none")
    hosts.a.do("snapshot", "demo", "first")
    hosts.a.do("protect", "demo", "--to", "hostb")
    assert "unprotect" in hosts.a.refuses(3, "rollback", "demo", "first")
    assert hosts.a.vm()["state"] == "protected"
