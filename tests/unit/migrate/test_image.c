// SPDX-License-Identifier: Apache-2.0
/* Saved images: what is restored is what was saved, and what is damaged is refused. */
#include <sys/wait.h>
#include <xxhash.h>

#include "tests/unit/migrate/machine.h"

#define MEMORY (UINT64_C(1) << 20)
#define SMALL  (UINT64_C(256) << 10)

static const struct image_key key = {{1, 2, 3, 250}}, other_key = {{1, 2, 3, 251}};

/* ---- round trips ------------------------------------------------------------------ */

static void load_equal(struct machine *from, struct machine *to, int fd, const struct image_key *k)
{
	struct image_progress progress = {0};
	struct image *image;
	struct error e = {0};

	machine_make(to, vm_ram_pages(from->vm) * VM_PAGE_SIZE, false);
	if (image_open(fd, k, &image, &e) || image_load(image, to->vm, &progress, &e))
		fail_msg("%s", e.text);
	image_close(image);
	assert_memory_equal(vm_ram(from->vm), vm_ram(to->vm), vm_ram_pages(to->vm) * VM_PAGE_SIZE);
}

static void load_and_compare(struct machine *from, int fd, const struct image_key *k)
{
	struct sim_report a, b;
	struct machine to;
	struct error e = {0};

	load_equal(from, &to, fd, k);
	assert_int_equal(vm_start(to.vm, &e), 0);
	assert_int_equal(vm_step(from->vm, 500), 0);
	assert_int_equal(vm_step(to.vm, 500), 0);
	assert_int_equal(vm_sim_report(from->vm, &a), 0);
	assert_int_equal(vm_sim_report(to.vm, &b), 0);
	assert_int_equal(a.steps, b.steps);
	assert_int_equal(a.hash, b.hash);
	if (vm_sim_check(to.vm, &e))
		fail_msg("%s", e.text);
	machine_end(&to);
}

static void test_round_trip(void **state)
{
	static const struct image_key *const keys[] = {NULL, &key};

	for (int c = COMPRESS_NONE; c <= COMPRESS_ZLIB; c++)
		for (unsigned k = 0; k < ARRAY_LEN(keys); k++) {
			struct machine m;
			int fd;

			machine_make(&m, MEMORY, true);
			assert_int_equal(vm_step(m.vm, 2000), 0);
			fd = machine_save(&m, keys[k], (enum page_compression)c);
			load_and_compare(&m, fd, keys[k]);
			close(fd);
			machine_end(&m);
		}
}

/* More than one chunk, batch and run. */
static void test_large(void **state)
{
	struct machine m;
	int fd;

	machine_make(&m, 32 * MEMORY, true);
	assert_int_equal(vm_step(m.vm, 20000), 0);
	fd = machine_save(&m, &key, COMPRESS_NONE);
	assert_true(lseek(fd, 0, SEEK_END) > 3 * (off_t)IMAGE_CHUNK);
	load_and_compare(&m, fd, &key);
	close(fd);
	machine_end(&m);
}

static void test_about(void **state)
{
	struct error e = {0};
	struct image *image;
	struct machine m;
	const struct image_info *i;
	int fd;

	machine_make(&m, MEMORY, true);
	fd = machine_save(&m, &key, COMPRESS_LZ4);
	assert_int_equal(image_open(fd, &key, &image, &e), 0);
	i = image_about(image);
	assert_string_equal(i->name, "saved");
	assert_string_equal(i->identity, machine_info()->identity);
	assert_string_equal(i->config, MACHINE_CONFIG);
	assert_string_equal(i->origin, "/etc/saved.cfg");
	assert_string_equal(i->engine, "sim");
	assert_string_equal(i->software, version_text);
	assert_int_equal(i->term, 9);
	assert_int_equal(i->ram_pages, MEMORY / VM_PAGE_SIZE);
	assert_int_equal(i->vcpus, 1);
	assert_int_equal(i->disk_count, 2);
	assert_string_equal(i->disks[1].path, "/srv/other.img");
	assert_true(i->disks[1].readonly && !i->disks[0].readonly);
	assert_true(i->encrypted);
	image_close(image);
	close(fd);
	machine_end(&m);
}

