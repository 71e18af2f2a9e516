# SPDX-License-Identifier: Apache-2.0
"""The standby's process dies: what the primary does under each policy and each answer."""

from case import case
from director import Refused
from pair import Pair, wait_until


def lose_standby(t, policy, **terms):
    pair = Pair(t)
    pair.load()
    pair.protect(policy=policy, **terms)
    pair.observer.wait_replies(20)
    pair.standby.kill()
    pair.primary.process.wait_state("lost")
    pair.observer.drain()
    pair.observer.expect_silence(0.5)
    return pair


@case("standby-dies-continue-confirmed", policy="continue", answer="confirmed")
@case("standby-dies-continue-forced", policy="continue", answer="forced")
@case("standby-dies-stall-forced", policy="stall", answer="forced")
def goes_on(t, policy, answer):
    pair = lose_standby(t, policy)
    pair.primary.process.ask("ownership", answer=answer)
    pair.primary.process.wait_state("unprotected")
    pair.observer.wait_replies(50)
    pair.standby = None
    pair.protect()
    pair.failover()
    pair.observer.wait_replies(50)


@case("standby-dies-stall-confirmed")
def stalls(t):
    """Confirmed or not: the policy is not to run unprotected."""
    pair = lose_standby(t, "stall")
    pair.primary.process.ask("ownership", answer="confirmed")
    pair.primary.process.wait_event(lambda e: "stalled" in e.get("why", ""))
    pair.observer.expect_silence(1.0)
    pair.standby = None
    pair.protect(policy="stall")
    pair.observer.wait_replies(50)
    pair.failover()
    pair.observer.wait_replies(50)


@case("standby-dies-stall-then-unprotect")
def stall_unprotect(t):
    """The operator no longer wants protection: after the confirmation the guest may run."""
    pair = lose_standby(t, "stall")
    try:
        pair.primary.process.ask("unprotect")
        raise AssertionError("ended in good order, though the standby may promote")
    except Refused as e:
        assert "fenced" in str(e), e
    pair.observer.expect_silence(0.3)
    pair.primary.process.ask("ownership", answer="confirmed")
    pair.primary.process.wait_state("unprotected")
    pair.observer.wait_replies(50)


@case("standby-dies-denied-continue", policy="continue")
@case("standby-dies-denied-stall", policy="stall")
def denied(t, policy):
    pair = lose_standby(t, policy)
    pair.primary.process.ask("ownership", answer="denied")
    pair.primary.process.wait_state("fenced")
    wait_until(lambda: not pair.primary.stats()["running"], 10, "the guest has stopped")
    pair.observer.expect_silence(0.7)
    for answer in ("confirmed", "forced", "lost"):
        pair.primary.process.ask("ownership", answer=answer)
    pair.observer.expect_silence(0.5)
    assert pair.primary.stats()["state"] == "fenced"


@case("session-counted-as-lost")
def counted_as_lost(t):
    """The standby's host says that the twin is gone, before the silence is long enough."""
    pair = Pair(t)
    pair.load()
    pair.protect(proxied=True, loss_ms=30000)
    pair.proxy.hold()
    pair.observer.drain()
    pair.observer.expect_silence(0.3)
    pair.primary.process.ask("ownership", answer="lost")
    pair.primary.process.wait_state("lost")
    pair.observer.expect_silence(0.3)
    pair.primary.process.ask("ownership", answer="confirmed")
    pair.observer.wait_replies(50)


@case("answers-that-nobody-asked-for")
def unasked(t):
    pair = Pair(t)
    pair.load()
    for answer in ("confirmed", "lost"):
        try:
            pair.primary.process.ask("ownership", answer=answer)
            raise AssertionError("an answer without a session was taken")
        except Refused:
            pass
    pair.protect(proxied=True, loss_ms=30000)
    pair.proxy.hold()
    pair.observer.drain()
    for answer in ("confirmed", "forced"):
        pair.primary.process.ask("ownership", answer=answer)
    pair.observer.expect_silence(0.5)
    pair.proxy.release()
    pair.observer.wait_replies(50)
    assert pair.primary.stats()["state"] == "protected"


@case("standby-dies-20-times", seconds=400)
def dies_often(t):
    pair = Pair(t)
    pair.load()
    for i in range(20):
        pair.protect(mode=("event", "interval")[i % 2])
        pair.observer.wait_replies(i % 5 * 4 + 1)
        pair.standby.kill()
        pair.primary.process.wait_state("lost")
        pair.primary.process.ask("ownership", answer="confirmed")
        pair.primary.process.wait_state("unprotected")
        pair.standby = None
        pair.observer.wait_replies(10)


@case("standby-dies-during-first-copy")
def dies_in_copy(t):
    """Nothing was exposed: nobody needs to be asked."""
    pair = Pair(t, disk="16M")
    pair.load()
    pair.first_copy_stuck(policy="stall")
    pair.standby.kill()
    pair.proxy.reset()
    pair.primary.process.wait_state("unprotected")
    pair.observer.wait_replies(50)
