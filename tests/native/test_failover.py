# SPDX-License-Identifier: Apache-2.0
"""The primary's process dies; what the outside saw must go on on the standby."""
import random
import time

from case import case
from pair import Pair, wait_until


@case("failover-event", mode="event")
@case("failover-interval", mode="interval")
@case("failover-lz4-4-streams", mode="event", streams=4, compression="lz4")
@case("failover-zlib-1-stream", mode="interval", streams=1, compression="zlib")
@case("failover-uncompressed-16-streams", mode="event", streams=16, compression="none")
@case("failover-no-delta", mode="interval", delta_mb=0, streams=2)
@case("failover-window-1", mode="event", window=1)
@case("failover-window-8", mode="interval", window=8, interval_ms=5)
def failover(t, **terms):
    pair = Pair(t)
    pair.load(window=8)
    pair.protect(**terms)
    pair.observer.wait_replies(100)
    before = pair.observer.count
    pair.failover()
    pair.observer.wait_replies(50)
    assert pair.observer.count > before
    wait_until(lambda: pair.primary.frames.path in pair.observer.announced, 10,
               "the guest is announced")


@case("kill-at-random-event", seconds=400, mode="event")
@case("kill-at-random-interval", seconds=400, mode="interval")
def kill_at_random(t, mode):
    """Each new owner is protected again and killed at another moment."""
    pair = Pair(t)
    pair.load(window=6)
    for _ in range(20):
        pair.protect(mode=mode, interval_ms=random.randint(2, 30), streams=random.randint(1, 3),
                     window=random.randint(1, 4), compression=random.choice(["none", "lz4", "zlib"]))
        pair.observer.wait_replies(random.randint(1, 40))
        time.sleep(random.random() * 0.05)
        pair.failover()
        pair.observer.wait_replies(5)


@case("kill-during-first-copy")
def kill_during_first_copy(t):
    """There is no whole epoch: what the standby holds must not run."""
    pair = Pair(t, disk="16M")
    pair.load()
    pair.first_copy_stuck()
    pair.observer.wait_replies(10)
    pair.primary.kill()
    pair.proxy.reset()
    pair.standby.process.wait_state("lost")
    assert "no whole epoch" in pair.promote_refused()
    assert not pair.standby.stats()["running"]


@case("first-copy-passes-output")
def first_copy_passes_output(t):
    """Nothing is held before the first whole epoch."""
    pair = Pair(t, disk="16M")
    pair.load()
    pair.first_copy_stuck()
    pair.observer.wait_replies(100)
    pair.proxy.quota["forward"] = None
    pair.proxy.release()
    pair.primary.process.wait_state("protected")
    pair.observer.wait_replies(20)


@case("memory-over-10-hops", seconds=400)
def memory_over_hops(t):
    """The guest itself checks, page by page, what the twins became."""
    pair = Pair(t, guest="dirtier", cmdline="pages=300 rate=20000 report=5", nic=False)
    pair.primary.console.wait("pass 5")
    for hop in range(10):
        pair.protect(mode="interval", interval_ms=random.randint(5, 40),
                     compression=random.choice(["none", "lz4", "zlib"]),
                     streams=random.randint(1, 4))
        pair.wait_epochs(random.randint(1, 8))
        pair.failover()
        pair.primary.console.wait("dirtier: pass")
        pair.primary.console.wait_more("dirtier: pass")


@case("registers-of-2-vcpus")
def registers(t):
    pair = Pair(t, guest="selfcheck", cmdline="cpus=2 report=20", vcpus=2, nic=False)
    pair.primary.console.wait("selfcheck: tick")
    for _ in range(3):
        pair.protect(mode="interval", interval_ms=random.randint(10, 40))
        pair.wait_epochs(5)
        pair.failover()
        pair.primary.console.wait("selfcheck: tick")
        pair.primary.console.wait_more("selfcheck: tick")


@case("promote-living-standby")
def promote_living(t):
    """A switch of roles by an operator: promotion while the link is up, then the old one is told."""
    pair = Pair(t)
    pair.load()
    pair.protect()
    pair.observer.wait_replies(20)
    old = pair.primary
    pair.promote(late=True)
    pair.observer.wait_replies(20)
    old.process.wait_state("lost")
    old.process.ask("ownership", answer="denied")
    old.process.wait_state("fenced")
    wait_until(lambda: not old.stats()["running"], 10, "the old owner has stopped")
    pair.observer.wait_replies(20)
