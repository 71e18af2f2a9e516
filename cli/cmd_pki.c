// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "channel/channel.h"
#include "cli/cli.h"

/* A name, a role or a number of days that is none, or what stands in the way of a good one. */
static int pki_failed(const struct error *e, const char *if_there)
{
	complain("%s%s", e->text, e->code == -EEXIST ? if_there : "");
	return e->code == -EINVAL ? EXIT_USAGE : EXIT_FAILED;
}

static int ca_make(const struct invocation *v, const char *folder, unsigned days)
{
	struct error e = {0};
	const char *name = v->argument_count > 1 ? v->arguments[1] : "pollux-ca";

	if (pki_create_ca(folder, name, days, &e))
		return pki_failed(&e, ": a CA is there already; issue with it, or choose "
				      "another --dir for a new one");
	printf("made %s/ca.crt and %s/ca.key\n"
	       "keep ca.key away from the hosts; next: pollux pki issue HOST\n",
	       folder, folder);
	return EXIT_OK;
}

static int certificate_issue(const struct invocation *v, const char *folder, unsigned days)
{
	const char *role = invocation_value(v, "role"), *name = v->arguments[1];
	struct error e = {0};

	if (v->argument_count < 2) {
		complain("usage: pollux pki issue NAME");
		return EXIT_USAGE;
	}
	if (pki_issue(folder, name, role ? role : "peer", days, &e))
		return pki_failed(&e, ": nothing is overwritten; remove key and certificate of "
				      "that name to issue them anew");
	printf("made %s/%s.crt and %s/%s.key\n", folder, name, folder, name);
	return EXIT_OK;
}

int command_pki(const struct invocation *v)
{
	static const struct {
		const char *name;
		int (*run)(const struct invocation *v, const char *folder, unsigned days);
	} verbs[] = {{"init-ca", ca_make}, {"issue", certificate_issue}};
	const char *folder = invocation_value(v, "dir");
	long days = 3650;
	int rc = invocation_number(v, "days", 1, 36500, &days);

	if (rc)
		return rc;
	for (size_t i = 0; i < ARRAY_LEN(verbs); i++)
		if (!strcmp(verbs[i].name, v->arguments[0]))
			return verbs[i].run(v, folder ? folder : ".", (unsigned)days);
	complain("pki knows 'init-ca' and 'issue', not '%s'", v->arguments[0]);
	return EXIT_USAGE;
}
