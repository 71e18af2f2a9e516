# SPDX-License-Identifier: Apache-2.0
"""The subcommands of `lab`."""
import argparse
import json
import os
import pathlib
import shlex
import sys
import time

from . import remote, up, wire
from .place import LabError, Place, default_build, default_dir


def say(text):
    print(f"lab: {text}", file=sys.stderr, flush=True)


def cmd_up(place, o):
    names = o.hosts.split(",")
    began = time.monotonic()
    up.up(place, names, pathlib.Path(o.build).resolve() if o.build else default_build(), o.accel, say)
    say(f"{len(names)} hosts are up after {time.monotonic() - began:.1f} s in {place.path}")


def cmd_down(place, _o):
    up.down(place)


def cmd_exec(place, o):
    if not o.command:
        raise LabError("no command given")
    line = o.command[0] if len(o.command) == 1 else shlex.join(o.command)
    code, cut_off = remote.execute_timed(place, o.host, line, None if o.n else 0, timeout=o.timeout)
    if cut_off:
        say(f"{o.host}: timed out after {o.timeout:g} s: {line}")
    return code


def cmd_push(place, o):
    mode = os.stat(o.source).st_mode & 0o777
    target = shlex.quote(o.target)
    with open(o.source, "rb") as source:
        return remote.execute(place, o.host, f"cat > {target} && chmod {mode:o} {target}",
                              source.fileno())


def cmd_pull(place, o):
    with open(o.target, "wb") as target:
        return remote.execute(place, o.host, f"cat {shlex.quote(o.source)}", stdout=target.fileno())


def cmd_shell(place, o):
    return remote.shell(place, o.host)


def cmd_console(place, o):
    with open(place.host(o.host) / "console.log", "rb") as log:
        while True:
            sys.stdout.buffer.write(log.read())
            sys.stdout.flush()
            if not o.follow:
                return
            time.sleep(0.1)


def cmd_host(place, o):
    answer = wire.request(place, o.subcommand, host=o.host)
    if o.subcommand == "start":
        say(f"{o.host} is up after {answer['boot_seconds']:.1f} s")


def cmd_links(place, o):
    wire.request(place, o.subcommand, net=o.net, host=o.host, peer=o.peer, direction=o.direction)


def cmd_delay(place, o):
    wire.request(place, "delay", net=o.net, host=o.host, usec=round(o.ms * 1000))


def cmd_loss(place, o):
    wire.request(place, "loss", net=o.net, host=o.host, permille=round(o.percent * 10))


def cmd_pcap(place, o):
    answer = wire.request(place, "pcap", net=o.net, on=o.state == "on")
    print(answer["path"])


def cmd_fence(place, o):
    if not o.broken and o.repair is None:
        raise LabError("--broken HOST or --repair [HOST]")
    if o.broken:
        wire.request(place, "fence", host=o.broken, mode=o.mode)
    else:
        wire.request(place, "fence", host=o.repair or None)


def cmd_status(place, o):
    status = wire.request(place, "status")
    status.pop("ok")
    if o.json:
        print(json.dumps(status, indent=1))
        return
    print(f"lab in {status['dir']}, {status['accel']} ({status['accel_why']})")
    for name, h in status["hosts"].items():
        memory = f"{h['memory_mb']:5} MB  " if "memory_mb" in h else ""
        print(f"  {name:10} {h['state']:8} {memory}{','.join(h['networks'])}"
              f"  pid {h['pid'] or '-'}")
    for cut in status["cuts"]:
        print("  cut: net {} host {} peer {} direction {}".format(*cut))
    for name, mode in status["fence_broken"].items():
        print(f"  fence of {name}: broken ({mode})")


HOW_TO = """The lab is up. In {folder}/share is what its hosts see as /lab, in /pollux the build folder.
  a shell on a host          {lab} shell {first}
  one command                {lab} exec {first} -- COMMAND
  Pollux, not on PATH there  {lab} exec {first} -- /pollux/pollux version
  cut a network, or a host   {lab} cut repl            {lab} cut front {first} --dir out
  heal all                   {lab} heal
  kill a host, start it      {lab} kill {first}           {lab} start {first}
  freeze it, let it go on    {lab} freeze {first}         {lab} thaw {first}
  record a network           {lab} pcap repl on
  what is there              {lab} status
  end it                     {lab} down"""


def cmd_how_to(place, _o):
    status = wire.request(place, "status")
    lab = "lab/lab" if str(place.path) == default_dir() else f"lab/lab --dir {place.path}"
    print(HOW_TO.format(lab=lab, folder=place.path, first=next(iter(status["hosts"]))))


def cmd_supervise(place, o):
    from . import supervisor
    supervisor.main(place, json.loads(o.config), o.control)


