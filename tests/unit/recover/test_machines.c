/* SPDX-License-Identifier: Apache-2.0 */
/* kata_recover on directories made by hand: who is killed, who is spared, what is said. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <kata/driver/persistence.h>
#include <kata/recover.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/text.h"
#include "support/fixture.h"
#include "vm/recover.h"

extern char **environ;

#define UUID "11111111-2222-4333-8444-555555555555"

/* `log` is its stderr; NULL: it has none. */
static pid_t start_process(const char *log)
{
	char *argv[] = {(char *)"/bin/sleep", (char *)"600", NULL};
	posix_spawn_file_actions_t actions;
	pid_t pid = -1;

	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 2, log ? log : "/dev/null", O_WRONLY | O_CREAT | O_APPEND, 0600);
	cr_assert_eq(posix_spawn(&pid, argv[0], &actions, NULL, argv, environ), 0);
	posix_spawn_file_actions_destroy(&actions);
	return pid;
}

static bool is_running(pid_t pid)
{
	struct kata__process_identity id;

	return kata__process_identity_of(pid, &id, NULL) == 0 && kata__process_is_alive(&id);
}

static void end_process(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

struct directory {
	struct fixture f;
	char path[128];
};

static void make(struct directory *d, const char *id)
{
	snprintf(d->path, sizeof(d->path), "%s/vm/%s", d->f.state_dir, id);
	cr_assert_eq(kata__mkdirs(d->path, 0700, NULL), 0);
}

/* As the VMM of the directory "vm" would be: made if need be. */
static pid_t start_vmm_in(struct directory *d, const char *id)
{
	char log[160];

	make(d, id);
	snprintf(log, sizeof(log), "%s/vmm.log", d->path);
	return start_process(log);
}

static pid_t start_vmm(struct directory *d)
{
	return start_vmm_in(d, "vm");
}

static void put(struct directory *d, const char *name, const char *text)
{
	char *path = kata__format("%s/%s", d->path, name);

	cr_assert_eq(kata__write_file_atomic(path, text, strlen(text), NULL), 0);
	free(path);
}

static void put_identity(struct directory *d, const struct kata__process_identity *id)
{
	char text[128];

	snprintf(text, sizeof(text), "%d %llu %s\n", (int)id->pid, (unsigned long long)id->start_time, id->boot_id);
	put(d, "vmm.pid", text);
}

static void put_pid(struct directory *d, pid_t pid)
{
	struct kata__process_identity id;

	cr_assert_eq(kata__process_identity_of(pid, &id, NULL), 0);
	put_identity(d, &id);
}

/* pid 0: nobody; -1: a dead process of this boot. */
static void put_owner(struct directory *d, pid_t pid, uint64_t epoch)
{
	struct kata__owner owner = {.epoch = epoch, .vm_uuid = UUID};

	snprintf(owner.vm_id, sizeof(owner.vm_id), "vm");
	cr_assert_eq(kata__process_identity_of(getpid(), &owner.process, NULL), 0);
	if (pid == 0)
		memset(&owner.process, 0, sizeof(owner.process));
	else if (pid < 0)
		owner.process.start_time--; /* this pid, but another process */
	cr_assert_eq(kata__owner_write(d->path, &owner, NULL), 0);
}

static kata_recover_report *recover(struct directory *d, uint64_t flags)
{
	kata_recover_report *report = NULL;
	kata_error *err = NULL;

	fixture_assert_ok(fixture_recover(d->f.context, NULL, flags, &report, &err), err);
	return report;
}

static void assert_only(kata_recover_report *take_report, kata_recover_verdict verdict, const char *says)
{
	cr_assert_eq(kata_recover_report_get_count(take_report), 1);
	cr_assert_str_eq(kata_recover_report_get_id(take_report, 0), "vm");
	cr_assert_eq(kata_recover_report_get_verdict(take_report, 0), verdict, "%s: %s",
		     kata_recover_verdict_get_name(kata_recover_report_get_verdict(take_report, 0)),
		     kata_recover_report_get_text(take_report, 0));
	cr_assert(strstr(kata_recover_report_get_text(take_report, 0), says), "%s",
		  kata_recover_report_get_text(take_report, 0));
	kata_recover_report_free(take_report);
}

static void assert_only_nothing(struct directory *d)
{
	kata_recover_report *report = recover(d, 0);

	cr_assert_eq(kata_recover_report_get_count(report), 0);
	kata_recover_report_free(report);
}

static void assert_dir(struct directory *d, bool there)
{
	cr_assert_eq(access(d->path, F_OK) == 0, there);
}

#define CASE(name)                                                                                                     \
	static void name##_case(struct directory *d);                                                                  \
	Test(recover, name)                                                                                            \
	{                                                                                                              \
		struct directory d;                                                                                    \
		memset(&d, 0, sizeof(d));                                                                              \
		fixture_init(&d.f, true, 0);                                                                           \
		name##_case(&d);                                                                                       \
		fixture_deinit(&d.f);                                                                                  \
	}                                                                                                              \
	static void name##_case(struct directory *d)

CASE(an_empty_state_directory_gives_an_empty_report)
{
	kata_recover_report *report = recover(d, KATA_RECOVER_APPLY);

	cr_assert_eq(kata_recover_report_get_count(report), 0);
	cr_assert_null(kata_recover_report_get_id(report, 0));
	cr_assert_null(kata_recover_report_get_text(report, 0));
	kata_recover_report_free(report);
	kata_recover_report_free(NULL);
}

CASE(a_start_that_came_no_further_than_the_directory_of_all_leaves_nothing)
{
	char *parent = kata__format("%s/vm", d->f.state_dir);
	kata_recover_report *report;

	cr_assert_eq(mkdir(parent, 0700), 0);
	kata_recover_report_free(recover(d, 0));
	cr_assert_eq(access(parent, F_OK), 0);
	report = recover(d, KATA_RECOVER_APPLY);
	cr_assert_eq(kata_recover_report_get_count(report), 0);
	kata_recover_report_free(report);
	cr_assert_lt(access(parent, F_OK), 0);
	free(parent);
}

CASE(a_directory_whose_owner_lives_is_left_alone)
{
	make(d, "vm");
	put_owner(d, getpid(), 1);
	assert_only(recover(d, KATA_RECOVER_APPLY), KATA_RECOVER_OWNED, "owns it");
	assert_dir(d, true);
}

CASE(an_orphan_is_reported_first_and_removed_on_request)
{
	pid_t vmm = start_vmm(d);

	make(d, "vm");
	put_owner(d, -1, 1);
	put_pid(d, vmm);
	put(d, "journal", "{\"op\":\"start\",\"subject\":\"vm\",\"step\":\"spawn\",\"event\":\"begin\"}\n");
	assert_only(recover(d, 0), KATA_RECOVER_ORPHAN, "start/spawn");
	cr_assert(is_running(vmm));
	assert_dir(d, true);
	assert_only(recover(d, KATA_RECOVER_APPLY), KATA_RECOVER_ORPHAN, "lives");
	cr_assert(!is_running(vmm));
	assert_dir(d, false);
	end_process(vmm);
}

/* ---- a record that was stored while the directories were looked at, by an owner who has died since */

struct late_store {
	unsigned lists;
	bool no_list, no_info; /* cannot be read */
};

static int late_list(void *self, char ***ret_ids, kata_error **err)
{
	struct late_store *late = self;

	if (late->no_list)
		return KATA_E_IO;
	*ret_ids = calloc(2, sizeof(char *));
	if (late->lists++ || late->no_info)
		(*ret_ids)[0] = strdup("vm");
	return 0;
}

static int late_info(void *self, const char *id, kata_sandbox_info *ret_info, kata_error **err)
{
	if (((struct late_store *)self)->no_info)
		return KATA_E_CORRUPT;
	snprintf(ret_info->id, sizeof(ret_info->id), "%s", id);
	snprintf(ret_info->state, sizeof(ret_info->state), "running");
	snprintf(ret_info->vm_uuid, sizeof(ret_info->vm_uuid), UUID);
	return 0;
}

static int late_load(void *self, const char *id, char **ret_json, uint64_t *ret_epoch, kata_error **err)
{
	return KATA_E_NOT_FOUND; /* what is in it does not matter here */
}

static int late_create(void *self, const char *id, kata_error **err)
{
	return KATA_E_UNSUPPORTED;
}

static int late_store_it(void *self, const kata_record *record, kata_error **err)
{
	return KATA_E_UNSUPPORTED;
}

static int late_set_epoch(void *self, const char *id, uint64_t from, uint64_t to, kata_error **err)
{
	return KATA_E_UNSUPPORTED;
}

static int late_containers(void *self, const char *sandbox_id, char ***ret_ids, kata_error **err)
{
	return KATA_E_UNSUPPORTED;
}

static int late_find(void *self, const char *container_id, char **ret_id, kata_error **err)
{
	return KATA_E_UNSUPPORTED;
}

static void late_free(void *self)
{
}

static const kata_persistence_ops late_ops = {.size = sizeof(late_ops),
					      .name = "late",
					      .create_sandbox = late_create,
					      .store = late_store_it,
					      .load = late_load,
					      .set_epoch = late_set_epoch,
					      .remove = late_create,
					      .list_sandboxes = late_list,
					      .list_containers = late_containers,
					      .sandbox_of_container = late_find,
					      .free = late_free,
					      .get_info = late_info};

CASE(records_that_cannot_be_read_protect_every_machine)
{
	static const struct late_store broken[] = {{.no_list = true}, {.no_info = true}};
	pid_t vmm = start_vmm(d);

	put_owner(d, -1, 1);
	put_pid(d, vmm);
	for (int i = 0; i < 2; i++) {
		struct late_store late = broken[i];
		kata_recover_report *report = NULL;
		kata_persistence *p = NULL;
		kata_error *err = NULL;

		fixture_assert_ok(kata_persistence_new(d->f.context, &late_ops, &late, &p, &err), err);
		fixture_assert_ok(fixture_recover(d->f.context, p, KATA_RECOVER_APPLY, &report, &err), err);
		cr_assert_eq(kata_recover_report_get_verdict(report, 0), KATA_RECOVER_FAILED);
		cr_assert(strstr(kata_recover_report_get_text(report, 0), "records that cannot be read may name it"));
		cr_assert(is_running(vmm));
		assert_dir(d, true);
		kata_recover_report_free(report);
		kata_persistence_free(p);
	}
	end_process(vmm);
}

CASE(a_record_that_was_stored_after_the_records_were_read_protects_its_machine)
{
	pid_t vmm = start_vmm(d);
	struct late_store late = {0};
	kata_recover_report *report = NULL;
	kata_persistence *p = NULL;
	kata_error *err = NULL;

	put_owner(d, -1, 1);
	put_pid(d, vmm);
	fixture_assert_ok(kata_persistence_new(d->f.context, &late_ops, &late, &p, &err), err);
	fixture_assert_ok(fixture_recover(d->f.context, p, KATA_RECOVER_APPLY, &report, &err), err);
	cr_assert_eq(late.lists, 2);
	cr_assert(is_running(vmm), "%s", kata_recover_report_get_text(report, 0));
	assert_dir(d, true);
	cr_assert(!kata_recover_report_is_undone(report, 0));
	kata_recover_report_free(report);
	kata_persistence_free(p);
	end_process(vmm);
}

static void spares(struct directory *d, pid_t stranger, const struct kata__process_identity *recorded, const char *says)
{
	make(d, "vm");
	put_owner(d, -1, 1);
	put(d, "vmm.log", "");
	put_identity(d, recorded);
	assert_only(recover(d, KATA_RECOVER_APPLY), KATA_RECOVER_GONE, says);
	cr_assert_eq(kill(stranger, 0), 0);
	cr_assert(stranger == 1 || is_running(stranger));
	assert_dir(d, false);
}

CASE(a_stranger_with_the_recorded_pid_is_never_killed)
{
	pid_t stranger = start_process(NULL);
	struct kata__process_identity id, of_another_boot, later;

	cr_assert_eq(kata__process_identity_of(stranger, &id, NULL), 0);
	of_another_boot = later = id;
	of_another_boot.boot_id[0] = id.boot_id[0] == 'a' ? 'b' : 'a';
	later.start_time--;
	spares(d, stranger, &later, "VMM is gone");
	spares(d, stranger, &of_another_boot, "rebooted");
	spares(d, stranger, &id, "VMM is gone"); /* born in the very same tick */
	end_process(stranger);
}

/* Written there by hand. */
CASE(pids_of_others_in_a_record_are_never_signalled)
{
	const pid_t pids[] = {1, getpid(), getppid()};
	struct kata__process_identity id;

	for (size_t i = 0; i < sizeof(pids) / sizeof(pids[0]); i++) {
		cr_assert_eq(kata__process_identity_of(pids[i], &id, NULL), 0);
		spares(d, pids[i], &id, "VMM is gone");
	}
}

CASE(a_vmm_whose_pid_file_was_changed_by_hand_is_left_alone_with_its_directory)
{
	pid_t vmm = start_vmm(d), stranger = start_process(NULL);
	kata_recover_report *report;

	put_owner(d, -1, 1);
	put_pid(d, stranger);
	report = recover(d, KATA_RECOVER_APPLY);
	cr_assert_eq(kata_recover_report_get_verdict(report, 0), KATA_RECOVER_FOREIGN);
	cr_assert(strstr(kata_recover_report_get_text(report, 0), "by hand"));
	cr_assert_str_eq(kata_recover_report_get_kind(report, 1), "process");
	cr_assert_eq(kata_recover_report_get_verdict(report, 1), KATA_RECOVER_FOREIGN);
	kata_recover_report_free(report);
	cr_assert(is_running(vmm) && is_running(stranger));
	assert_dir(d, true);
	end_process(vmm);
	end_process(stranger);
}

CASE(the_vmm_of_another_machine_is_never_ended_for_one)
{
	pid_t vmm = start_vmm_in(d, "other");
	kata_recover_report *report;

	put_owner(d, 0, 3);
	put_pid(d, vmm);
	put(d, "released.json", "{\"epoch\":3}");
	make(d, "edited");
	put_owner(d, -1, 1);
	put(d, "vmm.log", "");
	put_pid(d, vmm);
	report = recover(d, KATA_RECOVER_APPLY);
	cr_assert_eq(kata_recover_report_get_count(report), 2);
	cr_assert_str_eq(kata_recover_report_get_id(report, 0), "edited");
	cr_assert_eq(kata_recover_report_get_verdict(report, 0), KATA_RECOVER_GONE);
	cr_assert_eq(kata_recover_report_get_verdict(report, 1), KATA_RECOVER_ATTACHABLE);
	cr_assert_eq(kata_recover_report_get_left(report), 0);
	kata_recover_report_free(report);
	cr_assert(is_running(vmm));
	assert_dir(d, false);
	end_process(vmm);
}

CASE(after_a_reboot_a_directory_is_released_and_no_process_is_taken_for_its_own)
{
	static const char *const files[] = {"released.json", "pooled", "journal"};
	pid_t vmm = start_process(NULL); /* stands for one that got the same pid at the same time after boot */
	struct kata__process_identity id;

	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		struct kata__owner owner = {.epoch = 3, .vm_id = "vm", .vm_uuid = UUID};

		make(d, "vm");
		cr_assert_eq(kata__process_identity_of(vmm, &id, NULL), 0);
		id.boot_id[3] = id.boot_id[3] == '0' ? '1' : '0';
		put_identity(d, &id);
		cr_assert_eq(kata__process_identity_of(getpid(), &owner.process, NULL), 0);
		memcpy(owner.process.boot_id, id.boot_id, sizeof(id.boot_id));
		cr_assert_eq(kata__owner_write(d->path, &owner, NULL), 0);
		if (i == 0)
			put(d, files[i], "{\"epoch\":3}");
		else if (i == 1)
			cr_assert_eq(kata__owner_mark_pooled(d->path, &owner, NULL), 0);
		else
			put(d, files[i],
			    "{\"op\":\"start\",\"subject\":\"vm\",\"step\":\"spawn\",\"event\":\"begin\"}\n");
		assert_only(recover(d, KATA_RECOVER_APPLY), i == 2 ? KATA_RECOVER_HALF_MADE : KATA_RECOVER_GONE,
			    "rebooted");
		cr_assert(is_running(vmm));
		assert_dir(d, false);
	}
	end_process(vmm);
}

