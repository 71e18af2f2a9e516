# SPDX-License-Identifier: Apache-2.0
"""What the priv* guests print, and where a lab host's emulated processor (QEMU's, under kvm_amd)
is known to be wrong: there the guests' own expectation, from the manuals, decides alone."""

GUESTS = ("privtrap", "privpage", "privseg", "privsys", "privrep", "privirq", "privold")

# By guest and check: why the emulated processor of a lab host differs.
LAB = {
    "privtrap": {
        "int_gate_dpl int_absent_gate int_bad_type int_beyond_idt ud_then_np":
            "the error code has the vector times 16, not 8, in long mode",
        "ud_lock_mov": "LOCK is not refused before a MOV to memory",
        "ud_group11_1": "reserved forms of MOV are executed",
        "ss_canonical_push ss_canonical_pop ss_canonical_rbp ss_canonical_rsp_base "
        "iret_stack_canonical": "addresses that are not canonical give #GP, not #SS, by RSP",
        "gp_canonical_jump gp_canonical_call gp_canonical_ret iret_canonical":
            "the target is found to be wrong at its fetch, after the jump",
        "mf_next": "pending x87 exceptions are told by FWAIT alone",
        "mf_status": "an unmasked x87 exception does not keep the instruction from popping",
        "xm_div xm_without_osxmmexcpt": "there are no SIMD exceptions",
        "gp_mxcsr": "reserved bits of MXCSR are taken",
        "ac_word ac_quad ac_push": "there is no alignment check",
        "db_icebp db_icebp_kernel": "INT1 is not known",
        "db_general_detect": "DR7.GD is not known",
        "iret_l_and_d_cs": "L together with D is taken",
        "iret_ss_absent": "an absent SS gives #NP",
    },
    "privpage": {
        "reserved reserved_ro ps_pml4 low_bits_1g low_bits_2m nx_without_nxe page_2m page_1g "
        "across_rsvd": "P is clear in the error code of a reserved bit",
        "code_changes_itself": "the rest of a block runs as it was",
    },
    "privseg": {
        "ltr_null": "a null selector is taken",
        "ljmp_l_and_d": "L together with D is taken",
        "gate_stack_canonical": "RIP is the block's, not the call's",
        "limit_byte_beyond limit_dword_across limit_write_across limit_far_beyond limit_stos "
        "null_ds write_cs write_readonly down_below limit_stack":
            "limits and types of segments are not checked",
    },
    "privsys": {
        "sysret_clears_rf_vm": "SYSRET loads VM",
        "wrmsr_fs_canonical wrmsr_gs_canonical wrmsr_kernel_gs_canonical wrmsr_lstar_canonical "
        "wrmsr_cstar_canonical": "what is not canonical is taken",
        "cr0_high cr4_reserved_high cr8_reserved": "reserved bits are taken",
    },
    "privrep": {},
    "privold": {
        "stack_absent": "an inner stack that is absent gives #TS",
        "task_ds_at": "RIP is the old task's",
        "real_limit real_limit_at real_limit_32 real_limit_32_at real_end":
            "limits of segments are not checked",
    },
    "privirq": {
        "x2_eoi_not_zero": "KVM before 6.2 takes any value",
    },
}


def known(guest, of):
    return {name for names in of.get(guest, {}) for name in names.split()}


def checks(guest, text):
    """The checks that it printed: (name, what was seen, whether the guest calls it bad)."""
    found = []
    for line in text.replace("\r", "").splitlines():
        if not line.startswith(guest + ": "):
            continue
        words = line[len(guest) + 2:].split()
        if not words or words[0] in ("ok", "FAIL") or words[-1] == "checks":
            continue
        bad = words.index("BAD") if "BAD" in words else len(words)
        found.append((words[0], words[1:bad], words[bad + 1:]))
    return found


def ended(guest, text):
    """It came to its end, good or bad."""
    return any(line.startswith(f"{guest}: ") and line.endswith(" checks")
               for line in text.replace("\r", "").splitlines())


def bad(guest, text, of=None):
    """What the guest calls wrong, without what is known (of=LAB). RF in pushed flags is not kept
    by a lab host's processor."""
    names = known(guest, of or {})
    return [f"{name} {' '.join(seen)} BAD {' '.join(why)}"
            for name, seen, why in checks(guest, text)
            if why and name not in names and not (of is LAB and why == ["rf"])]


def differences(guest, text, reference):
    """Lines that differ from those of a lab host, where that is not known to be wrong."""
    def comparable(of):
        return [(name, [w for w in seen if not w.startswith("rf=")])
                for name, seen, _ in checks(guest, of) if name not in known(guest, LAB)]
    mine, theirs = comparable(text), comparable(reference)
    if [name for name, _ in mine] != [name for name, _ in theirs]:
        there, here = {name for name, _ in theirs}, {name for name, _ in mine}
        return [f"checks that only one of them has: {sorted(there ^ here)}"]
    return [f"{name}: {' '.join(a)}, under kvm_amd {' '.join(b)}"
            for (name, a), (_, b) in zip(mine, theirs) if a != b]
