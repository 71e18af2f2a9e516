# SPDX-License-Identifier: Apache-2.0
"""What a migration trusts: certificates decide whether it begins, and keys are renewed in its midst."""
import json
import os
import shutil
import signal
import subprocess
import time

from case import case
from hosts import wait_until
from moves import FOLLOWS, SLOW, arrived, ended, moves, pulling, started, stays


# ---- certificates ------------------------------------------------------------------------------

def issued(t, name, folder="pki"):
    """Certificate and key of that name, by the CA of that folder."""
    for args in (["init-ca"], ["issue", name]):
        if not os.path.exists(t.path(f"{folder}/{'ca' if args[0] == 'init-ca' else name}.crt")):
            os.makedirs(t.path(folder), exist_ok=True)
            subprocess.run([f"{t.build}/pollux", "pki", *args, "--dir", t.path(folder)],
                           check=True, capture_output=True)
    return [t.path(f"{folder}/{name}.{kind}") for kind in ("crt", "key")]


def of_another_ca(t, name):
    return issued(t, name, "other")


def of_another_name(t, _name):
    return issued(t, "hostc")


def until(days):
    """The same certificate, signed again, to that number of days from now."""
    def make(t, name):
        cert, key = issued(t, name)
        request, new = t.path("again.csr"), t.path("again.crt")
        for args in (["-x509toreq", "-in", cert, "-signkey", key, "-out", request],
                     ["-req", "-in", request, "-CA", t.path("pki/ca.crt"), "-CAkey",
                      t.path("pki/ca.key"), "-set_serial", "77", "-days", str(days), "-out", new]):
            subprocess.run(["openssl", "x509", "-copy_extensions", "copyall", *args], check=True,
                           capture_output=True)
        return new, key
    return make


def identify(host, files):
    """Its polluxd starts anew with these for its own."""
    host.down()
    for source, kind in zip(files, ("crt", "key")):
        own = host.t.path(f"pki/{host.name}.{kind}")
        if source != own:
            shutil.copy(source, own)
    host.up()


def kept(host):
    files = [host.t.path(f"pki/{host.name}.{kind}") for kind in ("crt", "key")]
    for path in files:
        shutil.copy(path, path + ".kept")
    return [path + ".kept" for path in files]


@case("migrate-refused-wrong-ca", bad=of_another_ca, word="unable to get local issuer certificate")
@case("migrate-refused-other-name", bad=of_another_name, word="hostname mismatch")
@case("migrate-refused-expired", bad=until(-1), word="certificate has expired")
@case("migrate-refused-own-expired", bad=until(-1), word="refuses this host (TLS alert)",
      of="a")
def refused(t, bad, word, of="b"):
    """The VM runs on, and goes as soon as the certificate is right."""
    hosts = started(t)
    host = getattr(hosts, of)
    good = kept(host)
    identify(host, bad(t, host.name))
    wait_until(lambda: word in hosts.a.do("list", "--peers", "--json"), 20, f"peers say {word!r}")
    for options in ((), ("--check",)):
        error = hosts.a.refuses(3, "migrate", "demo", "hostb", *options)
        assert word in error and "hostb is not connected" in error, error
    stays(hosts)
    identify(host, good)
    hosts.wait_connected()
    moves(hosts)


@case("migrate-signed-again")
def signed_again(t):
    """What the expired one above is made with makes good ones as well."""
    hosts = started(t)
    identify(hosts.b, until(1)(t, "hostb"))
    hosts.wait_connected()
    moves(hosts)


# ---- certificates that are replaced ------------------------------------------------------------


def placed(t, folder, names=("ca", "hosta", "hostb")):
    """Those of that folder in place of what the hosts have."""
    for name in names:
        for kind in ("crt", "key") if name != "ca" else ("crt",):
            shutil.copy(t.path(f"{folder}/{name}.{kind}"), t.path(f"pki/{name}.{kind}"))


def told(host):
    """Its polluxd reads its certificates again; what it says of that."""
    def said():
        with open(host.log, errors="replace") as f:
            return [line for line in f if "new connections use" in line or "certificates stay" in line]
    before = len(said())
    host.daemon.send_signal(signal.SIGHUP)
    wait_until(lambda: len(said()) > before, 10, f"{host.name} has read its certificates")
    return said()[-1]


def anew(hosts, host):
    """The other one, which goes on, is connected to with what it has read."""
    host.down()
    host.up()
    hosts.wait_connected()


@case("migrate-certificates-replaced", seconds=200)
def replaced(t):
    """The authority, and the certificates of both hosts, twice: no VM and no link ends, a migration goes
    on, and what connects afterwards is judged by the new ones."""
    hosts = started(t)
    for folder in ("new", "newer"):
        for name in ("hosta", "hostb"):
            issued(t, name, folder)
    pids = hosts.a.vm_pids()
    command = hosts.a.pollux("migrate", "demo", "hostb", *SLOW, background=True)
    wait_until(lambda: hosts.a.vm()["state"] == "migrating", 20, "it is migrated")
    placed(t, "new")
    assert all("new connections use" in told(h) for h in (hosts.a, hosts.b))
    assert hosts.a.vm_pids() == pids
    ended(command, 0)
    arrived(hosts.a, hosts.b)
    anew(hosts, hosts.b)  # hosta has the new ones
    placed(t, "newer")
    assert all("new connections use" in told(h) for h in (hosts.a, hosts.b))
    anew(hosts, hosts.a)  # hostb has
    hosts.b.do("migrate", "demo", "hosta")
    arrived(hosts.b, hosts.a)