def cmd_guest(_place, o):
    from . import guest
    build = pathlib.Path(o.build).resolve() if o.build else default_build()
    print(guest.folder(build, up.tools_folder(build), say))


def cmd_kernel(_place, o):
    from . import kernel
    print(kernel.kernel(o.which, say).path)


def _links_arguments(p):
    p.add_argument("net", nargs="?", default="*", help="repl or front; both by default")
    p.add_argument("host", nargs="?", default="*")
    p.add_argument("--peer", default="*", help="only the way between HOST and this one")
    p.add_argument("--dir", dest="direction", choices=("both", "in", "out"), default="both",
                   help="as HOST sees it: in are the frames to it")


def _shape_arguments(p, value):
    p.add_argument(value, type=float)
    p.add_argument("net", nargs="?", default="*")
    p.add_argument("host", nargs="?", default="*", help="frames to this host")


def parser(dashes=False):
    """dashes: the command to run was given after "--" and is not among the arguments; else it
    begins with the first word after the host."""
    top = argparse.ArgumentParser(prog="lab", description="Several hosts on one machine.")
    top.add_argument("--dir", dest="folder", default=default_dir(),
                     help="the lab's folder (default %(default)s); cut and heal take it only here")
    subs = top.add_subparsers(dest="subcommand", required=True)

    def sub(name, run, text, *positional):
        p = subs.add_parser(name, help=text)
        p.set_defaults(run=run)
        if run is not cmd_links:
            p.add_argument("--dir", dest="folder", default=argparse.SUPPRESS)
        for argument in positional:
            p.add_argument(argument)
        return p

    p = sub("up", cmd_up, "start the hosts")
    p.add_argument("--hosts", default="hosta,hostb,client")
    p.add_argument("--build", help="the build folder, /pollux in the hosts (default build/)")
    p.add_argument("--accel", choices=("auto", "kvm", "tcg"), default="auto")
    p.add_argument("--namespaces", dest="accel", action="store_const", const="namespaces",
                   help="hosts are namespaces of this machine")
    p = sub("exec", cmd_exec, "run a command: one word is a shell line, several are as they are",
            "host")
    p.add_argument("-t", "--timeout", type=float, help="seconds; then exit 124")
    p.add_argument("-n", action="store_true", help="no standard input")
    p.add_argument("command", nargs="*" if dashes else argparse.REMAINDER)
    sub("push", cmd_push, "copy a file to a host", "host", "source", "target")
    sub("pull", cmd_pull, "copy a file from a host", "host", "source", "target")
    sub("shell", cmd_shell, "a shell on a host", "host")
    p = sub("console", cmd_console, "a host's console so far", "host")
    p.add_argument("-f", "--follow", action="store_true")
    sub("kill", cmd_host, "SIGKILL a host, all of it; returns when it is gone", "host")
    sub("start", cmd_host, "start a killed host", "host")
    sub("freeze", cmd_host, "stop all that runs on a host", "host")
    sub("thaw", cmd_host, "let it go on", "host")
    _links_arguments(sub("cut", cmd_links, "cut networks or links"))
    _links_arguments(sub("heal", cmd_links, "undo cut"))
    _shape_arguments(sub("delay", cmd_delay, "delay frames"), "ms")
    _shape_arguments(sub("loss", cmd_loss, "lose frames"), "percent")
    p = sub("pcap", cmd_pcap, "record a network; prints the file", "net")
    p.add_argument("state", choices=("on", "off"))
    p = sub("fence", cmd_fence, "break or repair the fencing of a host")
    p.add_argument("--broken", metavar="HOST", help="the host that is to be fenced, and will not be")
    p.add_argument("--mode", choices=("fail", "hang"), default="fail")
    p.add_argument("--repair", metavar="HOST", nargs="?", const="")
    sub("status", cmd_status, "what is there").add_argument("--json", action="store_true")
    sub("how-to", cmd_how_to, "how to use the lab that is up")
    sub("down", cmd_down, "end the lab and remove its folder")
    sub("guest", cmd_guest, "make the guest's kernel and initramfs; prints their folder"
        ).add_argument("--build")
    p = sub("kernel", cmd_kernel, "fetch a guest kernel's package; prints its folder in the cache")
    p.add_argument("--which", choices=("cloud", "full", "newer"), default="cloud")
    p = sub("supervise", cmd_supervise, "(the lab's own background process)")
    p.add_argument("control", type=int)
    p.add_argument("config")
    return top


def main(argv):
    dashes = argv.index("--") if "--" in argv else None
    o = parser(dashes is not None).parse_args(argv[:dashes])
    if dashes is not None:
        o.command = argv[dashes + 1:]
    up.end_once()
    try:
        return o.run(Place(o.folder), o) or 0
    except LabError as err:
        say(str(err))
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 1
