# SPDX-License-Identifier: Apache-2.0
"""What is said of a migration before it begins: what is in its way, what is to be minded, and what
it is foreseen to take."""
import json

from case import case
from hosts import Hosts, goes_on, wait_until
from moves import SLOW, arrived, copying, moves, started, stays


@case("migrate-check", needs=("kvm", "root"))
def check(t):
    """All that is in the way, and nothing is begun."""
    hosts = started(t, own_disks=True, disk="demo.img")
    with open(t.path("disks-hostb/demo.img"), "wb") as f:
        f.truncate(8 << 20)
    copied = ("migrate", "demo", "hostb", "--with-disks")
    assert "can be migrated" in hosts.a.do(*copied, "--overwrite", "--check")
    assert json.loads(hosts.a.do(*copied, "--overwrite", "--dry-run", "--json"))["possible"]
    p = hosts.a.pollux(*copied, "--check")
    assert p.returncode == 3 and "CANNOT" in p.stdout and "is there already" in p.stdout, p.stdout
    assert "forecast: about" in p.stdout, p.stdout
    why = hosts.a.refuses(3, *copied)
    assert "CANNOT" in why and "is there already" in why and "--overwrite" in why, why
    stays(hosts)


@case("migrate-faster-host", needs=("kvm", "root"))
def faster_host(t):
    """A TSC slower than one that cannot be scaled: said before anything is copied."""
    hosts = started(t, faults_b="kvm.faster:1,kvm.faster:2")
    p = hosts.a.pollux("migrate", "demo", "hostb", "--check", "--json")
    reason, = json.loads(p.stdout)["reasons"]
    assert p.returncode == 3 and reason["code"] == "cpu-differs", p.stdout
    assert "its TSC runs at 4294967295 kHz" in reason["sentence"], p.stdout
    why = hosts.a.refuses(3, "migrate", "demo", "hostb")
    assert "CANNOT" in why and "its TSC runs at 4294967295 kHz" in why, why
    stays(hosts)
    moves(hosts)


@case("migrate-warned", needs=("root",))
def warned(t):
    """A migration that begins tells what it warns of; one that does not, all that is in its way."""
    hosts = started(t, faults_b="lazy.open:1,lazy.open:2")
    p = hosts.a.pollux("migrate", "demo", "nowhere", "--check", "--json")
    assert p.returncode == 3 and "is not a peer" in json.loads(p.stdout)["error"], p.stdout
    command = copying(hosts, "--stuck", "postcopy")
    why = hosts.a.refuses(3, "migrate", "demo", "nowhere", "--check")
    assert "under way" in why and "is not a peer" in why, why
    hosts.a.do("migrate", "demo", "--cancel")
    out, err = command.communicate(timeout=60)
    assert "warning: postcopy is not possible there" in err, err
    stays(hosts)


@case("migrate-postcopy-cannot", needs=("root",))
def postcopy_cannot(t):
    """A host without a userfaultfd: refused when asked for, said when it is the last resort."""
    hosts = started(t, faults_b="lazy.open:1,lazy.open:2,lazy.open:3")
    p = hosts.a.pollux("migrate", "demo", "hostb", "--postcopy", "--check")
    assert p.returncode == 3 and "postcopy is not possible there" in p.stdout, p.stdout
    p = hosts.a.pollux("migrate", "demo", "hostb", "--postcopy")
    assert p.returncode and "postcopy is not possible there" in p.stderr, p.stderr
    stays(hosts)
    text = hosts.a.do("migrate", "demo", "hostb", "--stuck", "postcopy", "--check")
    assert "can be migrated" in text and "postcopy is not possible there" in text, text
    moves(hosts)


