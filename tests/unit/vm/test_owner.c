/* SPDX-License-Identifier: Apache-2.0 */
/* owner.json: who drives a machine, and that of two who want to, one gets it. */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "support/fixture.h"
#include "vm/owner.h"

#define UUID "11111111-2222-4333-8444-555555555555"

static struct fixture f;
static struct kata__owner owner;
static struct kata__process_identity self;
static kata_error *err;

static void setup(void)
{
	fixture_init(&f, false, 0);
	cr_assert_eq(chmod(f.dir, 0700), 0);
	fixture_assert_ok(kata__process_identity_of(getpid(), &self, &err), err);
	owner = (struct kata__owner){.process = self, .epoch = 3, .vm_id = "vm", .vm_uuid = UUID};
	fixture_assert_ok(kata__owner_write(f.dir, &owner, &err), err);
}

static void teardown(void)
{
	error_clear(&err);
	fixture_deinit(&f);
}

TestSuite(owner, .init = setup, .fini = teardown, .timeout = 30);

static int take(uint64_t epoch, const char *uuid)
{
	struct kata__owner before, now;

	return kata__owner_take(f.dir, uuid, epoch, &self, &before, &now, &err);
}

Test(owner, what_was_written_is_read)
{
	struct kata__owner read;
	struct stat st;
	char *path = fixture_path(&f, "owner.json");

	fixture_assert_ok(kata__owner_read(f.dir, &read, &err), err);
	cr_assert_eq(read.process.pid, getpid());
	cr_assert_eq(read.process.start_time, self.start_time);
	cr_assert_str_eq(read.process.boot_id, self.boot_id);
	cr_assert_eq(read.epoch, 3u);
	cr_assert_str_eq(read.vm_uuid, UUID);
	cr_assert(kata__owner_is_alive(&read));
	cr_assert_eq(stat(path, &st), 0);
	cr_assert_eq(st.st_mode & 0777, 0600u);
	free(path);
}

Test(owner, a_living_owner_is_not_robbed)
{
	cr_assert_eq(take(3, UUID), KATA_E_FENCED);
	cr_assert(strstr(error_text(err), "lives"));
}

Test(owner, a_released_machine_is_taken)
{
	struct kata__owner before, now;

	owner.process.pid = 0;
	fixture_assert_ok(kata__owner_write(f.dir, &owner, &err), err);
	fixture_assert_ok(kata__owner_take(f.dir, UUID, 3, &self, &before, &now, &err), err);
	cr_assert_eq(before.process.pid, 0);
	cr_assert_eq(now.process.pid, getpid());
	cr_assert_eq(now.epoch, 3u, "it grows when the rebuild is complete");
	cr_assert_eq(take(3, UUID), KATA_E_FENCED, "we own it now");
}

Test(owner, a_dead_owner_is_succeeded)
{
	owner.process.start_time++; /* another process of that pid: the recorded one is gone */
	fixture_assert_ok(kata__owner_write(f.dir, &owner, &err), err);
	cr_assert_eq(take(3, UUID), 0, "%s", error_text(err));
}

Test(owner, an_owner_of_another_boot_is_dead)
{
	snprintf(owner.process.boot_id, sizeof(owner.process.boot_id), "00000000-0000-4000-8000-000000000000");
	cr_assert(!kata__owner_is_alive(&owner));
}

Test(owner, another_machine_is_another_identity)
{
	cr_assert_eq(take(3, "99999999-2222-4333-8444-555555555555"), KATA_E_IDENTITY);
}

Test(owner, an_older_epoch_is_fenced)
{
	owner.process.pid = 0;
	fixture_assert_ok(kata__owner_write(f.dir, &owner, &err), err);
	cr_assert_eq(take(2, UUID), KATA_E_FENCED);
	cr_assert(strstr(error_text(err), "epoch 3"));
}