CASE(a_vmm_whose_directory_was_removed_by_hand_is_shown_and_left_alone)
{
	pid_t vmm = start_vmm(d);
	kata_recover_report *report;
	char pid[16];

	cr_assert_eq(kata__remove_tree(d->path, NULL), 0);
	report = recover(d, KATA_RECOVER_APPLY);
	snprintf(pid, sizeof(pid), "%d", (int)vmm);
	cr_assert_eq(kata_recover_report_get_count(report), 1);
	cr_assert_str_eq(kata_recover_report_get_kind(report, 0), "process");
	cr_assert_str_eq(kata_recover_report_get_id(report, 0), pid);
	cr_assert_eq(kata_recover_report_get_verdict(report, 0), KATA_RECOVER_FOREIGN);
	kata_recover_report_free(report);
	cr_assert(is_running(vmm));
	end_process(vmm);
}

CASE(a_directory_that_others_can_write_is_foreign)
{
	make(d, "vm");
	put_owner(d, -1, 1);
	cr_assert_eq(chmod(d->path, 0777), 0);
	assert_only(recover(d, KATA_RECOVER_APPLY), KATA_RECOVER_FOREIGN, "0777");
	assert_dir(d, true);
}

CASE(one_that_cannot_be_undone_holds_up_no_other)
{
	kata_recover_report *report;
	kata_error *err = NULL;

	make(d, "b");
	put_owner(d, -1, 1);
	make(d, "a");
	put_owner(d, -1, 1);
	fixture_assert_ok(
		kata_context_set_fail_point(d->f.context, "recover/vm:before", KATA_FAIL_ERROR, 0, 0, 1, &err), err);
	report = recover(d, KATA_RECOVER_APPLY);
	cr_assert_eq(kata_recover_report_get_count(report), 2);
	cr_assert_eq(kata_recover_report_get_verdict(report, 0), KATA_RECOVER_FAILED);
	cr_assert(!kata_recover_report_is_undone(report, 0));
	cr_assert(kata_recover_report_is_undone(report, 1));
	cr_assert_eq(kata_recover_report_get_left(report), 1);
	kata_recover_report_free(report);
	make(d, "a");
	assert_dir(d, true);
	report = recover(d, KATA_RECOVER_APPLY);
	cr_assert_eq(kata_recover_report_get_left(report), 0);
	kata_recover_report_free(report);
	assert_dir(d, false);
}