struct stepper {
	struct machine *m;
	atomic_bool stop;
};

static void *stepper_main(void *ctx)
{
	struct stepper *s = ctx;

	while (!atomic_load(&s->stop))
		if (vm_step(s->m->vm, 20) == -EBUSY) /* it is paused */
			usleep(100);
	return NULL;
}

/* Most of it is written while the guest runs; what it was in the pause is what counts. */
static void test_live(void **state)
{
	struct image_progress progress = {0};
	struct image_save_options o = {.info = machine_info(),
				       .compression = COMPRESS_LZ4,
				       .live = true,
				       .progress = &progress};
	struct stepper s = {0};
	struct error e = {0};
	struct machine m, to;
	pthread_t thread;
	int fd;

	for (int i = 0; i < 5; i++) {
		machine_make(&m, 4 * MEMORY, true);
		assert_int_equal(vm_step(m.vm, 3000), 0);
		s = (struct stepper){.m = &m};
		assert_int_equal(thread_start(&thread, "guest", stepper_main, &s), 0);
		fd = file_make();
		if (image_save(m.vm, fd, &o, &e))
			fail_msg("%s", e.text);
		load_equal(&m, &to, fd, NULL);
		assert_int_equal(vm_resume(m.vm), 0);
		atomic_store(&s.stop, true);
		pthread_join(thread, NULL);
		assert_int_equal(vm_start(to.vm, &e), 0);
		assert_int_equal(vm_step(to.vm, 500), 0);
		if (vm_sim_check(to.vm, &e))
			fail_msg("%s", e.text);
		machine_end(&to);
		close(fd);
		machine_end(&m);
	}
}

/* `touched`: of each so many pages one, before they are read; 0: none. */
static int lazy_restore(struct machine *to, int fd, uint64_t pages, uint64_t touched, bool cancel,
			struct error *e)
{
	struct image_progress progress = {0};
	struct image_lazy *l;
	int rc;

	machine_make(to, pages * VM_PAGE_SIZE, false);
	rc = vm_lazy_prepare(to->vm, e);
	if (rc == -EPERM || rc == -EACCES || rc == -ENOENT || rc == -ENOSYS)
		skip();
	rc = image_lazy_begin(to->vm, fd, NULL, &progress, &l, e);
	if (rc)
		return rc;
	atomic_store(&progress.cancel, cancel);
	for (uint64_t i = 0; touched && i < pages; i += touched)
		(void)*(volatile uint8_t *)(vm_ram(to->vm) + i * VM_PAGE_SIZE);
	assert_true(progress.pages <= progress.pages_total);
	rc = image_lazy_run(l, e);
	assert_true(progress.pages <= progress.pages_total);
	assert_true(rc || progress.pages == progress.pages_total);
	image_lazy_end(l);
	return rc;
}

static void test_lazy(void **state)
{
	struct error e = {0};
	struct machine m, to;
	uint64_t pages;
	int fd;

	machine_make(&m, 8 * MEMORY, true);
	assert_int_equal(vm_step(m.vm, 3000), 0);
	pages = vm_ram_pages(m.vm);
	fd = machine_save(&m, NULL, COMPRESS_LZ4);
	if (lazy_restore(&to, fd, pages, 7, false, &e))
		fail_msg("%s", e.text);
	assert_memory_equal(vm_ram(m.vm), vm_ram(to.vm), pages * VM_PAGE_SIZE);
	assert_int_equal(vm_start(to.vm, &e), 0);
	assert_int_equal(vm_step(to.vm, 500), 0);
	if (vm_sim_check(to.vm, &e))
		fail_msg("%s", e.text);
	machine_end(&to);
	assert_int_equal(lazy_restore(&to, fd, pages, 0, true, &e), -ECANCELED);
	machine_end(&to);
	fault_arm("image.read", 6, EIO); /* it is tried again */
	e = (struct error){0};
	if (lazy_restore(&to, fd, pages, 0, false, &e))
		fail_msg("%s", e.text);
	fault_disarm_all();
	machine_end(&to);
	assert_int_equal(ftruncate(fd, lseek(fd, 0, SEEK_END) - 200), 0);
	assert_int_equal(lazy_restore(&to, fd, pages, 0, false, &e), -EBADMSG);
	machine_end(&to);
	close(fd);
	machine_end(&m);
}