@case("migrate-refused-replaced", seconds=200)
def old_refused(t):
    """Who still has the old certificate when it connects; and files that are no good change nothing."""
    hosts = started(t)
    for name in ("hosta", "hostb"):
        issued(t, name, "new")
    with open(t.path("pki/hosta.crt"), "w") as f:
        f.write("no certificate")
    said = told(hosts.a)
    assert "certificates stay" in said and "hosta.crt" in said, said
    p = subprocess.run([f"{t.build}/polluxd", "--config", hosts.a.config, "--check"],
                       capture_output=True, text=True)
    assert p.returncode == 1 and "hosta.crt" in p.stderr, p
    anew(hosts, hosts.b)
    placed(t, "new", ("ca", "hosta"))
    checked = subprocess.check_output([f"{t.build}/polluxd", "--config", hosts.a.config, "--check"],
                                      text=True)
    assert checked == f"{hosts.a.config} is good\n", checked
    assert "new connections use" in told(hosts.a)
    hosts.b.down()
    hosts.b.up()
    wait_until(lambda: "certificate" in hosts.a.do("list", "--peers", "--json"), 20, "it is refused")
    assert "hostb is not connected" in hosts.a.refuses(3, "migrate", "demo", "hostb")
    stays(hosts)
    placed(t, "new")
    assert "new connections use" in told(hosts.b)
    hosts.wait_connected()
    moves(hosts)


# ---- keys --------------------------------------------------------------------------------------

def renewals(every):
    """After so many TLS records each, as often as can be told."""
    return ",".join(f"channel.key:{every * n}" for n in range(1, 16))


STALL_S = 3
LOOK_S = 0.5


def stall(looks):
    """The longest time, of (when, counter), in which the counter did not grow. Whoever looked late,
    on a busy machine, has not seen that it stood still meanwhile."""
    longest = now = 0
    for (before, had), (at, has) in zip(looks, looks[1:]):
        now = 0 if has > had else now + min(at - before, LOOK_S)
        longest = max(longest, now)
    return longest


def no_stall(looks):
    assert len(looks) > 10 and looks[-1][1] > looks[0][1], looks
    seconds = stall(looks)
    print(f"stood still for {seconds:.2f} s at most")
    assert seconds < STALL_S, looks


@case("migrate-stall-is-seen", needs=())
def stall_seen(t):
    """What judges the others does judge."""
    steady = [(0.2 * n, 100 * n) for n in range(20)]
    assert stall(steady) == 0
    hung = steady + [(4 + 0.2 * n, 1900) for n in range(30)]
    assert stall(hung) > STALL_S
    late = steady + [(60, 1900), (60.2, 2000)]
    assert 0 < stall(late) < STALL_S


@case("migrate-keys-renewed", streams="1", seconds=200)
@case("migrate-keys-renewed-4-streams", streams="4", seconds=200)
def keys_renewed(t, streams):
    """Fifteen times by either side, while the memory is copied, which goes on; more than fifteen are
    not one side's alone."""
    hosts = started(t, faults_a=renewals(20), faults_b=renewals(5))
    command = hosts.a.pollux("migrate", "demo", "hostb", "--json", *SLOW, "--streams", streams,
                             background=True)
    looks = []
    for line in command.stdout:
        event = json.loads(line)
        if event.get("phase") == "copying" and event["bytes_sent"] is not None:
            looks.append((time.monotonic(), event["bytes_sent"]))
    ended(command, 0)
    arrived(hosts.a, hosts.b)
    migration = event["vm"]["migration"]
    seen = migration["last"]["replication"]["key_updates"]
    print(f"{seen} key updates, downtime {migration['downtime_ns'] / 1e6:.1f} ms")
    assert 20 <= seen <= 30, seen
    no_stall(looks)
    assert migration["downtime_ns"] < STALL_S * 1e9, migration


@case("migrate-postcopy-keys-renewed", needs=("kvm", "root"), seconds=200)
def postcopy_keys_renewed(t):
    hosts = started(t, cmdline=FOLLOWS, faults_a=renewals(100))
    command = pulling(hosts)
    seen, looks = [0], []

    def over():
        stats = hosts.a.stats().get("postcopy") or {}
        seen.append(stats.get("key_updates", 0))
        if stats.get("state") == "running":
            looks.append((time.monotonic(), stats["bytes"]))
        return command.poll() is not None
    wait_until(over, 60, "all memory has followed")
    assert command.returncode == 0, command.communicate()
    arrived(hosts.a, hosts.b)
    print(f"{max(seen)} key updates while memory followed")
    assert max(seen) >= 2, max(seen)
    no_stall(looks)
