# SPDX-License-Identifier: Apache-2.0
"""Protection from one engine to the other: the same guest, because its CPU is "pollux-base"."""
import random

from case import case
from pair import Pair

BASE = "pollux-base"


def engine_of(side):
    return side.stats()["engine"]


def across(pair, engine, hops, **terms):
    """The primary's engine and `engine` take turns."""
    engines = [engine, engine_of(pair.primary)]
    for hop in range(hops):
        pair.add_standby(engine=engines[hop % 2])
        pair.protect(**terms)
        assert engine_of(pair.standby) == engines[hop % 2] != engine_of(pair.primary)
        pair.wait_epochs(5)
        pair.failover()
        yield


@case("engines-kvm-to-soft-and-back", first="kvm", then="soft", mode="event")
@case("engines-soft-to-kvm-and-back", first="soft", then="kvm", mode="interval")
def failover_across(t, first, then, mode):
    """Each failover changes the engine; the client's record goes on."""
    pair = Pair(t, engine=first, cpu=BASE)
    pair.load(window=4)
    for _ in across(pair, then, 4, mode=mode):
        pair.observer.wait_replies(50)


@case("engines-memory", guest="dirtier", word="dirtier: pass",
      cmdline="pages=300 rate=20000 report=5")
@case("engines-registers-of-2-vcpus", guest="selfcheck", word="selfcheck: tick", vcpus=2,
      cmdline="cpus=2 report=20 avx=0")
def state_across(t, guest, word, cmdline, vcpus=1):
    """The guest itself checks what it became."""
    pair = Pair(t, guest=guest, cmdline=cmdline, vcpus=vcpus, nic=False, engine="kvm", cpu=BASE)
    pair.primary.console.wait(word)
    for _ in across(pair, "soft", 4, mode="interval", interval_ms=random.randint(10, 40)):
        pair.primary.console.wait(word)
        pair.primary.console.wait_more(word)


@case("engines-refused-other-cpu", primary={"engine": "kvm", "cpu": "host"},
      standby={"engine": "soft", "cpu": None})
@case("engines-refused-other-cpu-of-one-engine", primary={"engine": "kvm", "cpu": BASE},
      standby={"engine": "kvm", "cpu": "host"})
def refused(t, primary, standby):
    """Before anything is copied, by name; with the right CPU it begins."""
    pair = Pair(t, **primary)
    pair.load()
    pair.add_standby(**standby)
    pair.protect_begin()
    pair.board.pass_on(pair.standby.process, 1)
    event = pair.primary.process.wait_state("unprotected", "lost", "syncing", "protected")
    assert event["state"] == "unprotected", event
    for word in ('"host"', f'"{BASE}"'):
        assert word in event["why"], f"{word} is not in {event['why']!r}"
    pair.observer.wait_replies(20)
    pair.standby.killed = True
    pair.standby.process.close()
    pair.add_standby(engine="kvm")
    pair.protect()
    pair.failover()
    pair.observer.wait_replies(20)
