// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "vm-process/process.h"

#define SESSION "000102030405060708090a0b0c0d0e0f"
#define KEY     SESSION SESSION
#define GOOD    "\"session\":\"" SESSION "\",\"key\":\"" KEY "\",\"term\":4"

static int parse(const char *text, struct replicate_config *out, struct error *e)
{
	json_t *q = json_loads(text, 0, NULL);
	int rc;

	assert_non_null(q);
	rc = session_parse(q, out, e);
	json_decref(q);
	return rc;
}

static void test_all_values(void **state)
{
	struct replicate_config c;
	struct error e = {0};

	(void)state;
	assert_int_equal(parse("{" GOOD ",\"address\":\"::1\",\"port\":4077,\"mode\":\"interval\","
			       "\"policy\":\"stall\",\"compression\":\"zlib\",\"interval_ms\":25,"
			       "\"heartbeat_ms\":20,\"loss_ms\":100,\"streams\":4,\"window\":3,"
			       "\"delta_mb\":64}",
			       &c, &e),
			 0);
	assert_int_equal(c.session[15], 0x0f);
	assert_int_equal(c.key[31], 0x0f);
	assert_string_equal(c.address, "::1");
	assert_int_equal(c.port, 4077);
	assert_int_equal(c.mode, REPLICATE_INTERVAL);
	assert_int_equal(c.policy, STANDBY_LOSS_STALL);
	assert_int_equal(c.compression, COMPRESS_ZLIB);
	assert_int_equal(c.interval_ns, 25 * NS_PER_MS);
	assert_int_equal(c.heartbeat_ns, 20 * NS_PER_MS);
	assert_int_equal(c.loss_ns, 100 * NS_PER_MS);
	assert_int_equal(c.streams, 4);
	assert_int_equal(c.window, 3);
	assert_int_equal(c.delta_bytes, 64 << 20);
	assert_int_equal(c.term, 4);
}

static void test_defaults_stay(void **state)
{
	struct replicate_config c, d;
	struct error e = {0};

	(void)state;
	replicate_config_defaults(&d);
	assert_int_equal(parse("{" GOOD "}", &c, &e), 0);
	assert_int_equal(c.interval_ns, d.interval_ns);
	assert_int_equal(c.streams, d.streams);
	assert_int_equal(c.port, 0);
}

static void test_bad_values_are_named(void **state)
{
	static const struct {
		const char *text, *names;
	} bad[] = {
		{"{}", "session"},
		{"{\"session\":\"00\",\"key\":\"" KEY "\",\"term\":1}", "session"},
		{"{\"session\":\"" SESSION "\",\"key\":\"" SESSION "zz\",\"term\":1}", "key"},
		{"{\"session\":\"" SESSION "\",\"key\":\"" KEY "\"}", "term"},
		{"{\"session\":\"" SESSION "\",\"key\":\"" KEY "\",\"term\":0}", "term"},
		{"{" GOOD ",\"mode\":\"fast\"}", "mode"},
		{"{" GOOD ",\"mode\":1}", "mode"},
		{"{" GOOD ",\"policy\":\"\"}", "policy"},
		{"{" GOOD ",\"streams\":0}", "streams"},
		{"{" GOOD ",\"streams\":17}", "streams"},
		{"{" GOOD ",\"window\":-1}", "window"},
		{"{" GOOD ",\"interval_ms\":1.5}", "interval_ms"},
		{"{" GOOD ",\"heartbeat_ms\":100,\"loss_ms\":150}", "loss_ms"},
		{"{" GOOD ",\"address\":\"\",\"port\":1}", "address"},
		{"{" GOOD ",\"address\":\"a\"}", "port"},
		{"{" GOOD ",\"address\":\"a\",\"port\":65536}", "port"},
		{"{" GOOD ",\"shared_disks\":256}", "shared_disks"},
		{"{" GOOD ",\"shared_disks\":-1}", "shared_disks"},
		{"{" GOOD ",\"shared_disks\":\"1\"}", "shared_disks"},
		{"{" GOOD ",\"shared_disks\":true}", "shared_disks"},
	};

	(void)state;
	for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
		struct replicate_config c;
		struct error e = {0};

		assert_int_equal(parse(bad[i].text, &c, &e), -EINVAL);
		if (!strstr(e.text, bad[i].names))
			fail_msg("%s: \"%s\" does not name %s", bad[i].text, e.text, bad[i].names);
	}
}

static int terms(const char *text, struct migrate_config *out, struct error *e)
{
	json_t *q = json_loads(text, 0, NULL);
	int rc;

	assert_non_null(q);
	*e = (struct error){0};
	rc = migrate_parse(q, out, e);
	json_decref(q);
	return rc;
}

/* Where nothing goes before the guest all has to follow it. */
static void test_terms_of_postcopy_only(void **state)
{
	struct migrate_config c;
	struct error e;

	(void)state;
	assert_int_equal(terms("{}", &c, &e), 0);
	assert_false(c.postcopy_only);
	assert_int_equal(terms("{\"postcopy_only\":true,\"postcopy_after\":1,"
			       "\"stuck\":\"postcopy\"}",
			       &c, &e),
			 0);
	assert_true(c.postcopy_only);
	assert_int_equal(terms("{\"postcopy_only\":true}", &c, &e), -EINVAL);
	assert_non_null(strstr(e.text, "postcopy_only"));
	assert_int_equal(terms("{\"postcopy_only\":true,\"stuck\":\"postcopy\"}", &c, &e), -EINVAL);
	assert_int_equal(
		terms("{\"postcopy_only\":true,\"postcopy_after\":1,\"stuck\":\"stop\"}", &c, &e),
		-EINVAL);
	assert_int_equal(terms("{\"postcopy_only\":true,\"stuck\":\"no\"}", &c, &e), -EINVAL);
	assert_non_null(strstr(e.text, "stuck"));
	assert_null(strstr(e.text, "only"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_all_values),
		cmocka_unit_test(test_defaults_stay),
		cmocka_unit_test(test_bad_values_are_named),
		cmocka_unit_test(test_terms_of_postcopy_only),
	};

	return cmocka_run_group_tests_name("session", tests, NULL, NULL);
}
