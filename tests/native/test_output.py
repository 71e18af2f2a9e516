# SPDX-License-Identifier: Apache-2.0
"""Output commit, seen from outside: no frame before the standby has its epoch."""
import time

from case import case
from pair import SILENCE, Pair, wait_until

PATIENT = {"loss_ms": 30000}


def held(side):
    return side.stats()["nics"][0]["held_frames"]


@case("held-without-acknowledgement-event", mode="event", way="back")
@case("held-without-acknowledgement-interval", mode="interval", way="back")
@case("held-without-data-event", mode="event", way="forward")
@case("held-without-data-interval", mode="interval", way="forward")
def held_until_acknowledged(t, mode, way):
    """The link is silent in one direction, for less than the time of a loss."""
    pair = Pair(t)
    pair.load()
    pair.protect(proxied=True, mode=mode, **PATIENT)
    pair.observer.wait_replies(50)
    for _ in range(3):
        pair.observer.settle()
        pair.proxy.hold(way)
        pair.observer.load(4)
        wait_until(lambda: held(pair.primary) or pair.observer.sent, 10, "requests")
        pair.observer.expect_silence(0.2)
        wait_until(lambda: held(pair.primary), 10, "held output")
        pair.observer.expect_silence(1.0)
        pair.proxy.release()
        pair.observer.wait_replies(50)
    assert pair.primary.stats()["state"] == "protected"


@case("held-then-failover")
def held_then_failover(t):
    """What was held when the primary died was never seen, and the twin need not know of it."""
    pair = Pair(t)
    pair.load(window=8)
    pair.protect(proxied=True, **PATIENT)
    pair.observer.wait_replies(50)
    pair.proxy.hold("forward")
    time.sleep(0.1)
    wait_until(lambda: held(pair.primary), 10, "held output")
    pair.primary.kill()
    pair.proxy.release()
    pair.standby.process.wait_state("lost")
    pair.promote()
    pair.observer.wait_replies(50)


def unacknowledged(pair):
    epochs = pair.primary.stats()["replication"]
    return epochs["epoch"] > epochs["acknowledged"]


@case("acknowledgements-lost-then-failover")
def acknowledged_then_failover(t):
    """The standby has more whole epochs than the primary knows of: they all count."""
    pair = Pair(t)
    pair.load(window=8)
    pair.protect(proxied=True, **PATIENT)
    pair.observer.wait_replies(50)
    pair.proxy.hold("back")
    wait_until(lambda: unacknowledged(pair), 20, "an epoch that is not acknowledged")
    time.sleep(1)  # it is on its way: no epoch begins before
    epochs = pair.primary.stats()["replication"]
    pair.primary.kill()
    pair.proxy.release()
    pair.standby.process.wait_state("lost")
    assert pair.promote()["epoch"] >= epochs["epoch"]
    pair.observer.wait_replies(50)


@case("delay-is-at-least-the-links", mode="event")
@case("delay-is-at-least-the-links-interval", mode="interval")
def delay_is_the_links(t, mode):
    pair = Pair(t)
    pair.load(window=1)
    pair.protect(proxied=True, mode=mode, **PATIENT)
    pair.proxy.delay = {"forward": 0.03, "back": 0.05}
    pair.observer.wait_replies(3)
    pair.observer.settle()
    pair.observer.delays.clear()
    pair.observer.load(1)
    pair.observer.wait_replies(10)
    assert min(pair.observer.delays) >= 0.08, min(pair.observer.delays)


@case("back-pressure-loses-no-frame")
def back_pressure(t):
    """A window of requests far beyond the guest's queues, while nothing may leave."""
    pair = Pair(t)
    pair.load()
    pair.protect(proxied=True, **PATIENT)
    pair.proxy.hold("back")
    pair.observer.drain()
    pair.observer.load(350)
    pair.observer.expect_silence(1.0)
    pair.observer.window = 0
    pair.proxy.release()
    wait_until(lambda: not pair.observer.sent, 20, "all replies")
    pair.observer.check()


@case("cut-heal-new-session-continue", policy="continue")
@case("cut-heal-new-session-stall", policy="stall")
def cut_and_heal(t, policy):
    """Silence, not a reset. What is held leaves with the first epoch of the next session."""
    pair = Pair(t)
    pair.load(window=8)
    pair.protect(proxied=True, policy=policy, **SILENCE)
    pair.observer.wait_replies(50)
    pair.proxy.hold()
    pair.primary.process.wait_state("lost")
    pair.observer.drain()
    pair.observer.expect_silence(1.0)
    old, old_link = pair.standby, pair.proxy
    pair.standby = None
    terms = pair.protect_begin(proxied=True, policy=policy, loss_ms=20000)
    pair.proxy.hold("forward")
    pair.observer.expect_silence(1.0)
    pair.proxy.release()
    pair.board.pass_on(pair.standby.process, terms["streams"] + 1)
    pair.proxy.hold("back")  # too late for some, too early for the first whole epoch of none
    pair.observer.drain()
    pair.observer.expect_silence(0.5)
    pair.proxy.release()
    pair.primary.process.wait_state("protected")
    pair.observer.wait_replies(50)
    old_link.release()
    old.process.wait_state("lost")
    pair.standby.process.wait_state("ready")
    pair.failover()
    pair.observer.wait_replies(20)


@case("cut-is-a-loss-on-both-sides")
def cut_both(t):
    pair = Pair(t)
    pair.load()
    pair.protect(proxied=True, **SILENCE)
    pair.proxy.hold()
    pair.standby.process.wait_state("lost")
    pair.primary.process.wait_state("lost")
    pair.promote()
    pair.observer.wait_replies(20)
    assert pair.primary.stats()["running"]


@case("reset-link")
def reset_link(t):
    pair = Pair(t)
    pair.load()
    pair.protect(proxied=True)
    pair.proxy.reset()
    pair.standby.process.wait_state("lost")
    pair.primary.process.wait_state("lost")
    pair.observer.drain()
    pair.observer.expect_silence(0.5)
    pair.primary.process.ask("ownership", answer="confirmed")
    pair.observer.wait_replies(20)


@case("short-silence-is-no-loss")
def short_silence(t):
    pair = Pair(t)
    pair.load()
    pair.protect(proxied=True, loss_ms=10000)
    for _ in range(3):
        pair.proxy.hold()
        time.sleep(0.7)
        pair.proxy.release()
        pair.observer.wait_replies(20)
    assert pair.primary.stats()["state"] == "protected"
    assert pair.standby.stats()["state"] == "ready"
