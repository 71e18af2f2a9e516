// SPDX-License-Identifier: Apache-2.0
/*
 * Images as releases have saved them (tests/protocol/golden/image-N): restored today, the guest
 * has the memory that it had, and goes on to where it came then. `test_image_golden record`
 * makes those of this release.
 */
#include <inttypes.h>
#include <sys/random.h>
#include <xxhash.h>

#include <fcntl.h>

#include "tests/unit/golden.h"
#include "tests/unit/migrate/machine.h"

#define KIND       "image"
#define MEMORY     (UINT64_C(256) << 10)
#define STEPS      2000u
#define MORE_STEPS 500u /* after the restore */

/* What `session` says: of memory, of the guest when it was saved, and after MORE_STEPS. */
struct was {
	uint64_t ram, now, later;
};

static const struct {
	const char *name;
	enum page_compression compression;
	bool encrypted;
} images[] = {{"clear.image", COMPRESS_LZ4, false},
	      {"zlib.image", COMPRESS_ZLIB, false},
	      {"encrypted.image", COMPRESS_LZ4, true}};

/* Made for these images alone when they were recorded: it protects nothing. */
#define KEY_FILE "test-key.hex"

static void each_version(void (*check)(unsigned version))
{
	golden_each(KIND, IMAGE_OLDEST, IMAGE_VERSION, check);
}

