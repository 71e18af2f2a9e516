# SPDX-License-Identifier: Apache-2.0
"""`pollux migrate` between two polluxd: the guest goes on there, and nowhere else."""
import json

from case import case
from hosts import Hosts, passes, wait_until


def guest_goes_on(host):
    before = max(passes(host.console()), default=0)
    wait_until(lambda: max(passes(host.console()), default=0) > before, 20, "the guest goes on")
    assert "FAIL" not in host.console()


@case("migrate-there-and-back")
def there_and_back(t):
    hosts = Hosts(t)
    hosts.a.do("start", hosts.vm_file())
    guest_goes_on(hosts.a)
    here, there = hosts.a, hosts.b
    for _ in range(4):
        print(here.do("migrate", "demo", there.name).strip())
        there.wait("running")
        here.wait("none")
        guest_goes_on(there)
        assert json.loads(here.do("list", "--json"))["vms"] == []
        here, there = there, here
    assert not hosts.fenced()
