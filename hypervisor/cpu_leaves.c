// SPDX-License-Identifier: Apache-2.0
/* What a guest's CPU would be on this host, by no guest: for a check before a move. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hypervisor/cpu_model.h"
#include "hypervisor/engine_kvm.h"

static int kvm_open(struct error *e)
{
	int rc, kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (kvm < 0)
		return error_set(e, -errno, "cannot open /dev/kvm: %s", strerror(errno));
	rc = kvm_requirements_check(kvm, e);
	if (rc)
		close(kvm);
	return rc ? rc : kvm;
}

static int kvm_model(enum vm_cpu cpu, struct state_model *model, struct error *e)
{
	int rc, kvm = kvm_open(e);

	if (kvm < 0)
		return kvm;
	rc = cpu == VM_CPU_BASE ? kvm_base_make(kvm, model, e)
				: kvm_cpuid_make(kvm, model->vcpus, &model->cpuid, e);
	close(kvm);
	return rc;
}

static int soft_model(enum vm_cpu cpu, struct state_model *model, struct error *e)
{
	if (cpu != VM_CPU_BASE)
		return error_set(e, -ENOTSUP, "engine soft has no CPU \"%s\"", vm_cpu_name(cpu));
	model->cpuid = calloc(1, sizeof(*model->cpuid) +
					 CPU_MODEL_LEAVES * sizeof(model->cpuid->entries[0]));
	if (!model->cpuid)
		return error_set(e, -ENOMEM, "no memory for the CPU's feature list");
	cpu_model_base(model);
	return 0;
}

int vm_cpu_leaves(const char *engine, enum vm_cpu cpu, unsigned vcpus, struct vm_cpu_leaf *out,
		  unsigned most, struct error *e)
{
	struct state_model model = {.vcpus = vcpus};
	int rc;

	if (cpu == VM_CPU_NONE || !strcmp(engine, "sim"))
		return 0;
	rc = strcmp(engine, "kvm") ? soft_model(cpu, &model, e) : kvm_model(cpu, &model, e);
	if (!rc)
		rc = (int)state_cpuid_leaves(model.cpuid, out, most);
	free(model.cpuid);
	return rc;
}

int vm_cpu_limits(const char *engine, enum vm_cpu cpu, struct vm_cpu_limits *out, struct error *e)
{
	int rc, kvm;

	*out = (struct vm_cpu_limits){0};
	if (cpu != VM_CPU_HOST || strcmp(engine, "kvm") != 0)
		return 0;
	kvm = kvm_open(e);
	if (kvm < 0)
		return kvm;
	rc = kvm_limits_probe(kvm, out, e);
	close(kvm);
	return rc;
}

/* ---- names, as /proc/cpuinfo has them (Intel SDM 2A, CPUID; AMD APM 3, appendix E) ------------
 */

static const char *const leaf1_ecx[32] = {
	"sse3",   "pclmulqdq", "dtes64",  "monitor", "ds_cpl",
	"vmx",    "smx",       "est",     "tm2",     "ssse3",
	NULL,     "sdbg",      "fma",     "cx16",    "xtpr",
	"pdcm",   NULL,        "pcid",    "dca",     "sse4_1",
	"sse4_2", "x2apic",    "movbe",   "popcnt",  "tsc_deadline_timer",
	"aes",    "xsave",     "osxsave", "avx",     "f16c",
	"rdrand", "hypervisor"};
static const char *const leaf1_edx[32] = {
	"fpu",  "vme",  "de",   "pse", "tsc",  "msr", "pae",   "mce", "cx8",     "apic", NULL,
	"sep",  "mtrr", "pge",  "mca", "cmov", "pat", "pse36", "pn",  "clflush", NULL,   "dts",
	"acpi", "mmx",  "fxsr", "sse", "sse2", "ss",  "ht",    "tm",  "ia64",    "pbe"};
static const char *const leaf7_ebx[32] = {
	"fsgsbase",   "tsc_adjust", "sgx",        "bmi1",     "hle",      "avx2",     NULL,
	"smep",       "bmi2",       "erms",       "invpcid",  "rtm",      "cqm",      NULL,
	"mpx",        "rdt_a",      "avx512f",    "avx512dq", "rdseed",   "adx",      "smap",
	"avx512ifma", NULL,         "clflushopt", "clwb",     "intel_pt", "avx512pf", "avx512er",
	"avx512cd",   "sha_ni",     "avx512bw",   "avx512vl"};
static const char *const leaf7_ecx[32] = {"prefetchwt1",
					  "avx512vbmi",
					  "umip",
					  "pku",
					  "ospke",
					  "waitpkg",
					  "avx512_vbmi2",
					  "shstk",
					  "gfni",
					  "vaes",
					  "vpclmulqdq",
					  "avx512_vnni",
					  "avx512_bitalg",
					  "tme",
					  "avx512_vpopcntdq",
					  NULL,
					  "la57",
					  [22] = "rdpid",
					  [24] = "bus_lock_detect",
					  [25] = "cldemote",
					  [27] = "movdiri",
					  [28] = "movdir64b",
					  [29] = "enqcmd",
					  [30] = "sgx_lc"};
static const char *const leaf7_edx[32] = {
	[2] = "avx512_4vnniw",       [3] = "avx512_4fmaps",      [4] = "fsrm",
	[8] = "avx512_vp2intersect", [10] = "md_clear",          [14] = "serialize",
	[16] = "tsxldtrk",           [18] = "pconfig",           [20] = "ibt",
	[22] = "amx_bf16",           [23] = "avx512_fp16",       [24] = "amx_tile",
	[25] = "amx_int8",           [26] = "spec_ctrl",         [27] = "intel_stibp",
	[28] = "flush_l1d",          [29] = "arch_capabilities", [31] = "spec_ctrl_ssbd"};
