# SPDX-License-Identifier: Apache-2.0
"""`pollux migrate --with-disks` of a VM with a disk of each kind: one that each host has for itself,
which is copied, and one that both see, which is handed over. The guest writes to the first of them
and holds what it reads against that; the other one is full of noise."""
import json
import os
import re

from case import case
from hosts import Hosts, goes_on, wait_until
from moves import SLOW, ended, locked, migration, stats

SIZE = 8 << 20
KINDS = ("local.img", "shared.img")


def done(text):
    return [int(n) for n in re.findall(r"blk: done (\d+)\s", text)]


def guest_goes_on(host):
    goes_on(host, done, 40)  # it flushes its disk again and again


class Disks:
    """Two hosts, a VM on the first of them, and where its disks are."""
    def __init__(self, t, first, faults_a="", faults_b=""):
        self.t, self.hosts = t, Hosts(t, own_disks=True, faults=(faults_a, faults_b))
        self.a, self.b = self.hosts.a, self.hosts.b
        self.noise = os.urandom(SIZE)
        for name in KINDS:
            with open(self.file(self.a, name), "wb") as f:
                f.write(self.noise)
        self.a.do("start", self.vm_file(first))
        self.second = KINDS[first == KINDS[0]]
        guest_goes_on(self.a)

    def file(self, host, name):
        return self.t.path(name if name == "shared.img" else f"disks-{host.name}/{name}")

    def vm_file(self, first):
        self.hosts.vm_file(guest="blk", cmdline="blocks=256 depth=8 report=16")
        paths = {"local.img": self.t.path("disks/local.img"), "shared.img": self.t.path("shared.img")}
        order = sorted(KINDS, key=lambda name: name != first)
        with open(self.t.path("demo.cfg"), "a") as f:
            f.write("disks = ( %s );\n" % ", ".join(f'{{ path = "{paths[n]}"; }}' for n in order))
        return self.t.path("demo.cfg")

    def has_both(self, host):
        """The guest runs there, with both disks and their locks, and nobody else has one."""
        host.wait("running")
        guest_goes_on(host)
        pid = host.vm()["pid"]
        for name in KINDS:
            assert locked(pid, name), f"{name} is not locked on {host.name}"
        with open(self.file(host, self.second), "rb") as f:
            assert f.read() == self.noise, f"{self.second} on {host.name} is another one"
        other = self.b if host is self.a else self.a
        other.wait("none")
        wait_until(lambda: other.vm_pids() == [], 10, "the other process has ended")
        assert not self.hosts.fenced()

    def moves(self, here, there):
        out = here.do("migrate", "demo", there.name, "--with-disks", "--json")
        totals = {e["disk_total"] for e in map(json.loads, out.splitlines())
                  if e["event"] == "progress" and e["phase"] == "copying"}
        assert totals <= {None, 0, SIZE}, totals  # None: not known yet
        sent = migration(out)["sent"]
        assert SIZE // 2 <= sent["disk_bytes"] < SIZE * 2, sent
        self.has_both(there)

    def copying(self):
        command = self.a.pollux("migrate", "demo", "hostb", "--with-disks", *SLOW, background=True)
        self.a.wait("migrating")
        wait_until(lambda: any(d["copied"] for d in stats(self.hosts).get("disks", [])), 20,
                   "a disk is being copied")
        return command


@case("migrate-each-disk-local-first", first="local.img", needs=("kvm", "root"))
@case("migrate-each-disk-shared-first", first="shared.img", needs=("kvm", "root"))
def there_and_back(t, first):
    """Four times: on the way back there is an old copy of the one, and it may be written over."""
    d = Disks(t, first)
    here, there = d.a, d.b
    for _ in range(4):
        d.moves(here, there)
        here, there = there, here


@case("migrate-each-disk-refused", needs=("kvm", "root"))
def refused(t):
    """Without --with-disks nothing is copied; with it, nothing is written over that is not a copy."""
    d = Disks(t, "local.img")
    why = d.a.refuses(3, "migrate", "demo", "hostb")
    assert "local.img is not there" in why and "shared.img" not in why, why
    with open(d.file(d.b, "local.img"), "wb") as f:
        f.truncate(SIZE)
    why = d.a.refuses(3, "migrate", "demo", "hostb", "--with-disks")
    assert "local.img is there already" in why and "--overwrite" in why, why
    assert "shared.img" not in why, why
    d.has_both(d.a)
    check = json.loads(d.a.do("migrate", "demo", "hostb", "--with-disks", "--overwrite", "--check",
                              "--json"))
    assert check["possible"] and check["shared_disks"] == 2, check
    d.a.do("migrate", "demo", "hostb", "--with-disks", "--overwrite")
    d.has_both(d.b)


@case("migrate-each-disk-cancel", needs=("kvm", "root"))
def cancel(t):
    d = Disks(t, "shared.img")
    command = d.copying()
    assert "it runs on here" in d.a.do("migrate", "demo", "--cancel")
    ended(command, 1, "cancelled")
    d.has_both(d.a)
    d.moves(d.a, d.b)


@case("migrate-each-disk-target-cannot-load", first="local.img", faults_b="replica.load:1",
      why="load the state", needs=("kvm", "root"))
@case("migrate-each-disk-target-cannot-load-shared-first", first="shared.img",
      faults_b="replica.load:1", why="load the state", needs=("kvm", "root"))
@case("migrate-each-disk-source-cannot-yield", first="local.img", faults_a="disk.yield:1",
      why="could not be handed over", needs=("kvm", "root"))
@case("migrate-each-disk-target-disk-full", first="shared.img", faults_b="mirror.write:3:28",
      why="No space", needs=("kvm", "root"))
def failure(t, why, **how):
    """Before, and after, the source has given the shared one away: it has both again."""
    d = Disks(t, **how)
    text = d.a.refuses(1, "migrate", "demo", "hostb", "--with-disks")
    assert why in text and "the VM runs on here" in text, text
    d.has_both(d.a)
    for host in (d.a, d.b):
        host.down()
        host.up()
    d.hosts.wait_connected()
    d.moves(d.a, d.b)


@case("migrate-each-disk-source-cannot-claim-at-once", needs=("kvm", "root"))
def source_cannot_claim(t):
    """Given back, with the shared one still the other host's for a moment."""
    d = Disks(t, "local.img", faults_a="disk.claim:3", faults_b="replica.load:1")
    assert "load the state" in d.a.refuses(1, "migrate", "demo", "hostb", "--with-disks")
    d.has_both(d.a)
