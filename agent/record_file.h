// SPDX-License-Identifier: Apache-2.0
/*
 * A text that is durable when record_file_store() has returned, whatever the moment at which the
 * power fails: the text of before or the new one is read again, never neither.
 *
 * The file has two slots of one size, each a line (sequence number, length, hash) and a text. A
 * store writes the slot that is not the newest, and syncs: no length, no name and no block of the
 * file changes, so that it is one write to the disk where a new file and its name are several.
 * A torn write leaves a wrong hash, and the other slot counts. Slots begin at multiples of 4096
 * octets: no block of the disk has parts of both.
 *
 * What a store that has failed left behind nobody knows: its slot may be whole in the page cache,
 * and not on the disk. So the next one makes a new file in place of this one (file_replace());
 * as does the first one of a process, and one that the slots are too small for.
 */
#ifndef POLLUX_AGENT_RECORD_FILE_H
#define POLLUX_AGENT_RECORD_FILE_H

#include "base/base.h"

#define RECORD_FILE_HEAD 64u
#define RECORD_FILE_TEXT (128u * 1024) /* at most */

/* What this process knows of its file; {0} at first. */
struct record_file {
	char head[RECORD_FILE_HEAD]; /* of the newest slot; "": a new file is made */
	uint64_t sequence;
	size_t slot_size;
	unsigned newest;
};

int record_file_store(struct record_file *f, const char *path, const char *text, size_t n,
		      struct error *e) MUST_CHECK;
/* The newest text. A file of before there were slots is its text. -EBADMSG: none is whole. */
int record_file_read(const char *path, struct buf *out, struct error *e) MUST_CHECK;

#endif