CASE(what_cannot_be_read_for_want_of_fds_is_not_taken_for_dead)
{
	pid_t vmm = start_vmm(d);
	struct rlimit before, limit;
	int next;

	put_owner(d, 0, 3);
	put_pid(d, vmm);
	put(d, "released.json", "{\"epoch\":3}");
	make(d, "mine");
	put_owner(d, getpid(), 1);
	cr_assert_eq(getrlimit(RLIMIT_NOFILE, &before), 0);
	next = open("/dev/null", O_RDONLY | O_CLOEXEC);
	close(next);
	for (int more = 0; more < 8; more++) {
		kata_recover_options o = KATA_RECOVER_OPTIONS_INIT;
		kata_recover_report *report = NULL;

		o.flags = KATA_RECOVER_APPLY;
		limit = before;
		limit.rlim_cur = (rlim_t)(next + more);
		cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
		kata_recover(d->f.context, NULL, &o, &report, NULL);
		cr_assert_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
		kata_recover_report_free(report);
		cr_assert(is_running(vmm), "with %d fds", more);
		assert_dir(d, true);
	}
	kata_recover_report_free(recover(d, KATA_RECOVER_APPLY));
	end_process(vmm);
}

CASE(what_a_newer_library_wrote_is_left_alone)
{
	make(d, "vm");
	put(d, "owner.json", "{\"format\":\"kata-owner\",\"version\":2}");
	assert_only(recover(d, KATA_RECOVER_APPLY), KATA_RECOVER_FAILED, "this library reads 1");
	assert_dir(d, true);
}

