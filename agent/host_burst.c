// SPDX-License-Identifier: Apache-2.0
/* Bursts from other hosts: each is announced over the peer connection, and comes once. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/host.h"

#define LOG_MODULE "burst"
#define EXPECT_NS  (10 * NS_PER_SEC)

struct burst_job {
	struct job job;
	struct burst_key key;
	int fd;
};

int host_burst_expect(struct agent *a, const struct burst_key *k)
{
	for (unsigned i = 0; i < BURSTS_MAX; i++) {
		struct burst_expected *x = &a->bursts[i];

		if (x->until >= clock_ns())
			continue;
		*x = (struct burst_expected){.key = *k, .until = clock_ns() + EXPECT_NS};
		return 0;
	}
	return -EBUSY;
}

static void receive_run(struct job *j)
{
	struct burst_job *b = (struct burst_job *)j;
	struct error e = {0};

	if (burst_receive(b->fd, &b->key, &e))
		log_info("%s", e.text);
	b->fd = -1;
}

static void receive_end(struct job *j)
{
	struct burst_job *b = (struct burst_job *)j;

	if (b->fd >= 0)
		close(b->fd);
	explicit_bzero(&b->key, sizeof(b->key));
	free(b);
}

static int receive_start(struct agent *a, const struct burst_key *k, int fd)
{
	struct burst_job *b = calloc(1, sizeof(*b));
	int rc;

	if (!b) {
		close(fd);
		return -ENOMEM;
	}
	b->job = (struct job){.run = receive_run, .done = receive_end, .drop = receive_end};
	b->key = *k;
	b->fd = fd;
	rc = jobs_start(a->jobs, &b->job);
	if (rc)
		receive_end(&b->job);
	return rc;
}

void host_burst_take(struct agent *a, const uint8_t session[SESSION_ID_SIZE], int fd)
{
	for (unsigned i = 0; i < BURSTS_MAX; i++) {
		struct burst_expected *x = &a->bursts[i];
		int rc;

		if (x->until < clock_ns() || memcmp(x->key.session, session, SESSION_ID_SIZE) != 0)
			continue;
		rc = receive_start(a, &x->key, fd);
		if (rc)
			log_warn_rc(rc, "a burst is refused");
		explicit_bzero(x, sizeof(*x));
		return;
	}
	log_warn("a burst of an unknown session is refused");
	close(fd);
}
