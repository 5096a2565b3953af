/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Records that a dead process left: of what is gone they are removed, in every persistence, and within the caller's
 * transaction where there is one. Machines are mocks: they end with the process that has them.
 */
#include <criterion/criterion.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/recover_scene.h"

static kata_error *err;

enum store { IN_A_FILE_OF_OURS, IN_A_DIRECTORY, ATTACHED };

struct keeper {
	struct fixture *f;
	enum store store;
	sqlite3 *db;
	kata_persistence *p;
};

static void keeper_open(struct keeper *k, kata_context *context)
{
	char *path = fixture_path(k->f, k->store == IN_A_DIRECTORY ? "records" : "book.db");

	k->db = NULL;
	if (k->store == IN_A_DIRECTORY) {
		fixture_assert_ok(kata_persistence_new_file(context, path, &k->p, &err), err);
	} else if (k->store == IN_A_FILE_OF_OURS) {
		fixture_assert_ok(kata_persistence_new_sqlite(context, path, &k->p, &err), err);
	} else {
		cr_assert_eq(sqlite3_open(path, &k->db), SQLITE_OK);
		fixture_assert_ok(kata_persistence_new_sqlite_attached(context, k->db, NULL, &k->p, &err), err);
		fixture_assert_ok(kata_persistence_create_schema(k->p, &err), err);
	}
	free(path);
}

static void keeper_close(struct keeper *k)
{
	kata_persistence_free(k->p);
	sqlite3_close(k->db);
}

/* ---- who dies: a fork, so a failure there is seen as another end than SIGKILL */

static void store_sandbox(kata_context *context, kata_persistence *p, const char *id)
{
	kata_sandbox_options options = KATA_SANDBOX_OPTIONS_INIT;
	kata_vm_config config = KATA_VM_CONFIG_INIT;
	kata_vm_builder *builder = NULL;
	kata_sandbox *s = NULL;

	options.id = config.id = id;
	if (kata_vm_builder_new_mock(context, &builder, &err) ||
	    kata_sandbox_create(context, &options, builder, &config, NULL, NULL, &s, &err) ||
	    kata_sandbox_start(s, NULL, &err) || kata_persistence_store_sandbox(p, s, &err))
		_exit(1);
}

static void reserve(kata_persistence *p, const char *sandbox, uint32_t kind, const char *id)
{
	kata_reservation_config c = KATA_RESERVATION_CONFIG_INIT;

	c.sandbox_id = sandbox;
	c.kind = kind;
	c.id = id;
	c.cid = kind == KATA_RESERVE_VM ? 77 : 0;
	if (kata_persistence_reserve(p, &c, &err))
		_exit(2);
}

static void put_row(kata_persistence *p, uint32_t kind, const char *id, const char *parent, const char *directory)
{
	kata_row row = KATA_ROW_INIT;

	row.kind = kind;
	row.id = id;
	row.state = "ready";
	row.type = "qemu";
	row.parent_id = parent;
	row.directory = directory;
	row.vm_uuid = kind == KATA_ROW_POOLED_VM ? "11111111-2222-4333-8444-555555555555" : NULL;
	if (kata_persistence_put_row(p, &row, &err))
		_exit(3);
}

static void die_with_records(struct keeper *k)
{
	char *there = fixture_path(k->f, "there"), *missing = fixture_path(k->f, "missing");
	char *unmounted = fixture_path(k->f, "unmounted/missing");
	kata_context *context = fixture_new_context(k->f, 0);

	keeper_open(k, context);
	store_sandbox(context, k->p, "stored");
	reserve(k->p, "stored", KATA_RESERVE_STORAGE, "disk");
	if (kata_persistence_create_sandbox(k->p, "new", &err))
		_exit(4);
	reserve(k->p, "new", KATA_RESERVE_VM, "new");
	put_row(k->p, KATA_ROW_SNAPSHOT, "s-there", NULL, there);
	put_row(k->p, KATA_ROW_SNAPSHOT, "s-missing", NULL, missing);
	put_row(k->p, KATA_ROW_SNAPSHOT, "s-unmounted", NULL, unmounted);
	put_row(k->p, KATA_ROW_TEMPLATE, "t-missing", "s-missing", missing);
	put_row(k->p, KATA_ROW_POOLED_VM, "pooled", "t-missing", NULL);
	raise(SIGKILL);
}

