// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "agent/link.h"
#include "agent/peer_message.h"

#define HEX16 "00112233445566778899aabbccddeeff"
#define HEX32 HEX16 HEX16
#define OFFER                                                                                      \
	"\"session\":\"" HEX16 "\",\"key\":\"" HEX32 "\",\"heartbeat_ms\":10,\"loss_ms\":50,"      \
	"\"mode\":\"event\",\"policy\":\"stall\",\"config\":\"name = 1\",\"origin\":\"/x\","       \
	"\"disks\":[{\"path\":\"/d\",\"size\":1024,\"readonly\":false}]"
#define WORD(rest) "{\"type\":\"word\",\"vm\":\"v\"," rest "}"

static int parse(const char *text, struct word *w, struct error *e)
{
	json_t *json = NULL;
	int rc;

	*w = (struct word){0};
	*e = (struct error){0};
	rc = link_message_parse((const uint8_t *)text, strlen(text), &json, e);
	if (!rc)
		rc = word_parse(json, w, e);
	json_decref(json);
	return rc;
}

static void test_words(void **state)
{
	struct word w;
	struct error e;

	for (int i = 0; i < WORD_COUNT; i++) {
		char text[256];

		if (i == WORD_OFFER)
			continue;
		snprintf(text, sizeof(text), WORD("\"word\":\"%s\",\"term\":7,\"can_fence\":true"),
			 ownership_word_name((enum ownership_word)i));
		assert_int_equal(parse(text, &w, &e), 0);
		assert_int_equal(w.word, i);
		assert_int_equal(w.term, 7);
		assert_true(w.can_fence);
		assert_null(w.offer);
	}
}

static void test_offer(void **state)
{
	struct word w;
	struct error e;
	json_t *again;
	struct offer *o;

	if (parse(WORD("\"word\":\"offer\",\"term\":3,\"offer\":{" OFFER "}"), &w, &e))
		fail_msg("%s", e.text);
	assert_int_equal(w.offer->disk_count, 1);
	assert_int_equal(w.offer->disks[0].size, 1024);
	assert_int_equal(w.offer->session.key[17], 0x11);
	assert_string_equal(w.offer->session.options.policy, "stall");
	assert_string_equal(w.offer->disks[0].wwid, "");
	strcpy(w.offer->disks[0].wwid, "naa.6001405abcdef");
	again = offer_json(w.offer);
	assert_int_equal(offer_parse(again, &o, &e), 0);
	assert_string_equal(o->disks[0].wwid, "naa.6001405abcdef");
	assert_memory_equal(&o->session, &w.offer->session, sizeof(o->session));
	assert_string_equal(o->config, w.offer->config);
	json_decref(again);
	offer_free(o);
	offer_free(w.offer);
}

static void test_shared_disks(void **state)
{
	static const struct {
		const char *storage;
		unsigned disks, shared;
	} cases[] = {{"", 0, 0}, {"mirror", 0, 0}, {"mirror", 5, 5}, {"shared", 0, VM_DISKS_ALL}};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct protect_options o = {.mode = "event", .shared_disks = cases[i].disks}, again;
		struct error e = {0};
		json_t *json;

		snprintf(o.storage, sizeof(o.storage), "%s", cases[i].storage);
		json = session_options_json(&o);
		assert_int_equal(session_options_parse(json, &again, &e), 0);
		assert_int_equal(again.shared_disks, o.shared_disks);
		assert_int_equal(session_disks_shared(&again), cases[i].shared);
		json_decref(json);
	}
}

static const char *const bad[] = {
	"",
	"[]",
	"7",
	"{",
	"{}",
	"{\"type\":7}",
	WORD("\"word\":\"ask\",\"term\":1,\"term\":2"),
	"{\"type\":\"word\",\"word\":\"ask\",\"term\":1}",
	"{\"type\":\"word\",\"vm\":7,\"word\":\"ask\",\"term\":1}",
	WORD("\"word\":\"ask\""),
	WORD("\"word\":\"ask\",\"term\":0"),
	WORD("\"word\":\"ask\",\"term\":-4"),
	WORD("\"word\":\"ask\",\"term\":\"1\""),
	WORD("\"word\":\"ask\",\"term\":1.5"),
	WORD("\"word\":\"asks\",\"term\":1"),
	WORD("\"word\":7,\"term\":1"),
	WORD("\"word\":\"ask\",\"term\":99999999999999999999999"),
	WORD("\"word\":\"offer\",\"term\":1"),
	WORD("\"word\":\"offer\",\"term\":1,\"offer\":[]"),
	WORD("\"word\":\"offer\",\"term\":1,\"offer\":{}"),
};

static void test_bad_words(void **state)
{
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct word w;
		struct error e;

		if (!parse(bad[i], &w, &e))
			fail_msg("taken: %s", bad[i]);
		assert_true(e.text[0]);
		offer_free(w.offer);
	}
}

