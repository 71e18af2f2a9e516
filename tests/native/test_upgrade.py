# SPDX-License-Identifier: Apache-2.0
"""A running guest moves to a new VM process: it must not notice, and there is always one of it."""
import json
import os
import re

from case import case
from hosts import Hosts, passes, wait_until
from test_polluxd import guest_goes_on


def upgraded(host, name="demo"):
    """The new pid; the old process is gone."""
    old = host.vm(name)["pid"]
    vm = json.loads(host.do("upgrade", name, "--json"))
    assert vm["pid"] != old and vm["operation"]["downtime_ms"] > 0, vm
    wait_until(lambda: not os.path.exists(f"/proc/{old}"), 10, "the old process is gone")
    return vm["pid"]


@case("upgrade-thin", engine="kvm")
@case("upgrade-thin-soft", engine="soft", needs=())
def thin(t, engine):
    """Its memory is checked by the guest itself, pass by pass."""
    hosts = Hosts(t)
    hosts.a.do("start", hosts.vm_file(engine=engine))
    guest_goes_on(hosts.a)
    upgraded(hosts.a)
    guest_goes_on(hosts.a)
    said = passes(hosts.a.console())[:-1]  # the last one may be cut short
    assert said == list(range(5, said[-1] + 1, 5)), said
    assert re.search(r"^build +\S", hosts.a.do("status", "demo"), re.M)
