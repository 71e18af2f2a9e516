// SPDX-License-Identifier: Apache-2.0
#include "base/base.h"

const char version_text[] = "later";
const char version_build[] = "for tests of upgrades";
