// SPDX-License-Identifier: Apache-2.0
/*
 * One writer for a disk image, or readers: a lock of the open file (fcntl(2), open file
 * description locks), which ends with the last descriptor of it, however the process ends.
 * It holds between the processes of a host, and over NFS between hosts. Private to hypervisor/.
 */
#ifndef POLLUX_HYPERVISOR_DISK_LOCK_H
#define POLLUX_HYPERVISOR_DISK_LOCK_H

#include "base/base.h"

/* -EBUSY when somebody has it; `e` says who, where that can be seen. Where it cannot, it waits up
 * to 3 s: the lock may be that of a process that has died with writes under way. */
int disk_lock(int fd, bool readonly, const char *path, struct error *e) MUST_CHECK;
void disk_unlock(int fd);

#endif
