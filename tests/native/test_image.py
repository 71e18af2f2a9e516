# SPDX-License-Identifier: Apache-2.0
"""Saved images: a VM goes into a file, and out of it again."""
import os

from case import case
from hosts import Hosts, passes, wait_until


def guest_goes_on(host):
    """It keeps counting its passes, and has found no page wrong."""
    before = max(passes(host.console()), default=0)
    wait_until(lambda: max(passes(host.console()), default=0) > before, 20, "the guest goes on")
    assert "FAIL" not in host.console()


def runs_for_a_while(host):
    wait_until(lambda: max(passes(host.console()), default=0) >= 10, 20, "the guest runs")
    return max(passes(host.console()))


@case("image-save-and-restore", compression="lz4")
@case("image-save-and-restore-raw", compression="none")
@case("image-save-and-restore-zlib", compression="zlib")
def save_and_restore(t, compression):
    """The guest goes on with the memory that it had; and a second time from the same host."""
    hosts = Hosts(t)
    image = t.path("demo.image")
    hosts.a.do("start", hosts.vm_file())
    for _ in range(2):
        before = runs_for_a_while(hosts.a)
        hosts.a.do("save", "demo", image, "--compression", compression, "--overwrite")
        assert hosts.a.vm()["state"] == "stopped" and not hosts.a.vm_pids()
        assert os.listdir(os.path.dirname(image)).count("demo.image.partial") == 0
        assert "restore" in hosts.a.vm()["why"]
        hosts.a.do("restore", image)
        assert hosts.a.vm()["state"] == "running"
        wait_until(lambda: passes(hosts.a.console()), 20, "the guest says something")
        assert min(passes(hosts.a.console())) > before, "it has begun anew"
        guest_goes_on(hosts.a)
    hosts.a.refuses(3, "restore", image)
