# SPDX-License-Identifier: Apache-2.0
"""A protected VM moves to a third host, and its standby to another: protected again there, and
saying so as long as it is not."""
import threading

from case import case
from hosts import Hosts, goes_on
from moves import POSTCOPY


class Watch(threading.Thread):
    """Looks at all hosts, again and again: whether the VM is ever unprotected and does not say so."""

    def __init__(self, hosts):
        super().__init__(daemon=True)
        self.hosts, self.looks, self.silent, self.over = hosts, 0, [], threading.Event()
        self.start()

    def run(self):
        while not self.over.wait(0.05):
            for host in self.hosts.all:
                vm = host.vm()
                self.looks += 1
                if vm["state"] == "running" and not self._said(vm):
                    self.silent.append((host.name, vm["why"], vm["operation"]))

    @staticmethod
    def _said(vm):
        """By an operation that is under way, or by a reason."""
        return vm["operation"]["state"] == "running" or "protected" in vm["why"]

    def end(self):
        self.over.set()
        self.join(30)
        assert self.looks > 5 and not self.silent, (self.looks, self.silent[:3])


def three(t, faults=()):
    hosts = Hosts(t, extra="protect_again_s = 1;", names=("hosta", "hostb", "hostc"), faults=faults)
    hosts.protected()
    return hosts


def protected(hosts, primary, standby):
    """There and there, and nothing of it on the third."""
    primary.wait("protected", 40)
    standby.wait("standby", 40)
    assert primary.vm()["peer"] == standby.name
    for host in hosts.all:
        if host not in (primary, standby):
            host.wait("none")
            assert host.vm_pids() == []
    goes_on(primary)
    assert not hosts.fenced()


@case("migrate-protected-to-a-third-host")
@case("migrate-protected-to-a-third-host-postcopy", options=POSTCOPY, needs=("kvm", "root"))
def to_a_third_host(t, options=()):
    """Its standby stays where it was, and is that of the new place."""
    hosts = three(t)
    a, b, c = hosts.all
    watch = Watch(hosts)
    a.do("migrate", "demo", "hostc", *options)
    protected(hosts, c, b)
    watch.end()
    print("states on the way:", ", ".join(c.whats()))
    fails_over(hosts, c, b)


def fails_over(hosts, primary, standby):
    """What protects it does: its host dies, and it goes on."""
    primary.kill()
    standby.wait("running", 40)
    goes_on(standby)
    assert hosts.fenced() == [primary.name], hosts.fenced()


@case("standby-moves-to-a-third-host")
def standby_moves(t):
    hosts = three(t)
    a, b, c = hosts.all
    watch = Watch(hosts)
    a.do("protect", "demo", "--to", "hostc")
    protected(hosts, a, c)
    watch.end()
    fails_over(hosts, a, c)


@case("migrate-protected-to-a-third-host-fails")
def third_host_fails(t):
    """It stays, and its old standby protects it again."""
    hosts = three(t, faults=("", "", "replica.load:1"))
    a, b, c = hosts.all
    assert a.pollux("migrate", "demo", "hostc").returncode == 1
    protected(hosts, a, b)
    fails_over(hosts, a, b)
