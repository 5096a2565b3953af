/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>

#include "guest/mount_options.h"

static int parse(const char *const *words, size_t count, struct mount_options *o)
{
	return mount_options_parse((char *const *)words, count, o, NULL);
}

Test(mount_options, sorts_flags_from_data)
{
	static const char *const words[] = {"ro", "noexec", "data=ordered", "nodev", "size=1m"};
	struct mount_options o;

	cr_assert_eq(parse(words, 5, &o), 0);
	cr_assert_eq(o.flags, MS_RDONLY | MS_NOEXEC | MS_NODEV);
	cr_assert_str_eq(o.data, "data=ordered,size=1m");
}

Test(mount_options, lets_the_later_word_win)
{
	static const char *const words[] = {"ro", "noatime", "rw", "atime", "noatime"};
	struct mount_options o;

	cr_assert_eq(parse(words, 5, &o), 0);
	cr_assert_eq(o.flags, MS_NOATIME);
}

Test(mount_options, takes_none_and_empty_ones)
{
	static const char *const words[] = {"", "defaults", ""};
	struct mount_options o;

	cr_assert_eq(parse(words, 0, &o), 0);
	cr_assert_eq(parse(words, 3, &o), 0);
	cr_assert_eq(o.flags, 0);
	cr_assert_str_eq(o.data, "");
}

Test(mount_options, refuses_more_data_than_a_page)
{
	char *word = malloc(4097);
	struct mount_options o;

	memset(word, 'x', 4096);
	word[4096] = '\0';
	cr_assert_eq(parse((const char *const *)&word, 1, &o), KATA_E_INVALID);
	word[4000] = '\0';
	cr_assert_eq(parse((const char *const *)&word, 1, &o), 0);
	free(word);
}
