/* SPDX-License-Identifier: Apache-2.0 */
/* The qcow2 header: bytes written by hand, each field out of its range, each byte changed, each length cut. */
#include <criterion/criterion.h>
#include <string.h>

#include "storage/qcow2.h"
#include "support/fixture.h"

#define CLUSTER 65536u
#define FILE_SIZE (4u * CLUSTER)

static uint8_t image[CLUSTER];
static struct kata__qcow2 q;
static kata_error *err;

static void put32(size_t at, uint32_t v)
{
	for (int i = 0; i < 4; i++)
		image[at + (size_t)i] = (uint8_t)(v >> (24 - 8 * i));
}

static void put64(size_t at, uint64_t v)
{
	put32(at, (uint32_t)(v >> 32));
	put32(at + 4, (uint32_t)v);
}

/* A sound image of version 3, 1 GiB, without a backing file. */
static void setup(void)
{
	memset(image, 0, sizeof(image));
	memcpy(image, "QFI\xfb", 4);
	put32(4, 3);
	put32(20, 16);
	put64(24, UINT64_C(1) << 30);
	put32(36, 2);
	put64(40, 3 * CLUSTER);
	put64(48, CLUSTER);
	put32(56, 1);
	put32(96, 4);
	put32(100, 112);
}

static void teardown(void)
{
	error_clear(&err);
}

TestSuite(qcow2, .init = setup, .fini = teardown, .timeout = 30);

static int parse(size_t length)
{
	return kata__qcow2_parse(image, length, FILE_SIZE, "image", &q, &err);
}

static void refused(int status, const char *part)
{
	fixture_assert_fails(parse(sizeof(image)), status, err);
	cr_assert(strstr(error_text(err), part), "%s", error_text(err));
}

static void set_backing(const char *name, size_t offset)
{
	put64(8, offset);
	put32(16, (uint32_t)strlen(name));
	memcpy(image + offset, name, strlen(name));
}

Test(qcow2, a_sound_image_is_read)
{
	fixture_assert_ok(parse(sizeof(image)), err);
	cr_assert_eq(q.version, 3u);
	cr_assert_eq(q.size_bytes, UINT64_C(1) << 30);
	cr_assert_str_eq(q.backing, "");
	cr_assert_str_eq(q.backing_format, "");
}

Test(qcow2, version_2_is_read)
{
	put32(4, 2);
	put32(96, 0xffffffff); /* no such field in version 2 */
	put32(72, 0);
	put32(76, 0);
	fixture_assert_ok(parse(sizeof(image)), err);
	cr_assert_eq(q.version, 2u);
}

Test(qcow2, the_backing_file_and_its_format_are_read)
{
	put32(112, 0xe2792aca);
	put32(116, 3);
	memcpy(image + 120, "raw", 3);
	set_backing("base.raw", 256);
	fixture_assert_ok(parse(sizeof(image)), err);
	cr_assert_str_eq(q.backing, "base.raw");
	cr_assert_str_eq(q.backing_format, "raw");
}

Test(qcow2, a_name_of_1023_bytes_is_read_and_of_1024_is_not)
{
	put64(8, 512);
	put32(16, 1023);
	memset(image + 512, 'a', 1024);
	fixture_assert_ok(parse(sizeof(image)), err);
	cr_assert_eq(strlen(q.backing), 1023u);
	put32(16, 1024);
	refused(KATA_E_CORRUPT, "backing file name");
}

#define REFUSED(name, change, status, part)                                                                            \
	Test(qcow2, name)                                                                                              \
	{                                                                                                              \
		change;                                                                                                \
		refused(status, part);                                                                                 \
	}

REFUSED(without_the_magic_it_is_none, image[3] = 0, KATA_E_INVALID, "is no qcow2 image")
REFUSED(version_1_is_unsupported, put32(4, 1), KATA_E_UNSUPPORTED, "version 1")
REFUSED(version_4_is_unsupported, put32(4, 4), KATA_E_UNSUPPORTED, "version 4")
REFUSED(clusters_too_small_are_corrupt, put32(20, 8), KATA_E_CORRUPT, "cluster_bits is 8")
REFUSED(clusters_too_large_are_corrupt, put32(20, 22), KATA_E_CORRUPT, "cluster_bits is 22")
REFUSED(absurd_cluster_bits_are_corrupt, put32(20, 0xffffffff), KATA_E_CORRUPT, "cluster_bits")
REFUSED(a_virtual_size_of_zero_is_corrupt, put64(24, 0), KATA_E_CORRUPT, "virtual size is 0")
REFUSED(an_absurd_virtual_size_is_corrupt, put64(24, UINT64_MAX), KATA_E_CORRUPT, "virtual size")
REFUSED(encryption_is_unsupported, put32(32, 1), KATA_E_UNSUPPORTED, "encrypted (method 1)")
REFUSED(luks_is_unsupported, put32(32, 2), KATA_E_UNSUPPORTED, "encrypted (method 2)")
REFUSED(too_few_l1_entries_are_corrupt, put32(36, 1), KATA_E_CORRUPT, "L1 entries")
REFUSED(too_many_l1_entries_are_corrupt, put32(36, 0xffffffff), KATA_E_CORRUPT, "L1 entries")
REFUSED(an_l1_table_off_its_cluster_is_corrupt, put64(40, 3 * CLUSTER + 1), KATA_E_CORRUPT, "L1 table")
REFUSED(an_l1_table_in_the_header_is_corrupt, put64(40, 0), KATA_E_CORRUPT, "L1 table")
REFUSED(an_l1_table_past_the_end_is_corrupt, put64(40, 4 * CLUSTER), KATA_E_CORRUPT, "the image is cut")
REFUSED(a_refcount_table_past_the_end_is_corrupt, put64(48, UINT64_MAX & ~(uint64_t)(CLUSTER - 1)), KATA_E_CORRUPT,
	"refcount table")
