# SPDX-License-Identifier: Apache-2.0
"""The scenarios. Each begins in a fresh arena and raises Violated, or LabError, when what it is
about does not hold."""
import pathlib
import shlex
import shutil

import guest
import migrations
import mishaps
from announced import Front
from arena import DISK_MARK, SECRETS
from judge import Violated, client_content, log_clean, must
from privileged import privileged_behaviour_equals_kvm


# ---- one guest, one terminal ------------------------------------------------------------------

CTRL_CLOSING_BRACKET = "\x1d"


def run_on_a_terminal(arena):
    """`pollux run` boots the guest, its console on the terminal; Ctrl-] shuts it down."""
    cluster = arena.cluster
    config = cluster.guest_config(load="clock:1")
    shutil.copy(pathlib.Path(__file__).with_name("on-terminal"), arena.place.share)
    cluster.run("hosta", "mkdir -p /var/lib/pollux")
    # The guest takes its power button by then. Messages of pollux mix with its lines afterwards.
    code, text = cluster.run("hosta", "/lab/on-terminal 180 POLLUX-GUEST-CLOCK "
                             f"'{CTRL_CLOSING_BRACKET}' {cluster.programs}/pollux run {config}",
                             timeout=200, check=False)
    must(code == 0, f"pollux run ended with {code}: {text[-400:]}")
    must("cpus 2" in text, f"the guest does not see its two vCPUs: {text[-400:]}")
    left = cluster.run("hosta", "pidof pollux-vm; true")[1].strip()
    must(not left, f"pollux run left process {left}")


# ---- the primary dies ----------------------------------------------------------------------

ROUND_ROBIN = "2"  # SCHED_RR


def _heartbeats_are_urgent(arena):
    """On hosts of their own, where root may do what root may."""
    if arena.cluster.kind != "emulated":
        return
    for host in ("hosta", "hostb"):
        _, stat = arena.cluster.run(
            host, f"grep -h '(heartbeat)' /proc/{arena.vm_pid(host)}/task/*/stat")
        priority, policy = stat.rpartition(")")[2].split()[37:39]
        must((priority, policy) == ("1", ROUND_ROBIN), f"{host}: a heartbeat thread is {stat}")


def _primary_host_dies(arena, mode):
    arena.protected(mode=mode, load="mem:500")
    _heartbeats_are_urgent(arena)
    arena.lab("kill", host="hosta")
    arena.replies(20)
    must(arena.state("hostb") == "running", "hostb does not say that it runs the guest")
    must(arena.happened("hostb", "fenced"), "hostb promoted without a confirmed fence")
    client_content(arena, "hostb")


def primary_host_dies_event(arena):
    _primary_host_dies(arena, "event")


def primary_host_dies_interval(arena):
    _primary_host_dies(arena, "interval")


def primary_vm_process_dies(arena):
    """polluxd on hosta lives and says that the process is dead: no host needs to be fenced."""
    arena.protected()
    arena.kill_vm("hosta")
    arena.replies(20)
    must(arena.host_state("hosta") == "up", "hosta was fenced though its polluxd had answered")
    must(arena.state("hosta") != "running", "hosta still claims to run the guest")
    client_content(arena, "hostb")


def there_and_back(arena):
    """After a failover the old host returns, takes no part with its old copy, protects the guest
    again, and takes it back when hostb dies."""
    arena.protected()
    arena.lab("kill", host="hosta")
    arena.replies(10)
    arena.lab("start", host="hosta")
    arena.cluster.polluxd_start("hosta")
    arena.wait_state("hosta", "none", "released", timeout=30)
    migrations.connected(arena)
    arena.cluster.pollux("hostb", "protect", "demo", "--to", "hosta", "--overwrite", timeout=120)
    arena.replies(10)
    arena.lab("kill", host="hostb")
    arena.replies(20)
    client_content(arena, "hosta")


# ---- the standby dies ----------------------------------------------------------------------

def standby_host_dies_continue(arena):
    arena.protected(policy="continue")
    arena.lab("kill", host="hostb")
    arena.replies(30)
    arena.wait_state("hosta", "running")
    client_content(arena, "hosta")


def standby_host_dies_stall(arena):
    """The guest stops until the standby is back (or an operator decides)."""
    arena.protected(policy="stall")
    arena.lab("kill", host="hostb")
    arena.cluster.wait("the loss is noticed", lambda: arena.happened("hosta", "loss detected"), 20)
    must(arena.silent(), "a guest with policy stall answered without a standby")
    arena.cluster.pollux("hosta", "failover", "demo", "--force")
    arena.replies(20)
    client_content(arena, "hosta")


