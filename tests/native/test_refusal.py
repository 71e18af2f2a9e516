# SPDX-License-Identifier: Apache-2.0
"""Sessions that must not begin, and strangers: a clear refusal, and the guest goes on unharmed."""
import os
import secrets
import socket

from case import case
from director import Refused, preamble_of
from pair import SILENCE, Pair


def no_session(pair, *words):
    """It ended before it began; then a right one begins."""
    event = pair.primary.process.wait_state("unprotected", "lost")
    assert event["state"] == "unprotected", event
    for word in words:
        assert word in event["why"].lower(), f"{word!r} is not in {event['why']!r}"
    pair.observer.wait_replies(50)
    pair.standby.killed = True  # whatever it made of this
    pair.standby.process.close()
    pair.standby = None
    pair.protect()
    pair.observer.wait_replies(20)
    pair.failover()
    pair.observer.wait_replies(20)


def attempt(t, standby_terms=None, terms=None, **standby):
    pair = Pair(t, disk="1M")
    pair.load()
    pair.add_standby(**standby)
    pair.protect_begin(standby_terms=standby_terms, **(terms or {}))
    pair.board.pass_on(pair.standby.process, 1)
    return pair


@case("refused-wrong-key")
def wrong_key(t):
    no_session(attempt(t, {"key": secrets.token_hex(32)}))


@case("refused-wrong-session")
def wrong_session(t):
    no_session(attempt(t, {"session": secrets.token_hex(16)}))


@case("refused-older-standby-term")
def standby_older(t):
    """The standby was told of an older term than the primary's."""
    no_session(attempt(t, {"term": 7}, {"term": 8}), "term")


@case("refused-newer-standby-term")
def standby_newer(t):
    """Output may be somebody else's to make: held, and asked."""
    pair = attempt(t, {"term": 9}, {"term": 8})
    event = pair.primary.process.wait_state("unprotected", "lost")
    assert event["state"] == "lost" and "term" in event["why"], event
    pair.observer.drain()
    pair.observer.expect_silence(0.5)
    pair.primary.process.ask("ownership", answer="confirmed")
    pair.observer.wait_replies(20)


@case("refused-other-memory-size")
def memory_size(t):
    no_session(attempt(t, memory="32M"), "memory")


@case("refused-other-disk-size")
def disk_size(t):
    no_session(attempt(t, disk="2M"), "disk")


@case("refused-no-disk")
def no_disk(t):
    no_session(attempt(t, disk=None), "disk")


@case("refused-other-number-of-streams")
def stream_count(t):
    no_session(attempt(t, {"streams": 1}, {"streams": 3}))


@case("refused-other-vcpus")
def vcpus(t):
    no_session(attempt(t, vcpus=2), "vcpus")


@case("nobody-listens")
def nobody(t):
    pair = Pair(t)
    pair.load()
    sock = socket.socket()
    t.cleanup(sock.close)
    sock.bind(("127.0.0.1", 0))
    pair.primary.process.ask("protect", address="127.0.0.1", port=sock.getsockname()[1],
                             **pair.terms())
    event = pair.primary.process.wait_state("unprotected", "lost")
    assert event["state"] == "unprotected" and "refused" in event["why"], event
    pair.observer.wait_replies(20)


@case("a-listener-that-says-nothing")
def says_nothing(t):
    pair = Pair(t)
    pair.load()
    sock = socket.create_server(("127.0.0.1", 0))
    t.cleanup(sock.close)
    pair.primary.process.ask("protect", address="127.0.0.1", port=sock.getsockname()[1],
                             **pair.terms(**SILENCE))
    event = pair.primary.process.wait_state("unprotected", "lost")
    assert event["state"] == "unprotected" and "time" in event["why"].lower(), event
    pair.observer.wait_replies(20)


def stranger(pair, stream, session, data):
    """A connection with a right preamble; the director passes it on."""
    sock = socket.create_connection(("127.0.0.1", pair.board.port))
    sock.sendall(preamble_of(session, stream) + data)
    pair.t.cleanup(sock.close)
    return sock


@case("garbage-before-the-session")
def garbage_before(t):
    """Strangers who know the session's number, not its key."""
    pair = Pair(t)
    pair.load()
    pair.add_standby()
    terms = pair.terms()
    pair.term -= 1

    def visit(stream, data):
        stranger(pair, stream, terms["session"], data)
        pair.board.pass_on(pair.standby.process, 1)

    from director import Switchboard
    pair.board = Switchboard()
    t.cleanup(pair.board.close)
    pair.standby.process.ask("standby", **terms)
    for stream in (0, 1, 1):
        visit(stream, os.urandom(300))
    visit(0, b"")  # and one that says nothing, in the place of the first stream
    pair.primary.process.ask("protect", address="127.0.0.1", port=pair.board.port, **terms)
    pair.board.pass_on(pair.standby.process, 2)
    pair.primary.process.wait_state("protected")
    pair.observer.wait_replies(20)


@case("garbage-during-the-session")
def garbage_during(t):
    pair = Pair(t)
    pair.load()
    terms = pair.protect()
    for stream in (0, 1, 2, 16):
        stranger(pair, stream, terms["session"], os.urandom(1000))
        refusals = pair.board.pass_on(pair.standby.process, 1)
        assert refusals, f"stream {stream} was taken a second time"
    pair.observer.wait_replies(50)
    assert pair.primary.stats()["state"] == "protected"
    pair.failover()
    pair.observer.wait_replies(20)


@case("many-slow-strangers")
def slow_strangers(t):
    """More than the standby takes at a time; the session itself goes on."""
    pair = Pair(t)
    pair.load()
    terms = pair.protect()
    for _ in range(40):
        stranger(pair, 1, terms["session"], b"")
    pair.board.pass_on(pair.standby.process, 40)
    pair.observer.wait_replies(50)
    assert pair.primary.stats()["state"] == "protected"


@case("damaged-byte-on-the-link")
def damaged(t):
    """Encryption notices; the twin stays the last whole epoch."""
    pair = Pair(t)
    pair.load()
    pair.protect(proxied=True)
    pair.observer.wait_replies(20)
    pair.proxy.damage("forward")
    pair.primary.process.wait_state("lost")
    event = pair.standby.process.wait_state("lost", "broken")
    assert event["state"] == "lost", event
    pair.promote()
    pair.observer.wait_replies(20)


@case("unknown-port")
def bad_port(t):
    pair = Pair(t)
    pair.load()
    for port, address in ((0, "127.0.0.1"), (70000, "127.0.0.1"), ("x", "127.0.0.1"), (1, "")):
        try:
            pair.primary.process.ask("protect", address=address, port=port, **pair.terms())
            raise AssertionError(f"port {port} was taken")
        except Refused:
            pass
    pair.observer.wait_replies(5)
