// SPDX-License-Identifier: Apache-2.0
#include <curl/curl.h>
#include <openssl/crypto.h>
#include <stdio.h>

#include "cli/cli.h"
#include "hypervisor/hypervisor.h"

#define ENGINES_MAX 8

static json_t *engines_json(void)
{
	struct engine_report reports[ENGINES_MAX];
	unsigned n = engine_probe_all(reports, ENGINES_MAX);
	json_t *list = json_array();

	for (unsigned i = 0; i < n; i++)
		json_array_append_new(list,
				      json_pack("{s:s, s:b, s:b, s:s}", "name", reports[i].name,
						"usable", reports[i].usable, "real_guests",
						reports[i].real_guests, "why", reports[i].why));
	return list;
}

static void engines_print(const json_t *engines)
{
	json_t *engine;
	size_t i;

	json_array_foreach((json_t *)engines, i, engine)
	{
		const char *can = "cannot be used";

		if (json_is_true(json_object_get(engine, "real_guests")))
			can = "runs ordinary guests";
		else if (json_is_true(json_object_get(engine, "usable")))
			can = "runs test guests";
		printf("engine %-6s %s: %s\n", json_word(engine, "name"), can,
		       json_word(engine, "why"));
	}
	json_array_foreach((json_t *)engines, i, engine)
	{
		if (json_is_true(json_object_get(engine, "real_guests"))) {
			printf("engine auto   takes %s here\n", json_word(engine, "name"));
			return;
		}
	}
}

int command_version(const struct invocation *v)
{
	json_t *engines = engines_json();

	if (invocation_flag(v, "json"))
		return json_print(json_pack("{s:s, s:s, s:o, s:{s:s, s:s, s:s}}", "version",
					    version_text, "build", version_build, "engines",
					    engines, "libraries", "openssl",
					    OpenSSL_version(OPENSSL_VERSION), "jansson",
					    jansson_version_str(), "curl", curl_version()));
	printf("pollux %s\nbuilt with %s\n", version_text, version_build);
	engines_print(engines);
	printf("library %s\nlibrary jansson %s\nlibrary %s\n", OpenSSL_version(OPENSSL_VERSION),
	       jansson_version_str(), curl_version());
	json_decref(engines);
	return EXIT_OK;
}