def standby_vm_process_dies(arena):
    arena.protected(policy="continue")
    arena.kill_vm("hostb")
    arena.replies(30)
    must(arena.host_state("hostb") == "up", "hostb was fenced though its polluxd had answered")
    client_content(arena, "hosta")


# ---- the link is cut -------------------------------------------------------------------------

def link_cut_with_fence(arena):
    """Both hosts live and cannot talk: exactly one goes on."""
    arena.protected()
    arena.cut("repl")
    arena.replies(20)
    up = [h for h in ("hosta", "hostb") if arena.host_state(h) == "up"]
    must(len(up) == 1, f"the fence left {up} alive")
    client_content(arena, up[0])


def link_cut_without_fence(arena):
    """Fences that fail: nobody promotes, no output leaves; when the link heals the guest goes on."""
    arena.protected()
    for host in ("hosta", "hostb"):
        arena.lab("fence", host=host, mode="fail")
    arena.cut("repl")
    arena.cluster.wait("hostb says that it waits",
                       lambda: arena.state("hostb") == "deciding", 30)
    must(arena.silent(), "output left although nobody could confirm who owns the guest")
    must(arena.state("hostb") == "deciding", "hostb promoted without a fence")
    arena.heal()
    arena.replies(20)
    client_content(arena, "hosta" if arena.state("hosta") in RUNS else "hostb")


def operator_decides(arena):
    """No fence is configured and hosta is dead: hostb waits, and says so, until an operator
    gives his word."""
    arena.protected(fence=False)
    arena.lab("kill", host="hosta")
    arena.wait_state("hostb", "deciding", timeout=30)
    must(arena.silent(), "hostb promoted on silence alone")
    code, text = arena.cluster.pollux("hostb", "failover", "demo", check=False)
    must(code != 0 and "--force" in text, f"failover without --force: {code}: {text}")
    arena.cluster.pollux("hostb", "failover", "demo", "--force")
    arena.replies(20)
    client_content(arena, "hostb")


RUNS = ("running", "protected", "syncing", "offering", "asking")


# ---- clean ends --------------------------------------------------------------------------------

def unprotect_is_no_failure(arena):
    arena.protected()
    arena.cluster.pollux("hosta", "unprotect", "demo")
    arena.replies(10)
    must(arena.state("hosta") == "running", f"hosta is {arena.state('hosta')} after unprotect")
    arena.lab("kill", host="hosta")
    must(arena.silent(), "hostb answered after a clean unprotect")
    must(arena.state("hostb") not in RUNS, f"hostb is {arena.state('hostb')} after unprotect")


def shutdown_is_no_failure(arena):
    arena.protected(client=False)
    arena.guest_stop("hosta")
    arena.linger()
    must(arena.state("hosta") not in RUNS, f"hosta is {arena.state('hosta')} after shutdown")
    must(arena.state("hostb") not in RUNS, f"hostb is {arena.state('hostb')} after shutdown")


# ---- the first copy ----------------------------------------------------------------------------

def primary_dies_in_first_copy(arena):
    """The guest is lost, as any unprotected one; the standby must not resume rubbish."""
    arena.cluster.times_ms = mishaps.PATIENT_MS[arena.cluster.kind]
    arena.guest_up()
    arena.lab("delay", net="repl", host="*", usec=300000)
    migrations.connected(arena)
    arena.cluster.pollux("hosta", "protect", "demo", "--to", "hostb", "--detach")
    arena.wait_state("hostb", "standby-syncing", timeout=30)
    arena.lab("kill", host="hosta")
    arena.lab("delay", net="repl", host="*", usec=0)
    arena.linger()
    must(arena.state("hostb") not in RUNS, f"hostb is {arena.state('hostb')} after half a copy")
    code, text = arena.cluster.pollux("hostb", "failover", "demo", "--force", check=False)
    must(code != 0, f"half a copy was promoted by force: {text}")


# ---- the state as bytes ----------------------------------------------------------------------------

HOPS = 100