CASE(a_machine_whose_released_record_was_spoilt_is_left_alone)
{
	pid_t vmm = start_vmm(d);

	put_owner(d, 0, 3);
	put_pid(d, vmm);
	put(d, "released.json", "{");
	assert_only(recover(d, KATA_RECOVER_APPLY), KATA_RECOVER_FAILED, "released.json cannot be read");
	cr_assert(is_running(vmm));
	assert_dir(d, true);
	end_process(vmm);
}

CASE(an_orphan_that_does_not_run_is_ended_too)
{
	pid_t vmm = start_vmm(d);

	put_owner(d, -1, 1);
	put_pid(d, vmm);
	cr_assert_eq(kill(vmm, SIGSTOP), 0);
	assert_only(recover(d, KATA_RECOVER_APPLY), KATA_RECOVER_ORPHAN, "lives");
	assert_dir(d, false);
	end_process(vmm);
}

/* More than are undone at a time; what may be just being made is waited for once, not each in turn. */
CASE(many_more_are_undone_than_at_a_time)
{
	struct timespec begin, end;
	kata_recover_report *report;
	char id[16];

	for (int i = 0; i < 70; i++) {
		snprintf(id, sizeof(id), "vm%d", i);
		make(d, id);
	}
	clock_gettime(CLOCK_MONOTONIC, &begin);
	report = recover(d, KATA_RECOVER_APPLY);
	clock_gettime(CLOCK_MONOTONIC, &end);
	cr_assert_lt(end.tv_sec - begin.tv_sec, 20);
	cr_assert_eq(kata_recover_report_get_count(report), 70);
	cr_assert_eq(kata_recover_report_get_left(report), 0);
	kata_recover_report_free(report);
	assert_only_nothing(d);
}

