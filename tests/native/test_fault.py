# SPDX-License-Identifier: Apache-2.0
"""Faults planted at the exits that matter (POLLUX_FAULTS, base/base.h)."""
import errno

from case import case
from pair import Pair


def faults(*items):
    return {"POLLUX_FAULTS": ",".join(items)}


@case("fault-one-checkpoint-fails", mode="event")
@case("fault-one-checkpoint-fails-interval", mode="interval")
def one_seal(t, mode):
    """Its pages are in the next one; nothing is lost or leaves early."""
    pair = Pair(t, env=faults("replicator.seal:5", "replicator.seal:9", "replicator.seal:12"))
    pair.load(window=8)
    pair.protect(mode=mode)
    pair.observer.wait_replies(100)
    pair.wait_epochs(20)
    pair.failover()
    pair.observer.wait_replies(50)


@case("fault-the-first-checkpoint-fails")
def first_seal(t):
    pair = Pair(t, env=faults("replicator.seal:1"))
    pair.load()
    pair.protect()
    pair.observer.wait_replies(20)
    pair.failover()
    pair.observer.wait_replies(50)


@case("fault-no-checkpoint-works")
def no_seal(t):
    """After three in a row the session ends in good order; the guest goes on."""
    pair = Pair(t, env=faults(*[f"replicator.seal:{n}" for n in (6, 7, 8)]))
    pair.load()
    pair.protect()
    pair.primary.process.wait_state("unprotected")
    pair.standby.process.wait_state("released")
    pair.observer.wait_replies(50)
    assert "good order" in pair.promote_refused()


@case("fault-dirtier-checkpoints-fail")
def dirtier(t):
    """The guest checks that no page of a failed checkpoint was lost."""
    pair = Pair(t, guest="dirtier", cmdline="pages=300 rate=20000 report=5", nic=False,
                env=faults(*[f"replicator.seal:{n}" for n in (3, 5, 6, 9, 11, 12, 14)]))
    pair.primary.console.wait("pass 5")
    pair.protect(mode="interval", interval_ms=10)
    pair.wait_epochs(20)
    pair.failover()
    pair.primary.console.wait("dirtier: pass")
    pair.primary.console.wait_more("dirtier: pass")


@case("fault-commit-fails")
def commit(t):
    """An image that is half an epoch must never run."""
    pair = Pair(t)
    pair.load()
    pair.add_standby(env=faults("replica.commit:10"))
    pair.protect()
    event = pair.standby.process.wait_state("broken")
    assert "Input/output error" in event["why"], event
    lost = pair.primary.process.wait_state("lost", "unprotected")
    assert pair.promote_refused()
    if lost["state"] == "lost":
        pair.primary.process.ask("ownership", answer="confirmed")
    pair.observer.wait_replies(50)


@case("fault-disk-write-fails-in-an-epoch", nth=600)
@case("fault-disk-write-fails-in-first-copy", nth=2)
def disk_write(t, nth):
    pair = Pair(t, guest="blk", cmdline="blocks=256 depth=8 report=100", nic=False, disk="4M")
    pair.primary.console.wait("blk: done")
    pair.add_standby(env=faults(f"mirror.write:{nth}:{errno.ENOSPC}"))
    terms = pair.protect_begin(mode="interval")
    pair.board.pass_on(pair.standby.process, terms["streams"] + 1)
    event = pair.standby.process.wait_state("broken")
    assert "No space" in event["why"], event
    lost = pair.primary.process.wait_state("lost", "unprotected")
    assert "No space" in lost["why"], lost
    assert pair.promote_refused()
    if lost["state"] == "lost":
        pair.primary.process.ask("ownership", answer="confirmed")
    for _ in range(3):
        pair.primary.console.wait_more("blk: done")


@case("fault-commit-fails-during-promotion")
def commit_at_promotion(t):
    """Whole epochs that wait for their commit, and one that fails, while the promotion waits."""
    pair = Pair(t)
    pair.load()
    pair.add_standby(env=faults(*[f"replica.commit:{n}" for n in range(60, 68)]))
    pair.protect(mode="event", window=8)
    pair.observer.wait_replies(10)
    pair.standby.process.wait_state("broken")
    assert pair.promote_refused()
