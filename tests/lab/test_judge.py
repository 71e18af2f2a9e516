# SPDX-License-Identifier: Apache-2.0
"""The judges of scenarios, with planted signs."""
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "scenario"))
import judge  # noqa: E402

LOG = """<5>[    0.000000] Linux version 6.1.0
<4>[    0.900000] a warning from before
<6>[    9.000000] virtio_blk virtio1: [vda] 16384 512-byte logical blocks
"""
# As Linux 6.1 prints them.
SIGNS = (
    "<0>[   20.1] watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [guest-load:81]",
    "<3>[   20.1] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
    "<3>[   20.1] INFO: task guest-load:81 blocked for more than 120 seconds.",
    "<3>[   20.1] I/O error, dev vda, sector 8192 op 0x1:(WRITE) flags 0x800 phys_seg 1 prio class 2",
    "<4>[   20.1] NETDEV WATCHDOG: eth0 (virtio_net): transmit queue 0 timed out",
    "<3>[   20.1] irq 11: nobody cared (try booting with the \"irqpoll\" option)",
    "<0>[   20.1] __common_interrupt: 1.33 No irq handler for vector",
    "<4>[   20.1] clocksource: timekeeping watchdog on CPU1: Marking clocksource 'tsc' as unstable",
    "<4>[   20.1] WARNING: CPU: 0 PID: 1 at kernel/time/timekeeping.c:1 x+0x1/0x2",
    "<4>[   20.1] something that nobody has thought of",
    "<6>[   20.1] NETDEV WATCHDOG: at a level that is none")
SECOND = 10 ** 9


class JudgeTest(unittest.TestCase):
    def test_a_clean_kernel_log(self):
        self.assertEqual(judge.kernel_log_end(LOG), 9.0)
        judge.kernel_log_clean(LOG + "<6>[   20.1] nothing\n<4>[   20.1] hrtimer: interrupt took 9 ns\n",
                               9.0)

    def test_each_sign_is_seen(self):
        for sign in SIGNS:
            with self.subTest(sign), self.assertRaises(judge.Violated):
                judge.kernel_log_clean(f"{LOG}{sign}\n", 9.0)

    def test_what_is_no_log_is_no_clean_log(self):
        for text in ("", "nc: timed out\n"):
            with self.assertRaises(judge.Violated):
                judge.kernel_log_end(text)

    def test_damaged_memory_is_seen_on_the_console(self):
        judge.log_clean("POLLUX-GUEST-UP 3.1 cpus 2")
        with self.assertRaises(judge.Violated):
            judge.log_clean("POLLUX-GUEST-UP 3.1\nPOLLUX-GUEST-MEMORY-DAMAGED page 3 round 4")

    @staticmethod
    def clock(ahead_ms, still_ms=None, apart_ms=0):
        first = [0, 1000000, 50 * SECOND]
        last = [60 * SECOND, 60 * SECOND + 1000000, 110 * SECOND + int(ahead_ms * 1e6)]
        judge.clock_right(first, last, still_ms, apart_ms)

    def test_clocks_that_are_right(self):
        for ahead, still, apart in ((0, 0, 0), (-900, 1000, 0), (-900, None, 0), (600, 0, 800)):
            self.clock(ahead, still, apart)

    def test_clocks_that_are_wrong(self):
        for ahead, still, apart in ((300, 0, 0), (300, None, 0), (-900, 500, 0), (-70000, None, 0),
                                    (-700, 0, 300)):
            with self.subTest(ahead), self.assertRaises(judge.Violated):
                self.clock(ahead, still, apart)