CASE(a_released_machine_is_attachable_while_its_vmm_lives_and_an_orphan_after)
{
	pid_t vmm = start_vmm(d);

	make(d, "vm");
	put_owner(d, 0, 3);
	put_pid(d, vmm);
	put(d, "released.json", "{\"epoch\":3}");
	assert_only(recover(d, KATA_RECOVER_APPLY), KATA_RECOVER_ATTACHABLE, "released");
	cr_assert(is_running(vmm));
	end_process(vmm);
	assert_only(recover(d, KATA_RECOVER_APPLY), KATA_RECOVER_GONE, "released, and its VMM is gone");
	assert_dir(d, false);
}

CASE(a_released_machine_that_nobody_wants_is_removed_when_that_is_asked_for)
{
	pid_t vmm = start_vmm(d);
	kata_recover_report *report = NULL;
	kata_error *error = NULL;

	make(d, "vm");
	put_owner(d, 0, 3);
	put_pid(d, vmm);
	put(d, "released.json", "{\"epoch\":3}");
	assert_only(recover(d, KATA_RECOVER_APPLY | KATA_RECOVER_ATTACHABLE_TOO), KATA_RECOVER_ORPHAN, "not wanted");
	cr_assert(!is_running(vmm));
	assert_dir(d, false);
	end_process(vmm);
	cr_assert_eq(fixture_recover(d->f.context, NULL, KATA_RECOVER_ATTACHABLE_TOO, &report, &error), KATA_E_INVALID);
	kata_error_free(error);
}

