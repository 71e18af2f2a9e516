# SPDX-License-Identifier: Apache-2.0
"""Privileged behaviour is the same under `soft`, on this machine, and under kvm_amd in a host."""
import pathlib
import subprocess
import sys

from labkit.place import LabError

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "guests"))
import priv_known  # noqa: E402

TIME = 180


def _config(path, engine, kernel):
    path.write_text(f'name="privileged"; memory="16M"; vcpus=2; engine="{engine}"; '
                    f'kernel="{kernel}";\n')


def under_kvm(arena, guest):
    _config(arena.place.share / f"{guest}.vm", "kvm", f"/pollux/tests/guests/{guest}")
    return arena.cluster.run("hosta", f"/pollux/tests/scenario/state-hop /lab/{guest}.vm 0 0",
                             timeout=TIME)[1]


def under_soft(arena, guest):
    build = pathlib.Path(arena.build).resolve()
    config = arena.place.share / f"{guest}-soft.vm"
    _config(config, "soft", build / "tests/guests" / guest)
    done = subprocess.run([build / "tests/scenario/state-hop", config, "0", "0"], text=True,
                          timeout=TIME, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.stdout


def problems(arena, guest):
    kvm, soft = under_kvm(arena, guest), under_soft(arena, guest)
    for engine, text in (("kvm", kvm), ("soft", soft)):
        (arena.place.share / f"{guest}.{engine}").write_text(text)
        if not priv_known.ended(guest, text):
            return [f"under {engine} it did not end: {text[-200:]}"]
    return (priv_known.bad(guest, kvm, priv_known.LAB) + priv_known.bad(guest, soft)
            + priv_known.differences(guest, soft, kvm))


def privileged_behaviour_equals_kvm(arena):
    found = [f"{guest}: {p}" for guest in priv_known.GUESTS for p in problems(arena, guest)]
    if found:
        raise LabError(f"{len(found)} checks: " + "; ".join(found))