def _linux_moves(arena, hops, run_ms, engines="", **options):
    """SMP Linux under load from process to process, as bytes: its connection, its disk, its memory
    and its own log say that it noticed nothing but pauses. Returns the moves' log and its console."""
    cluster = arena.cluster
    # Away for more than half of the time, a peer with exponential back-off hardly gets through.
    # That is for a stream that has left its first slow start, and with BBR none ever does.
    cluster.run("client", "echo 1 > /proc/sys/net/ipv4/tcp_thin_linear_timeouts; "
                          "echo reno > /proc/sys/net/ipv4/tcp_congestion_control")
    config = cluster.guest_config(more="sysctl.net.ipv4.tcp_thin_linear_timeouts=1", **options)
    cluster.run("hosta", "mkdir -p /var/lib/pollux; rm -f /tmp/console")
    cluster.background("hosta", f"/pollux/tests/scenario/state-hop {config} {hops} {run_ms} "
                                f"{engines} >/tmp/console", "/tmp/hop.log")
    cluster.guest_wait(400)
    # On a busy machine it is away for four fifths of the time, and seldom hears its client.
    cluster.client_start(silence_s=600)
    arena.replies(10)
    watch = guest.Watch(arena)
    pid = cluster.run("hosta", "cat /tmp/hop.log.pid")[1].strip()
    cluster.run("hosta", f"kill -USR1 {pid}")
    cluster.wait("all moves are done",
                 lambda: "hop: done" in cluster.run("hosta", "cat /tmp/hop.log")[1] or
                 cluster.run("hosta", f"kill -0 {pid}", check=False)[0], 900, 1)
    log = cluster.run("hosta", "cat /tmp/hop.log")[1]
    must("hop: done" in log, f"the moves ended early: {log.strip()[-300:]}")
    arena.replies(20, 250)
    if "clock:" in options["load"]:
        _time_of_day_right(arena)
    watch.judge()
    console = _linux_well(arena, pid)
    return log, console


def _linux_well(arena, pid):
    """What client, log and disk say; ends the guest. Returns its console."""
    cluster = arena.cluster
    verdict = arena.client_verdict()
    must(verdict["connection"] == "intact" and verdict["order"] == "ok" and
         verdict["replies"] == verdict["requests"], f"the client's record: {verdict}")
    console = cluster.run("hosta", "cat /tmp/console")[1]
    must("POLLUX-GUEST-UP" in console, "the guest's console was not kept")
    log_clean(console)

    def off():
        cluster.run("client", "echo QUIT | nc -w 2 10.78.0.100 7; true")
        return cluster.run("hosta", f"kill -0 {pid}", check=False)[0] != 0
    cluster.wait("the guest is off", off, 120)
    disk = cluster.disk_verdict("hosta")
    must(disk["ok"], f"the disk does not agree with the client: {disk}")
    return console


def linux_moves_a_hundred_times(arena):
    _linux_moves(arena, HOPS, 500, load="mem:300,disk:10")


# ---- into a new process ----------------------------------------------------------------------------


def linux_is_upgraded_ten_times(arena):
    """SMP Linux under load, its network on a tap, goes from VM process to VM process. The client's
    connection, the disk, memory, the guest's log and a viewer of its console notice nothing."""
    cluster = arena.cluster
    arena.guest_up(load="mem:300,disk:10")
    cluster.background("hosta", f"python3 -c {shlex.quote(migrations.VIEWER)}", "/tmp/console")
    watch = guest.Watch(arena)
    cluster.client_start()
    arena.replies(10)
    still = []
    for _ in range(10):
        before = arena.vm_pid("hosta")
        cluster.pollux("hosta", "upgrade", "demo")
        vm = arena.vm("hosta")
        must(vm["pid"] != before and vm["state"] == "running", f"it did not move: {vm}")
        still.append(vm["operation"]["downtime_ms"])
        arena.replies(10)
    print(f"# stood still for {', '.join(f'{ms:.1f}' for ms in still)} ms")
    console = cluster.run("hosta", "cat /tmp/console")[1]
    must("POLLUX-GUEST-UP" in console, f"the guest's console was not kept: {console[-300:]}")
    log_clean(console)
    watch.judge(sum(still))
    client_content(arena, "hosta")


def signs_of_a_sick_guest_are_seen(arena):
    """Planted in its kernel's log: what judges the others does judge."""
    arena.guest_up()
    watch = guest.Watch(arena)
    watch.judge(0)
    guest.say(arena, "<6>nothing that anybody warns of")
    watch.judge(0)
    for planted in ("<4>clocksource: timekeeping watchdog on CPU1: Marking clocksource as wrong",
                    "<3>INFO: task guest-load:81 blocked for more than 120 seconds."):
        watch = guest.Watch(arena)
        guest.say(arena, planted)
        try:
            watch.judge(0)
        except Violated:
            continue
        raise Violated(f"{planted!r} was not seen")


# ---- from engine to engine -------------------------------------------------------------------------

BASE = "pollux-base"
ENGINE_HOPS = 6


def _clocks(console):
    """(time of day, uptime) of the lines in which the guest told its clocks."""
    found = []
    for line in console.splitlines():
        words = line.split()
        if words[:1] == ["POLLUX-GUEST-CLOCK"] and len(words) == 3:
            found.append((float(words[1]), float(words[2])))
    return found


