/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <string.h>

#include "guest/cgroup.h"

Test(cgroup, finds_the_version_two_group)
{
	char path[64];

	cr_assert(cgroup_path_of("/cg", "1:name=systemd:/x\n0::/pod/c1\n", path, sizeof(path)));
	cr_assert_str_eq(path, "/cg/pod/c1");
}

Test(cgroup, has_none_for_the_root_group_or_version_one)
{
	char path[64];

	cr_assert_not(cgroup_path_of("/cg", "0::/\n", path, sizeof(path)));
	cr_assert_not(cgroup_path_of("/cg", "4:memory:/a\n", path, sizeof(path)));
	cr_assert_not(cgroup_path_of("/cg", "", path, sizeof(path)));
}

Test(cgroup, refuses_a_path_that_does_not_fit)
{
	char path[8];

	cr_assert_not(cgroup_path_of("/cg", "0::/a/long/one\n", path, sizeof(path)));
}

Test(cgroup, reads_a_number_by_its_whole_key)
{
	static const char text[] = "usage_usec 12\nuser_usec 7\nuser 9";

	cr_assert_eq(cgroup_text_number(text, "user_usec"), 7);
	cr_assert_eq(cgroup_text_number(text, "user"), 9);
	cr_assert_eq(cgroup_text_number(text, "system_usec"), 0);
}