/* ---- what does not end well ------------------------------------------------------------ */

static void save_fails(struct machine *m, int want, bool cancelled)
{
	struct image_progress progress = {.cancel = cancelled};
	struct image_save_options o = {.info = machine_info(), .progress = &progress};
	struct error e = {0};
	int fd = file_make();

	assert_int_equal(image_save(m->vm, fd, &o, &e), want);
	assert_true(e.text[0]);
	assert_int_equal(vm_step(m->vm, 10), 0); /* it runs on */
	close(fd);
}

static void test_save_fails(void **state)
{
	struct machine m;

	machine_make(&m, MEMORY, true);
	assert_int_equal(vm_step(m.vm, 1000), 0);
	save_fails(&m, -ECANCELED, true);
	for (unsigned nth = 1; nth <= 2; nth++) {
		fault_arm("image.write", nth, ENOSPC);
		save_fails(&m, -ENOSPC, false);
	}
	fault_arm("image.sync", 1, EIO);
	save_fails(&m, -EIO, false);
	fault_disarm_all();
	machine_end(&m);
}

static void test_keys(void **state)
{
	struct error e = {0};
	struct machine m;
	int fd, clear;

	machine_make(&m, SMALL, true);
	fd = machine_save(&m, &key, COMPRESS_LZ4);
	clear = machine_save(&m, NULL, COMPRESS_LZ4);
	assert_int_equal(file_verify(fd, NULL, &e), -ENOKEY);
	e = (struct error){0};
	assert_int_equal(file_verify(fd, &other_key, &e), -EKEYREJECTED);
	assert_non_null(strstr(e.text, "key"));
	assert_int_equal(file_verify(fd, &key, NULL), 0);
	assert_int_equal(file_verify(clear, &key, NULL), -EKEYREJECTED); /* not made with it */
	assert_int_equal(file_verify(clear, NULL, NULL), 0);
	close(fd);
	close(clear);
	machine_end(&m);
}

static void test_other_machine(void **state)
{
	struct image_progress progress = {0};
	struct machine m, larger;
	struct error e = {0};
	struct image *image;
	int fd;

	machine_make(&m, SMALL, true);
	machine_make(&larger, 2 * SMALL, false);
	fd = machine_save(&m, NULL, COMPRESS_LZ4);
	assert_int_equal(image_open(fd, NULL, &image, &e), 0);
	assert_int_equal(image_load(image, larger.vm, &progress, &e), -EINVAL);
	image_close(image);
	close(fd);
	machine_end(&m);
	machine_end(&larger);
}

/* ---- damage ------------------------------------------------------------------------------ */

static void must_be_refused(const struct buf *b, size_t len, const struct image_key *k,
			    const char *what, size_t at)
{
	struct error e = {0};
	int fd = file_of(b->data, len), rc = file_verify(fd, k, &e);

	if (!rc || !e.text[0])
		fail_msg("%s at %zu of %zu: %d %s", what, at, b->len, rc, e.text);
	close(fd);
}

/* Packed pages may unpack to the same in spite of it: what is not refused must be what was saved.
 */
static void must_do_no_harm(struct machine *m, const struct buf *b, size_t at)
{
	int fd = file_of(b->data, b->len);
	struct error e = {0};
	struct machine to;

	if (!file_verify(fd, NULL, &e)) {
		load_equal(m, &to, fd, NULL);
		machine_end(&to);
	} else if (!e.text[0]) {
		fail_msg("no reason why, at %zu", at);
	}
	close(fd);
}

