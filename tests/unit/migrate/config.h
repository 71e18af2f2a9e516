// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_MIGRATE_CONFIG_H
#define TESTS_MIGRATE_CONFIG_H

#include "migrate/migrate.h"

static inline struct migrate_config defaults(void)
{
	struct migrate_config c;

	migrate_config_defaults(&c);
	return c;
}

#endif