static int image_fd(unsigned version, unsigned image)
{
	uint8_t header[IMAGE_HEADER_SIZE];
	char path[GOLDEN_ROOM];
	int fd;

	golden_path(path, KIND, version, images[image].name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		fail_msg("%s: %s", path, strerror(errno));
	assert_int_equal(pread(fd, header, sizeof(header), 0), sizeof(header));
	assert_int_equal(header[8] | header[9] << 8, version);
	return fd;
}

static const struct image_key *key_read(unsigned version, unsigned image, struct image_key *key)
{
	struct error e = {0};
	char path[GOLDEN_ROOM];

	if (!images[image].encrypted)
		return NULL;
	if (image_key_read(golden_path(path, KIND, version, KEY_FILE), key, &e))
		fail_msg("%s", e.text);
	return key;
}

static void session_read(unsigned version, struct was *w)
{
	char path[GOLDEN_ROOM];
	FILE *f = golden_open(golden_path(path, KIND, version, "session"), "r");

	assert_int_equal(fscanf(f, "ram %" SCNx64 " guest %" SCNx64 " later %" SCNx64, &w->ram,
				&w->now, &w->later),
			 3);
	fclose(f);
}

static uint64_t guest_hash(const struct machine *m)
{
	struct sim_report r;

	assert_int_equal(vm_sim_report(m->vm, &r), 0);
	return r.hash;
}

/* ---- restoring --------------------------------------------------------------------- */

static void guest_goes_on(struct machine *m, const struct was *was)
{
	struct error e = {0};

	assert_int_equal(XXH3_64bits(vm_ram(m->vm), MEMORY), was->ram);
	assert_int_equal(guest_hash(m), was->now);
	assert_int_equal(vm_start(m->vm, &e), 0);
	assert_int_equal(vm_step(m->vm, MORE_STEPS), 0);
	assert_int_equal(guest_hash(m), was->later);
	if (vm_sim_check(m->vm, &e))
		fail_msg("%s", e.text);
}

static void about_check(const struct image_info *i, bool encrypted)
{
	assert_string_equal(i->name, "saved");
	assert_string_equal(i->identity, machine_info()->identity);
	assert_string_equal(i->config, MACHINE_CONFIG);
	assert_string_equal(i->engine, "sim");
	assert_int_equal(i->term, 9);
	assert_int_equal(i->ram_pages, MEMORY / VM_PAGE_SIZE);
	assert_int_equal(i->disk_count, 2);
	assert_true(i->encrypted == encrypted);
}

static void restore_one(unsigned version, unsigned image, const struct was *was)
{
	struct image_progress progress = {0};
	struct image_key key;
	const struct image_key *k = key_read(version, image, &key);
	int fd = image_fd(version, image);
	struct error e = {0};
	struct machine m;
	struct image *i;

	machine_make(&m, MEMORY, false);
	if (image_open(fd, k, &i, &e))
		fail_msg("%s of version %u: %s", images[image].name, version, e.text);
	about_check(image_about(i), k);
	if (image_load(i, m.vm, &progress, &e))
		fail_msg("%s of version %u: %s", images[image].name, version, e.text);
	image_close(i);
	close(fd);
	guest_goes_on(&m, was);
	machine_end(&m);
}

static void restore_all(unsigned version)
{
	struct was was;

	session_read(version, &was);
	for (unsigned i = 0; i < ARRAY_LEN(images); i++)
		restore_one(version, i, &was);
}

static void images_of_releases_are_restored(void **state)
{
	each_version(restore_all);
}

static void key_needed(unsigned version)
{
	const struct image_key other = {{1}};

	for (unsigned i = 0; i < ARRAY_LEN(images); i++) {
		int fd = image_fd(version, i);
		bool encrypted = images[i].encrypted;

		assert_int_equal(file_verify(fd, NULL, NULL), encrypted ? -ENOKEY : 0);
		assert_int_equal(file_verify(fd, &other, NULL), -EKEYREJECTED);
		close(fd);
	}
}

static void no_other_key_opens_them(void **state)
{
	each_version(key_needed);
}

/* A version that is none of those. */
static void version_refused(uint16_t version, int want)
{
	struct error e = {0};
	struct buf b = {0};
	uint64_t hash;
	int fd = image_fd(IMAGE_VERSION, 0);

	file_take(fd, &b);
	close(fd);
	b.data[8] = (uint8_t)version;
	b.data[9] = (uint8_t)(version >> 8);
	hash = XXH3_64bits(b.data, IMAGE_HEADER_SIZE - 8);
	memcpy(b.data + IMAGE_HEADER_SIZE - 8, &hash, sizeof(hash));
	fd = file_of(b.data, b.len);
	assert_int_equal(file_verify(fd, NULL, &e), want);
	assert_true(!want || strstr(e.text, "version"));
	close(fd);
	buf_free(&b);
}

static void other_versions_are_refused(void **state)
{
	golden_needed();
	version_refused(IMAGE_VERSION, 0);
	version_refused(IMAGE_OLDEST - 1, -EPROTONOSUPPORT);
	version_refused(IMAGE_VERSION + 1, -EPROTONOSUPPORT);
}

/* The decoder that was written from docs/image-format.md agrees. */
static void decode_all(unsigned version)
{
	char path[GOLDEN_ROOM], command[300], hex[2 * IMAGE_KEY_SIZE + 1];
	struct image_key key;
	struct was was;

	session_read(version, &was);
	for (unsigned i = 0; i < ARRAY_LEN(images); i++) {
		const struct image_key *k = key_read(version, i, &key);

		hex[0] = '\0';
		for (unsigned n = 0; k && n < IMAGE_KEY_SIZE; n++)
			sprintf(hex + 2 * n, "%02x", k->bytes[n]);
		golden_path(path, KIND, version, images[i].name);
		snprintf(command, sizeof(command),
			 "python3 tests/protocol/decode.py --image %s %016" PRIx64 " %s", path,
			 was.ram, hex);
		assert_int_equal(system(command), 0);
	}
}

static void second_decoder_agrees(void **state)
{
	each_version(decode_all);
}

/* ---- recording ----------------------------------------------------------------------- */

static FILE *file_create(const char *name)
{
	char path[GOLDEN_ROOM];

	return golden_open(golden_path(path, KIND, IMAGE_VERSION, name), "w");
}

static void key_record(struct image_key *key)
{
	FILE *f = file_create(KEY_FILE);

	assert_int_equal(getrandom(key->bytes, sizeof(key->bytes), 0), sizeof(key->bytes));
	for (unsigned i = 0; i < sizeof(key->bytes); i++)
		fprintf(f, "%02x", key->bytes[i]);
	fprintf(f, "\n");
	assert_int_equal(fclose(f), 0);
}

static void image_record(struct machine *m, unsigned image, const struct image_key *key)
{
	int fd = machine_save(m, images[image].encrypted ? key : NULL, images[image].compression);
	FILE *f = file_create(images[image].name);
	struct buf b = {0};

	file_take(fd, &b);
	assert_int_equal(fwrite(b.data, 1, b.len, f), b.len);
	assert_int_equal(fclose(f), 0);
	close(fd);
	buf_free(&b);
}

static void record(void **state)
{
	char path[GOLDEN_ROOM];
	struct image_key key;
	struct machine m;
	struct was was;
	FILE *f;

	golden_folder_make(golden_path(path, KIND, IMAGE_VERSION, ""));
	machine_make(&m, MEMORY, true);
	assert_int_equal(vm_step(m.vm, STEPS), 0);
	was.ram = XXH3_64bits(vm_ram(m.vm), MEMORY);
	was.now = guest_hash(&m);
	key_record(&key);
	for (unsigned i = 0; i < ARRAY_LEN(images); i++)
		image_record(&m, i, &key);
	assert_int_equal(vm_step(m.vm, MORE_STEPS), 0);
	was.later = guest_hash(&m);
	machine_end(&m);
	f = file_create("session");
	fprintf(f, "ram %016" PRIx64 "\nguest %016" PRIx64 "\nlater %016" PRIx64 "\n", was.ram,
		was.now, was.later);
	assert_int_equal(fclose(f), 0);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(images_of_releases_are_restored),
		cmocka_unit_test(no_other_key_opens_them),
		cmocka_unit_test(other_versions_are_refused),
		cmocka_unit_test(second_decoder_agrees),
	};

	return golden_run(argc, argv, tests, ARRAY_LEN(tests), record);
}
