// SPDX-License-Identifier: Apache-2.0
/*
 * MC146818 clock and 128 bytes of CMOS memory at ports 0x70 and 0x71. The time is
 * the host's plus an offset that the guest may set. UIP is always 0: an update takes
 * no time. No periodic, alarm or update interrupt: the tables announce none.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "hypervisor/deterministic.h"

#define PORT        0x70u
#define CMOS_SIZE   128u
#define REG_A       0x0au
#define REG_B       0x0bu
#define REG_C       0x0cu
#define REG_D       0x0du
#define REG_CENTURY 0x32u

#define A_DIVIDER   0x26 /* 32768 Hz, 1024 Hz rate */
#define A_UIP       0x80
#define B_SET       0x80 /* the guest writes the time */
#define B_BINARY    0x04
#define B_24H       0x02
#define D_VALID     0x80
#define HOUR_PM     0x80

/* What century and year can say, in seconds since 1970. */
#define TIME_LEAST INT64_C(-62167219200) /* 0000-01-01 */
#define TIME_MOST  INT64_C(253402300799) /* 9999-12-31 23:59:59 */
/* The registers can say no more: in binary, the year 255 * 100 + 255. */
#define OFFSET_MOST INT64_C(1000000000000)

struct rtc {
	struct device device;
	uint8_t index;
	uint8_t cmos[CMOS_SIZE];
	int64_t offset; /* seconds, guest minus host */
};

static struct rtc *rtc_of(struct device *d)
{
	return CONTAINER_OF(d, struct rtc, device);
}

/* ---- the time as registers --------------------------------------------------------- */

static uint8_t encode(const struct rtc *r, int v)
{
	if (r->cmos[REG_B] & B_BINARY)
		return (uint8_t)v;
	return (uint8_t)((v / 10) << 4 | v % 10);
}

static int decode(const struct rtc *r, uint8_t v)
{
	if (r->cmos[REG_B] & B_BINARY)
		return v;
	return (v >> 4) * 10 + (v & 15);
}

static uint8_t hour_encode(const struct rtc *r, int hour)
{
	if (r->cmos[REG_B] & B_24H)
		return encode(r, hour);
	return encode(r, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? HOUR_PM : 0);
}

static int hour_decode(const struct rtc *r, uint8_t v)
{
	if (r->cmos[REG_B] & B_24H)
		return decode(r, v);
	return decode(r, v & (uint8_t)~HOUR_PM) % 12 + (v & HOUR_PM ? 12 : 0);
}

/* Registers that hold the time, in the order of fields_fill(). */
static const uint8_t time_registers[] = {0, 2, 4, 6, 7, 8, 9, REG_CENTURY};

static bool is_time(uint8_t index)
{
	return memchr(time_registers, index, sizeof(time_registers));
}

static void time_fill(struct rtc *r)
{
	int64_t now = vm_wall_seconds(r->device.vm) + r->offset;
	struct tm t;

	now = now < TIME_LEAST ? TIME_LEAST : now > TIME_MOST ? TIME_MOST : now;
	gmtime_r(&(time_t){now}, &t);
	r->cmos[0] = encode(r, t.tm_sec);
	r->cmos[2] = encode(r, t.tm_min);
	r->cmos[4] = hour_encode(r, t.tm_hour);
	r->cmos[6] = encode(r, t.tm_wday + 1);
	r->cmos[7] = encode(r, t.tm_mday);
	r->cmos[8] = encode(r, t.tm_mon + 1);
	r->cmos[9] = encode(r, (t.tm_year + 1900) % 100);
	r->cmos[REG_CENTURY] = encode(r, (t.tm_year + 1900) / 100);
}

static void time_take(struct rtc *r)
{
	struct tm t = {
		.tm_sec = decode(r, r->cmos[0]),
		.tm_min = decode(r, r->cmos[2]),
		.tm_hour = hour_decode(r, r->cmos[4]),
		.tm_mday = decode(r, r->cmos[7]),
		.tm_mon = decode(r, r->cmos[8]) - 1,
		.tm_year = decode(r, r->cmos[REG_CENTURY]) * 100 + decode(r, r->cmos[9]) - 1900,
	};

	r->offset = timegm(&t) - vm_wall_seconds(r->device.vm);
}

