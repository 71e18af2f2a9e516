# SPDX-License-Identifier: Apache-2.0
"""What tests of a migration have in common: two hosts with a guest, a migration at some point of its
way, and how it has to have ended."""
import json
import os
import re

from hosts import Hosts, goes_on, wait_until

SLOW = ("--bandwidth", "1", "--compression", "none")  # a first round of seconds, for what is to happen meanwhile
POSTCOPY = ("--postcopy", "--downtime", "0")  # no precopy is so good
FOLLOWS = "pages=2000 rate=250 report=1"  # what is left after one round of 8 s takes seconds to follow


def started(t, faults_a="", faults_b="", loss=None, own_disks=False, **vm):
    """Two hosts with these faults, and a guest on the first of them that runs."""
    hosts = Hosts(t, own_disks=own_disks, faults=(faults_a, faults_b), **(loss or {}))
    vm.setdefault("cmdline", "pages=1500 rate=20000 report=5")
    hosts.a.do("start", hosts.vm_file(**vm))
    goes_on(hosts.a)
    return hosts


# ---- under way ---------------------------------------------------------------------------------

def stats(hosts):
    """Of this migration's session, and not of a protection before it; {} until it has begun."""
    found = hosts.a.stats()
    return found if found.get("handover") else {}


def copies(hosts):
    """Until its memory is being copied."""
    wait_until(lambda: stats(hosts).get("replication", {}).get("bytes_sent", 0) > 1 << 17, 20,
               "memory is being copied")


def copying(hosts, *options):
    """A migration that is in its first round."""
    command = hosts.a.pollux("migrate", "demo", "hostb", *SLOW, *options, background=True)
    hosts.a.wait("migrating")
    copies(hosts)
    return command


def pulling(hosts):
    """Postcopy whose push takes long: the guest runs there, its memory is here."""
    command = hosts.a.pollux("migrate", "demo", "hostb", *POSTCOPY, *SLOW, background=True)
    hosts.b.wait("running", 60)
    hosts.a.wait("serving")
    return command


# ---- over --------------------------------------------------------------------------------------

def ended(command, code, text=""):
    out, err = command.communicate(timeout=120)
    assert command.returncode == code, (command.returncode, out, err)
    assert text in err, err
    return out


def migration(out):
    """What the command says of it at last, with --json."""
    return json.loads(out.splitlines()[-1])["vm"]["migration"]


def locked(pid, image):
    """Whether that process has the lock of an image of that name."""
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            if os.path.basename(os.readlink(f"/proc/{pid}/fd/{fd}")) == image:
                with open(f"/proc/{pid}/fdinfo/{fd}") as f:
                    if any(line.startswith("lock:") for line in f):
                        return True
        except FileNotFoundError:
            pass  # it has just been closed
    return False


def unburdened(host):
    """At full speed, nothing logged, and its disks its own."""
    def settled():
        stats = host.stats()
        return (stats.get("throttle"), stats.get("log_dirty")) == (0, False)
    wait_until(settled, 10, lambda: f"log-dirty is off, and no throttle: {host.stats()}")
    with open(host.t.path("demo.cfg")) as f:
        image = re.search(r'disks = \( { path = "[^"]*/([^"/]+)"', f.read())
    assert not image or locked(host.vm()["pid"], image[1]), f"{image[1]} is not locked"


def stays(hosts):
    """On the source, alone, as if nothing had been tried."""
    hosts.a.wait("running")
    hosts.b.wait("none")
    goes_on(hosts.a)
    unburdened(hosts.a)
    assert not hosts.fenced()
    wait_until(lambda: hosts.b.vm_pids() == [], 10, "the twin's process has ended")


def arrived(here, there, seconds=60):
    """There, alone, and nothing of it here."""
    there.wait("running", seconds)
    here.wait("none")
    goes_on(there)
    unburdened(there)
    assert here.vms() == [] and not here.hosts.fenced()


def moves(hosts, *options):
    print(hosts.a.do("migrate", "demo", "hostb", *options).strip())
    arrived(hosts.a, hosts.b)
