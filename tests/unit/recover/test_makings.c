/* SPDX-License-Identifier: Apache-2.0 */
/* kata_recover on what dead makers of snapshots, templates and factories leave in files: by hand, and by their locks.
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <kata/recover.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/text.h"
#include "support/fixture.h"

#define UUID "11111111-2222-4333-8444-555555555555"
#define OTHER "11111111-2222-4333-8444-666666666666"

static struct fixture f;
static kata_error *err;

static void begin(void)
{
	fixture_init(&f, true, 0);
}

static void end(void)
{
	fixture_deinit(&f);
}

TestSuite(makings, .init = begin, .fini = end);

static char *make_dir(const char *name)
{
	char *path = fixture_path(&f, name);

	cr_assert_eq(kata__mkdirs(path, 0700, NULL), 0);
	return path;
}

static void make_file(const char *name)
{
	free(fixture_write_file(&f, name, "", 0));
}

static bool is_there(const char *name)
{
	char *path = fixture_path(&f, name);
	bool there = access(path, F_OK) == 0;

	free(path);
	return there;
}

static kata_recover_report *recover_in(const char *directory, uint64_t flags)
{
	const char *const directories[] = {directory, NULL};
	kata_recover_options o = KATA_RECOVER_OPTIONS_INIT;
	kata_recover_report *report = NULL;

	o.flags = flags;
	o.directories = directory ? directories : NULL;
	fixture_assert_ok(kata_recover(f.context, NULL, &o, &report, &err), err);
	return report;
}

static void assert_only(kata_recover_report *take_report, const char *kind, kata_recover_verdict verdict, bool undone)
{
	cr_assert_eq(kata_recover_report_get_count(take_report), 1);
	cr_assert_str_eq(kata_recover_report_get_kind(take_report, 0), kind);
	cr_assert_eq(kata_recover_report_get_verdict(take_report, 0), verdict, "%s",
		     kata_recover_report_get_text(take_report, 0));
	cr_assert_eq(kata_recover_report_is_undone(take_report, 0), undone);
	kata_recover_report_free(take_report);
}

static void assert_nothing(kata_recover_report *take_report)
{
	cr_assert_eq(kata_recover_report_get_count(take_report), 0, "%s: %s",
		     kata_recover_report_get_id(take_report, 0), kata_recover_report_get_text(take_report, 0));
	kata_recover_report_free(take_report);
}

Test(makings, a_snapshot_that_nobody_makes_any_more_is_removed_and_nothing_beside_it)
{
	char *place = make_dir("place");

	free(make_dir("place/.kata-save-" UUID));
	make_file("place/.kata-save-" UUID "/state");
	free(make_dir("place/.kata-save-mine"));
	free(make_dir("place/kata-save-" UUID));
	assert_nothing(recover_in(NULL, KATA_RECOVER_APPLY));
	assert_only(recover_in(place, 0), "snapshot", KATA_RECOVER_HALF_MADE, false);
	cr_assert(is_there("place/.kata-save-" UUID "/state"));
	assert_only(recover_in(place, KATA_RECOVER_APPLY), "snapshot", KATA_RECOVER_HALF_MADE, true);
	cr_assert(!is_there("place/.kata-save-" UUID));
	cr_assert(is_there("place/.kata-save-mine") && is_there("place/kata-save-" UUID));
	assert_nothing(recover_in(place, 0));
	free(place);
}

Test(makings, a_snapshot_that_is_being_made_is_left_alone)
{
	char *place = make_dir("place"), *making = make_dir("place/.kata-save-" UUID);
	int fd = open(making, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	cr_assert_eq(flock(fd, LOCK_EX), 0);
	assert_nothing(recover_in(place, KATA_RECOVER_APPLY));
	cr_assert(is_there("place/.kata-save-" UUID));
	close(fd);
	assert_only(recover_in(place, KATA_RECOVER_APPLY), "snapshot", KATA_RECOVER_HALF_MADE, true);
	free(place);
	free(making);
}

Test(makings, what_is_named_so_and_is_not_ours_alone_is_foreign)
{
	char *place = make_dir("place"), *target = make_dir("target"),
	     *link = fixture_path(&f, "place/.kata-save-" OTHER);
	char *making = make_dir("place/.kata-save-" UUID);
	kata_recover_report *report;

	make_file("target/precious");
	cr_assert_eq(symlink(target, link), 0);
	cr_assert_eq(chmod(making, 0777), 0);
	report = recover_in(place, KATA_RECOVER_APPLY);
	cr_assert_eq(kata_recover_report_get_count(report), 2);
	for (size_t i = 0; i < 2; i++)
		cr_assert_eq(kata_recover_report_get_verdict(report, i), KATA_RECOVER_FOREIGN);
	cr_assert_eq(kata_recover_report_get_left(report), 0);
	kata_recover_report_free(report);
	cr_assert(is_there("target/precious") && is_there("place/.kata-save-" UUID));
	free(place);
	free(target);
	free(link);
	free(making);
}

Test(makings, of_a_template_what_was_half_made_goes_and_the_template_stays)
{
	char *place = make_dir("template");
	char *lock;
	int fd;

	free(make_dir("template/base"));
	free(make_dir("template/base-" UUID));
	make_file("template/memory-" UUID);
	make_file("template/mine");
	assert_nothing(recover_in(place, KATA_RECOVER_APPLY)); /* without a lock it is none of ours */
	make_file("template/lock");
	lock = fixture_path(&f, "template/lock");
	fd = open(lock, O_RDWR | O_CLOEXEC);
	cr_assert_eq(flock(fd, LOCK_EX), 0);
	assert_nothing(recover_in(place, KATA_RECOVER_APPLY)); /* somebody makes it */
	close(fd);
	assert_only(recover_in(place, 0), "template", KATA_RECOVER_HALF_MADE, false);
	assert_only(recover_in(place, KATA_RECOVER_APPLY), "template", KATA_RECOVER_HALF_MADE, true);
	cr_assert(!is_there("template/base-" UUID) && !is_there("template/memory-" UUID));
	cr_assert(is_there("template/base") && is_there("template/mine"));
	assert_nothing(recover_in(place, 0));
	free(place);
	free(lock);
}

