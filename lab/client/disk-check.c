// SPDX-License-Identifier: Apache-2.0
// Does a disk agree with what a client was told?
//   disk-check IMAGE LOG        (counter-server's disk, counter-client's log)
// Every reply in the log must be on the disk with its request, unless the ring of records went on
// over it; the disk's last counter must be at least the last that was told, and at most the last
// that can have been asked for. Prints a verdict in JSON; exit code 0 agrees, 1 does not, 2 usage.
#include "lab/guest/counter-disk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct check {
	int disk;
	uint64_t slots, disk_last, records;
	uint64_t told, told_last, unanswered, present, overwritten, missing, wrong;
	const char *fault;
};

static bool block_read(const struct check *c, uint64_t index, union counter_block *block)
{
	return pread(c->disk, block, COUNTER_BLOCK, (off_t)(index * COUNTER_BLOCK)) ==
	       COUNTER_BLOCK;
}

static void disk_scan(struct check *c)
{
	static union counter_block block;

	if (!block_read(c, 0, &block) || !counter_header_valid(&block)) {
		c->fault = "the image has no header of counter-server";
		return;
	}
	c->slots = block.header.slots;
	for (uint64_t slot = 0; slot < c->slots; slot++) {
		if (!block_read(c, 1 + slot, &block)) {
			c->fault = "the image is shorter than its header says";
			return;
		}
		if (!counter_record_valid(&block) || block.record.counter % c->slots != slot)
			continue;
		c->records++;
		if (block.record.counter > c->disk_last)
			c->disk_last = block.record.counter;
	}
}

static void reply_check(struct check *c, uint64_t request, uint64_t counter)
{
	static union counter_block block;

	c->told++;
	c->told_last = counter > c->told_last ? counter : c->told_last;
	if (!block_read(c, 1 + counter % c->slots, &block) || !counter_record_valid(&block))
		c->missing++;
	else if (block.record.counter == counter + c->slots ||
		 (block.record.counter > counter &&
		  block.record.counter % c->slots == counter % c->slots))
		c->overwritten++;
	else if (block.record.counter != counter)
		c->missing++;
	else if (block.record.request != request)
		c->wrong++;
	else
		c->present++;
}

static void log_check(struct check *c, FILE *log)
{
	unsigned long long request, sent, replied, counter;
	char line[256], dash;

	while (!c->fault && fgets(line, sizeof(line), log)) {
		if (line[0] == '#')
			continue;
		if (sscanf(line, "%llu %llu %llu %llu", &request, &sent, &replied, &counter) == 4)
			reply_check(c, request, counter);
		else if (sscanf(line, "%llu %llu - %c", &request, &sent, &dash) == 3)
			c->unanswered++;
		else
			c->fault = "the log has a line that is none";
	}
}

static void verdict_reach(struct check *c)
{
	if (c->fault)
		return;
	if (!c->told)
		c->fault = "the log has no reply";
	else if (c->missing)
		c->fault = "a reply that the client has is not on the disk";
	else if (c->wrong)
		c->fault = "a record on the disk is of another request";
	else if (c->disk_last < c->told_last)
		c->fault = "the disk's counter is older than the client's";
	else if (c->disk_last > c->told_last + c->unanswered)
		c->fault = "the disk's counter is newer than anything that was asked";
}

int main(int argc, char **argv)
{
	struct check c = {0};
	FILE *log;

	if (argc != 3) {
		fprintf(stderr, "usage: disk-check IMAGE LOG\n");
		return 2;
	}
	c.disk = open(argv[1], O_RDONLY | O_CLOEXEC);
	log = fopen(argv[2], "re");
	if (c.disk < 0 || !log) {
		fprintf(stderr, "disk-check: %s: %s\n", c.disk < 0 ? argv[1] : argv[2],
			strerror(errno));
		return 2;
	}
	disk_scan(&c);
	log_check(&c, log);
	verdict_reach(&c);
	printf("{\"verdict\": \"%s\", \"fault\": \"%s\", \"told\": %llu, \"told_last\": %llu, "
	       "\"unanswered\": %llu, \"disk_last\": %llu, \"records\": %llu, \"present\": %llu, "
	       "\"overwritten\": %llu, \"missing\": %llu, \"wrong\": %llu}\n",
	       c.fault ? "bad" : "ok", c.fault ? c.fault : "", (unsigned long long)c.told,
	       (unsigned long long)c.told_last, (unsigned long long)c.unanswered,
	       (unsigned long long)c.disk_last, (unsigned long long)c.records,
	       (unsigned long long)c.present, (unsigned long long)c.overwritten,
	       (unsigned long long)c.missing, (unsigned long long)c.wrong);
	fclose(log);
	close(c.disk);
	return c.fault ? 1 : 0;
}
