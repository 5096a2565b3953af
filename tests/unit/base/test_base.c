/* SPDX-License-Identifier: Apache-2.0 */
/* Buffers, ids, JSON accessors, files. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/fd.h"
#include "base/json.h"
#include "base/text.h"

Test(buffer, grows_to_its_cap_and_no_further)
{
	struct kata__buffer b;
	char data[100] = "x";

	kata__buffer_init(&b, 250);
	cr_expect_eq(kata__buffer_append(&b, data, 100), 0);
	cr_expect_eq(kata__buffer_append(&b, data, 100), 0);
	cr_expect_eq(kata__buffer_append(&b, data, 51), -E2BIG);
	cr_expect_eq(kata__buffer_append(&b, data, 50), 0);
	cr_expect_eq(kata__buffer_len(&b), 250);
	kata__buffer_consume(&b, 100);
	cr_expect_eq(kata__buffer_append(&b, data, 100), 0, "consumed bytes are room again");
	cr_expect_eq(kata__buffer_append(&b, data, SIZE_MAX), -E2BIG);
	kata__buffer_deinit(&b);
}

Test(buffer, keeps_the_bytes_in_order_through_any_mix_of_appends_and_consumes)
{
	struct kata__buffer b;
	unsigned seed = 7, in = 0, out = 0;

	kata__buffer_init(&b, 1000);
	for (int i = 0; i < 100000; i++) {
		seed = seed * 1103515245u + 12345u;
		size_t n = (seed >> 16) % 40;

		if (seed & 0x40000000u) {
			uint8_t chunk[40];

			for (size_t k = 0; k < n; k++)
				chunk[k] = (uint8_t)(in + k);
			if (kata__buffer_append(&b, chunk, n) == 0)
				in += (unsigned)n;
		} else {
			if (n > kata__buffer_len(&b))
				n = kata__buffer_len(&b);
			for (size_t k = 0; k < n; k++)
				cr_assert_eq(kata__buffer_bytes(&b)[k], (uint8_t)(out + k));
			kata__buffer_consume(&b, n);
			out += (unsigned)n;
		}
		cr_assert_eq(kata__buffer_len(&b), in - out);
	}
	kata__buffer_deinit(&b);
}

Test(text, ids_are_letters_digits_and_three_signs)
{
	char max[66];

	memset(max, 'a', 65);
	max[65] = 0;
	cr_expect(!kata__id_is_valid(max));
	max[64] = 0;
	cr_expect(kata__id_is_valid(max));
	cr_expect(kata__id_is_valid("A"));
	cr_expect(kata__id_is_valid("0.a_b-c"));
	static const char *const bad[] = {"",    ".",    "..",        "-a",   "_a",  "a/b",
					  "a b", "a\nb", "a\xc3\xa4", "../x", "a%s", "a,b"};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		cr_expect(!kata__id_is_valid(bad[i]), "%s", bad[i]);
	cr_expect(!kata__id_is_valid(NULL));
}

Test(text, a_bad_id_is_refused_by_the_name_of_its_argument)
{
	kata_error *err = NULL;

	cr_expect_eq(kata__id_check("storage.id", "a/\x1b b", &err), KATA_E_INVALID);
	cr_expect(strstr(kata_error_get_message(err), "storage.id: 'a/? b'"), "%s", kata_error_get_message(err));
	kata_error_free(err);
}

Test(text, uuids_are_valid_and_differ)
{
	char a[37], b[37];

	kata__uuid_generate(a);
	kata__uuid_generate(b);
	cr_expect(kata__uuid_is_valid(a));
	cr_expect_str_neq(a, b);
	cr_expect(!kata__uuid_is_valid("x"));
}

Test(json, accessors_name_the_path_and_what_stands_there)
{
	KATA_AUTO_JSON json_t *o = NULL;
	kata_error *err = NULL;
	const char *s;
	uint64_t n;
	bool b;

	cr_assert_eq(kata__json_parse("record", "{\"a\":1,\"b\":\"x\",\"c\":-1}", 22, 100, &o, &err), 0, "%s",
		     err ? kata_error_get_message(err) : "");
	cr_expect_eq(kata__json_get_string(o, "record", "a", &s, &err), KATA_E_CORRUPT);
	cr_expect_str_eq(kata_error_get_message(err), "record.a: expected a string, found integer");
	kata_error_free(err);
	err = NULL;
	cr_expect_eq(kata__json_get_uint(o, "record", "c", 10, &n, &err), KATA_E_CORRUPT);
	kata_error_free(err);
	err = NULL;
	cr_expect_eq(kata__json_get_bool(o, "record", "nope", &b, &err), KATA_E_CORRUPT);
	cr_expect_str_eq(kata_error_get_message(err), "record.nope: expected true or false, found nothing");
	kata_error_free(err);
	cr_expect_eq(kata__json_get_uint(o, "record", "a", 1, &n, NULL), 0);
	cr_expect_eq(kata__json_get_string(o, "record", "b", &s, NULL), 0);
	cr_expect_str_eq(s, "x");
	cr_expect_eq(kata__json_get_string_opt(o, "record", "nope", &s, NULL), 0);
	cr_expect_null(s);
}

Test(json, refuses_duplicates_rubbish_behind_and_too_much)
{
	static const char *const bad[] = {"{\"a\":1,\"a\":2}", "{} x", "{", "", "[1,]", "{\"a\":1}}"};
	json_t *o;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		cr_expect_eq(kata__json_parse("x", bad[i], strlen(bad[i]), 100, &o, NULL), KATA_E_CORRUPT, "%s",
			     bad[i]);
	cr_expect_eq(kata__json_parse("x", "{}", 2, 1, &o, NULL), KATA_E_CORRUPT);
}

Test(json, says_that_a_nul_may_not_be_in_a_text)
{
	static const char text[] = "{\"id\":\"v\\u0000m\"}";
	kata_error *err = NULL;
	json_t *o;

	cr_expect_eq(kata__json_parse("record", text, sizeof(text) - 1, 100, &o, &err), KATA_E_CORRUPT);
	cr_expect(strstr(kata_error_get_message(err), "record: not JSON: a NUL (\\u0000) may not be in a text (line 1"),
		  "%s", kata_error_get_message(err));
	kata_error_free(err);
}

static char dir[64];

static void make_dir(void)
{
	strcpy(dir, "/tmp/kata-fd-XXXXXX");
	cr_assert(mkdtemp(dir));
}

static void remove_dir(void)
{
	cr_expect_eq(kata__remove_tree(dir, NULL), 0);
}

TestSuite(files, .init = make_dir, .fini = remove_dir);

Test(files, a_written_file_is_whole_private_and_readable_up_to_the_cap)
{
	char *path = kata__format("%s/f", dir), *data;
	struct stat st;
	size_t len;

	cr_assert_eq(kata__write_file_atomic(path, "hello", 5, NULL), 0);
	cr_assert_eq(kata__write_file_atomic(path, "again", 5, NULL), 0);
	cr_assert_eq(stat(path, &st), 0);
	cr_expect_eq(st.st_mode & 0777, 0600);
	cr_assert_eq(kata__read_file(path, 5, &data, &len, NULL), 0);
	cr_expect_str_eq(data, "again");
	free(data);
	cr_expect_eq(kata__read_file(path, 4, &data, &len, NULL), KATA_E_CORRUPT);
	cr_expect_eq(kata__read_file(dir, 4, &data, &len, NULL), KATA_E_CORRUPT);
	free(path);
}

Test(files, a_symlink_is_neither_read_nor_followed_when_a_tree_is_removed)
{
	char *target = kata__format("%s-target", dir), *link = kata__format("%s/sub", dir),
	     *file = kata__format("%s/keep", target), *data;

	cr_assert_eq(mkdir(target, 0700), 0);
	cr_assert_eq(kata__write_file_atomic(file, "x", 1, NULL), 0);
	cr_assert_eq(symlink(target, link), 0);
	cr_expect_neq(kata__read_file(link, 100, &data, NULL, NULL), 0);
	cr_assert_eq(kata__remove_tree(dir, NULL), 0);
	cr_expect_eq(access(file, F_OK), 0, "what the link points to is still there");
	cr_expect_eq(kata__remove_tree(target, NULL), 0);
	free(target);
	free(link);
	free(file);
}

Test(files, a_socket_path_that_does_not_fit_is_refused)
{
	kata_error *err = NULL;
	char name[120];
	int fd = -1;

	memset(name, 'n', sizeof(name));
	name[sizeof(name) - 1] = 0;
	cr_expect_eq(kata__unix_listen(dir, name, &fd, &err), KATA_E_INVALID);
	cr_expect(strstr(kata_error_get_message(err), "at most 107 fit"), "%s", kata_error_get_message(err));
	kata_error_free(err);
	cr_expect_eq(fd, -1);
}

Test(files, a_listening_socket_is_private_and_gone_means_gone)
{
	char *path = kata__format("%s/s", dir);
	struct stat st;
	int fd, c;

	cr_assert_eq(kata__unix_listen(dir, "s", &fd, NULL), 0);
	cr_assert_eq(stat(path, &st), 0);
	cr_expect_eq(st.st_mode & 0777, 0600);
	cr_assert_eq(kata__unix_connect(path, &c, NULL), 0);
	close(c);
	close(fd);
	cr_expect_eq(kata__unix_connect(path, &c, NULL), KATA_E_GONE);
	free(path);
}
