// SPDX-License-Identifier: Apache-2.0
#include <errno.h>

#include "hypervisor/soft/machine.h"

int soft_state_save(struct engine *en, struct buf *out, struct error *e)
{
	return error_set(e, -EOPNOTSUPP, "engine soft cannot save its state yet");
}

int soft_state_check(struct engine *en, const struct state_view *state, struct error *e)
{
	return error_set(e, -EOPNOTSUPP, "engine soft cannot load a state yet");
}

int soft_state_load(struct engine *en, const struct state_view *state, struct error *e)
{
	return error_set(e, -EOPNOTSUPP, "engine soft cannot load a state yet");
}