CASE(a_take_over_that_was_cut_is_taken_back_to_the_released_epoch)
{
	pid_t vmm = start_vmm(d);
	struct kata__owner owner;

	make(d, "vm");
	put_owner(d, -1, 4); /* it raised the epoch, then died */
	put_pid(d, vmm);
	put(d, "released.json", "{\"epoch\":3}");
	assert_only(recover(d, 0), KATA_RECOVER_ATTACHABLE, "released");
	cr_assert_eq(kata__owner_read(d->path, &owner, NULL), 0);
	cr_assert_eq(owner.epoch, 4, "a report changes nothing");
	assert_only(recover(d, KATA_RECOVER_APPLY), KATA_RECOVER_ATTACHABLE, "released");
	cr_assert_eq(kata__owner_read(d->path, &owner, NULL), 0);
	cr_assert_eq(owner.epoch, 3);
	cr_assert_eq(owner.process.pid, 0);
	cr_assert(owner.unsettled, "it may have found half done what no record has");
	end_process(vmm);
}

/* The factory that answers for a pooled machine: as put_owner. */
static void put_steward(struct directory *d, bool lives)
{
	struct kata__owner steward = {.epoch = 1, .vm_id = "vm", .vm_uuid = UUID};

	cr_assert_eq(kata__process_identity_of(getpid(), &steward.process, NULL), 0);
	if (!lives)
		steward.process.start_time--;
	cr_assert_eq(kata__owner_mark_pooled(d->path, &steward, NULL), 0);
}

CASE(a_pooled_machine_of_a_dead_factory_is_an_orphan_also_when_it_was_released)
{
	pid_t vmm = start_vmm(d);

	make(d, "vm");
	put_owner(d, 0, 3);
	put_pid(d, vmm);
	put(d, "released.json", "{\"epoch\":3}");
	put_steward(d, false);
	assert_only(recover(d, 0), KATA_RECOVER_ORPHAN, "the stock of process");
	cr_assert(is_running(vmm));
	assert_only(recover(d, KATA_RECOVER_APPLY), KATA_RECOVER_ORPHAN, "the stock of process");
	cr_assert(!is_running(vmm));
	assert_dir(d, false);
	end_process(vmm);
}

CASE(a_machine_that_a_living_factory_hands_over_is_left_alone)
{
	pid_t vmm = start_vmm(d);

	make(d, "vm");
	put_owner(d, 0, 3);
	put_pid(d, vmm);
	put(d, "released.json", "{\"epoch\":3}");
	put_steward(d, true);
	assert_only(recover(d, KATA_RECOVER_APPLY | KATA_RECOVER_ATTACHABLE_TOO), KATA_RECOVER_OWNED, "is giving it");
	cr_assert(is_running(vmm));
	assert_dir(d, true);
	end_process(vmm);
}

CASE(a_mark_that_was_cut_is_a_mark)
{
	pid_t vmm = start_vmm(d);

	make(d, "vm");
	put_owner(d, 0, 3);
	put_pid(d, vmm);
	put(d, "released.json", "{\"epoch\":3}");
	put(d, "pooled", "{\"format\":");
	assert_only(recover(d, KATA_RECOVER_APPLY), KATA_RECOVER_ORPHAN, "the stock of process");
	cr_assert(!is_running(vmm));
	assert_dir(d, false);
	end_process(vmm);
}

CASE(a_directory_without_owner_is_removed)
{
	make(d, "vm");
	put(d, "vmm.log", "");
	assert_only(recover(d, KATA_RECOVER_APPLY), KATA_RECOVER_HALF_MADE, "owner.json");
	assert_dir(d, false);
}