/* ---- ports ----------------------------------------------------------------------------- */

static void cmos_write(struct rtc *r, uint8_t at, uint8_t v)
{
	bool was_set = r->cmos[REG_B] & B_SET;

	if (at == REG_C || at == REG_D)
		return;
	if (at == REG_A)
		v &= (uint8_t)~A_UIP;
	if (is_time(at) && !was_set)
		time_fill(r); /* the other fields are as they are now */
	if (at == REG_B && (v & B_SET) && !was_set)
		time_fill(r);
	if (at == REG_B && !(v & B_SET) && was_set)
		time_take(r);
	r->cmos[at] = v;
	if (is_time(at) && !was_set)
		time_take(r);
}

static uint8_t cmos_read(struct rtc *r, uint8_t at)
{
	if (is_time(at) && !(r->cmos[REG_B] & B_SET))
		time_fill(r);
	return r->cmos[at];
}

static void port_read(void *dev, uint64_t at, void *data, unsigned size)
{
	struct rtc *r = dev;

	memset(data, 0xff, size);
	if (at == 1)
		*(uint8_t *)data = cmos_read(r, r->index);
}

/* Bit 7 of the index masks NMIs, of which there are none. */
static void port_write(void *dev, uint64_t at, const void *data, unsigned size)
{
	struct rtc *r = dev;
	uint8_t v = *(const uint8_t *)data;

	if (at == 0)
		r->index = v % CMOS_SIZE;
	else
		cmos_write(r, r->index, v);
}

static const struct bus_ops port_ops = {port_read, port_write};

/* ---- the device --------------------------------------------------------------------------- */

/* A battery keeps the rest. */
static void rtc_reset(struct device *d)
{
	struct rtc *r = rtc_of(d);

	r->index = 0;
	r->cmos[REG_A] = A_DIVIDER;
	r->cmos[REG_B] = B_24H;
	r->cmos[REG_C] = 0;
	r->cmos[REG_D] = D_VALID;
}

static int rtc_save(struct device *d, struct buf *out)
{
	struct rtc *r = rtc_of(d);

	buf_put_u8(out, r->index);
	buf_put(out, r->cmos, sizeof(r->cmos));
	buf_put_u64(out, (uint64_t)r->offset);
	return buf_check(out);
}

static int rtc_load(struct device *d, struct cursor in, uint16_t version, bool check_only,
		    struct error *e)
{
	struct rtc *r = rtc_of(d);
	struct rtc n = *r;

	n.index = cursor_u8(&in);
	cursor_copy(&in, n.cmos, sizeof(n.cmos));
	n.offset = (int64_t)cursor_u64(&in);
	if (cursor_finish(&in) || n.index >= CMOS_SIZE || n.offset < -OFFSET_MOST ||
	    n.offset > OFFSET_MOST)
		return error_set(e, -EBADMSG, "state: the clock section is damaged");
	if (!check_only)
		*r = n;
	return 0;
}

static void rtc_resume(struct device *d)
{
}

static void rtc_destroy(struct device *d)
{
	bus_remove(&d->vm->ports, rtc_of(d), PORT);
	free(rtc_of(d));
}

const struct device_ops rtc_device_ops = {
	.name = "rtc",
	.section = STATE_RTC,
	.oldest = 1,
	.version = 1,
	.reset = rtc_reset,
	.save = rtc_save,
	.load = rtc_load,
	.resume = rtc_resume,
	.destroy = rtc_destroy,
};

int rtc_create(struct vm *vm, struct error *e)
{
	struct rtc *r = calloc(1, sizeof(*r));
	int rc;

	if (!r)
		return error_set(e, -ENOMEM, "rtc: out of memory");
	r->device = (struct device){.ops = &rtc_device_ops, .vm = vm};
	rtc_reset(&r->device);
	rc = bus_add(&vm->ports, PORT, 2, &port_ops, r);
	if (!rc)
		rc = vm_device_add(vm, &r->device);
	if (rc) {
		rtc_destroy(&r->device);
		return error_set(e, rc, "rtc: cannot make the device");
	}
	return 0;
}
