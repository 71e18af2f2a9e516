// SPDX-License-Identifier: Apache-2.0
#include "cli/cli.h"

int main(int argc, char **argv)
{
	struct invocation v;
	int rc = invocation_parse(argc, argv, &v);

	if (rc)
		return rc;
	log_setup("pollux", LOG_LEVEL_WARN);
	if (invocation_flag(&v, "help")) {
		help_command(v.command);
		return EXIT_OK;
	}
	rc = v.command->run(&v);
	if (rc && invocation_flag(&v, "json"))
		failure_print(rc);
	return rc;
}