def _clocks_right(told):
    """Both of the guest's clocks went on alike, and never back."""
    must(len(told) > 5, f"the guest told its clocks {len(told)} times")
    for (day, up), (day_next, up_next) in zip(told, told[1:]):
        must(day_next >= day and up_next > up, f"the guest's clock went back: {told}")
    day, up = told[-1][0] - told[0][0], told[-1][1] - told[0][1]
    must(abs(day - up) <= 2, f"the guest's two clocks went apart: {day} and {up} s")


def _time_of_day_right(arena):
    """The guest's is the host's, whatever happened to it; it tells it late, never early."""
    day = int(arena.cluster.run("hosta", "date +%s")[1])
    told = _clocks(arena.cluster.run("hosta", "tail -c 4000 /tmp/console")[1])
    must(told and -1 <= day - told[-1][0] <= 12, f"at {day} the guest told {told}")


def linux_changes_engines(arena):
    """SMP Linux goes from the CPU in software to kvm_amd and back, again and again."""
    log, console = _linux_moves(arena, ENGINE_HOPS, 4000, "soft,kvm", cpu=BASE,
                                load="mem:100,disk:5,clock:1")
    for engine in ("soft", "kvm"):
        must(log.count(f"under {engine}") == ENGINE_HOPS // 2, f"not half of it: {log}")
    for line in log.splitlines():
        if line.startswith("hop:"):
            print(f"# {line}")
    _clocks_right(_clocks(console))
    must("clock kvm-clock" in console, "the guest does not take its time from kvm-clock")


# An emulated host that emulates a CPU itself stands still for longer now and then.
PATIENT_MS = {"heartbeat": 250, "loss": 5000, "fence_delay": 8000}


def _kvm_taken(arena, host):
    """Without /dev/kvm `auto` is soft there, until the host starts again."""
    arena.cluster.run(host, "rm -f /dev/kvm")


def failover_from_kvm_to_soft_and_back(arena):
    """hostb has no KVM: what ran under kvm_amd goes on in software, and later the other way round."""
    _kvm_taken(arena, "hostb")
    usual = arena.cluster.times_ms
    arena.cluster.times_ms = PATIENT_MS
    try:
        arena.protected(engine="auto", cpu=BASE)
        must(arena.vm("hosta")["engine"] == "kvm", "hosta's engine is not kvm")
        arena.lab("kill", host="hosta")
        arena.replies(10)
        must(arena.vm("hostb")["engine"] == "soft", "hostb's engine is not soft")
        arena.lab("start", host="hosta")
        arena.cluster.polluxd_start("hosta")
        arena.wait_state("hosta", "none", "released", timeout=30)
        migrations.connected(arena)
        arena.cluster.pollux("hostb", "protect", "demo", "--to", "hosta", "--overwrite",
                             timeout=120)
        arena.replies(10)
        arena.lab("kill", host="hostb")
        arena.replies(20)
        must(arena.vm("hosta")["engine"] == "kvm", "hosta's engine is not kvm again")
        client_content(arena, "hosta")
    finally:
        arena.cluster.times_ms = usual
        if arena.host_state("hostb") == "up":
            arena.cluster.run("hostb", "mknod -m 666 /dev/kvm c 10 232")


# ---- the wire ------------------------------------------------------------------------------------

def wire_shows_nothing(arena):
    """No guest byte on the replication link: not the records that the guest writes and sends."""
    arena.capture()
    arena.protected(load=migrations.LOAD)
    arena.replies(20)
    log = arena.cluster.run("client", "cat /tmp/client.log")[1]
    must(len(log.splitlines()) > 20, "the client has no log")
    arena.capture_dark()
    arena.cluster.client_stop()


# What the others' captures do not hold, as it would be there: SEND FILE, and who takes it.
CLEAR_PORT = 4999
SEND = """
import socket, sys, time
for _ in range(300):
    try:
        s = socket.create_connection(("hostb-repl", int(sys.argv[1])), 60)
        break
    except ConnectionRefusedError:
        time.sleep(0.1)
s.sendfile(open(sys.argv[2], "rb"))
s.shutdown(socket.SHUT_WR)
s.recv(1)
"""
TAKE = """
import socket, sys
s, _ = socket.create_server(("", int(sys.argv[1]))).accept()
while s.recv(1 << 20):
    pass
"""


def _seen_in_the_clear(arena, path, secrets):
    """The file goes over the link as it is."""
    arena.capture()
    arena.cluster.background("hostb", shlex.join(["python3", "-c", TAKE, str(CLEAR_PORT)]),
                             "/tmp/take")
    arena.cluster.run("hosta", shlex.join(["python3", "-c", SEND, str(CLEAR_PORT), path]),
                      timeout=180)
    unseen = set(secrets) - set(arena.captured_secrets())
    must(not unseen, f"{unseen} of {path} was on the wire in the clear, and not seen")


def guest_bytes_in_the_clear_are_seen(arena):
    """What judges captures finds all that it looks for where the guest's memory, its saved image or
    its disk go over the link in the clear."""
    arena.guest_up(load=migrations.LOAD)
    core, image, disk = "/var/tmp/core", "/var/tmp/image", arena.cluster.disk.format(vm="demo")
    arena.cluster.wait("the guest has written blocks of its disk", lambda: arena.cluster.run(
        "hosta", f"grep -q {DISK_MARK.decode()} {disk}", check=False)[0] == 0, 60)
    arena.cluster.pollux("hosta", "dump-core", "demo", core, timeout=180)
    arena.cluster.pollux("hosta", "save", "demo", image, "--compression", "none", timeout=180)
    for path, secrets in ((core, SECRETS), (image, SECRETS), (disk, (DISK_MARK,))):
        _seen_in_the_clear(arena, path, secrets)
    arena.cluster.run("hosta", f"rm {core} {image}")


# ---- its new place ---------------------------------------------------------------------------------

def failover_is_announced(arena):
    arena.protected()
    front = Front(arena)
    arena.lab("kill", host="hosta")
    arena.replies(10)
    front.judge("hostb")
    arena.client_verdict()


def migration_is_announced(arena):
    """Likewise, when all of it is there, and when its memory follows; and the host that it has left
    looks for it elsewhere."""
    migrations.up_shared(arena)
    for here, options in (("hosta", ()), ("hostb", mishaps.POSTCOPY)):
        front, there = Front(arena), migrations.OTHER[here]
        migrations.move(arena, here, *options)
        front.judge(there, left=here)
    migrations.guest_well(arena)
    client_content(arena, "hosta")


# The longest first: labs may run side by side.
ALL = {f.__name__: f for f in (
    linux_moves_a_hundred_times, mishaps.migration_fails_in_each_phase,
    mishaps.migration_source_dies_frozen,
    mishaps.migration_loses_a_host_in_each_phase,
    mishaps.migration_loses_a_host_while_memory_follows, linux_is_upgraded_ten_times,
    signs_of_a_sick_guest_are_seen,
    run_on_a_terminal,
    primary_host_dies_event, primary_host_dies_interval, primary_vm_process_dies, there_and_back,
    standby_host_dies_continue, standby_host_dies_stall, standby_vm_process_dies,
    link_cut_with_fence, link_cut_without_fence, operator_decides,
    unprotect_is_no_failure, shutdown_is_no_failure, primary_dies_in_first_copy,
    failover_is_announced, migration_is_announced,
    wire_shows_nothing, guest_bytes_in_the_clear_are_seen,
    migrations.linux_migrates_with_its_disk, migrations.linux_migrates_on_shared_storage,
    migrations.migration_target_dies, migrations.migration_link_cut,
    migrations.migration_target_frozen, migrations.migration_cut_while_memory_follows,
    mishaps.migration_source_dies_handed, mishaps.migration_target_dies_handed,
    mishaps.migration_disk_full_once_it_is_copied)}

# What needs a kernel of its own on each host: KVM's state, a host whose kernel dies with it.
EMULATED = {name: ALL[name] for name in (
    "linux_moves_a_hundred_times", "run_on_a_terminal", "primary_host_dies_interval",
    "there_and_back", "link_cut_with_fence", "linux_migrates_with_its_disk")}
EMULATED["privileged_behaviour_equals_kvm"] = privileged_behaviour_equals_kvm

# Likewise, but too slow for every day: a CPU in software inside of an emulated host, and what can go
# wrong with a migration under KVM.
LONG = {f.__name__: f for f in (
    linux_changes_engines, failover_from_kvm_to_soft_and_back,
    migrations.linux_migrates_on_shared_storage, migrations.linux_keeps_the_cpu_it_began_with,
    migrations.migration_target_dies, migrations.migration_link_cut,
    migrations.migration_target_frozen, migrations.migration_cut_while_memory_follows,
    mishaps.migration_fails_in_each_phase, mishaps.migration_source_dies_frozen,
    mishaps.migration_loses_a_host_in_each_phase,
    mishaps.migration_loses_a_host_while_memory_follows, mishaps.migration_source_dies_handed,
    mishaps.migration_target_dies_handed, mishaps.migration_disk_full_once_it_is_copied)}
