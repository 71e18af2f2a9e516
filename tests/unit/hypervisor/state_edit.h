// SPDX-License-Identifier: Apache-2.0
/* Saved machines with a section changed or left out, in all else as they were. */
#ifndef TESTS_HYPERVISOR_STATE_EDIT_H
#define TESTS_HYPERVISOR_STATE_EDIT_H

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "hypervisor/state.h"

#define EACH_INSTANCE -1

typedef void edit_fn(struct buf *payload);

static inline struct state_view view_of(const struct buf *state)
{
	struct state_view v;
	struct error e = {0};

	if (state_open(state->data, state->len, &v, &e))
		fail_msg("%s", e.text);
	return v;
}

/* A copy, in which section `id` of that instance has gone through `edit`; NULL: is left out. */
static inline void state_edit(const struct buf *from, uint16_t id, int instance, edit_fn *edit,
			      struct buf *out)
{
	struct state_view v = view_of(from);
	size_t began;

	buf_reset(out);
	began = state_start(out);
	for (unsigned i = 0; i < v.count; i++) {
		const struct state_section *s = &v.sections[i];
		bool meant = s->id == id && (instance == EACH_INSTANCE || s->instance == instance);
		struct buf payload = {0};
		size_t at;

		if (meant && !edit)
			continue;
		buf_put(&payload, s->data, s->len);
		if (meant)
			edit(&payload);
		at = state_section_begin(out, s->id, s->instance, s->version, s->flags);
		buf_put(out, payload.data, payload.len);
		state_section_end(out, at);
		buf_free(&payload);
	}
	assert_int_equal(state_finish(out, began), 0);
}

#endif
