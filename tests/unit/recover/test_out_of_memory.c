/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every allocation of a recovery fails in turn, once alone and once with all that follow: nothing leaks, and above all
 * nothing that lives is taken for dead. Sanitizers bring their own malloc, so there the test is skipped.
 */
#include "support/counting_malloc.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <kata/recover.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/process.h"
#include "support/fixture.h"
#include "vm/owner.h"

extern char **environ;

static struct fixture f;
static kata_persistence *p;

static void put(const char *dir, const char *name, const char *text)
{
	char path[160];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	cr_assert_eq(kata__write_file_atomic(path, text, strlen(text), NULL), 0);
}

static void put_owner(const char *dir, bool is_ours)
{
	struct kata__owner owner = {.epoch = 3, .vm_id = "vm", .vm_uuid = "11111111-2222-4333-8444-555555555555"};

	if (is_ours)
		cr_assert_eq(kata__process_identity_of(getpid(), &owner.process, NULL), 0);
	cr_assert_eq(kata__owner_write(dir, &owner, NULL), 0);
}

static void make_dir(char path[128], const char *id)
{
	snprintf(path, 128, "%s/vm/%s", f.state_dir, id);
	cr_assert_eq(kata__mkdirs(path, 0700, NULL), 0);
}

static pid_t start_vmm(const char *dir)
{
	char *argv[] = {(char *)"/bin/sleep", (char *)"600", NULL};
	struct kata__process_identity id;
	posix_spawn_file_actions_t actions;
	char path[160], text[128];
	pid_t pid = -1;

	snprintf(path, sizeof(path), "%s/vmm.log", dir);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 2, path, O_WRONLY | O_CREAT | O_APPEND, 0600);
	cr_assert_eq(posix_spawn(&pid, argv[0], &actions, NULL, argv, environ), 0);
	posix_spawn_file_actions_destroy(&actions);
	cr_assert_eq(kata__process_identity_of(pid, &id, NULL), 0);
	snprintf(text, sizeof(text), "%d %llu %s\n", (int)pid, (unsigned long long)id.start_time, id.boot_id);
	put(dir, "vmm.pid", text);
	return pid;
}

static int recover(kata_error **err)
{
	kata_recover_options o = KATA_RECOVER_OPTIONS_INIT;
	kata_recover_report *report = NULL;
	int rc;

	o.flags = KATA_RECOVER_APPLY;
	rc = kata_recover(f.context, p, &o, &report, err);
	kata_recover_report_free(report);
	return rc;
}

Test(out_of_memory, what_lives_is_never_taken_for_dead, .timeout = 120)
{
	char mine[128], released[128];
	kata_error *err = NULL;
	pid_t vmm;

	if (!CAN_FAIL)
		cr_skip_test("the sanitizer has its own malloc");
	fixture_init(&f, true, 0);
	fixture_assert_ok(kata_persistence_new_memory(f.context, &p, &err), err);
	fixture_assert_ok(kata_persistence_create_sandbox(p, "mine", &err), err);
	make_dir(mine, "mine");
	put_owner(mine, true);
	make_dir(released, "released");
	put_owner(released, false);
	vmm = start_vmm(released);
	put(released, "released.json", "{\"epoch\":3}");
	fixture_assert_ok(recover(&err), err);
	for (int mode = 0; mode < 2; mode++)
		for (long n = 0;; n++) {
			long before = live;
			char **ids = NULL;
			int rc;

			sticky = mode;
			hit = false;
			countdown = n;
			rc = recover(&err);
			countdown = -1;
			if (!hit)
				break;
			cr_assert(rc == 0 || rc == KATA_E_NO_MEMORY, "allocation %ld: %s", n, error_text(err));
			error_clear(&err);
			cr_assert_eq(waitpid(vmm, NULL, WNOHANG), 0, "allocation %ld: a released machine was ended", n);
			cr_assert_eq(access(mine, F_OK), 0, "allocation %ld", n);
			cr_assert_eq(access(released, F_OK), 0, "allocation %ld", n);
			fixture_assert_ok(kata_persistence_list_sandboxes(p, &ids, &err), err);
			cr_assert(ids[0], "allocation %ld: a record of a living process was deleted", n);
			kata_string_list_free(ids);
			cr_assert_leq(live, before + 2, "allocation %ld leaks %ld", n, live - before);
			cr_assert_lt(n, 20000);
		}
	kill(vmm, SIGKILL);
	waitpid(vmm, NULL, 0);
	kata_persistence_free(p);
	fixture_deinit(&f);
}
