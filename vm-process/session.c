// SPDX-License-Identifier: Apache-2.0
/* The terms of a session, as "protect" and "standby" requests carry them. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "vm-process/process.h"

struct named_value {
	const char *name;
	int value;
};

static const struct named_value modes[] = {
	{"interval", REPLICATE_INTERVAL}, {"event", REPLICATE_EVENT}, {NULL, 0}};
static const struct named_value policies[] = {
	{"continue", STANDBY_LOSS_CONTINUE}, {"stall", STANDBY_LOSS_STALL}, {NULL, 0}};
static const struct named_value compressions[] = {{"none", COMPRESS_NONE},
						  {"lz4", COMPRESS_LZ4},
						  {"zlib", COMPRESS_ZLIB},
						  {"auto", COMPRESS_AUTO},
						  {NULL, 0}};

static int parse_name(const json_t *request, const char *key, const struct named_value *table,
		      int *out, struct error *e)
{
	const json_t *v = json_object_get(request, key);

	if (!v)
		return 0;
	for (; table->name; table++)
		if (json_is_string(v) && !strcmp(json_string_value(v), table->name)) {
			*out = table->value;
			return 0;
		}
	return error_set(e, -EINVAL, "\"%s\" is not a value that is known", key);
}

/* An optional number in [least, most], times `unit`. */
static int parse_number(const json_t *request, const char *key, uint64_t least, uint64_t most,
			uint64_t unit, uint64_t *out, struct error *e)
{
	const json_t *v = json_object_get(request, key);
	json_int_t n;

	if (!v)
		return 0;
	n = json_integer_value(v);
	if (!json_is_integer(v) || n < 0 || (uint64_t)n < least || (uint64_t)n > most)
		return error_set(e, -EINVAL, "\"%s\" must be a whole number from %lu to %lu", key,
				 least, most);
	*out = (uint64_t)n * unit;
	return 0;
}

static int parse_unsigned(const json_t *request, const char *key, unsigned least, unsigned most,
			  unsigned *out, struct error *e)
{
	uint64_t n = *out;
	int rc = parse_number(request, key, least, most, 1, &n, e);

	*out = (unsigned)n;
	return rc;
}

int hex_parse(const json_t *request, const char *key, uint8_t *out, size_t n, struct error *e)
{
	const char *text = json_string_value(json_object_get(request, key));

	if (!text || strlen(text) != 2 * n || strspn(text, "0123456789abcdefABCDEF") != 2 * n)
		return error_set(e, -EINVAL, "\"%s\" must be %zu hexadecimal digits", key, 2 * n);
	for (size_t i = 0; i < n; i++)
		if (sscanf(text + 2 * i, "%2hhx", out + i) != 1)
			return error_set(e, -EINVAL, "\"%s\" is not hexadecimal", key);
	return 0;
}

static int parse_address(const json_t *request, struct replicate_config *out, struct error *e)
{
	const char *address = json_string_value(json_object_get(request, "address"));
	uint64_t port = 0;
	int rc;

	if (!address)
		return 0;
	if (!*address || strlen(address) >= sizeof out->address)
		return error_set(e, -EINVAL, "\"address\" is empty or too long");
	strcpy(out->address, address);
	rc = parse_number(request, "port", 1, UINT16_MAX, 1, &port, e);
	if (!rc && !port)
		rc = error_set(e, -EINVAL, "\"port\" is missing");
	out->port = (uint16_t)port;
	return rc;
}

int compression_parse(const json_t *request, int *out, struct error *e)
{
	return parse_name(request, "compression", compressions, out, e);
}

const char *compression_name(enum page_compression c)
{
	return compressions[c].name;
}

int session_parse(const json_t *q, struct replicate_config *out, struct error *e)
{
	int mode, policy, compression, rc;
	unsigned disks = 0; /* for members_fill() */

	replicate_config_defaults(out);
	mode = out->mode;
	policy = out->policy;
	compression = out->compression;
	if ((rc = hex_parse(q, "session", out->session, sizeof out->session, e)) ||
	    (rc = hex_parse(q, "key", out->key, sizeof out->key, e)) ||
	    (rc = parse_address(q, out, e)) || (rc = parse_name(q, "mode", modes, &mode, e)) ||
	    (rc = parse_name(q, "policy", policies, &policy, e)) ||
	    (rc = compression_parse(q, &compression, e)) ||
	    (rc = parse_number(q, "interval_ms", 1, 60000, NS_PER_MS, &out->interval_ns, e)) ||
	    (rc = parse_number(q, "heartbeat_ms", 1, 60000, NS_PER_MS, &out->heartbeat_ns, e)) ||
	    (rc = parse_number(q, "loss_ms", 10, 600000, NS_PER_MS, &out->loss_ns, e)) ||
	    (rc = parse_number(q, "delta_mb", 0, 1 << 20, 1 << 20, &out->delta_bytes, e)) ||
	    (rc = parse_number(q, "term", 1, INT64_MAX, 1, &out->term, e)) ||
	    (rc = parse_unsigned(q, "streams", 1, CHANNEL_STREAMS_MAX - 1, &out->streams, e)) ||
	    (rc = parse_unsigned(q, "window", 1, 64, &out->window, e)) ||
	    (rc = parse_unsigned(q, "shared_disks", 0, VM_DISKS_ALL, &disks, e)))
		return rc;
	if (!out->term)
		return error_set(e, -EINVAL, "\"term\" is missing");
	if (out->loss_ns < 2 * out->heartbeat_ns)
		return error_set(e, -EINVAL,
				 "loss_ms must be at least twice heartbeat_ms, or one late "
				 "heartbeat would count as a loss");
	if ((rc = parse_number(q, "bandwidth_mb", 1, 1 << 20, 1000000, &out->bytes_per_second, e)))
		return rc;
	out->handover = json_is_true(json_object_get(q, "handover"));
	out->mode = mode;
	out->policy = policy;
	out->compression = compression;
	return 0;
}
