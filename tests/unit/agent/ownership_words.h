// SPDX-License-Identifier: Apache-2.0
/* Tests of the ownership machine feed it events, and compare its actions as words. */
#ifndef TESTS_AGENT_OWNERSHIP_WORDS_H
#define TESTS_AGENT_OWNERSHIP_WORDS_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "agent/ownership.h"

static struct ownership_actions actions;
static uint64_t now;

static inline int feed(struct ownership *o, struct ownership_input in)
{
	in.now = now;
	return ownership_event(o, &in, &actions);
}

static inline size_t describe(char *text, size_t room, const struct ownership_action *a)
{
	unsigned long long term = a->type == OWN_STORE ? a->record.term : a->term;
	const char *what = a->type == OWN_STORE  ? ownership_role_name(a->record.role)
			   : a->type == OWN_TELL ? ownership_word_name(a->word)
						 : ownership_act_name(a->type);

	if (a->type == OWN_STORE || a->type == OWN_TELL)
		return (size_t)snprintf(text, room, "%s %s %llu; ",
					a->type == OWN_STORE ? "store" : "tell", what, term);
	return (size_t)snprintf(text, room, "%s; ", what);
}

/* Reports are left out. */
static inline const char *words(void)
{
	static char text[500];
	size_t n = 0;

	text[0] = '\0';
	for (unsigned i = 0; i < actions.count; i++)
		if (actions.item[i].type != OWN_REPORT)
			n += describe(text + n, sizeof(text) - n, &actions.item[i]);
	return text;
}

#define EXPECT(o, text, ...)                                                                       \
	do {                                                                                       \
		assert_int_equal(feed(o, (struct ownership_input){__VA_ARGS__}), 0);               \
		assert_string_equal(words(), text);                                                \
	} while (0)

#define WORD(w, t) .type = OWN_EV_WORD, .word = (w), .term = (t)

static inline struct ownership_config usual(void)
{
	struct ownership_config c;

	ownership_config_defaults(&c);
	c.can_fence = c.senior = true;
	return c;
}

static inline struct ownership started(const struct ownership_config *c, enum ownership_role role,
				       uint64_t term, bool alive)
{
	struct ownership o;

	now = 1000 * NS_PER_SEC;
	ownership_init(&o, c);
	assert_int_equal(feed(&o, (struct ownership_input){.type = OWN_EV_START,
							   .record = {term, role},
							   .alive = alive}),
			 0);
	return o;
}

static inline struct ownership with_peer(enum ownership_role role, uint64_t term, bool alive)
{
	struct ownership_config c = usual();
	struct ownership o = started(&c, role, term, alive);

	assert_int_equal(feed(&o, (struct ownership_input){.type = OWN_EV_PEER_UP}), 0);
	return o;
}

static inline void later_by(uint64_t ns)
{
	now += ns;
}

#endif