class Pool:
    """The host's pool of huge pages of 2 MiB."""

    def __init__(self, t):
        self.had = self.number("nr")
        t.cleanup(lambda: self.set(self.had))

    def number(self, name):
        with open(f"/sys/kernel/mm/hugepages/hugepages-2048kB/{name}_hugepages") as f:
            return int(f.read())

    def set(self, pages):
        with open("/proc/sys/vm/nr_hugepages", "w") as f:
            f.write(str(pages))
        return self.number("nr")

    def free(self):
        return self.number("free") - self.number("resv")

    def leave(self, free):
        """As many free ones, whatever others have."""
        def are_free():
            self.set(self.number("nr") + free - self.free())
            return self.free() == free
        wait_until(are_free, 10, lambda: f"the kernel made {self.free()} huge pages of {free}")


@case("migrate-huge-pages", needs=("kvm", "root"))
def huge_pages(t):
    """A VM of 8 huge pages: where fewer are free it does not go."""
    pool = Pool(t)
    pool.leave(8)
    hosts = started(t, hugepages=True)
    assert pool.free() == 0, "the guest's memory is not in huge pages"
    for wanted in (0, 7):
        pool.leave(wanted)
        p = hosts.a.pollux("migrate", "demo", "hostb", "--check", "--json")
        assert p.returncode == 3 and '"hugepages"' in p.stdout, p.stdout
    assert "huge pages" in hosts.a.pollux("migrate", "demo", "hostb").stderr
    stays(hosts)
    pool.leave(8)
    moves(hosts)
    assert pool.free() == 8, "the source has kept its huge pages"
    hosts.b.do("migrate", "demo", "hosta")
    arrived(hosts.b, hosts.a)


def forecast(host, *options):
    answer = json.loads(host.do("migrate", "demo", "hostb", "--check", "--json", *options))
    assert answer["possible"], answer
    print(answer["forecast"])
    return answer["forecast"]


@case("migrate-forecast")
@case("migrate-forecast-soft", vm={"engine": "soft"}, needs=())
def forecasts(t, vm=None):
    """What is measured, and that nothing of the measuring stays."""
    hosts = started(t, cmdline="pages=1500 rate=600 report=1", **(vm or {}))
    written = []
    for _ in range(3):
        f = forecast(hosts.a, "--downtime", "2000")  # handing over stores: on some disks for long
        assert f["measured"] and not f["of_session"] and f["end"] == "precopy", f
        assert f["pages"] >= 1500 and f["dirty_pages_per_second"] < 20000, f
        assert f["link_bytes_per_second"] > 0 and 0 < f["downtime_ns"] < f["total_ns"], f
        written.append(f["dirty_pages_per_second"])
    assert max(written) > 0, "the guest was seen to write nothing"
    slow = forecast(hosts.a, *SLOW)
    assert slow["total_ns"] > 5e9, slow  # 6 MB at 1 MB/s
    text = hosts.a.do("migrate", "demo", "hostb", "--check")
    assert "forecast: about" in text and "pages to send" in text and "the link carries" in text, text
    stays(hosts)
    moves(hosts)


@case("migrate-forecast-not-measured", faults={"faults_a": "measure.sample:1"}, what="the VM")
@case("migrate-forecast-no-burst", faults={"faults_b": "burst.receive:1"}, what="the link")
def no_forecast(t, faults, what):
    """It is said, and the migration goes on without."""
    hosts = started(t, **faults)
    text = hosts.a.do("migrate", "demo", "hostb", "--check")
    assert f"not measured: {what}" in text and "can be migrated" in text, text
    assert forecast(hosts.a)["measured"]
    moves(hosts)


@case("migrate-forecast-protected")
def forecast_protected(t):
    """Its session logs what it writes: that is asked, and goes on."""
    hosts = Hosts(t)
    hosts.protected()
    for _ in range(5):  # in a stall of its process nothing is written
        f = forecast(hosts.a)
        assert f["measured"] and f["of_session"], f
        if f["dirty_pages_per_second"]:
            break
    assert f["dirty_pages_per_second"] > 0, f
    assert hosts.a.vm()["state"] == "protected"
    goes_on(hosts.a)