static void let_die(struct keeper *k)
{
	char *there = fixture_path(k->f, "there");
	int status;
	pid_t pid = fork();

	cr_assert_geq(pid, 0);
	if (pid == 0)
		die_with_records(k);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert(WIFSIGNALED(status), "it ended with %d", status);
	cr_assert_eq(mkdir(there, 0700), 0);
	free(there);
}

/* ---- what is said, and done */

static kata_recover_report *recover(struct keeper *k, kata_context *context, uint64_t flags)
{
	kata_recover_report *report = NULL;

	fixture_assert_ok(fixture_recover(context, k->p, flags, &report, &err), err);
	return report;
}

static const struct expected {
	const char *kind, *id;
	kata_recover_verdict verdict;
} expected[] = {
	{"sandbox", "new", KATA_RECOVER_HALF_MADE},       {"sandbox", "stored", KATA_RECOVER_GONE},
	{"pooled-vm-row", "pooled", KATA_RECOVER_GONE},   {"template-row", "t-missing", KATA_RECOVER_GONE},
	{"snapshot-row", "s-missing", KATA_RECOVER_GONE},
};
#define EXPECTED (sizeof(expected) / sizeof(expected[0]))

static void assert_expected(kata_recover_report *take_report, bool undone)
{
	cr_assert_eq(kata_recover_report_get_count(take_report), EXPECTED);
	cr_assert_eq(kata_recover_report_get_left(take_report), undone ? 0u : EXPECTED);
	for (size_t i = 0; i < EXPECTED; i++) {
		cr_assert_str_eq(kata_recover_report_get_kind(take_report, i), expected[i].kind);
		cr_assert_str_eq(kata_recover_report_get_id(take_report, i), expected[i].id);
		cr_assert_eq(kata_recover_report_get_verdict(take_report, i), expected[i].verdict, "%s: %s",
			     expected[i].id, kata_recover_report_get_text(take_report, i));
		cr_assert_eq(kata_recover_report_is_undone(take_report, i), undone);
	}
	kata_recover_report_free(take_report);
}

static void assert_nothing(struct keeper *k, kata_context *context)
{
	kata_reservation *reservations = NULL;
	kata_recover_report *report = recover(k, context, 0);
	size_t count = 0;
	char **ids = NULL;

	cr_assert_eq(kata_recover_report_get_count(report), 0);
	kata_recover_report_free(report);
	fixture_assert_ok(kata_persistence_list_sandboxes(k->p, &ids, &err), err);
	cr_assert_null(ids[0]);
	kata_string_list_free(ids);
	fixture_assert_ok(kata_persistence_list_reservations(k->p, NULL, &reservations, &count, &err), err);
	cr_assert_eq(count, 0);
	free(reservations);
	fixture_assert_ok(kata_persistence_list_rows(k->p, KATA_ROW_SNAPSHOT, NULL, NULL, &ids, &err), err);
	cr_assert_str_eq(ids[0], "s-there");
	cr_assert_str_eq(ids[1], "s-unmounted");
	cr_assert_null(ids[2]);
	kata_string_list_free(ids);
}

static void begin(struct fixture *f, struct keeper *k, enum store store, kata_context **ret_context)
{
#ifdef __SANITIZE_THREAD__
	cr_skip_test(
		"ThreadSanitizer sees no synchronisation in a child of its own fork and reports races that are none");
#endif
	fixture_init(f, false, 0);
	*k = (struct keeper){.f = f, .store = store};
	let_die(k);
	*ret_context = fixture_new_context(f, 0);
	keeper_open(k, *ret_context);
}

static void end(struct fixture *f, struct keeper *k, kata_context *context)
{
	keeper_close(k);
	fixture_assert_ok(kata_context_free(context, &err), err);
	fixture_deinit(f);
}

static void remove_all(enum store store)
{
	kata_context *context;
	struct keeper k;
	struct fixture f;

	begin(&f, &k, store, &context);
	assert_expected(recover(&k, context, 0), false);
	assert_expected(recover(&k, context, KATA_RECOVER_APPLY), true);
	assert_nothing(&k, context);
	end(&f, &k, context);
}

Test(recover_records, those_of_what_is_gone_are_removed_from_a_file_of_ours, .timeout = 60)
{
	remove_all(IN_A_FILE_OF_OURS);
}

Test(recover_records, and_from_a_directory, .timeout = 60)
{
	remove_all(IN_A_DIRECTORY);
}

