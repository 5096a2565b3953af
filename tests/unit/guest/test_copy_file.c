/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "guest/copy_file.h"

static char dir[] = "/tmp/kata-copy-XXXXXX";
static char root[64];

static void set_up(void)
{
	cr_assert_not_null(mkdtemp(dir));
	snprintf(root, sizeof(root), "%s/shared", dir);
}

static void tear_down(void)
{
	kata__remove_tree(dir, NULL);
}

TestSuite(copy_file, .init = set_up, .fini = tear_down);

static int copy(const char *name, uint32_t mode, const char *data, int64_t offset, int64_t size)
{
	Grpc__CopyFileRequest q = GRPC__COPY_FILE_REQUEST__INIT;
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", root, name);
	q.path = path;
	q.file_mode = mode;
	q.file_size = size;
	q.offset = offset;
	q.data.data = (uint8_t *)data;
	q.data.len = strlen(data);
	q.uid = (int32_t)getuid();
	q.gid = (int32_t)getgid();
	return copy_file(root, &q, NULL);
}

static const char *content(const char *name)
{
	static char text[256];
	char path[256];
	FILE *f;
	size_t n;

	snprintf(path, sizeof(path), "%s/%s", root, name);
	f = fopen(path, "r");
	if (!f)
		return "none";
	n = fread(text, 1, sizeof(text) - 1, f);
	text[n] = '\0';
	fclose(f);
	return text;
}

Test(copy_file, puts_a_file_together_from_pieces)
{
	cr_assert_eq(copy("a/b/f.conf", S_IFREG | 0640, "hello ", 0, 11), 0);
	cr_assert_str_eq(content("a/b/f.conf"), "none", "not before it is whole");
	cr_assert_eq(copy("a/b/f.conf", S_IFREG | 0640, "world", 6, 11), 0);
	cr_assert_str_eq(content("a/b/f.conf"), "hello world");
	cr_assert_str_eq(content("a/b/f.tmp"), "none");
}

Test(copy_file, begins_anew_with_the_first_piece)
{
	cr_assert_eq(copy("f", 0644, "a long piece", 0, 20), 0);
	cr_assert_eq(copy("f", 0644, "short", 0, 5), 0);
	cr_assert_str_eq(content("f"), "short");
}

Test(copy_file, makes_an_empty_file_a_directory_and_a_link)
{
	cr_assert_eq(copy("empty", 0600, "", 0, 0), 0);
	cr_assert_str_eq(content("empty"), "");
	cr_assert_eq(copy("d/e", S_IFDIR | 0755, "", 0, 0), 0);
	cr_assert_eq(copy("d/e/f", 0600, "x", 0, 1), 0);
	cr_assert_eq(copy("link", S_IFLNK | 0777, "d/e/f", 0, 0), 0);
	cr_assert_str_eq(content("link"), "x");
}

Test(copy_file, does_not_leave_its_root)
{
	cr_assert_eq(copy("x", 0600, "x", 0, 1), 0);
	cr_assert_neq(copy("../y", 0600, "y", 0, 1), 0);
	cr_assert_neq(copy("a/../../y", 0600, "y", 0, 1), 0);
	cr_assert_neq(copy("..", S_IFDIR | 0700, "", 0, 0), 0);
	cr_assert_neq(copy("", S_IFDIR | 0700, "", 0, 0), 0);
	cr_assert_eq(copy("out", S_IFLNK | 0777, "..", 0, 0), 0);
	cr_assert_neq(copy("out/y", 0600, "y", 0, 1), 0, "not through a link");
	cr_assert_str_eq(content("../y"), "none");
}

Test(copy_file, refuses_a_piece_past_the_size_and_other_roots)
{
	Grpc__CopyFileRequest q = GRPC__COPY_FILE_REQUEST__INIT;

	cr_assert_eq(copy("f", 0600, "abc", 0, 2), KATA_E_INVALID);
	cr_assert_eq(copy("f", 0600, "abc", -1, 2), KATA_E_INVALID);
	cr_assert_eq(copy("f", 0600, "abc", INT64_MAX, INT64_MAX), KATA_E_INVALID);
	q.path = (char *)"/etc/passwd";
	cr_assert_eq(copy_file(root, &q, NULL), KATA_E_INVALID);
}
