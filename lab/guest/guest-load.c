// SPDX-License-Identifier: Apache-2.0
// Work for the guest, while it serves:
//   guest-load mem PAGES-PER-SECOND [MIB]      rewrites pages of its memory, round and round,
//                                              after having checked what it wrote there before
//   guest-load disk WRITES-PER-SECOND DISK     writes and flushes blocks in the disk's upper half
// A page that is not as it was left ends it with POLLUX-GUEST-MEMORY-DAMAGED on standard output.
// Behind its first word each page has a mark, and each block another one, the same in all: whoever
// looks for the guest's bytes where they are not to be looks for those 16.
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE    4096
#define WORDS   (PAGE / sizeof(uint64_t))
#define TICK_NS 10000000
#define PER_SEC (1000000000 / TICK_NS)

// Turned over, so that this program holds none: MEMORY-MARK-16B_ and DISK-BLOCK-MARK_.
static const uint64_t memory_mark[2] = {~UINT64_C(0x4d2d59524f4d454d),
					~UINT64_C(0x5f4236312d4b5241)};
static const uint64_t disk_mark[2] = {~UINT64_C(0x4f4c422d4b534944), ~UINT64_C(0x5f4b52414d2d4b43)};

static void mark(volatile uint64_t *words, const uint64_t turned[2])
{
	for (unsigned i = 0; i < 2; i++)
		words[1 + i] = ~((const volatile uint64_t *)turned)[i];
}

static uint64_t stamp(uint64_t page, uint64_t round)
{
	return (page + 1) * UINT64_C(0x9e3779b97f4a7c15) ^ round * UINT64_C(0xc2b2ae3d27d4eb4f);
}

// Every TICK_NS the share of a second's work; what a pause swallowed is not made up for.
static void ticks_run(unsigned long per_second, int (*work)(void *arg), void *arg)
{
	unsigned long owed = 0;

	for (;;) {
		for (owed += per_second; owed >= PER_SEC; owed -= PER_SEC) {
			if (work(arg))
				return;
		}
		nanosleep(&(struct timespec){.tv_nsec = TICK_NS}, NULL);
	}
}

struct memory {
	volatile uint64_t *words;
	uint64_t pages, page, round;
};

static int memory_work(void *arg)
{
	struct memory *m = arg;
	volatile uint64_t *p = m->words + m->page * WORDS;
	uint64_t was = m->round ? stamp(m->page, m->round) : 0;

	if (p[0] != was || p[WORDS - 1] != was) {
		printf("POLLUX-GUEST-MEMORY-DAMAGED page %llu round %llu\n",
		       (unsigned long long)m->page, (unsigned long long)m->round);
		fflush(stdout);
		return -1;
	}
	p[0] = stamp(m->page, m->round + 1);
	p[WORDS - 1] = p[0];
	mark(p, memory_mark);
	if (++m->page == m->pages) {
		m->page = 0;
		m->round++;
	}
	return 0;
}

static int memory_run(unsigned long rate, unsigned long mib)
{
	struct memory m = {.pages = mib << 8};

	m.words = mmap(NULL, mib << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (m.words == MAP_FAILED)
		return -errno;
	madvise((void *)m.words, mib << 20, MADV_NOHUGEPAGE);
	ticks_run(rate, memory_work, &m);
	return -EIO;
}

struct disk {
	int fd;
	uint64_t first, blocks, at;
	uint8_t block[PAGE];
};

static int disk_work(void *arg)
{
	struct disk *d = arg;
	uint64_t block = d->first + d->at % d->blocks;

	d->at++;
	for (size_t i = 0; i < WORDS; i++)
		((uint64_t *)d->block)[i] = stamp(block, d->at);
	mark((volatile uint64_t *)d->block, disk_mark);
	if (pwrite(d->fd, d->block, PAGE, (off_t)(block * PAGE)) == PAGE && !fdatasync(d->fd))
		return 0;
	perror("guest-load: disk");
	return -1;
}

static int disk_run(unsigned long rate, const char *path)
{
	static struct disk d;
	off_t size;

	d.fd = open(path, O_RDWR | O_CLOEXEC);
	if (d.fd < 0)
		return -errno;
	size = lseek(d.fd, 0, SEEK_END);
	if (size < 4 * PAGE)
		return -ENOSPC;
	d.first = (uint64_t)size / PAGE / 2;
	d.blocks = (uint64_t)size / PAGE - d.first;
	ticks_run(rate, disk_work, &d);
	return -EIO;
}

int main(int argc, char **argv)
{
	int rc = -EINVAL;

	if (argc >= 3 && !strcmp(argv[1], "mem"))
		rc = memory_run(strtoul(argv[2], NULL, 10),
				argc > 3 ? strtoul(argv[3], NULL, 10) : 16);
	else if (argc == 4 && !strcmp(argv[1], "disk"))
		rc = disk_run(strtoul(argv[2], NULL, 10), argv[3]);
	fprintf(stderr, "guest-load: %s\n", strerror(-rc));
	return 1;
}