/* All of what is small and particular, some of what is large and alike. */
static size_t further(const struct buf *b, size_t at)
{
	return at < 1500 || at + 1500 > b->len ? 1 : 1 + (size_t)rand() % 23;
}

static void damage_everywhere(const struct image_key *k)
{
	unsigned seed = (unsigned)getpid();
	struct buf b = {0};
	struct machine m;
	int fd;

	srand(seed);
	print_message("seed %u\n", seed);
	machine_make(&m, SMALL, true);
	assert_int_equal(vm_step(m.vm, 1000), 0);
	fd = machine_save(&m, k, COMPRESS_LZ4);
	file_take(fd, &b);
	close(fd);
	for (size_t at = 0; at < b.len; at += further(&b, at)) {
		uint8_t bit = (uint8_t)(1u << (rand() % 8));

		b.data[at] ^= bit;
		if (k)
			must_be_refused(&b, b.len, k, "a bit", at);
		else
			must_do_no_harm(&m, &b, at);
		b.data[at] ^= bit;
	}
	for (size_t len = 0; len < b.len; len += further(&b, len))
		must_be_refused(&b, len, k, "cut", len);
	buf_put_u8(&b, 0);
	must_be_refused(&b, b.len, k, "longer", b.len);
	buf_free(&b);
	machine_end(&m);
}

static void test_damage(void **state)
{
	damage_everywhere(NULL);
}

static void test_damage_encrypted(void **state)
{
	damage_everywhere(&key);
}

/* Whole chunks and whole records, each of them genuine, in other places. */
static void test_exchanged(void **state)
{
	const size_t sealed = IMAGE_CHUNK + CRYPT_TAG_SIZE;
	uint8_t *spare = malloc(sealed);
	struct buf b = {0};
	struct machine m;
	uint8_t *first;
	int fd;

	machine_make(&m, 4 * MEMORY, true);
	assert_int_equal(vm_step(m.vm, 5000), 0);
	fd = machine_save(&m, &key, COMPRESS_NONE);
	file_take(fd, &b);
	close(fd);
	assert_true(b.len > IMAGE_HEADER_SIZE + 3 * sealed);
	first = b.data + IMAGE_HEADER_SIZE;
	memcpy(spare, first, sealed);
	memcpy(first, first + sealed, sealed);
	must_be_refused(&b, b.len, &key, "a chunk twice", 0);
	memcpy(first + sealed, spare, sealed);
	must_be_refused(&b, b.len, &key, "chunks exchanged", 0);
	memcpy(first, spare, sealed);
	memmove(first + sealed, first + 2 * sealed, b.len - IMAGE_HEADER_SIZE - 2 * sealed);
	must_be_refused(&b, b.len - sealed, &key, "a chunk left out", 0);
	must_be_refused(&b, IMAGE_HEADER_SIZE + 2 * sealed, &key, "cut between chunks", 0);
	free(spare);
	buf_free(&b);
	machine_end(&m);
}

/* ---- records of a later version ------------------------------------------------------------ */

static void tail_put(uint8_t *at, const struct image_tail *t)
{
	struct buf b = {0};

	image_tail_encode(t, &b);
	memcpy(at, b.data, b.len);
	buf_free(&b);
}

static uint64_t get_u64(const uint8_t *at)
{
	struct cursor c = cursor_of(at, 8);

	return cursor_u64(&c);
}

static void add_u64(uint8_t *at, uint64_t more)
{
	uint64_t v = get_u64(at) + more;

	for (unsigned i = 0; i < 8; i++)
		at[i] = (uint8_t)(v >> (8 * i));
}

