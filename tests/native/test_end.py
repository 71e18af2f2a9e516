# SPDX-License-Identifier: Apache-2.0
"""A clean end is not a failure: the standby must not promote after it."""
import signal
import time

from case import case
from director import Refused
from pair import SILENCE, Pair, wait_until


@case("unprotect-then-kill", mode="event")
@case("unprotect-then-kill-interval", mode="interval")
def unprotect(t, mode):
    pair = Pair(t)
    pair.load()
    pair.protect(mode=mode)
    pair.observer.wait_replies(20)
    pair.primary.process.ask("unprotect")
    pair.standby.process.wait_state("released")
    pair.observer.wait_replies(50)
    pair.primary.kill()
    time.sleep(0.2)
    assert "good order" in pair.promote_refused()
    assert pair.standby.stats()["state"] == "released"


@case("unprotect-and-protect-20-times")
def again(t):
    """The requests come at once: no event of one session may end the next one."""
    pair = Pair(t)
    pair.load()
    for _ in range(20):
        pair.protect()
        pair.primary.process.ask("unprotect")
        pair.add_standby()
        pair.protect()
        pair.primary.process.ask("unprotect")
        pair.standby = None
        pair.observer.wait_replies(5)


@case("guest-turns-off")
def power_off(t):
    pair = Pair(t, cmdline="frames=300")
    pair.load(replies=1, pace=0.05)
    pair.protect()
    pair.observer.load(4)
    pair.primary.process.wait_event(lambda e: e["event"] == "vm" and e["what"] == "poweroff")
    pair.standby.process.wait_state("released")
    pair.primary.console.wait("echo: ok")
    assert "good order" in pair.promote_refused()
    stats = pair.primary.stats()
    assert stats["ended"] and not stats["running"], stats


@case("guest-turns-off-after-failover")
def power_off_later(t):
    pair = Pair(t, cmdline="frames=400")
    pair.load(replies=1, pace=0.05)
    pair.protect()
    pair.failover()
    pair.observer.load(4)
    pair.primary.process.wait_event(lambda e: e["event"] == "vm" and e["what"] == "poweroff")
    pair.primary.console.wait("echo: ok")
    pair.observer.load(0)
    pair.observer.drain()
    pair.observer.load(4)
    pair.observer.expect_silence(0.5)


@case("sigterm-of-the-primary", number=signal.SIGTERM)
@case("sigint-of-the-primary", number=signal.SIGINT)
def sigterm(t, number):
    pair = Pair(t)
    pair.load()
    pair.protect()
    pair.primary.process.child.send_signal(number)
    assert pair.primary.process.child.wait(20) == 0
    pair.standby.process.wait_state("released")
    assert "good order" in pair.promote_refused()


@case("quit-of-the-primary")
def quit_primary(t):
    pair = Pair(t)
    pair.load()
    pair.protect()
    pair.primary.process.ask("quit")
    assert pair.primary.process.child.wait(20) == 0
    pair.standby.process.wait_state("released")


@case("sigterm-of-the-standby")
def sigterm_standby(t):
    """Whatever ends the standby, the primary asks before it goes on."""
    pair = Pair(t)
    pair.load()
    pair.protect()
    pair.standby.process.child.terminate()
    assert pair.standby.process.child.wait(20) == 0
    pair.primary.process.wait_state("lost")
    pair.primary.process.ask("ownership", answer="confirmed")
    pair.observer.wait_replies(20)


@case("unprotect-of-a-silent-standby")
def unprotect_silent(t):
    """It cannot confirm: the end is no good end, and nothing leaves."""
    pair = Pair(t)
    pair.load()
    pair.protect(proxied=True, **SILENCE)
    pair.proxy.hold()
    try:
        pair.primary.process.ask("unprotect")
        raise AssertionError("ended in good order without the standby's word")
    except Refused as e:
        assert "fenced" in str(e), e
    pair.observer.drain()
    pair.observer.expect_silence(0.5)
    assert pair.primary.stats()["state"] == "lost"
    pair.primary.process.ask("ownership", answer="confirmed")
    pair.observer.wait_replies(20)


@case("unprotect-of-a-standby-that-hears-but-is-not-heard")
def unprotect_unheard(t):
    """BYE arrives and its answer does not: the standby is released, the primary must ask."""
    pair = Pair(t)
    pair.load()
    pair.protect(proxied=True, **SILENCE)
    pair.proxy.hold("back")
    try:
        pair.primary.process.ask("unprotect")
        raise AssertionError("ended in good order without the standby's word")
    except Refused:
        pass
    pair.standby.process.wait_state("released")
    assert "good order" in pair.promote_refused()
    pair.primary.process.wait_state("lost")  # before, it has not asked
    pair.primary.process.ask("ownership", answer="confirmed")
    pair.observer.wait_replies(20)


@case("director-goes-while-protected")
def director_goes(t):
    """Without a control path nobody could ever direct it again: a clean end."""
    pair = Pair(t)
    pair.load()
    pair.protect()
    pair.primary.process.sock.close()
    assert pair.primary.process.child.wait(20) == 0
    pair.standby.process.wait_state("released")


@case("unprotect-during-first-copy")
def unprotect_in_copy(t):
    pair = Pair(t, disk="16M")
    pair.load()
    pair.first_copy_stuck()
    pair.proxy.quota["forward"] = None
    pair.proxy.release()
    pair.primary.process.ask("unprotect")
    pair.standby.process.wait_state("released")
    pair.observer.wait_replies(20)
    wait_until(lambda: pair.primary.stats()["state"] == "unprotected", 10, "unprotected")
