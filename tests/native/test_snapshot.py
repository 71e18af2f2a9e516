# SPDX-License-Identifier: Apache-2.0
"""Snapshots: memory and disks of one moment. The guest checks each block that it reads."""
import json
import os
import re

from case import case
from hosts import Hosts, heard, wait_until


def reports(text):
    return [int(n) for n in re.findall(r"blk: (?:\w+ )*?writes (\d+)", text)]


def guest_goes_on(host):
    before = max(heard(host, 30, find=reports))
    wait_until(lambda: max(reports(host.console()), default=0) > before, 30, "the guest goes on")
    assert "FAIL" not in host.console()


def started(t):
    hosts = Hosts(t)
    hosts.a.do("start", hosts.vm_file(guest="blk", cmdline="blocks=500 depth=8 report=200",
                                      disk="demo.img"))
    guest_goes_on(hosts.a)
    return hosts


def names(host):
    return [s["name"] for s in json.loads(host.do("snapshots", "demo", "--json"))["snapshots"]]


@case("snapshot-and-rollback")
def rollback(t):
    """Twice to the same one, from a VM that runs and from one that is stopped."""
    hosts = started(t)
    hosts.a.do("snapshot", "demo", "first")
    at = max(heard(hosts.a, find=reports))
    assert hosts.a.vm()["state"] == "running"
    guest_goes_on(hosts.a)
    hosts.a.do("snapshot", "demo", "second")
    assert sorted(names(hosts.a)) == ["first", "second"]
    assert "first" in hosts.a.do("snapshots", "demo")
    hosts.a.refuses(3, "snapshot", "demo", "first")
    hosts.a.refuses(2, "snapshot", "demo", "../evil")
    hosts.a.refuses(3, "rollback", "demo", "third")
    assert hosts.a.vm()["state"] == "running"
    for _ in range(2):
        hosts.a.do("rollback", "demo", "first")
        assert min(heard(hosts.a, 30, find=reports)) < at + 2000
        guest_goes_on(hosts.a)
        hosts.a.do("stop", "demo", "--force")
    hosts.a.do("snapshot", "demo", "first", "--delete")
    assert names(hosts.a) == ["second"]
    hosts.a.do("rollback", "demo", "second")
    guest_goes_on(hosts.a)
    assert os.listdir(t.path("state-hosta/snapshots/demo")) == ["second"]


@case("snapshot-fails")
def fails(t):
    """No room for a disk: the VM runs on, and nothing is left."""
    hosts = started(t)
    hosts.a.do("stop", "demo", "--force")
    hosts.a.down()
    hosts.a.up(faults="image.disk:1:28")
    hosts.a.wait("stopped")
    hosts.a.do("start", t.path("demo.cfg"))
    guest_goes_on(hosts.a)
    assert "No space left" in hosts.a.refuses(1, "snapshot", "demo", "first")
    assert not os.listdir(t.path("state-hosta/snapshots/demo"))
    guest_goes_on(hosts.a)
    hosts.a.do("snapshot", "demo", "first")
    assert names(hosts.a) == ["first"]
    guest_goes_on(hosts.a)


@case("rollback-cut-short")
def cut_short(t):
    """A rollback that failed half way: the VM cannot be started, only rolled back once more."""
    hosts = started(t)
    hosts.a.do("snapshot", "demo", "first")
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
    hosts.a.do("rollback", "demo", "first")
    guest_goes_on(hosts.a)


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