Test(owner, an_epoch_that_is_yet_to_come_is_corrupt)
{
	owner.process.pid = 0;
	fixture_assert_ok(kata__owner_write(f.dir, &owner, &err), err);
	cr_assert_eq(take(99, UUID), KATA_E_CORRUPT);
	cr_assert(strstr(error_text(err), "record.epoch: is 99, but ") && strstr(error_text(err), "stands at epoch 3"),
		  "%s", error_text(err));
	cr_assert(!strstr(error_text(err), "taken over"), "%s", error_text(err));
}

Test(owner, no_directory_is_gone)
{
	struct kata__owner before, now;

	cr_assert_eq(kata__owner_take("/nonexistent/vm", UUID, 1, &self, &before, &now, &err), KATA_E_GONE);
}

Test(owner, a_symlink_in_its_place_is_not_followed)
{
	struct kata__owner before, now;
	char *link = fixture_path(&f, "link");

	cr_assert_eq(symlink(f.dir, link), 0);
	cr_assert_lt(kata__owner_take(link, UUID, 3, &self, &before, &now, &err), 0);
	free(link);
}

Test(owner, a_directory_others_may_write_is_refused)
{
	cr_assert_eq(chmod(f.dir, 0777), 0);
	cr_assert_eq(take(3, UUID), KATA_E_IDENTITY);
}

Test(owner, what_is_cut_or_changed_is_corrupt)
{
	static const char *const texts[] = {"",
					    "{",
					    "{}",
					    "[]",
					    "{\"format\":\"kata-owner\",\"version\":1}",
					    "{\"format\":\"other\",\"version\":1}"};
	struct kata__owner read;

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		free(fixture_write_file(&f, "owner.json", texts[i], strlen(texts[i])));
		cr_assert_eq(kata__owner_read(f.dir, &read, &err), KATA_E_CORRUPT, "%s", texts[i]);
		error_clear(&err);
	}
}

Test(owner, a_newer_version_is_refused)
{
	static const char text[] = "{\"format\":\"kata-owner\",\"version\":2}";
	struct kata__owner read;

	free(fixture_write_file(&f, "owner.json", text, sizeof(text) - 1));
	cr_assert_eq(kata__owner_read(f.dir, &read, &err), KATA_E_VERSION);
}

/* In a child: waits for the start, tries once, exits with 0 when it got it. The parent's record says nobody. */
static pid_t racer(int start, int won)
{
	pid_t pid = fork(); /* a test: the racers must be processes, since a lock of one process does not hold itself */
	struct kata__owner before, now;
	char byte;

	if (pid != 0)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (read(start, &byte, 1) < 0 || kata__process_identity_of(getpid(), &self, NULL) < 0)
		_exit(2);
	if (kata__owner_take(f.dir, UUID, 3, &self, &before, &now, NULL) < 0)
		_exit(1);
	if (write(won, "w", 1) != 1)
		_exit(3);
	pause(); /* the winner lives on, as an owner does */
	_exit(0);
}

Test(owner, of_eight_processes_that_try_at_once_one_gets_it)
{
	int pipes[2], won[2], losers = 0, status;
	char byte;
	struct kata__owner now;
	pid_t pids[8];

	owner.process.pid = 0;
	fixture_assert_ok(kata__owner_write(f.dir, &owner, &err), err);
	cr_assert_eq(pipe(pipes), 0);
	cr_assert_eq(pipe(won), 0);
	for (int i = 0; i < 8; i++)
		pids[i] = racer(pipes[0], won[1]);
	cr_assert_eq(write(pipes[1], "xxxxxxxx", 8), 8);
	while (losers < 7) {
		cr_assert_gt(wait(&status), 0);
		cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 1);
		losers++;
	}
	cr_assert_eq(read(won[0], &byte, 1), 1);
	fixture_assert_ok(kata__owner_read(f.dir, &now, &err), err);
	cr_assert_eq(waitpid(now.process.pid, &status, WNOHANG), 0, "the owner on record is the one that lives");
	for (int i = 0; i < 8; i++)
		if (pids[i] == now.process.pid)
			kill(pids[i], SIGKILL);
	cr_assert_gt(wait(&status), 0);
	close(pipes[0]);
	close(pipes[1]);
	close(won[0]);
	close(won[1]);
}
