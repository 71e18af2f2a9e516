# SPDX-License-Identifier: Apache-2.0
"""A guest, the process that runs it, and as many standbys, one after another, as a test wants."""
import secrets
import time

from case import Console, PATIENCE, signal_name
from director import Refused, Switchboard, VmProcess
from wire import Frames, Observer, Proxy

LOSS_MS = 3000  # longer than a loaded machine keeps anybody waiting
SILENCE = {"loss_ms": 2500}  # for cases that wait until silence is a loss


class Side:
    """One pollux-vm with its NIC, disk and console."""

    def __init__(self, pair, name, role, env=None, arguments=(), **changes):
        self.pair, self.name, self.killed, self.expected = pair, name, False, 0
        t = pair.t
        self.disk, self.frames = t.path(f"{name}.img"), Frames(t.path(f"{name}.sock"))
        self.console = Console(t.path(f"{name}.console"))
        t.logs += [t.path(f"{name}.log"), t.path(f"{name}.console")]
        self.process = VmProcess(t.build + "/pollux-vm", t.path(f"{name}.log"), name, env,
                                 arguments)
        t.cleanup(self.close)
        self.process.ask("create", self.console.fds(), config=self.config(**changes), role=role,
                         origin=f"{name}.cfg")
        self.console.handed_over()
        if pair.nic:
            self.frames.accept()
            pair.observer.add_port(self.frames)

    def config(self, **changes):
        p = {**vars(self.pair), **changes}
        text = "".join(f'{key}="{p[key]}"; ' for key in ("engine", "cpu") if p[key])
        text += (f'name="{self.name}"; memory="{p["memory"]}"; vcpus={p["vcpus"]};'
                 f'kernel="{self.pair.t.guest(p["guest"])}"; cmdline="{p["cmdline"]}";')
        if p["nic"]:
            text += f'nics=({{ socket="{self.frames.path}"; mac="52:54:00:00:00:01"; }});'
        if p["disk"]:
            path = changes.get("disk_path", self.disk)
            only = "readonly=true; " if p.get("disk_readonly") else ""
            text += f'disks=({{ path="{path}"; {only}size="{p["disk"]}"; }});'
        return text

    def kill(self):
        self.killed = True
        self.process.kill()

    def stats(self):
        return self.process.stats()

    def close(self):
        code = self.process.close()
        self.frames.close()
        assert self.killed or code == self.expected, \
            f"{self.name} ended with {signal_name(code)} in place of {self.expected}"


class Pair:
    def __init__(self, t, guest="echo", cmdline="", memory="16M", vcpus=1, disk=None, nic=True,
                 env=None, boot=True, arguments=(), engine=None, cpu=None):
        self.t, self.guest, self.cmdline, self.memory, self.vcpus = t, guest, cmdline, memory, vcpus
        self.disk, self.nic, self.term, self.number = disk, nic, 0, 0
        self.engine, self.cpu = engine, cpu
        self.observer = Observer(t.seed)
        t.cleanup(self.observer.close)
        self.standby = self.board = self.proxy = None
        self.primary = self.side("primary", env, arguments=arguments)
        self.observer.admit(self.primary.frames)
        self.observer.start()
        if boot:
            self.primary.process.ask("boot")

    def side(self, role, env=None, **changes):
        self.number += 1
        return Side(self, f"vm{self.number}", role, env, **changes)

    def load(self, window=4, pace=0.0, replies=10):
        """Requests begin; returns when the guest answers."""
        self.observer.load(window, pace)
        self.observer.wait_replies(replies)

    def terms(self, **changes):
        self.term += 1
        return {"session": secrets.token_hex(16), "key": secrets.token_hex(32), "term": self.term,
                "mode": "event", "interval_ms": 20, "heartbeat_ms": 40, "loss_ms": LOSS_MS,
                "streams": 1, **changes}

    def add_standby(self, env=None, **changes):
        self.standby = self.side("standby", env, **changes)
        return self.standby

    def protect_begin(self, proxied=False, standby_terms=None, quota=None, **changes):
        """Start a session with self.standby, a new one unless there is one."""
        if self.standby is None:
            self.add_standby()
        terms = self.terms(**changes)
        self.board = Switchboard()
        self.t.cleanup(self.board.close)
        port = self.board.port
        if proxied:
            self.proxy = Proxy(port)
            self.proxy.quota["forward"] = quota
            self.t.cleanup(self.proxy.close)
            port = self.proxy.port
        self.standby.process.ask("standby", **{**terms, **(standby_terms or {})})
        self.primary.process.ask("protect", address="127.0.0.1", port=port, **terms)
        return terms

    def first_copy_stuck(self, **changes):
        """A session that stays in its first copy: the link falls silent in the midst of it."""
        with open(self.primary.disk, "r+b") as f:
            f.write(secrets.token_bytes(12 << 20))
        terms = self.protect_begin(proxied=True, quota=1 << 20, loss_ms=60000, **changes)
        self.board.pass_on(self.standby.process, terms["streams"] + 1)
        self.primary.process.wait_state("syncing")
        wait_until(lambda: self.proxy.quota["forward"] < 0, PATIENCE, "the copy has begun")

    def protect(self, proxied=False, **changes):
        """A session, until it protects the guest."""
        terms = self.protect_begin(proxied, **changes)
        self.board.pass_on(self.standby.process, terms["streams"] + 1)
        self.primary.process.wait_state("protected")
        self.standby.process.wait_state("ready")
        return terms

    def promote(self, late=False):
        """What polluxd does after a confirmed fence. The standby becomes the primary. `late`: the
        old one lives, and may still let out what was acknowledged before."""
        old, new = self.primary, self.standby
        if self.nic:
            self.observer.retire(old.frames, late)
            self.observer.admit(new.frames)
        self.term += 1
        reply = new.process.ask("promote", term=self.term)
        self.primary, self.standby = new, None
        return reply

    def promote_refused(self):
        try:
            self.standby.process.ask("promote", term=self.term + 1)
        except Refused as e:
            return str(e)
        raise AssertionError("the promotion was not refused")

    def failover(self):
        """The primary's process dies; the standby goes on."""
        self.primary.kill()
        self.standby.process.wait_state("lost")
        return self.promote()

    def wait_epochs(self, more, timeout=PATIENCE):
        """So many more acknowledged epochs."""
        def now():
            return self.primary.stats()["replication"]["acknowledged"]
        want = now() + more
        wait_until(lambda: now() >= want, timeout, f"{more} more epochs")

    def disks_equal(self):
        with open(self.primary.disk, "rb") as a, open(self.standby.disk, "rb") as b:
            return a.read() == b.read()


def wait_until(true, timeout, what):
    deadline = time.monotonic() + timeout
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not in {timeout} s")
        time.sleep(0.01)