/* A record of type 99 at the end of the head, and everything that then lies further back. */
static void record_insert(struct buf *b, uint16_t flags)
{
	static const uint8_t payload[] = "from another time";
	const uint64_t more = RECORD_HEADER_SIZE + sizeof(payload);
	uint8_t *row = b->data + IMAGE_HEADER_SIZE, *index;
	size_t n = b->len - IMAGE_HEADER_SIZE;
	struct image_tail t;

	assert_int_equal(
		image_tail_decode(row + n - TAIL_SIZE, TAIL_SIZE, n - TAIL_RECORD_SIZE, &t, NULL),
		0);
	assert_non_null(buf_extend(b, more));
	row = b->data + IMAGE_HEADER_SIZE;
	memmove(row + t.head + more, row + t.head, n - t.head);
	memset(row + t.head, 0, RECORD_HEADER_SIZE);
	row[t.head] = 99;
	row[t.head + 2] = (uint8_t)flags;
	row[t.head + 4] = sizeof(payload);
	memcpy(row + t.head + RECORD_HEADER_SIZE, payload, sizeof(payload));
	t.head += more;
	t.state += more;
	t.index += more;
	t.tail += more;
	index = row + t.index + RECORD_HEADER_SIZE + INDEX_HEADER_SIZE;
	for (uint64_t i = 0; i < t.runs; i++)
		add_u64(index + i * INDEX_RUN_SIZE + 16, more);
	t.head_hash = XXH3_64bits(row, t.head);
	t.rest_hash = XXH3_64bits(row + t.state, t.tail - t.state);
	tail_put(row + t.tail + RECORD_HEADER_SIZE, &t);
}

static void test_unknown_records(void **state)
{
	struct buf optional = {0}, mandatory = {0};
	struct error e = {0};
	struct machine m;
	int fd, rc;

	machine_make(&m, SMALL, true);
	assert_int_equal(vm_step(m.vm, 500), 0);
	fd = machine_save(&m, NULL, COMPRESS_LZ4);
	file_take(fd, &optional);
	file_take(fd, &mandatory);
	close(fd);
	record_insert(&optional, 0);
	fd = file_of(optional.data, optional.len);
	if (file_verify(fd, NULL, &e))
		fail_msg("%s", e.text);
	close(fd);
	record_insert(&mandatory, RECORD_MANDATORY);
	fd = file_of(mandatory.data, mandatory.len);
	rc = file_verify(fd, NULL, &e);
	assert_int_equal(rc, -EPROTONOSUPPORT);
	assert_non_null(strstr(e.text, "99"));
	close(fd);
	buf_free(&optional);
	buf_free(&mandatory);
	machine_end(&m);
}

/* ---- the decoder that was written from the page --------------------------------------------- */

static void second_decoder(struct machine *m, const struct image_key *k)
{
	char path[] = "/tmp/pollux-image-XXXXXX", command[300], hex[2 * IMAGE_KEY_SIZE + 1] = "";
	int fd = mkstemp(path), from = machine_save(m, k, COMPRESS_LZ4);
	struct buf b = {0};

	file_take(from, &b);
	assert_int_equal(fd_write_all(fd, b.data, b.len), 0);
	for (unsigned i = 0; k && i < IMAGE_KEY_SIZE; i++)
		sprintf(hex + 2 * i, "%02x", k->bytes[i]);
	snprintf(command, sizeof(command), "python3 tests/protocol/decode.py --image %s %016lx %s",
		 path,
		 (unsigned long)XXH3_64bits(vm_ram(m->vm), vm_ram_pages(m->vm) * VM_PAGE_SIZE),
		 hex);
	assert_int_equal(system(command), 0);
	unlink(path);
	close(fd);
	close(from);
	buf_free(&b);
}

static void test_second_decoder(void **state)
{
	struct machine m;

	machine_make(&m, 4 * MEMORY, true);
	assert_int_equal(vm_step(m.vm, 5000), 0);
	second_decoder(&m, NULL);
	second_decoder(&m, &key);
	machine_end(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),     cmocka_unit_test(test_large),
		cmocka_unit_test(test_about),          cmocka_unit_test(test_live),
		cmocka_unit_test(test_lazy),           cmocka_unit_test(test_save_fails),
		cmocka_unit_test(test_keys),           cmocka_unit_test(test_other_machine),
		cmocka_unit_test(test_damage),         cmocka_unit_test(test_damage_encrypted),
		cmocka_unit_test(test_exchanged),      cmocka_unit_test(test_unknown_records),
		cmocka_unit_test(test_second_decoder),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