/* A good offer with one value replaced by another, or taken out. */
static const struct {
	const char *key, *value;
} offer_mistakes[] = {
	{"session", "\"00\""},
	{"session", "7"},
	{"key", "\"" HEX16 "\""},
	{"key", "\"XX" HEX16 "112233445566778899aabbccddeeff\""},
	{"heartbeat_ms", "0"},
	{"heartbeat_ms", "40"},
	{"loss_ms", "1e9"},
	{"loss_ms", "700000"},
	{"mode", "\"sometimes\""},
	{"mode", "1"},
	{"policy", "\"\""},
	{"streams", "0"},
	{"streams", "17"},
	{"window", "65"},
	{"interval_ms", "\"20\""},
	{"compression", "\"zip\""},
	{"overwrite", "1"},
	{"shared_disks", "true"},
	{"shared_disks", "0"},
	{"shared_disks", "256"},
	{"config", "7"},
	{"config", "\"a\\u0000b\""},
	{"origin", "[]"},
	{"disks", "{}"},
	{"disks", "[1]"},
	{"disks", "[{\"path\":\"d\",\"size\":512,\"readonly\":false}]"},
	{"disks", "[{\"path\":\"/d\",\"size\":-512,\"readonly\":false}]"},
	{"disks", "[{\"path\":\"/d\",\"size\":513,\"readonly\":false}]"},
	{"disks", "[{\"path\":\"/d\",\"size\":512}]"},
	{"disks", "[1,2,3,4,5,6,7,8,9]"},
	{"disks", "[{\"path\":\"/d\",\"size\":512,\"readonly\":false,\"wwid\":7}]"},
	{"disks", "[{\"path\":\"/d\",\"size\":512,\"readonly\":false,\"wwid\":\"\"}]"},
	{"disks", "[{\"path\":\"/d\",\"size\":512,\"readonly\":false,\"wwid\":"
		  "\"" HEX32 HEX32 "\"}]"},
};

static void test_bad_offers(void **state)
{
	for (size_t i = 0; i < ARRAY_LEN(offer_mistakes); i++) {
		json_t *json = json_loads("{" OFFER "}", 0, NULL);
		json_t *value =
			json_loads(offer_mistakes[i].value, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
		struct error e = {0};
		struct offer *o;

		assert_non_null(json);
		assert_int_equal(json_object_set_new(json, offer_mistakes[i].key, value), 0);
		if (!offer_parse(json, &o, &e))
			fail_msg("taken: %s = %s", offer_mistakes[i].key, offer_mistakes[i].value);
		assert_true(e.text[0]);
		json_decref(json);
	}
}

static void test_missing_parts(void **state)
{
	static const char *const needed[] = {"session", "key",    "heartbeat_ms", "loss_ms",
					     "config",  "origin", "disks"};

	for (size_t i = 0; i < ARRAY_LEN(needed); i++) {
		json_t *json = json_loads("{" OFFER "}", 0, NULL);
		struct error e = {0};
		struct offer *o;

		json_object_del(json, needed[i]);
		if (!offer_parse(json, &o, &e))
			fail_msg("taken without %s", needed[i]);
		json_decref(json);
	}
}

/* Cut anywhere, or with any byte changed: refused or taken, and nothing worse. */
static void test_damage(void **state)
{
	static const char good[] = WORD("\"word\":\"offer\",\"term\":3,\"offer\":{" OFFER "}");
	unsigned seed = (unsigned)time(NULL), refused = 0;
	char text[sizeof(good)];
	struct word w;
	struct error e;

	print_message("seed %u\n", seed);
	srand(seed);
	for (size_t n = 0; n < strlen(good); n++) {
		snprintf(text, sizeof(text), "%.*s", (int)n, good);
		assert_int_not_equal(parse(text, &w, &e), 0);
		offer_free(w.offer);
	}
	for (int i = 0; i < 5000; i++) {
		memcpy(text, good, sizeof(good));
		text[(size_t)rand() % strlen(good)] = (char)(1 + rand() % 255);
		refused += parse(text, &w, &e) != 0;
		offer_free(w.offer);
	}
	assert_true(refused > 0);
}

static void test_options(void **state)
{
	json_t *json = json_loads("{\"mode\":\"interval\",\"surprise\":1}", 0, NULL);
	struct protect_options o;
	struct error e = {0};

	assert_int_equal(protect_options_parse(json, false, &o, &e), 0);
	assert_string_equal(o.mode, "interval");
	assert_string_equal(o.policy, "continue");
	assert_int_equal(protect_options_parse(json, true, &o, &e), -EINVAL);
	assert_non_null(strstr(e.text, "surprise"));
	json_decref(json);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_words),        cmocka_unit_test(test_offer),
		cmocka_unit_test(test_shared_disks), cmocka_unit_test(test_bad_words),
		cmocka_unit_test(test_bad_offers),   cmocka_unit_test(test_missing_parts),
		cmocka_unit_test(test_damage),       cmocka_unit_test(test_options),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