static int listen_at(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	cr_assert_eq(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

Test(makings, the_socket_of_a_factory_that_is_dead_is_removed_with_its_lock)
{
	char *path = kata__format("%s/factory", f.state_dir), *lock = kata__format("%s.lock", path);
	char *other = kata__format("%s/other.lock", f.state_dir);
	int listening = listen_at(path), fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	cr_assert_eq(flock(fd, LOCK_EX), 0);
	assert_nothing(recover_in(NULL, KATA_RECOVER_APPLY)); /* it serves */
	close(fd);
	close(listening);
	cr_assert_eq(kata__write_file_atomic(other, "mine", 4, NULL), 0); /* has something in it: no lock of ours */
	assert_only(recover_in(NULL, KATA_RECOVER_APPLY), "socket", KATA_RECOVER_GONE, true);
	cr_assert(access(path, F_OK) < 0 && access(lock, F_OK) < 0);
	cr_assert_eq(access(other, F_OK), 0);
	free(path);
	free(lock);
	free(other);
}

Test(makings, a_relative_directory_is_refused)
{
	const char *const directories[] = {"/", "here", NULL};
	kata_recover_options o = KATA_RECOVER_OPTIONS_INIT;
	kata_recover_report *report = NULL;

	o.directories = directories;
	fixture_assert_fails(kata_recover(f.context, NULL, &o, &report, &err), KATA_E_INVALID, err);
	cr_assert(strstr(error_text(err), "options.directories[1]"), "%s", error_text(err));
	error_clear(&err);
}