CASE(a_directory_whose_owner_file_is_cut_is_removed_when_no_vmm_can_live)
{
	make(d, "vm");
	put(d, "owner.json", "{\"format\":\"kata-ow");
	assert_only(recover(d, KATA_RECOVER_APPLY), KATA_RECOVER_HALF_MADE, "owner.json");
	assert_dir(d, false);
}

CASE(a_directory_whose_owner_file_is_cut_is_kept_while_the_recorded_process_lives)
{
	pid_t maybe = start_vmm(d);

	make(d, "vm");
	put(d, "owner.json", "{");
	put_pid(d, maybe);
	assert_only(recover(d, KATA_RECOVER_APPLY), KATA_RECOVER_FAILED, "by hand");
	cr_assert(is_running(maybe));
	assert_dir(d, true);
	end_process(maybe);
}

#define BOOT "01234567-89ab-cdef-0123-456789abcdef"

CASE(pid_files_full_of_nonsense_name_nobody)
{
	static const char *const texts[] = {"",
					    "\n",
					    "1\n",
					    "12 13\n",
					    "12 13 \n",
					    "12 13 " BOOT,
					    "12 13 " BOOT "0\n",
					    "12 13 " BOOT " 14\n",
					    "-12 13 " BOOT "\n",
					    " 12 13 " BOOT "\n",
					    "0 0 " BOOT "\n",
					    "12 99999999999999999999 " BOOT "\n",
					    "99999999999 13 " BOOT "\n",
					    "abc"};

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		make(d, "vm");
		put_owner(d, -1, 1);
		put(d, "vmm.pid", texts[i]);
		assert_only(recover(d, KATA_RECOVER_APPLY), KATA_RECOVER_GONE, "");
	}
}

/* ---- what is just being written */

/* Another process, played by a thread: it does one thing while the recovery waits for it. */
struct other {
	pthread_t thread;
	struct directory *d;
	void (*act)(struct other *o);
	pid_t vmm;
	int fd; /* of vmm.pid, locked */
};

static void *other_acts(void *user)
{
	struct other *o = user;

	usleep(50000); /* the recovery is most likely waiting by then; it must be right as well if it is not */
	o->act(o);
	return NULL;
}

static void begin_other(struct other *o, void (*act)(struct other *o))
{
	o->act = act;
	cr_assert_eq(pthread_create(&o->thread, NULL, other_acts, o), 0);
}

static void finish_owner(struct other *o)
{
	put_owner(o->d, getpid(), 1);
}

CASE(an_owner_that_is_just_written_is_waited_for)
{
	struct other o = {.d = d};

	make(d, "vm");
	begin_other(&o, finish_owner);
	assert_only(recover(d, KATA_RECOVER_APPLY), KATA_RECOVER_OWNED, "owns it");
	pthread_join(o.thread, NULL);
	assert_dir(d, true);
}

static void finish_removal(struct other *o)
{
	cr_assert_eq(rmdir(o->d->path), 0);
}

CASE(a_directory_that_is_just_removed_is_not_reported)
{
	struct other o = {.d = d};
	kata_recover_report *report;

	make(d, "vm");
	begin_other(&o, finish_removal);
	report = recover(d, KATA_RECOVER_APPLY);
	cr_assert_eq(kata_recover_report_get_count(report), 0);
	kata_recover_report_free(report);
	pthread_join(o.thread, NULL);
}

/* As a start does, before its child is there. */
static void hold_pid_file(struct other *o)
{
	char *path;

	make(o->d, "vm");
	put_owner(o->d, -1, 1);
	path = kata__format("%s/vmm.pid", o->d->path);
	o->fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600);
	cr_assert(o->fd >= 0);
	cr_assert_eq(flock(o->fd, LOCK_SH), 0);
	free(path);
}

static void say_who_it_is(struct other *o)
{
	struct kata__process_identity id;

	cr_assert_eq(kata__process_identity_of(o->vmm, &id, NULL), 0);
	dprintf(o->fd, "%d %llu %s\n", (int)id.pid, (unsigned long long)id.start_time, id.boot_id);
}

CASE(a_child_that_was_on_its_way_when_its_starter_died_is_waited_for_and_killed)
{
	struct other o = {.d = d};

	hold_pid_file(&o);
	o.vmm = start_vmm(d);
	begin_other(&o, say_who_it_is);
	assert_only(recover(d, KATA_RECOVER_APPLY), KATA_RECOVER_ORPHAN, "lives");
	pthread_join(o.thread, NULL);
	cr_assert(!is_running(o.vmm));
	assert_dir(d, false);
	close(o.fd);
	end_process(o.vmm);
}