static const char *const leaf7_1_eax[32] = {
	[4] = "avx_vnni", [5] = "avx512_bf16", [10] = "fzrm",     [11] = "fsrs",
	[12] = "fsrc",    [22] = "hreset",     [23] = "avx_ifma", [26] = "lam"};
static const char *const leaf6_eax[32] = {[0] = "dtherm", [1] = "ida", [2] = "arat"};
static const char *const leaf6_ecx[32] = {[0] = "aperfmperf", [3] = "epb"};
static const char *const leaf7_1_edx[32] = {
	[4] = "avx_vnni_int8",   [5] = "avx_ne_convert", [8] = "amx_complex",
	[10] = "avx_vnni_int16", [14] = "prefetchi",     [19] = "avx10"};
static const char *const leaf7_2_edx[32] = {"intel_psfd", "ipred_ctrl", "rrsba_ctrl",
					    "ddpd_u",     "bhi_ctrl",   "mcdt_no"};
static const char *const leafd_eax[32] = {[0] = "x87 state",
					  [1] = "sse state",
					  [2] = "avx state",
					  [3] = "mpx bounds",
					  [4] = "mpx configuration",
					  [5] = "avx512 masks",
					  [6] = "avx512 upper halves",
					  [7] = "avx512 upper registers",
					  [9] = "pkru",
					  [17] = "amx configuration",
					  [18] = "amx tiles"};
static const char *const leafd_1_eax[32] = {"xsaveopt", "xsavec", "xgetbv1", "xsaves", "xfd"};
static const char *const kvm_eax[32] = {
	[0] = "kvmclock",          [1] = "kvm_nopiodelay",      [3] = "kvmclock",
	[4] = "kvm_asyncpf",       [5] = "kvm_steal_time",      [6] = "kvm_pv_eoi",
	[7] = "kvm_pv_unhalt",     [9] = "kvm_pv_tlb_flush",    [11] = "kvm_pv_ipi",
	[12] = "kvm_poll_control", [13] = "kvm_pv_sched_yield", [24] = "kvmclock_stable"};
static const char *const amd_ecx[32] = {"lahf_lm",
					"cmp_legacy",
					"svm",
					"extapic",
					"cr8_legacy",
					"abm",
					"sse4a",
					"misalignsse",
					"3dnowprefetch",
					"osvw",
					"ibs",
					"xop",
					"skinit",
					"wdt",
					NULL,
					"lwp",
					"fma4",
					"tce",
					[21] = "tbm",
					[22] = "topoext",
					[23] = "perfctr_core",
					[29] = "mwaitx"};
static const char *const amd_edx[32] = {
	[11] = "syscall", [19] = "mp",     [20] = "nx", [22] = "mmxext",   [25] = "fxsr_opt",
	[26] = "pdpe1gb", [27] = "rdtscp", [29] = "lm", [30] = "3dnowext", [31] = "3dnow"};
static const char *const amd8_ebx[32] = {
	[0] = "clzero",           [1] = "irperf",    [2] = "xsaveerptr", [4] = "rdpru",
	[9] = "wbnoinvd",         [12] = "ibpb",     [14] = "ibrs",      [15] = "stibp",
	[17] = "stibp_always_on", [23] = "amd_ppin", [24] = "ssbd",      [25] = "virt_ssbd",
	[26] = "amd_ssb_no",      [28] = "amd_psfd"};

static const char *const amd7_edx[32] = {[8] = "nonstop_tsc"};
static const char *const amd21_eax[32] = {[0] = "no_nested_data_bp",
					  [2] = "lfence_rdtsc",
					  [5] = "verw_clear",
					  [6] = "null_sel_clr_base",
					  [8] = "autoibrs",
					  [9] = "no_smm_ctl_msr",
					  [10] = "amd_fsrs",
					  [11] = "amd_fsrc",
					  [17] = "prefetch_ctl_msr",
					  [27] = "sbpb",
					  [28] = "ibpb_brtype",
					  [29] = "srso_no",
					  [30] = "srso_user_kernel_no"};
static const char *const amd21_ecx[32] = {[1] = "tsa_sq_no", [2] = "tsa_l1_no"};

static const struct {
	uint32_t function, index;
	unsigned word;
	const char *const *names;
} named[] = {
	{1, 0, 2, leaf1_ecx},          {1, 0, 3, leaf1_edx},         {6, 0, 0, leaf6_eax},
	{6, 0, 2, leaf6_ecx},          {7, 0, 1, leaf7_ebx},         {7, 0, 2, leaf7_ecx},
	{7, 0, 3, leaf7_edx},          {7, 1, 0, leaf7_1_eax},       {7, 1, 3, leaf7_1_edx},
	{7, 2, 3, leaf7_2_edx},        {0xd, 0, 0, leafd_eax},       {0xd, 1, 0, leafd_1_eax},
	{0x40000001, 0, 0, kvm_eax},   {0x80000001, 0, 2, amd_ecx},  {0x80000001, 0, 3, amd_edx},
	{0x80000007, 0, 3, amd7_edx},  {0x80000008, 0, 1, amd8_ebx}, {0x80000021, 0, 0, amd21_eax},
	{0x80000021, 0, 2, amd21_ecx},
};

const char *vm_cpu_feature(uint32_t function, uint32_t index, unsigned word, unsigned bit)
{
	for (size_t i = 0; i < ARRAY_LEN(named); i++)
		if (named[i].function == function && named[i].index == index &&
		    named[i].word == word)
			return named[i].names[bit];
	return NULL;
}
