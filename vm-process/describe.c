// SPDX-License-Identifier: Apache-2.0
/* What polluxd says of a VM, too, in the words of its process. */
#include "hypervisor/hypervisor.h"
#include "vm-process/vm-process.h"

#define KINDS_MAX 64

json_t *control_sections(void)
{
	struct vm_state_kind kinds[KINDS_MAX];
	unsigned n = vm_state_kinds(kinds, KINDS_MAX);
	json_t *out = json_array();

	for (unsigned i = 0; i < n; i++)
		json_array_append_new(out,
				      json_pack("{s:i, s:i, s:s}", "id", kinds[i].id, "version",
						kinds[i].newest, "name", kinds[i].name));
	return out;
}

json_t *control_limits(const struct vm_cpu_limits *l)
{
	json_t *promises = json_array();

	for (unsigned i = 0; i < l->promise_count; i++)
		json_array_append_new(promises, json_pack("[I, I]", (json_int_t)l->promises[i].msr,
							  (json_int_t)l->promises[i].bits));
	return json_pack("{s:I, s:o}", "tsc_khz", (json_int_t)l->tsc_khz, "promises", promises);
}

json_t *control_leaves(const struct vm_cpu_leaf *leaves, unsigned n)
{
	json_t *out = json_array();

	for (unsigned i = 0; i < n && i < VM_CPU_LEAVES_MAX; i++)
		json_array_append_new(
			out,
			json_pack("[I, I, b, I, I, I, I]", (json_int_t)leaves[i].function,
				  (json_int_t)leaves[i].index, leaves[i].indexed,
				  (json_int_t)leaves[i].words[0], (json_int_t)leaves[i].words[1],
				  (json_int_t)leaves[i].words[2], (json_int_t)leaves[i].words[3]));
	return out;
}