static void die(struct other *o)
{
	close(o->fd);
}

CASE(a_child_that_dies_on_its_way_is_no_vmm)
{
	struct other o = {.d = d};

	hold_pid_file(&o);
	begin_other(&o, die);
	assert_only(recover(d, KATA_RECOVER_APPLY), KATA_RECOVER_GONE, "gone");
	pthread_join(o.thread, NULL);
	assert_dir(d, false);
}

CASE(while_a_child_stays_on_its_way_the_directory_stays)
{
	struct other o = {.d = d};

	hold_pid_file(&o);
	assert_only(recover(d, KATA_RECOVER_APPLY), KATA_RECOVER_FAILED, "recover again");
	assert_dir(d, true);
	close(o.fd);
	assert_only(recover(d, KATA_RECOVER_APPLY), KATA_RECOVER_GONE, "gone");
	assert_dir(d, false);
}

CASE(what_is_not_a_directory_or_has_no_good_name_is_not_touched)
{
	char *target = kata__format("%s/precious", d->f.dir);
	char *link_path = kata__format("%s/vm/link", d->f.state_dir);
	char *keep = kata__format("%s/keep", target);
	kata_recover_report *report;

	make(d, ".hidden");
	cr_assert_eq(kata__mkdirs(target, 0700, NULL), 0);
	cr_assert_eq(kata__write_file_atomic(keep, "x", 1, NULL), 0);
	cr_assert_eq(symlink(target, link_path), 0);
	report = recover(d, KATA_RECOVER_APPLY);
	cr_assert_eq(kata_recover_report_get_count(report), 2);
	cr_assert_eq(kata_recover_report_get_verdict(report, 0), KATA_RECOVER_FOREIGN);
	cr_assert_eq(kata_recover_report_get_verdict(report, 1), KATA_RECOVER_FOREIGN);
	kata_recover_report_free(report);
	cr_assert_eq(access(keep, F_OK), 0);
	assert_dir(d, true);
	free(target);
	free(link_path);
	free(keep);
}

CASE(a_directory_that_somebody_works_on_is_left_to_him)
{
	struct kata__leftover l;

	make(d, "vm");
	put_owner(d, -1, 1);
	cr_assert_eq(kata__leftover_open(d->f.state_dir, "vm", 0, &l, NULL), 0);
	assert_only(recover(d, KATA_RECOVER_APPLY), KATA_RECOVER_OWNED, "just now");
	assert_dir(d, true);
	kata__leftover_close(&l);
	assert_only(recover(d, KATA_RECOVER_APPLY), KATA_RECOVER_GONE, "");
	assert_dir(d, false);
}

CASE(many_are_reported_in_order_and_each_gets_its_own_verdict)
{
	kata_recover_report *report;

	make(d, "b");
	put_owner(d, getpid(), 1);
	make(d, "a");
	put_owner(d, -1, 1);
	make(d, "c");
	report = recover(d, KATA_RECOVER_APPLY);
	cr_assert_eq(kata_recover_report_get_count(report), 3);
	cr_assert_str_eq(kata_recover_report_get_id(report, 0), "a");
	cr_assert_eq(kata_recover_report_get_verdict(report, 0), KATA_RECOVER_GONE);
	cr_assert_str_eq(kata_recover_report_get_id(report, 1), "b");
	cr_assert_eq(kata_recover_report_get_verdict(report, 1), KATA_RECOVER_OWNED);
	cr_assert_str_eq(kata_recover_report_get_id(report, 2), "c");
	cr_assert_eq(kata_recover_report_get_verdict(report, 2), KATA_RECOVER_HALF_MADE);
	kata_recover_report_free(report);
}

CASE(unknown_flags_and_missing_arguments_are_refused)
{
	kata_recover_report *report = NULL;
	kata_error *err = NULL;

	fixture_assert_fails(fixture_recover(d->f.context, NULL, 2, &report, &err), KATA_E_INVALID, err);
	error_clear(&err);
	fixture_assert_fails(fixture_recover(NULL, NULL, 0, &report, &err), KATA_E_INVALID, err);
	error_clear(&err);
	fixture_assert_fails(fixture_recover(d->f.context, NULL, 0, NULL, &err), KATA_E_INVALID, err);
	error_clear(&err);
	cr_assert_null(kata_recover_report_get_kind(NULL, 0));
	cr_assert_eq(kata_recover_report_get_left(NULL), 0);
	cr_assert_str_eq(kata_recover_verdict_get_name(KATA_RECOVER_ORPHAN), "orphan");
	cr_assert_str_eq(kata_recover_verdict_get_name((kata_recover_verdict)9), "unknown");
}
