# SPDX-License-Identifier: Apache-2.0
"""What a migration trusts: certificates decide whether it begins, and keys are renewed in its midst."""
import json
import os
import shutil
import subprocess

from case import case
from hosts import wait_until
from test_migrate import FOLLOWS, SLOW, connected, goes_on, moves, pulling, started, stays


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
    connected(hosts)
    moves(hosts)


@case("migrate-signed-again")
def signed_again(t):
    """What the expired one above is made with makes good ones as well."""
    hosts = started(t)
    identify(hosts.b, until(1)(t, "hostb"))
    connected(hosts)
    moves(hosts)


# ---- keys --------------------------------------------------------------------------------------

def renewals(every):
    """After so many TLS records each, as often as can be told."""
    return ",".join(f"channel.key:{every * n}" for n in range(1, 16))


@case("migrate-keys-renewed", streams="1", seconds=200)
@case("migrate-keys-renewed-4-streams", streams="4", seconds=200)
def keys_renewed(t, streams):
    """Fifteen times by either side; more than fifteen are not one side's alone."""
    hosts = started(t, faults_a=renewals(5), faults_b=renewals(5))
    done = json.loads(hosts.a.do("migrate", "demo", "hostb", "--json", *SLOW, "--streams",
                                 streams).splitlines()[-1])
    hosts.b.wait("running")
    hosts.a.wait("none")
    goes_on(hosts.b)
    seen = done["vm"]["migration"]["last"]["replication"]["key_updates"]
    print(f"{seen} key updates")
    assert 20 <= seen <= 30, seen


@case("migrate-postcopy-keys-renewed", needs=("kvm", "root"), seconds=200)
def postcopy_keys_renewed(t):
    hosts = started(t, cmdline=FOLLOWS, faults_a=renewals(100))
    command = pulling(hosts)
    seen = [0]

    def over():
        stats = (hosts.a.vm().get("stats") or {}).get("postcopy") or {}
        seen.append(stats.get("key_updates", 0))
        return command.poll() is not None
    wait_until(over, 60, "all memory has followed")
    assert command.returncode == 0, command.communicate()
    hosts.b.wait("running")
    goes_on(hosts.b)
    print(f"{max(seen)} key updates while memory followed")
    assert max(seen) >= 3, max(seen)
