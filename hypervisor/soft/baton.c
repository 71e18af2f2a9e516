// SPDX-License-Identifier: Apache-2.0
#include <errno.h>

#include "hypervisor/soft/machine.h"

int soft_baton_create(struct soft_baton *b)
{
	*b = (struct soft_baton){0};
	if (pthread_mutex_init(&b->lock, NULL))
		return -ENOMEM;
	if (pthread_cond_init(&b->passed, NULL)) {
		pthread_mutex_destroy(&b->lock);
		return -ENOMEM;
	}
	return 0;
}

void soft_baton_destroy(struct soft_baton *b)
{
	pthread_cond_destroy(&b->passed);
	pthread_mutex_destroy(&b->lock);
}

void soft_baton_take(struct soft_baton *b, struct soft_cpu *cpu)
{
	uint64_t ticket;

	pthread_mutex_lock(&b->lock);
	ticket = b->next++;
	if (!cpu && b->holder)
		atomic_fetch_or(&b->holder->attention, ATTENTION_BATON);
	while (b->serving != ticket)
		pthread_cond_wait(&b->passed, &b->lock);
	b->holder = cpu;
	pthread_mutex_unlock(&b->lock);
}

void soft_baton_pass(struct soft_baton *b)
{
	pthread_mutex_lock(&b->lock);
	b->serving++;
	b->holder = NULL;
	if (b->serving != b->next)
		pthread_cond_broadcast(&b->passed);
	pthread_mutex_unlock(&b->lock);
}

bool soft_baton_is_wanted(struct soft_baton *b)
{
	bool wanted;

	pthread_mutex_lock(&b->lock);
	wanted = b->serving + 1 != b->next;
	pthread_mutex_unlock(&b->lock);
	return wanted;
}