REFUSED(a_refcount_table_on_the_l1_table_is_corrupt, put64(48, 3 * CLUSTER), KATA_E_CORRUPT, "refcount table")
REFUSED(too_many_snapshots_are_corrupt, put32(60, 70000), KATA_E_CORRUPT, "70000 snapshots")
REFUSED(an_external_data_file_is_refused, put64(72, 4), KATA_E_INVALID, "external data file")
REFUSED(a_corrupt_mark_is_corrupt, put64(72, 2), KATA_E_CORRUPT, "marked corrupt")
REFUSED(unknown_features_are_unsupported, put64(72, UINT64_C(1) << 63), KATA_E_UNSUPPORTED, "0x8000000000000000")
REFUSED(an_absurd_refcount_order_is_corrupt, put32(96, 7), KATA_E_CORRUPT, "refcount_order is 7")
REFUSED(a_header_too_short_is_corrupt, put32(100, 96), KATA_E_CORRUPT, "says it has 96 bytes")
REFUSED(a_header_of_an_odd_length_is_corrupt, put32(100, 105), KATA_E_CORRUPT, "105")
REFUSED(a_header_longer_than_its_cluster_is_corrupt, put32(100, CLUSTER + 8), KATA_E_CORRUPT, "header says")
REFUSED(a_name_in_the_header_is_corrupt, (put64(8, 96), put32(16, 1)), KATA_E_CORRUPT, "lies outside")
REFUSED(a_name_past_the_first_cluster_is_corrupt, (put64(8, CLUSTER), put32(16, 4)), KATA_E_CORRUPT, "lies outside")
REFUSED(a_name_at_an_absurd_offset_is_corrupt, (put64(8, UINT64_MAX - 2), put32(16, 4)), KATA_E_CORRUPT, "lies outside")
REFUSED(a_name_that_runs_out_of_the_cluster_is_corrupt, (put64(8, CLUSTER - 2), put32(16, 4)), KATA_E_CORRUPT,
	"lies outside")
REFUSED(a_name_of_no_bytes_is_corrupt, put64(8, 512), KATA_E_CORRUPT, "lies outside")
REFUSED(a_name_without_an_offset_is_corrupt, put32(16, 4), KATA_E_CORRUPT, "no offset")
REFUSED(a_name_with_a_nul_is_corrupt, (set_backing("ab", 512), put32(16, 5)), KATA_E_CORRUPT, "NUL")
REFUSED(an_extension_that_runs_out_is_corrupt, (put32(112, 1), put32(116, 0xffffffff)), KATA_E_CORRUPT,
	"header extension")
REFUSED(a_data_file_in_an_extension_is_refused, (put32(112, 0x44415441), put32(116, 8)), KATA_E_INVALID,
	"external data file")
REFUSED(a_backing_format_too_long_is_corrupt, (put32(112, 0xe2792aca), put32(116, 100)), KATA_E_CORRUPT,
	"backing format")

Test(qcow2, dirty_compressed_and_extended_images_are_read)
{
	put64(72, 1 | 8 | 16);
	fixture_assert_ok(parse(sizeof(image)), err);
}

Test(qcow2, cut_at_any_length_it_is_refused_or_read_within_bounds)
{
	put32(112, 0xe2792aca);
	put32(116, 3);
	memcpy(image + 120, "raw", 3);
	set_backing("base.raw", 256);
	for (size_t i = 0; i < 300; i++) {
		uint8_t *exact = malloc(i ? i : 1); /* so that a sanitizer sees a read past the end */
		int rc;

		memcpy(exact, image, i);
		rc = kata__qcow2_parse(exact, i, FILE_SIZE, "image", &q, &err);
		cr_assert_eq(rc,
			     i < 4     ? KATA_E_INVALID
			     : i < 264 ? KATA_E_CORRUPT
				       : 0,
			     "length %zu: %s", i, error_text(err));
		error_clear(&err);
		free(exact);
	}
}

Test(qcow2, any_changed_byte_of_the_header_is_survived)
{
	for (size_t i = 0; i < 264; i++) {
		uint8_t before = image[i];

		for (int v = 0; v < 256; v++) {
			image[i] = (uint8_t)v;
			if (parse(300) == 0)
				cr_assert_leq(strlen(q.backing), 1023u);
			else
				cr_assert_not_null(err);
			error_clear(&err);
		}
		image[i] = before;
	}
}