Test(recover_records, and_within_the_transaction_of_the_caller_who_may_roll_it_back, .timeout = 60)
{
	kata_context *context;
	struct keeper k;
	struct fixture f;

	begin(&f, &k, ATTACHED, &context);
	cr_assert_eq(sqlite3_exec(k.db, "BEGIN", NULL, NULL, NULL), SQLITE_OK);
	assert_expected(recover(&k, context, KATA_RECOVER_APPLY), true);
	assert_nothing(&k, context);
	cr_assert_eq(sqlite3_get_autocommit(k.db), 0);
	cr_assert_eq(sqlite3_exec(k.db, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
	assert_expected(recover(&k, context, KATA_RECOVER_APPLY), true);
	assert_nothing(&k, context);
	end(&f, &k, context);
}

/* ---- edited by hand, or of another boot: nobody is signalled, and nothing outside is touched */

static void run_sql(struct keeper *k, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void run_sql(struct keeper *k, const char *format, ...)
{
	char text[1024];
	va_list ap;

	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	cr_assert_eq(sqlite3_exec(k->db, text, NULL, NULL, NULL), SQLITE_OK, "%s: %s", text, sqlite3_errmsg(k->db));
}

static uint64_t start_time_of(pid_t pid)
{
	unsigned long long start = 0;
	char path[32], text[1024];
	FILE *file;
	size_t n;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	file = fopen(path, "re");
	cr_assert_not_null(file);
	n = fread(text, 1, sizeof(text) - 1, file);
	fclose(file);
	text[n] = '\0';
	cr_assert_eq(sscanf(strrchr(text, ')') + 1,
			    " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
			    &start),
		     1);
	return start;
}

static pid_t start_stranger(void)
{
	pid_t pid = fork();

	cr_assert_geq(pid, 0);
	if (pid == 0)
		for (;;)
			pause();
	return pid;
}

static void end_stranger(pid_t pid)
{
	int status;

	cr_assert_eq(waitpid(pid, &status, WNOHANG), 0, "it got a signal");
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
}

static size_t find(const kata_recover_report *report, const char *id)
{
	size_t i = actor_find(report, "sandbox", id);

	cr_assert_neq(i, SIZE_MAX, "sandbox %s is not in the report", id);
	return i;
}

Test(recover_records, a_record_of_another_boot_is_gone_whoever_has_its_pids_now, .timeout = 60)
{
	pid_t stranger = start_stranger();
	unsigned long long start = start_time_of(stranger);
	kata_recover_report *report;
	kata_context *context;
	struct keeper k;
	struct fixture f;

	begin(&f, &k, ATTACHED, &context);
	run_sql(&k,
		"UPDATE kata_sandboxes SET taken_pid = %d, taken_start_time = %llu, taken_boot_id = 'deadbeef' || "
		"substr(taken_boot_id, 9); "
		"UPDATE kata_sandboxes SET owner_pid = %d, owner_start_time = %llu, vm_pid = %d, vm_start_time = %llu, "
		"boot_id = taken_boot_id WHERE id = 'stored'; "
		"UPDATE kata_pooled_vms SET vm_pid = %d, vm_start_time = %llu, owner_pid = %d, owner_start_time = "
		"%llu, boot_id = 'deadbeef' || substr(boot_id, 9); "
		"UPDATE kata_reservations SET owner_pid = %d, owner_start_time = %llu, boot_id = 'deadbeef' || "
		"substr(boot_id, 9)",
		(int)stranger, start, (int)stranger, start, (int)stranger, start, (int)stranger, start, (int)stranger,
		start, (int)stranger, start);
	report = recover(&k, context, KATA_RECOVER_APPLY);
	cr_assert(kata_recover_report_is_undone(report, find(report, "stored")));
	cr_assert_eq(kata_recover_report_get_left(report), 0);
	kata_recover_report_free(report);
	assert_nothing(&k, context);
	end(&f, &k, context);
	end_stranger(stranger);
}

Test(recover_records, pids_written_by_hand_are_compared_and_never_signalled, .timeout = 60)
{
	pid_t stranger = start_stranger();
	const pid_t pids[] = {stranger, getpid(), 1};
	kata_context *context;
	struct keeper k;
	struct fixture f;

	begin(&f, &k, ATTACHED, &context);
	run_sql(&k, "BEGIN");
	for (size_t i = 0; i < sizeof(pids) / sizeof(pids[0]); i++) {
		kata_recover_report *report;
		size_t at;

		run_sql(&k, "UPDATE kata_sandboxes SET vm_pid = %d, vm_start_time = %llu WHERE id = 'stored'",
			(int)pids[i], (unsigned long long)start_time_of(pids[i]));
		report = recover(&k, context, KATA_RECOVER_APPLY);
		at = find(report, "stored");
		/* A pid that lives keeps the record; that of init can be no VMM's. */
		cr_assert_eq(kata_recover_report_get_verdict(report, at),
			     pids[i] == 1 ? KATA_RECOVER_GONE : KATA_RECOVER_FOREIGN);
		kata_recover_report_free(report);
		cr_assert_eq(kill(pids[i], 0), 0);
	}
	end(&f, &k, context);
	end_stranger(stranger);
}

Test(recover_records, a_row_of_a_directory_elsewhere_lets_nothing_there_be_touched, .timeout = 60)
{
	char *there, *precious;
	kata_context *context;
	struct keeper k;
	struct fixture f;
	char path[128];

	begin(&f, &k, ATTACHED, &context);
	there = fixture_path(&f, "there");
	snprintf(path, sizeof(path), "there/base");
	precious = fixture_write_file(&f, path, "x", 1);
	run_sql(&k, "UPDATE kata_templates SET directory = '%s'", there);
	run_sql(&k, "UPDATE kata_sandboxes SET vm_id = '..', vm_uuid = '11111111-2222-4333-8444-555555555555' WHERE id "
		    "= 'stored'");
	kata_recover_report_free(recover(&k, context, KATA_RECOVER_APPLY));
	cr_assert_eq(access(precious, F_OK), 0);
	free(there);
	free(precious);
	end(&f, &k, context);
}

/* ---- the others */

Test(recover_records, one_that_cannot_be_read_is_told_and_hides_no_other, .timeout = 60)
{
	kata_recover_report *report;
	kata_context *context;
	struct keeper k;
	struct fixture f;

	begin(&f, &k, ATTACHED, &context);
	run_sql(&k, "UPDATE kata_sandboxes SET state = 'nonsense' WHERE id = 'new'");
	report = recover(&k, context, KATA_RECOVER_APPLY);
	cr_assert(kata_recover_report_is_undone(report, find(report, "stored")));
	cr_assert_eq(kata_recover_report_get_verdict(report, find(report, "?")), KATA_RECOVER_FAILED);
	cr_assert_eq(kata_recover_report_get_left(report), 1);
	kata_recover_report_free(report);
	end(&f, &k, context);
}

/* Who has the sandbox now may be at the very device that its owner of before reserved. */
Test(recover_records, what_the_dead_reserved_for_a_sandbox_that_the_living_have_is_left, .timeout = 60)
{
	pid_t vmm = start_stranger();
	kata_recover_report *report;
	kata_context *context;
	struct keeper k;
	struct fixture f;

	begin(&f, &k, ATTACHED, &context);
	run_sql(&k,
		"UPDATE kata_sandboxes SET taken_pid = %d, taken_start_time = %llu WHERE id = 'stored'; UPDATE "
		"kata_pooled_vms SET vm_pid = %d, vm_start_time = %llu",
		(int)getpid(), (unsigned long long)start_time_of(getpid()), (int)vmm,
		(unsigned long long)start_time_of(vmm));
	report = recover(&k, context, KATA_RECOVER_APPLY);
	cr_assert_eq(actor_find(report, "sandbox", "stored"), SIZE_MAX);
	cr_assert_eq(actor_find(report, "reservation", "stored/storage/disk"), SIZE_MAX);
	cr_assert_eq(actor_find(report, "pooled-vm-row", "pooled"), SIZE_MAX);
	cr_assert(kata_recover_report_is_undone(report, find(report, "new")));
	kata_recover_report_free(report);
	end(&f, &k, context);
	end_stranger(vmm);
}

Test(recover_records, what_a_living_process_has_is_not_in_the_report, .timeout = 60)
{
	kata_recover_report *report;
	kata_persistence *p = NULL;
	struct fixture f;

	fixture_init(&f, true, 0);
	fixture_assert_ok(kata_persistence_new_memory(f.context, &p, &err), err);
	fixture_assert_ok(kata_persistence_create_sandbox(p, "mine", &err), err);
	reserve(p, "mine", KATA_RESERVE_VM, "mine");
	put_row(p, KATA_ROW_SNAPSHOT, "s", NULL, "/nonexistent");
	put_row(p, KATA_ROW_POOLED_VM, "pooled", NULL, NULL);
	fixture_assert_ok(fixture_recover(f.context, p, KATA_RECOVER_APPLY, &report, &err), err);
	cr_assert_eq(kata_recover_report_get_count(report), 0);
	kata_recover_report_free(report);
	kata_persistence_free(p);
	fixture_deinit(&f);
}
