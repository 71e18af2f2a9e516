// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/random.h>

#include "agent/json_text.h"
#include "agent/marks.h"

struct mark {
	LIST_ENTRY(mark) entry;
	dev_t dev;
	ino_t ino;
	uint64_t given_ns;
	char text[MARK_LEN + 1];
};

struct marks {
	pthread_mutex_t lock;
	LIST_HEAD(mark_list, mark) list;
};

int marks_create(struct marks **out)
{
	struct marks *m = calloc(1, sizeof(*m));

	if (!m)
		return -ENOMEM;
	pthread_mutex_init(&m->lock, NULL);
	LIST_INIT(&m->list);
	*out = m;
	return 0;
}

static void mark_drop(struct mark *k)
{
	LIST_REMOVE(k, entry);
	free(k);
}

void marks_destroy(struct marks *m)
{
	if (!m)
		return;
	while (!LIST_EMPTY(&m->list))
		mark_drop(LIST_FIRST(&m->list));
	pthread_mutex_destroy(&m->lock);
	free(m);
}

static int mark_draw(struct marks *m, dev_t dev, ino_t ino, struct mark **out)
{
	struct mark *k = calloc(1, sizeof(*k));
	uint8_t bytes[MARK_LEN / 2];

	if (!k)
		return -ENOMEM;
	if (getrandom(bytes, sizeof(bytes), 0) != (ssize_t)sizeof(bytes)) {
		free(k);
		return -EIO;
	}
	k->dev = dev;
	k->ino = ino;
	hex_encode(bytes, sizeof(bytes), k->text);
	LIST_INSERT_HEAD(&m->list, k, entry);
	*out = k;
	return 0;
}

/* A thread may have told the time before another one that comes first. */
static bool mark_is_over(const struct mark *k, uint64_t now)
{
	return now > k->given_ns && now - k->given_ns > MARK_KEPT_NS;
}

static struct mark *mark_find(struct marks *m, dev_t dev, ino_t ino, uint64_t now)
{
	struct mark *k = LIST_FIRST(&m->list), *next, *found = NULL;

	for (; k; k = next) {
		next = LIST_NEXT(k, entry);
		if (mark_is_over(k, now))
			mark_drop(k);
		else if (k->dev == dev && k->ino == ino)
			found = k;
	}
	return found;
}

int marks_of(struct marks *m, dev_t dev, ino_t ino, uint64_t now, char out[MARK_LEN + 1])
{
	struct mark *k;
	int rc = 0;

	pthread_mutex_lock(&m->lock);
	k = mark_find(m, dev, ino, now);
	if (!k)
		rc = mark_draw(m, dev, ino, &k);
	if (!rc) {
		k->given_ns = now > k->given_ns ? now : k->given_ns;
		memcpy(out, k->text, sizeof(k->text));
	}
	pthread_mutex_unlock(&m->lock);
	return rc;
}
