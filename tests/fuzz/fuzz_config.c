// SPDX-License-Identifier: Apache-2.0
/* The texts that people and peers write: the first byte chooses polluxd's configuration
 * or a VM file. Whatever is in them, it is taken or refused with a message. */
#include <stdlib.h>
#include <string.h>

#include "agent/agent.h"
#include "hypervisor/hypervisor.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
const char *__lsan_default_suppressions(void);

/* libconfig 1.5 forgets the buffer of a string whose closing quote is missing, and the list
 * of files of a malformed @include. What we would forget ourselves, a config_t, is not made
 * by these functions. */
const char *__lsan_default_suppressions(void)
{
	return "leak:strbuf_append\nleak:libconfig_yylex\n";
}

static void message_check(int rc, const struct error *e)
{
	if (rc && !e->text[0])
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct agent_config agent;
	static struct vm_config vm;
	struct error e = {0};
	char *text;

	if (!size)
		return 0;
	text = calloc(1, size);
	if (!text)
		return 0;
	memcpy(text, data + 1, size - 1);
	if (data[0] % 2)
		message_check(agent_config_parse(text, "fuzz", &agent, &e), &e);
	else
		message_check(vm_config_parse(text, "fuzz", &vm, &e), &e);
	free(text);
	return 0;
}
