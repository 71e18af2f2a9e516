// SPDX-License-Identifier: Apache-2.0
#include "base/base.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_FAULTS 16

struct fault {
	char name[48]; /* "" = free */
	unsigned nth;  /* calls to go, this one included */
	int error_number;
};

static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;
static struct fault table[MOST_FAULTS];
static atomic_uint armed; /* so that a fault point costs one load when there are none */

static int fault_fire(const char *name)
{
	int rc = 0;

	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		struct fault *f = &table[i];

		if (strcmp(f->name, name) != 0 || --f->nth > 0)
			continue;
		f->name[0] = '\0';
		atomic_fetch_sub(&armed, 1);
		rc = rc ? rc : -f->error_number;
	}
	return rc;
}

int fault_point(const char *name)
{
	int rc;

	if (!atomic_load_explicit(&armed, memory_order_relaxed))
		return 0;
	pthread_mutex_lock(&table_lock);
	rc = fault_fire(name);
	pthread_mutex_unlock(&table_lock);
	return rc;
}

static int fault_add(const char *name, size_t name_len, unsigned nth, int error_number)
{
	int rc = -ENOSPC;

	pthread_mutex_lock(&table_lock);
	for (size_t i = 0; rc && i < ARRAY_LEN(table); i++) {
		struct fault *f = &table[i];

		if (f->name[0])
			continue;
		snprintf(f->name, sizeof(f->name), "%.*s", (int)name_len, name);
		f->nth = nth ? nth : 1;
		f->error_number = error_number;
		atomic_fetch_add(&armed, 1);
		rc = 0;
	}
	pthread_mutex_unlock(&table_lock);
	return rc;
}

/* Only tests arm faults: one that silently did not would prove nothing. */
void fault_arm(const char *name, unsigned nth, int error_number)
{
	size_t len = strlen(name);

	if (!len || len >= sizeof(table[0].name) || fault_add(name, len, nth, abs(error_number)))
		abort();
}

void fault_disarm_all(void)
{
	pthread_mutex_lock(&table_lock);
	memset(table, 0, sizeof(table));
	atomic_store(&armed, 0);
	pthread_mutex_unlock(&table_lock);
}

/* ":nth" or ":errno": a number from 1 up, or `otherwise` when it is left out. */
static int number_parse(const char **at, unsigned long most, unsigned otherwise, unsigned *out)
{
	unsigned long v;
	char *end;

	*out = otherwise;
	if (**at != ':')
		return 0;
	if ((*at)[1] < '0' || (*at)[1] > '9')
		return -EINVAL;
	v = strtoul(*at + 1, &end, 10);
	if (v < 1 || v > most)
		return -EINVAL;
	*out = (unsigned)v;
	*at = end;
	return 0;
}

static int fault_parse(const char **at)
{
	const char *name = *at;
	size_t len = strcspn(name, ":,");
	unsigned nth, error_number;
	int rc;

	if (!len || len >= sizeof(table[0].name))
		return -EINVAL;
	*at += len;
	rc = number_parse(at, 1000000000, 1, &nth);
	if (!rc)
		rc = number_parse(at, 4095, EIO, &error_number);
	if (!rc && **at != ',' && **at != '\0')
		rc = -EINVAL;
	return rc ? rc : fault_add(name, len, nth, (int)error_number);
}

int fault_setup(struct error *e)
{
	const char *list = getenv("POLLUX_FAULTS");
	const char *at = list;
	int rc;

	if (!list || !*list)
		return 0;
	for (;; at++) {
		rc = fault_parse(&at);
		if (rc == -ENOSPC)
			return error_set(e, rc, "POLLUX_FAULTS: more than %d faults", MOST_FAULTS);
		if (rc)
			return error_set(
				e, rc,
				"POLLUX_FAULTS: '%s' is not name[:nth[:errno]],... near '%s'", list,
				at);
		if (!*at)
			return 0;
	}
}
