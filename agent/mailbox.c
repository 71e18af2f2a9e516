// SPDX-License-Identifier: Apache-2.0
#include "agent/mailbox.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

STAILQ_HEAD(mail_list, mail);

struct mailbox {
	pthread_mutex_t lock;
	struct mail_list items; /* under lock */
	int fd;
	struct loop_watch *watch;
	void (*take)(void *ctx, struct mail *m);
	void (*drop)(struct mail *m);
	void *ctx;
};

static struct mail *mail_next(struct mailbox *box)
{
	struct mail *m;

	pthread_mutex_lock(&box->lock);
	m = STAILQ_FIRST(&box->items);
	if (m)
		STAILQ_REMOVE_HEAD(&box->items, entry);
	pthread_mutex_unlock(&box->lock);
	return m;
}

static void mail_ready(void *ctx, uint32_t events)
{
	struct mailbox *box = ctx;
	struct mail *m;
	uint64_t n;

	(void)!read(box->fd, &n, sizeof(n));
	while ((m = mail_next(box)))
		box->take(box->ctx, m);
}

int mailbox_create(struct loop *l, void (*take)(void *ctx, struct mail *m),
		   void (*drop)(struct mail *m), void *ctx, struct mailbox **out)
{
	struct mailbox *box = calloc(1, sizeof(*box));
	int rc;

	if (!box)
		return -ENOMEM;
	*box = (struct mailbox){.take = take, .drop = drop, .ctx = ctx};
	STAILQ_INIT(&box->items);
	pthread_mutex_init(&box->lock, NULL);
	box->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	rc = box->fd < 0 ? -errno : 0;
	if (!rc)
		rc = loop_watch(l, box->fd, EPOLLIN, mail_ready, box, &box->watch);
	if (rc) {
		mailbox_destroy(box);
		return rc;
	}
	*out = box;
	return 0;
}

void mailbox_put(struct mailbox *box, struct mail *m)
{
	uint64_t one = 1;

	pthread_mutex_lock(&box->lock);
	STAILQ_INSERT_TAIL(&box->items, m, entry);
	pthread_mutex_unlock(&box->lock);
	(void)!write(box->fd, &one, sizeof(one));
}

void mailbox_destroy(struct mailbox *box)
{
	struct mail *m;

	if (!box)
		return;
	loop_unwatch(box->watch);
	while ((m = mail_next(box)))
		box->drop(m);
	if (box->fd >= 0)
		close(box->fd);
	pthread_mutex_destroy(&box->lock);
	free(box);
}
