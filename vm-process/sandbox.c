// SPDX-License-Identifier: Apache-2.0
/* What a guest that breaks out of its devices may still do: as little as possible. */
#include <cap-ng.h>
#include <errno.h>
#include <string.h>
#include <sys/prctl.h>

#include "vm-process/process.h"

int sandbox_enter(struct error *e)
{
	thread_urge_permit();
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return error_set(e, -errno, "no_new_privs: %s", strerror(errno));
	capng_clear(CAPNG_SELECT_BOTH);
	if (capng_apply(CAPNG_SELECT_CAPS))
		return error_set(e, -EPERM, "capabilities cannot be dropped");
	return 0;
}
