// SPDX-License-Identifier: Apache-2.0
/* A message of another polluxd: parsed, and what was taken can be said again. */
#include <stdlib.h>

#include "agent/link.h"
#include "agent/peer_message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void offer_check(const struct offer *o)
{
	json_t *again = offer_json(o);
	struct error e = {0};
	struct offer *copy;

	if (!again || offer_parse(again, &copy, &e))
		abort();
	json_decref(again);
	offer_free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	json_t *message;
	struct error e = {0};
	struct word w;

	if (link_message_parse(data, size, &message, &e))
		return 0;
	if (!word_parse(message, &w, &e) && w.offer)
		offer_check(w.offer);
	offer_free(w.offer);
	json_decref(message);
	return 0;
}
