# SPDX-License-Identifier: Apache-2.0
"""A guest that writes faster than the link carries: it is throttled step by step, and then the
policy decides. Whatever that is, it is at full speed afterwards, wherever it runs."""
import time

from case import case
from moves import arrived, ended, migration, started, stays

# More pages than the last versions of are kept, by one stream: each goes whole, each round. No
# precopy is good enough, and a round takes six seconds:
# on a busy machine the guest writes a tenth of what it may.
WRITER = {"cmdline": "pages=25000 rate=300000 report=2", "memory": "128M"}
STUCK = ("--downtime", "0", "--streams", "1", "--bandwidth", "16", "--compression", "none")
MOST = 35  # percent: in two steps


def burdened(host, command):
    """The strongest throttle that polluxd told of until the command has ended, and whether what
    the guest writes was logged."""
    most, logged = 0, False
    while command.poll() is None:
        stats = host.stats()
        most = max(most, stats.get("throttle", 0))
        logged |= stats.get("log_dirty", False)
        time.sleep(0.03)
    return most, logged


def stuck(t, *options):
    """The hosts, and a migration that is over, and has throttled the guest as much as it may."""
    hosts = started(t, **WRITER)
    command = hosts.a.pollux("migrate", "demo", "hostb", *STUCK, "--throttle", str(MOST), *options,
                             background=True)
    seen = burdened(hosts.a, command)
    assert seen == (MOST, True), (seen, hosts.a.vm()["migration"])
    return hosts, command


@case("migrate-stuck-give-up", seconds=300, options=("--stuck", "give-up"),
      why="faster than the link carries")
@case("migrate-stuck-stop-too-long", options=("--stuck", "stop", "--most-downtime", "1"),
      why="the pause would be longer than allowed", seconds=300)
def gives_up(t, options, why):
    """It runs on here."""
    hosts, command = stuck(t, *options)
    _, error = command.communicate(timeout=60)
    assert command.returncode == 1 and why in error and "the VM runs on here" in error, error
    assert "warning: it is foreseen to be given up" in error and "what helps: " in error, error
    stays(hosts)


@case("migrate-stuck-foreseen", seconds=300)
def foreseen(t):
    """Whoever asks before is warned that it would be given up, and of nothing if it would not be."""
    hosts = started(t, **WRITER)

    def check(*options):
        return hosts.a.do("migrate", "demo", "hostb", "--check", *STUCK, "--throttle", str(MOST),
                          *options)
    text = check()
    assert "warning: it is foreseen to be given up" in text and "--stuck postcopy" in text, text
    assert "forecast: it gives up" in text and "can be migrated" in text, text
    text = check("--stuck", "stop", "--most-downtime", "1")
    assert "warning: it is foreseen to be given up" in text and "larger --most-downtime" in text, text
    text = check("--stuck", "stop", "--most-downtime", "600000")
    assert "given up" not in text and "can be migrated" in text, text
    stays(hosts)


def moved(hosts, command):
    print(ended(command, 0).strip())
    arrived(hosts.a, hosts.b, 60)


@case("migrate-stuck-stop", seconds=300)
def stops(t):
    """In one longer pause."""
    hosts, command = stuck(t, "--stuck", "stop", "--most-downtime", "60000")
    moved(hosts, command)
    assert "serving" not in hosts.a.whats()


@case("migrate-stuck-postcopy", seconds=300, needs=("kvm", "root"))
def follows(t):
    """Its memory follows it."""
    hosts, command = stuck(t, "--stuck", "postcopy")
    moved(hosts, command)
    assert hosts.a.whats()[-2:] == ["serving", "served"], hosts.a.whats()


def late(t, rate, *options):
    """A migration whose time is over early in its first round, of 100 MB."""
    hosts = started(t, **WRITER)
    return hosts, hosts.a.pollux("migrate", "demo", "hostb", "--bandwidth", str(rate),
                                 "--compression", "none", "--timeout", "2", "--json", *options,
                                 background=True)


@case("migrate-timeout-give-up", seconds=300)
def late_gives_up(t):
    hosts, command = late(t, 1, "--stuck", "give-up")  # its round would take 100 s; ended() waits for 60
    assert "all the time that it was allowed" in ended(command, 1)
    stays(hosts)


@case("migrate-timeout-stop-too-long", seconds=300)
def late_too_long(t):
    hosts, command = late(t, 1, "--stuck", "stop", "--most-downtime", "1")
    assert "the pause would be longer than allowed" in ended(command, 1)
    stays(hosts)


@case("migrate-timeout-postcopy", seconds=300, needs=("kvm", "root"))
def late_follows(t):
    """What the round has not sent follows the guest."""
    hosts, command = late(t, 4, "--stuck", "postcopy")
    out = ended(command, 0)
    sent = migration(out)["sent"]
    print(sent)
    assert sent["rounds"] == 1 and sent["postcopy_bytes"] > 50 << 20, sent
    arrived(hosts.a, hosts.b, 60)


@case("migrate-not-throttled", seconds=300)
def not_throttled(t):
    """As it was wished for; and it gives up all the same."""
    hosts = started(t, **WRITER)
    command = hosts.a.pollux("migrate", "demo", "hostb", *STUCK, "--throttle", "0",
                             background=True)
    assert burdened(hosts.a, command) == (0, True)
    ended(command, 1, "the VM runs on here")
    stays(hosts)
