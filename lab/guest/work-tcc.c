// SPDX-License-Identifier: Apache-2.0
/* What a small C compiler is given in the guest: arithmetic of every kind, checked against
 * itself; what is printed must be the same on every CPU. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned failures;

#define CHECK(what)                                                                                \
	do {                                                                                       \
		if (!(what)) {                                                                     \
			printf("line %d: %s\n", __LINE__, #what);                                  \
			failures++;                                                                \
		}                                                                                  \
	} while (0)

struct item {
	uint32_t key;
	double value;
	char name[16];
};

static uint64_t state = 88172645463325252ull;

static uint64_t random_next(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static void check_integers(unsigned rounds)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < rounds; i++) {
		uint64_t a = random_next(), b = random_next() >> (i % 60), c = b ? b : 1;
		int64_t s = (int64_t)a, t = (int64_t)(c >> 1) + 1;
		uint32_t w = (uint32_t)a, v = (uint32_t)c | 1;

		CHECK(a / c * c + a % c == a);
		CHECK(s / t * t + s % t == s);
		CHECK(w / v * v + w % v == w);
		CHECK((a << 9 | a >> 55) == a * 512 + (a >> 55));
		CHECK((int32_t)w >> 5 == (int32_t)(w >> 5 | (w >> 31 ? 0xf8000000u : 0)));
		CHECK((a ^ b) == ((a | b) & ~(a & b)));
		CHECK((s < t) == !(s >= t) && (a < c) == !(a >= c));
		sum = sum * 31 + a / c + (uint64_t)(s % t) + (uint16_t)a * (int8_t)b;
	}
	printf("integers %016llx\n", (unsigned long long)sum);
}

static void check_floats(unsigned rounds)
{
	double sum = 0;
	float single = 0;
	long double wide = 0;

	for (unsigned i = 1; i <= rounds; i++) {
		double x = (double)(random_next() >> 20) / 4096.0, root = sqrt(x);

		CHECK(fabs(root * root - x) <= x * 1e-15);
		CHECK((int64_t)x <= x && x < (double)((int64_t)x + 1));
		CHECK(fabs(sin(x / 1e9) * sin(x / 1e9) + cos(x / 1e9) * cos(x / 1e9) - 1) < 1e-14);
		CHECK(floor(x) == (double)(uint64_t)x);
		sum += root / i;
		single = single * 0.5f + (float)i;
		wide += (long double)1 / i;
	}
	printf("floats %.6f %.3f %.12Lf\n", sum, single, wide);
}

static int item_compare(const void *a, const void *b)
{
	const struct item *x = a, *y = b;

	return x->key < y->key ? -1 : x->key > y->key;
}

static void check_sort(unsigned count)
{
	struct item *items = calloc(count, sizeof(*items)), copy;
	uint64_t before = 0, after = 0;

	CHECK(items);
	for (unsigned i = 0; i < count; i++) {
		items[i].key = (uint32_t)random_next();
		items[i].value = items[i].key / 3.0;
		snprintf(items[i].name, sizeof(items[i].name), "%u", items[i].key);
		before += items[i].key;
	}
	qsort(items, count, sizeof(*items), item_compare);
	for (unsigned i = 0; i < count; i++) {
		copy = items[i];
		CHECK(!i || items[i - 1].key <= copy.key);
		CHECK(strtoul(copy.name, NULL, 10) == copy.key);
		CHECK(copy.value == copy.key / 3.0);
		after += copy.key;
	}
	CHECK(before == after);
	printf("sort %u %016llx\n", count, (unsigned long long)after);
	free(items);
}

static double mixed_sum(int count, ...)
{
	va_list list;
	double sum = 0;

	va_start(list, count);
	for (int i = 0; i < count; i++)
		sum += i % 2 ? va_arg(list, double) : va_arg(list, int);
	va_end(list);
	return sum;
}

static jmp_buf target;

static void jump_from(int depth)
{
	if (!depth)
		longjmp(target, 42);
	jump_from(depth - 1);
}

static void check_calls(void)
{
	char text[64], other[64];
	int came = setjmp(target);

	if (!came)
		jump_from(50);
	CHECK(came == 42);
	CHECK(mixed_sum(6, 1, 0.5, 2, 0.25, 3, 0.125) == 6.875);
	memset(text, 'a', sizeof(text) - 1);
	text[63] = 0;
	memmove(text + 3, text, 40);
	strcpy(other, text);
	CHECK(strlen(other) == 63 && !strcmp(text, other) && !memcmp(text, other, 64));
	CHECK(strchr(other, 'b') == NULL && strstr("castor and pollux", "pollux"));
	printf("calls %d\n", came);
}

int main(int argc, char **argv)
{
	unsigned rounds = argc > 1 ? (unsigned)atoi(argv[1]) : 1000;

	check_integers(rounds);
	check_floats(rounds);
	check_sort(rounds);
	check_calls();
	printf("failures %u\n", failures);
	return failures ? 1 : 0;
}
