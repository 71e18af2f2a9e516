# SPDX-License-Identifier: Apache-2.0
"""The lab as a scenario finds it: all hosts up and healed, nothing of Pollux running, and the
steps that scenarios are made of."""
import mmap
import time

from judge import must
from labkit import wire
from labkit.cluster import Cluster
from labkit.place import LabError

# What the guest's kernel and its programs hold, and what guest-load writes: into each page of
# memory, and into each block of the disk.
MEMORY_MARK, DISK_MARK = b"MEMORY-MARK-16B_", b"DISK-BLOCK-MARK_"
SECRETS = (b"counter-server", b"Linux version 6.1", b"POLLUX-GUEST-UP", b"virtio_blk",
           MEMORY_MARK, DISK_MARK)
HOSTS = ("hosta", "hostb", "client")
# No false loss on a busy machine, and no fence there that comes later than the delay of the other.
BUSY_MS = {"namespaces": {"heartbeat": 50, "loss": 2500, "fence_delay": 4000},
           "emulated": {"heartbeat": 100, "loss": 4000, "fence_delay": 6000}}
SMALL = "/var/small"  # where a scenario may mount something that is soon full
# A guest or a polluxd that a scenario left behind: by name, for these hosts are ours alone.
PROGRAMS = "polluxd pollux-vm state-hop"
RESET = (f"n=0; while pidof {PROGRAMS} >/dev/null && [ $n -lt 200 ]; do "
         f"for p in {PROGRAMS}; do killall -9 $p; done 2>/dev/null; sleep 0.05; n=$((n+1)); done; "
         f"ip link del demo0 2>/dev/null; umount {SMALL} /var/lib/pollux 2>/dev/null; "
         f"rm -rf /var/lib/pollux /run/pollux {SMALL}; true")


class Arena:
    def __init__(self, place, build, kind, engine):
        self.place, self.build = place, build
        self.cluster = Cluster(place, build, kind, engine)

    # ---- the lab ----

    def lab(self, subcommand, **values):
        return wire.request(self.place, subcommand, **values)

    def clocks(self):
        """(offset, uncertainty) of each host that is up; hosts of one kernel have one clock."""
        if self.cluster.kind == "namespaces":
            return {}
        return {h: self.cluster.clock_offset(h) for h in HOSTS if self.host_state(h) == "up"}

    def clocks_apart_ms(self, before):
        """What a guest that went from host to host may have of their clocks: how far they are
        apart, and by how much they went faster or slower than the client's since clocks()."""
        now = {h: c for h, c in self.clocks().items() if h in before}
        if not now:
            return 0
        offsets = [now[h][0] for h in now if h != "client"]
        drift = {h: now[h][0] - before[h][0] for h in now}
        unsure = sum(now[h][1] + before[h][1] for h in now)
        return (max(offsets) - min(offsets) + unsure +
                max(abs(drift[h] - drift["client"]) for h in now)) / 1e6

    def host_state(self, name):
        return self.lab("status")["hosts"][name]["state"]

    def reset(self):
        self.lab("heal", net="*", host="*", peer="*", direction="both")
        self.lab("delay", net="repl", host="*", usec=0)
        for net in ("repl", "front"):
            self.lab("pcap", net=net, on=False)
        self.cluster.times_ms = BUSY_MS[self.cluster.kind]
        # A twin that was left behind takes its primary's end for a death, and fences.
        for name in HOSTS[:2]:
            self.lab("fence", host=name, mode="fail")
        for name in HOSTS:
            if self.host_state(name) == "frozen":
                self.lab("thaw", host=name)
            elif self.host_state(name) != "up":
                self.lab("start", host=name)
        for name in HOSTS[:2]:
            self.cluster.run(name, RESET)
        self.lab("fence", host=None)
        self.cluster.run("client", "killall -9 counter-client 2>/dev/null; ip neigh flush all; true")

    def cut(self, net="repl"):
        self.lab("cut", net=net, host="*", peer="*", direction="both")

    def heal(self):
        self.lab("heal", net="*", host="*", peer="*", direction="both")

    def capture(self):
        """Records the replication link from now on."""
        self.captured = self.lab("pcap", net="repl", on=True)["path"]

    def captured_secrets(self):
        """Ends that: which of the guest's bytes were on it in the clear."""
        self.lab("pcap", net="repl", on=False)
        with open(self.captured, "rb") as file:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                must(len(data) > 1 << 20, f"the capture holds only {len(data)} bytes")
                return [secret for secret in SECRETS if data.find(secret) >= 0]

    def capture_dark(self):
        """None of them."""
        found = self.captured_secrets()
        must(not found, f"{found} is on the wire in the clear")

    # ---- arrangements ----

    def guest_up(self, fence=True, **options):
        """polluxd on both hosts, the guest on hosta."""
        self.cluster.fence = fence
        self.cluster.prepare()
        self.cluster.guest_start("hosta", **options)
        self.cluster.guest_wait()

    def protected(self, mode="event", policy="continue", fence=True, client=True, extra=(),
                  **options):
        """... protected by hostb, and a client that counts."""
        self.guest_up(fence, **options)
        self.cluster.pollux("hosta", "protect", "demo", "--to", "hostb", "--mode", mode, "--policy",
                            policy, *extra, timeout=120)
        if client:
            self.cluster.client_start()
            self.replies(10)

    # ---- steps ----

    def replies(self, more, timeout=60):
        """Waits for that many more replies to the client."""
        have = self.cluster.client_replies()
        self.cluster.wait(f"{more} more replies to the client",
                          lambda: self.cluster.client_replies() >= have + more, timeout)

    def linger(self):
        """Longer than anybody takes to notice a loss and to act on it."""
        times = self.cluster.times_ms
        time.sleep((2 * times["loss"] + times["fence_delay"]) / 1000)

    def silent(self):
        """Whether the client gets no reply in that time, but for one that is there and that it has
        not read yet."""
        def quiet():
            before = self.cluster.client_replies()
            time.sleep(0.5)
            return self.cluster.client_replies() == before
        try:
            self.cluster.wait("no more replies come", quiet, 1)
        except LabError:
            return False
        before = self.cluster.client_replies()
        self.linger()
        return self.cluster.client_replies() == before

    def vm(self, host):
        return self.cluster.status(host, "demo")

    def state(self, host):
        try:
            return self.vm(host)["state"]
        except LabError:
            return "unknown"

    def wait_state(self, host, *states, timeout=60):
        self.cluster.wait(f"demo on {host} is {' or '.join(states)} (it is {self.state(host)})",
                          lambda: self.state(host) in states, timeout)

    def happened(self, host, what):
        return any(event["what"] == what for event in self.vm(host)["timeline"])

    def vm_pid(self, host):
        return self.vm(host)["pid"]

    def kill_vm(self, host):
        self.cluster.run(host, f"kill -9 {self.vm_pid(host)}")

    def client_verdict(self):
        verdict, _ = self.cluster.client_stop()
        return verdict

    def guest_stop(self, host):
        self.cluster.pollux(host, "stop", "demo", "--timeout", "100", timeout=130)
