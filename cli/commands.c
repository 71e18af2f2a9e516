// SPDX-License-Identifier: Apache-2.0
#include "cli/cli.h"

const struct command commands[] = {
	{"run",
	 "FILE",
	 1,
	 1,
	 false,
	 "run a VM from a VM file, its console on this terminal",
	 "The VM runs as long as the command does, without polluxd, and cannot be protected. "
	 "The terminal is the guest's console; " CONSOLE_ESCAPE_KEY
	 " asks the guest to shut down, and a second time ends it at once. SIGTERM, SIGINT and "
	 "SIGHUP do the same, and end a guest that is not off 60 seconds after the first. With "
	 "--detach the VM is given to polluxd instead, as by 'pollux start'. "
	 "With --deterministic time follows from the instructions that are executed, and nothing "
	 "comes in from outside: equal seeds give equal runs. With --record input comes in and is "
	 "recorded with its place; --replay needs no input, no network and no disk of its own. "
	 "Hashes of memory, vCPUs and devices are logged.",
	 {{"detach", NULL, "start it through polluxd and return", NULL},
	  {"deterministic", NULL, "in engine soft, so that the run can be repeated", NULL},
	  {"seed", "N", "of its random numbers and of the vCPUs' turns", NULL},
	  {"record", "FILE", "let input in, and record it", NULL},
	  {"replay", "FILE", "repeat a recorded run, and say where it becomes another one", NULL},
	  {"hash-every", "N", "log a hash each N instructions (default 100000000)", NULL}},
	 command_run},
	{"start",
	 "FILE",
	 1,
	 1,
	 false,
	 "start a VM through polluxd",
	 "polluxd on this host keeps the VM running; it can be protected. A VM that another host "
	 "may have taken over is refused.",
	 {{"force", NULL, "start it although another host may own it: two copies may then run",
	   NULL}},
	 command_start},
	{"stop",
	 "VM",
	 1,
	 1,
	 true,
	 "shut a VM down",
	 "Presses the guest's power button and waits until it is off. A protected VM ends on both "
	 "hosts; nothing is promoted.",
	 {{"force", NULL, "pull the plug instead", NULL},
	  {"timeout", "SECONDS", "give the guest this long (default 60)", NULL}},
	 command_stop},
	{"list",
	 "",
	 0,
	 0,
	 false,
	 "list the VMs of this host",
	 "One line a VM: name, state, the host of its twin, term, engine, process id, and the "
	 "build of "
	 "its program.",
	 {{"peers", NULL, "list the other hosts instead", NULL}},
	 command_list},
	{"status",
	 "[VM]",
	 0,
	 1,
	 true,
	 "say how this host or one VM is",
	 "With a VM: its state, replication figures, and the timeline of what happened.",
	 {{0}},
	 command_status},
	{"protect",
	 "VM",
	 1,
	 1,
	 true,
	 "keep a twin of a running VM on another host",
	 "Copies memory and disks to the standby while the guest runs, and from then on each "
	 "checkpoint; ends when the VM is protected. Ctrl-C before that cancels the protection, "
	 "and the VM runs on as before.",
	 {{"to", "HOST", "the standby: a peer in polluxd's configuration", NULL},
	  {"mode", "MODE",
	   "event: a checkpoint when the guest makes output (default); interval: "
	   "one every --interval",
	   "event interval"},
	  {"interval", "MS", "length of an epoch; in mode event the longest one", NULL},
	  {"policy", "POLICY", "when the standby is lost: continue without it (default) or stall",
	   "continue stall"},
	  {"streams", "N", "bulk connections, 1 to 16", NULL},
	  {"window", "N", "epochs in flight, 1 to 64", NULL},
	  {"compression", "KIND",
	   "of what is sent: none, lz4, zlib, or auto: none or lz4, as takes less time (default)",
	   "auto none lz4 zlib"},
	  {"delta-mb", "MB", "memory for the last version sent of pages", NULL},
	  {"overwrite", NULL,
	   "what lies on the standby's disks may go, but no disk that both hosts are known to see",
	   NULL},
	  {"detach", NULL, "do not wait", NULL}},
	 command_protect},
	{"migrate",
	 "VM HOST",
	 1,
	 2,
	 true,
	 "move a running VM to another host",
	 "The memory is copied while the guest runs, in rounds, until what is left can follow in a "
	 "pause that is short enough; then the guest stops here and goes on there. Everything "
	 "travels encrypted. On any error before that the VM runs on here, if this host and the "
	 "VM's "
	 "process live; from then on it goes on at the other host, or comes back if that one "
	 "cannot "
	 "start it. No error and no crash makes it run on both. "
	 "A protected VM is unprotected first and protected again once it has arrived, by the host "
	 "it "
	 "was protected on or, if it went there, by this one; until then it is NOT protected, and "
	 "'pollux status' says so. "
	 "Disks must be in a place that both hosts see, under the same paths, unless --with-disks "
	 "copies those that are not; what both see as the same one is never copied over itself. "
	 "Ctrl-C cancels the migration, unless the guest has been handed over; so does --cancel, "
	 "which "
	 "like --recover takes VM alone. "
	 "Meanwhile a line says the phase, how much of this round and of the disks is copied, the "
	 "rate on the wire, the time until the end (ETA; ETA over: of the present copy alone, as "
	 "more is not known), the downtime if the guest was stopped now, how fast the guest "
	 "writes, and by how much it is throttled. "
	 "If something is in the way all of it is told and nothing begins; warnings stop nothing. "
	 "With --json there is a line of JSON for each event; the last one is done or failed. "
	 "With --check, which has no events, --json prints the answer as one object.",
	 {{"with-disks", NULL, "copy those disks along that HOST does not see", NULL},
	  {"overwrite", NULL, "with --with-disks: what lies on the disks of HOST may go", NULL},
	  {"check", NULL,
	   "say all that is in the way and how long it would take, and begin nothing", NULL},
	  {"dry-run", NULL, "the same", NULL},
	  {"assume-same", NULL,
	   "disks that both hosts have are the same ones where that cannot be told: a serial "
	   "number "
	   "is no proof",
	   NULL},
	  {"downtime", "MS",
	   "the pause wished for (30): the guest is stopped when the forecast one is within it; or "
	   "when what is left of memory takes a quarter of it at most, for then more copying would "
	   "shorten it little: that it will be longer is told. 0: only when no page is left",
	   NULL},
	  {"streams", "N", "parallel streams, 1 to 16 (2)", NULL},
	  {"compression", "HOW",
	   "of pages: none, lz4, zlib, or auto: none or lz4, as takes less time (default)",
	   "auto none lz4 zlib"},
	  {"bandwidth", "MB",
	   "use at most so many megabytes a second, but in the last pause (no limit)", NULL},
	  {"throttle", "PERCENT",
	   "slow a guest that writes too fast by at most this much, 0 to 99 (95)", NULL},
	  {"stuck", "POLICY",
	   "what to do when that is not enough: give-up (default), stop (a pause within "
	   "--most-downtime), or postcopy (with what --postcopy risks)",
	   "give-up stop postcopy"},
	  {"most-downtime", "MS", "for --stuck stop (2000)", NULL},
	  {"timeout", "SECONDS",
	   "of copying while the guest runs (no limit); then --stuck decides, or, with disks that "
	   "are not copied by then, it is given up",
	   NULL},
	  {"postcopy", NULL,
	   "start the guest over there after --rounds of copying; the rest of its memory follows. "
	   "Until all of it is there the guest lives on both hosts' memory, and the end of either "
	   "host ends it; a cut of the link does not (--recover)",
	   NULL},
	  {"rounds", "N",
	   "for --postcopy (1); 0: no memory goes before the guest, and all of it follows", NULL},
	  {"recover", NULL,
	   "go on with the memory that follows, after the link was cut (on the source's host)",
	   NULL},
	  {"cancel", NULL, "cancel the migration of VM that is under way", NULL},
	  {"detach", NULL,
	   "return when polluxd has taken it up; that something is in the way, or how it ends, "
	   "'pollux status' says",
	   NULL}},
	 command_migrate},
	{"unprotect",
	 "VM",
	 1,
	 1,
	 true,
	 "end a protection in good order",
	 "The VM runs on here; the twin is dropped.",
	 {{0}},
	 command_unprotect},
	{"failover",
	 "VM",
	 1,
	 1,
	 true,
	 "take a VM over by an operator's word",
	 "On the standby: the twin becomes the VM although no fence has confirmed that the other "
	 "host is off. On a primary that lost its standby: it goes on alone. If the other copy "
	 "still runs, two copies answer clients, and what one of them acknowledged will be lost: "
	 "make sure first that it is dead.",
	 {{"force", NULL, "yes, I have made sure", NULL}},
	 command_failover},
	{"dump-core",
	 "VM FILE",
	 2,
	 2,
	 true,
	 "write a running VM's memory and registers to a core file",
	 "An ELF core for gdb, crash and the like; pages of zeros are holes in it. The guest is "
	 "paused until it is written, unless --live is given, and then goes on. Ctrl-C cancels it "
	 "and leaves no file. A protected VM is refused: its standby would take the pause for a "
	 "death. The file is opened with your rights, not polluxd's.",
	 {{"paging", NULL, "addresses are virtual, as the guest's page tables have them: for gdb",
	   NULL},
	  {"live", NULL,
	   "let the guest run meanwhile: what it changes is in the file as it was sooner or later",
	   NULL},
	  {"force", NULL, "replace FILE if there is one, when the core is whole", NULL}},
	 command_dump_core},
	{"save",
	 "VM FILE",
	 2,
	 2,
	 true,
	 "put a running VM into a file, and end it",
	 "Memory and machine state go to FILE; the disks stay where they are, and FILE is of use "
	 "only with the disks as they are then. 'pollux restore' goes on where the VM was. With "
	 "--key-file FILE is encrypted; 'openssl rand -hex 32' makes a key. Ctrl-C cancels: the VM "
	 "runs on, and there is no FILE.",
	 {{"key-file", "KEY", "encrypt with the key in this file: 32 octets or 64 hex digits",
	   NULL},
	  {"keep-running", NULL, "let it run on; only without writable disks", NULL},
	  {"overwrite", NULL, "replace FILE if it is there", NULL},
	  {"compression", "KIND", "of the memory: none, lz4 (default) or zlib", "none lz4 zlib"}},
	 command_save},
	{"restore",
	 "FILE",
	 1,
	 1,
	 false,
	 "go on with a VM that was saved",
	 "The VM of FILE runs again, from the instruction after the last. Refused if it runs, or "
	 "has run since: then its disks are no longer those of FILE.",
	 {{"key-file", "KEY", "the key with which it was saved", NULL},
	  {"lazy", NULL,
	   "let it run before its memory is read: FILE must stay until that is done, and be sound",
	   NULL},
	  {"force", NULL,
	   "I have put its disks back, or another host may own it: two copies may then run", NULL}},
	 command_restore},
	{"snapshot",
	 "VM NAME",
	 2,
	 2,
	 true,
	 "keep a VM as it is now, with its disks",
	 "Memory, machine state and copies of the writable disks of one moment go to polluxd's "
	 "state "
	 "folder; the VM runs on. It stands still while its disks are copied: for a moment where "
	 "the file system shares blocks between files (and the disks are in the same one), else as "
	 "long as that takes. Ctrl-C cancels.",
	 {{"delete", NULL, "delete that snapshot", NULL}},
	 command_snapshot},
	{"snapshots",
	 "VM",
	 1,
	 1,
	 true,
	 "list the snapshots of a VM",
	 "One line a snapshot: name, when it was made, how much room it takes.",
	 {{0}},
	 command_snapshots},
	{"rollback",
	 "VM NAME",
	 2,
	 2,
	 true,
	 "make a VM what it was at a snapshot",
	 "A VM that runs is ended at once. Its disks become those of the snapshot, and it goes on "
	 "from "
	 "there: what was written since is lost. If this is interrupted, do it once more: until "
	 "then "
	 "the VM cannot be started.",
	 {{0}},
	 command_rollback},
	{"upgrade",
	 "[VM]",
	 0,
	 1,
	 true,
	 "move a running VM into a new process of the pollux-vm that is installed now",
	 "Its memory is passed on, not copied: the guest stands still for some milliseconds, at "
	 "any "
	 "size, and keeps its connections and its console. If the new process fails, the VM runs "
	 "on "
	 "in the old one. A protected VM is refused, unless with --protect-again. 'pollux list' "
	 "shows the "
	 "build of each.",
	 {{"all", NULL,
	   "all VMs that run on this host, one after another. One that cannot be upgraded is "
	   "named, with "
	   "the reason, and the others follow. The exit code is then 1 if one of them failed, and "
	   "3 if "
	   "all of them were refused",
	   NULL},
	  {"protect-again", NULL,
	   "also if it is protected: that ends first and is made again on the same host "
	   "afterwards, by a "
	   "copy of all of it; until then it is NOT protected",
	   NULL}},
	 command_upgrade},
	{"console",
	 "VM",
	 1,
	 1,
	 true,
	 "look at a VM's console",
	 "Leave it with " CONSOLE_ESCAPE_KEY ".",
	 {{0}},
	 command_console},
	{"pki",
	 "init-ca|issue [NAME]",
	 1,
	 2,
	 false,
	 "make certificates",
	 "'pki init-ca' makes a certificate authority, 'pki issue NAME' a key and a certificate "
	 "signed by it. Each host needs its own, with the name that its peers know it by, and "
	 "ca.crt; ca.key belongs to none of them. Nothing is overwritten.",
	 {{"dir", "FOLDER", "where the files are (default .)", NULL},
	  {"role", "ROLE", "peer (default), operator or viewer", "peer operator viewer"},
	  {"days", "N", "how long it is valid (default 3650)", NULL}},
	 command_pki},
	{"version",
	 "",
	 0,
	 0,
	 false,
	 "say what this build is and what this machine can do",
	 "Version, compiler, libraries, and each engine with what a probe found.",
	 {{0}},
	 command_version},
	{"help",
	 "[COMMAND]",
	 0,
	 1,
	 false,
	 "say how Pollux or one command is used",
	 "",
	 {{0}},
	 command_help},
	{"completion",
	 "bash",
	 1,
	 1,
	 false,
	 "print a completion script",
	 "source <(pollux completion bash)",
	 {{0}},
	 command_completion},
	{"man", "", 0, 0, false, "print the man page", "", {{0}}, command_man},
	{0},
};
