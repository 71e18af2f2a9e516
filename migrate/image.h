// SPDX-License-Identifier: Apache-2.0
/*
 * An image octet by octet: docs/image-format.md. A header in the clear; behind it a row of
 * records, in chunks that are sealed when there is a key:
 *
 *   IMAGE  DISK...  EPOCH_BEGIN  PAGES...  STATE  EPOCH_END  INDEX...  TAIL
 *
 * Offsets are those in the row of records, as if there was neither header nor seal.
 * Private to migrate/.
 */
#ifndef POLLUX_MIGRATE_IMAGE_H
#define POLLUX_MIGRATE_IMAGE_H

#include "migrate/crypt.h"

#define IMAGE_OLDEST      1u /* read: this one and all up to */
#define IMAGE_VERSION     1u
#define IMAGE_HEADER_SIZE 64u
#define IMAGE_ENCRYPTED   1u
#define IMAGE_CHUNK       (256u * 1024)
#define IMAGE_CHUNK_MIN   (64u * 1024)
#define IMAGE_CHUNK_MAX   (1024u * 1024)
#define IMAGE_TEXTS       6u

enum image_record {
	IMAGE_RECORD_IMAGE = 32,
	IMAGE_RECORD_DISK = 33,
	IMAGE_RECORD_INDEX = 34,
	IMAGE_RECORD_TAIL = 35,
};

struct image_header {
	uint16_t flags;
	uint32_t chunk;
	uint8_t salt[CRYPT_SALT_SIZE], check[CRYPT_CHECK_SIZE];
};
void image_header_encode(const struct image_header *h, uint8_t out[IMAGE_HEADER_SIZE]);
int image_header_decode(const uint8_t in[IMAGE_HEADER_SIZE], struct image_header *out,
			struct error *e) MUST_CHECK;

/* ---- records ---------------------------------------------------------------- */

void image_info_encode(const struct image_info *i, struct buf *out);
/* The strings of *out are new. */
int image_info_decode(const uint8_t *data, size_t n, struct image_info *out,
		      struct error *e) MUST_CHECK;
void image_disk_encode(unsigned number, const struct image_disk *d, struct buf *out);
/* Disk number i->disk_count. */
int image_disk_decode(const uint8_t *data, size_t n, struct image_info *i,
		      struct error *e) MUST_CHECK;

/* Pages in a row whose last version is in one PAGES record. */
#define INDEX_RUN_SIZE    24u
#define INDEX_HEADER_SIZE 8u
#define INDEX_RUNS_MAX    65536u /* of one record */
struct index_run {
	uint64_t first, count;
	uint64_t offset; /* of the record */
};

#define TAIL_SIZE        72u
#define TAIL_RECORD_SIZE (RECORD_HEADER_SIZE + TAIL_SIZE)
struct image_tail {
	uint64_t head;  /* octets of IMAGE and DISK records; there EPOCH_BEGIN is */
	uint64_t state; /* offset of the STATE record */
	uint64_t index; /* of the first INDEX record */
	uint64_t tail;  /* of this record */
	uint64_t runs, pages;
	uint64_t head_hash; /* XXH3-64 of the first `head` octets */
	uint64_t rest_hash; /* ... of those from `state` to `tail` */
};
void image_tail_encode(const struct image_tail *t, struct buf *out);
int image_tail_decode(const uint8_t *data, size_t n, uint64_t at, struct image_tail *out,
		      struct error *e) MUST_CHECK;

/* ---- the row of records as one string of octets: image_file.c --------------------- */

struct image_out;
int image_out_create(int fd, const struct image_key *key, struct image_out **out,
		     struct error *e) MUST_CHECK;
void image_out_destroy(struct image_out *o);
int image_out_write(struct image_out *o, const void *data, size_t n) MUST_CHECK;
uint64_t image_out_offset(const struct image_out *o);
uint64_t image_out_bytes(const struct image_out *o);  /* of the file */
int image_out_finish(struct image_out *o) MUST_CHECK; /* and sync */

struct image_in;
int image_in_open(int fd, const struct image_key *key, struct image_in **out,
		  struct error *e) MUST_CHECK;
void image_in_close(struct image_in *i);
uint64_t image_in_size(const struct image_in *i);
bool image_in_encrypted(const struct image_in *i);
int image_in_read(struct image_in *i, uint64_t offset, void *out, size_t n,
		  struct error *e) MUST_CHECK;

#endif
