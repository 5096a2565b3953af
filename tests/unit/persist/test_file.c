/* SPDX-License-Identifier: Apache-2.0 */
/* Records in a directory and in memory: the suite; what lies in the directory, and what is not read from it. */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "base/fd.h"
#include "persist/shelf.h"
#include "unit/persist/persist_test.h"

/* ---- the suite ---- */

static void use(struct persistence_world *w, kata_persistence *p)
{
	w->priv = p;
	w->ops = &p->ops;
	w->self = p->self;
}

static void open_file(struct persistence_world *w)
{
	char *path = fixture_path(&w->f, "records");
	kata_persistence *p = NULL;
	kata_error *err = NULL;

	fixture_assert_ok(kata_persistence_new_file(w->f.context, path, &p, &err), err);
	free(path);
	use(w, p);
}

static void open_memory(struct persistence_world *w)
{
	kata_persistence *p = NULL;
	kata_error *err = NULL;

	fixture_assert_ok(kata_persistence_new_memory(w->f.context, &p, &err), err);
	use(w, p);
}

static void close_it(struct persistence_world *w)
{
	kata_persistence_free(w->priv);
}

static const struct persistence_kind file_kind = {"file", open_file, close_it, sample_record, kata__record_free};
static const struct persistence_kind memory_kind = {"memory", open_memory, close_it, sample_record, kata__record_free};

#define CASE(name)                                                                                                     \
	Test(persistence_directory, name)                                                                              \
	{                                                                                                              \
		persistence_contract_##name(&file_kind);                                                               \
	}
PERSISTENCE_CONTRACT_CASES(CASE)
PERSISTENCE_CONTRACT_MORE_CASES(CASE)
#undef CASE
#define CASE(name)                                                                                                     \
	Test(persistence_in_memory, name)                                                                              \
	{                                                                                                              \
		persistence_contract_##name(&memory_kind);                                                             \
	}
PERSISTENCE_CONTRACT_CASES(CASE)
PERSISTENCE_CONTRACT_MORE_CASES(CASE)
#undef CASE

/* The same words as SQLite's: unit/persist_transaction. */
static void assert_holder_is_named(kata_persistence *p)
{
	struct record_wish wish = full_wish("pod");
	kata_record *record;
	kata_error *err = NULL;
	char since[40];
	time_t now;

	wish.epoch = 5;
	record = sample_record(&wish);
	fixture_assert_ok(kata__persistence_store(p, record, &err), err);
	record->epoch = 4;
	fixture_assert_fails(kata__persistence_store(p, record, &err), KATA_E_FENCED, err);
	kata__record_free(record);
	assert_message_has(err, "sandbox 'pod' is held by pid 4242 (start time 123456) since 2");
	now = time(NULL);
	strftime(since, sizeof(since), "since %Y-%m-", gmtime(&now));
	assert_message_has(err, since);
	assert_message_has(err, "(epoch 5, this handle has 4)");
	error_clear(&err);
	fixture_assert_fails(kata__persistence_set_epoch(p, "pod", 4, 5, &err), KATA_E_FENCED, err);
	assert_message_has(err, "is held by pid 4242");
	error_clear(&err);
	kata_persistence_free(p);
}

Test(persistence_in_memory, an_older_owner_is_told_who_holds_it_since_when)
{
	kata_persistence *p = NULL;
	kata_error *err = NULL;
	struct fixture f;

	fixture_init(&f, true, 0);
	fixture_assert_ok(kata_persistence_new_memory(f.context, &p, &err), err);
	assert_holder_is_named(p);
	fixture_deinit(&f);
}

Test(persistence_directory, an_older_owner_is_told_who_holds_it_since_when)
{
	kata_persistence *p = NULL;
	kata_error *err = NULL;
	struct fixture f;
	char *path;

	fixture_init(&f, true, 0);
	path = fixture_path(&f, "records");
	fixture_assert_ok(kata_persistence_new_file(f.context, path, &p, &err), err);
	free(path);
	assert_holder_is_named(p);
	fixture_deinit(&f);
}

/* ---- the directory ---- */

struct room {
	struct fixture f;
	char *path;
	kata_persistence *p;
	kata_error *err;
};

static int room_try(struct room *r)
{
	error_clear(&r->err);
	return kata_persistence_new_file(r->f.context, r->path, &r->p, &r->err);
}

static void room_open(struct room *r)
{
	memset(r, 0, sizeof(*r));
	fixture_init(&r->f, true, 0);
	r->path = fixture_path(&r->f, "records");
	fixture_assert_ok(room_try(r), r->err);
}

static void room_shut(struct room *r)
{
	kata_persistence_free(r->p);
	r->p = NULL;
}

static void room_close(struct room *r)
{
	error_clear(&r->err);
	room_shut(r);
	free(r->path);
	fixture_deinit(&r->f);
}

static int room_store(struct room *r, const char *id)
{
	struct record_wish wish = full_wish(id);
	kata_record *record = sample_record(&wish);
	int rc;

	error_clear(&r->err);
	rc = kata__persistence_store(r->p, record, &r->err);
	kata__record_free(record);
	return rc;
}

static int room_load(struct room *r, const char *id)
{
	kata_record *record = NULL;
	int rc;

	error_clear(&r->err);
	rc = kata__persistence_load(r->p, id, &record, &r->err);
	kata__record_free(record);
	return rc;
}

static char *in_room(struct room *r, const char *name)
{
	return kata__format("%s/%s", r->path, name);
}

Test(file, keeps_what_was_stored_over_closing_and_leaves_no_other_file)
{
	struct room r;
	struct stat st;
	DIR *dir;
	struct dirent *d;
	char *path;
	int files = 0;

	umask(0);
	room_open(&r);
	fixture_assert_ok(room_store(&r, "pod"), r.err);
	fixture_assert_ok(room_store(&r, "pod"), r.err);
	room_shut(&r);
	path = in_room(&r, "sandboxes");
	dir = opendir(path);
	while ((d = readdir(dir)) != NULL)
		files += d->d_name[0] != '.';
	closedir(dir);
	free(path);
	cr_assert_eq(files, 1);
	path = in_room(&r, "sandboxes/pod.json");
	cr_assert_eq(stat(path, &st), 0);
	cr_assert_eq(st.st_mode & 07777, 0600);
	cr_assert_eq(stat(r.path, &st), 0);
	cr_assert_eq(st.st_mode & 07777, 0700);
	free(path);
	fixture_assert_ok(room_try(&r), r.err);
	fixture_assert_ok(room_load(&r, "pod"), r.err);
	room_close(&r);
}

/* Replaces the file's bytes by what `change` makes of them. */
static void spoil(struct room *r, void (*change)(char *data, size_t *len, int n), int n)
{
	char *path = in_room(r, "sandboxes/pod.json"), *data = NULL;
	size_t len = 0;
	int fd;

	cr_assert_eq(kata__read_file(path, 1 << 20, &data, &len, NULL), 0);
	change(data, &len, n);
	fd = open(path, O_WRONLY | O_TRUNC);
	cr_assert_eq(write(fd, data, len), (ssize_t)len);
	close(fd);
	free(data);
	free(path);
}

static void cut(char *data, size_t *len, int n)
{
	*len = *len * (size_t)n / 100;
}

static void flip(char *data, size_t *len, int n)
{
	data[*len * (size_t)n / 100] ^= 1;
}

Test(file, cut_or_changed_anywhere_is_corrupt_and_may_be_removed)
{
	struct room r;

	room_open(&r);
	for (int n = 0; n < 100; n++) {
		for (int way = 0; way < 2; way++) {
			fixture_assert_ok(room_store(&r, "pod"), r.err);
			spoil(&r, way ? flip : cut, n);
			cr_assert_eq(room_load(&r, "pod"), KATA_E_CORRUPT, "%d %d: %s", way, n, error_text(r.err));
			assert_message_has(r.err, "sandboxes/pod.json");
			fixture_assert_fails(room_store(&r, "pod"), KATA_E_CORRUPT, r.err);
			error_clear(&r.err);
			fixture_assert_ok(kata_persistence_delete_sandbox(r.p, "pod", &r.err), r.err);
		}
	}
	room_close(&r);
}

/* A good checksum over something else. */
static void assert_wrapped_is(struct room *r, const char *json, int status, const char *part)
{
	char *path = in_room(r, "sandboxes/pod.json"), *good = in_room(r, "snapshots/x.json"), *data = NULL, *body;
	kata_row row = KATA_ROW_INIT;
	size_t len;

	/* The library wraps it for us, as the text of a row. */
	row.kind = KATA_ROW_SNAPSHOT;
	row.id = "x";
	cr_assert_eq(r->p->ops.put_row(r->p->self, &row, json, NULL, NULL), 0);
	cr_assert_eq(kata__read_file(good, 1 << 20, &data, &len, NULL), 0);
	body = strchr(data, '\n');
	cr_assert_str_eq(body + 1, json);
	cr_assert_eq(rename(good, path), 0);
	cr_assert_eq(room_load(r, "pod"), status, "%s: %s", json, error_text(r->err));
	assert_message_has(r->err, part);
	free(path);
	free(good);
	free(data);
}

#define HEAD "\"format\":\"kata-entry\",\"version\":1,\"id\":\"pod\",\"epoch\":1,\"generation\":1,\"updated_at\":1"
#define HOLDER "\"holder\":{\"pid\":1,\"start_time\":1,\"boot_id\":\"\",\"since\":1}"

Test(file, entries_that_are_none_are_refused)
{
	struct room r;

	room_open(&r);
	assert_wrapped_is(&r, "", KATA_E_CORRUPT, "entry");
	assert_wrapped_is(&r, "[]", KATA_E_CORRUPT, "expected a JSON object");
	assert_wrapped_is(&r, "{\"format\":\"kata-row\",\"version\":1}", KATA_E_CORRUPT, "entry.format");
	assert_wrapped_is(&r, "{\"format\":\"kata-entry\",\"version\":2}", KATA_E_VERSION, "entry.version: is 2");
	assert_wrapped_is(&r, "{" HEAD "}", KATA_E_CORRUPT, "holder");
	assert_wrapped_is(&r, "{" HEAD "," HOLDER ",\"record\":7,\"reservations\":[]}", KATA_E_CORRUPT, "entry.record");
	assert_wrapped_is(&r, "{" HEAD "," HOLDER ",\"record\":{},\"reservations\":[]}", KATA_E_CORRUPT, "record");
	assert_wrapped_is(&r, "{" HEAD "," HOLDER ",\"record\":null,\"reservations\":[{}]}", KATA_E_CORRUPT,
			  "reservation");
	assert_wrapped_is(&r, "{" HEAD "," HOLDER ",\"record\":null,\"reservations\":[7]}", KATA_E_CORRUPT,
			  "reservation: expected an object");
	assert_wrapped_is(&r,
			  "{\"format\":\"kata-entry\",\"version\":1,\"id\":\"other\",\"epoch\":1,\"generation\":1,"
			  "\"updated_at\":1," HOLDER ",\"record\":null,\"reservations\":[]}",
			  KATA_E_CORRUPT, "another sandbox");
	assert_wrapped_is(&r, "{" HEAD "," HOLDER ",\"record\":null,\"reservations\":[]}", KATA_E_NOT_FOUND,
			  "only reserved");
	room_close(&r);
}

Test(file, a_row_of_a_newer_library_is_not_replaced_and_one_that_is_damaged_is)
{
	kata_row row = KATA_ROW_INIT;
	struct room r;

	room_open(&r);
	row.kind = KATA_ROW_SNAPSHOT;
	row.id = "x";
	row.state = "ready";
	row.type = "qemu";
	row.directory = "/snapshots/x";
	cr_assert_eq(r.p->ops.put_row(r.p->self, &row, "{\"format\":\"kata-row\",\"version\":2,\"kind\":\"snapshot\"}",
				      NULL, NULL),
		     0);
	fixture_assert_fails(kata_persistence_put_row(r.p, &row, &r.err), KATA_E_VERSION, r.err);
	assert_message_has(r.err, "row.version: is 2, this library reads 1");
	error_clear(&r.err);
	fixture_assert_ok(kata_persistence_remove_row(r.p, KATA_ROW_SNAPSHOT, "x", &r.err), r.err);
	cr_assert_eq(r.p->ops.put_row(r.p->self, &row, "{}", NULL, NULL), 0);
	fixture_assert_ok(kata_persistence_put_row(r.p, &row, &r.err), r.err);
	room_close(&r);
}

Test(file, one_that_cannot_be_read_does_not_hide_the_others)
{
	struct room r;
	char **ids = NULL;

	room_open(&r);
	fixture_assert_ok(room_store(&r, "pod"), r.err);
	fixture_assert_ok(room_store(&r, "other"), r.err);
	spoil(&r, cut, 50);
	fixture_assert_ok(room_load(&r, "other"), r.err);
	fixture_assert_ok(kata_persistence_list_sandboxes(r.p, &ids, &r.err), r.err);
	cr_assert_str_eq(ids[0], "other");
	cr_assert_str_eq(ids[1], "pod");
	kata_string_list_free(ids);
	fixture_assert_ok(room_store(&r, "third"), r.err);
	room_close(&r);
}

Test(file, links_and_other_names_are_not_followed)
{
	struct room r;
	char *link, *secret, **ids = NULL;

	room_open(&r);
	secret = fixture_write_file(&r.f, "secret", "kata-record", 11);
	link = in_room(&r, "sandboxes/pod.json");
	cr_assert_eq(symlink(secret, link), 0);
	cr_assert_lt(room_load(&r, "pod"), 0);
	cr_assert_neq(kata_error_get_status(r.err), KATA_E_NOT_FOUND);
	fixture_assert_ok(kata_persistence_delete_sandbox(r.p, "pod", NULL), r.err);
	cr_assert_eq(access(secret, F_OK), 0, "the link was removed, not what it names");
	free(link);
	link = in_room(&r, "sandboxes/..json");
	close(open(link, O_CREAT | O_WRONLY, 0600));
	free(link);
	error_clear(&r.err);
	fixture_assert_ok(kata_persistence_list_sandboxes(r.p, &ids, &r.err), r.err);
	cr_assert_null(ids[0]);
	kata_string_list_free(ids);
	free(secret);
	room_close(&r);
}

Test(file, a_newer_format_and_a_directory_of_something_else_are_refused_untouched)
{
	struct room r;
	char *path;
	int fd;

	room_open(&r);
	room_shut(&r);
	path = in_room(&r, "format");
	fd = open(path, O_WRONLY | O_TRUNC);
	cr_assert_eq(write(fd, "kata-records 2\n", 15), 15);
	close(fd);
	fixture_assert_fails(room_try(&r), KATA_E_VERSION, r.err);
	fd = open(path, O_WRONLY | O_TRUNC);
	cr_assert_eq(write(fd, "shopping list\n", 14), 14);
	close(fd);
	fixture_assert_fails(room_try(&r), KATA_E_CORRUPT, r.err);
	free(path);
	free(r.path);
	r.path = fixture_write_file(&r.f, "a-file", "x", 1);
	fixture_assert_fails(room_try(&r), KATA_E_INVALID, r.err);
	free(r.path);
	r.path = fixture_path(&r.f, "no/such/records");
	fixture_assert_fails(room_try(&r), KATA_E_NOT_FOUND, r.err);
	free(r.path);
	r.path = fixture_path(&r.f, "open");
	cr_assert_eq(mkdir(r.path, 0777), 0);
	cr_assert_eq(chmod(r.path, 0777), 0);
	fixture_assert_fails(room_try(&r), KATA_E_PERMISSION, r.err);
	assert_message_has(r.err, "mode 777");
	room_close(&r);
}

/* Whoever takes it for an empty one ends every machine as an orphan. */
Test(file, a_directory_that_was_removed_or_unmounted_is_not_an_empty_one)
{
	kata_sandbox_info info = {.size = sizeof(info)};
	struct room r;
	char *away;

	room_open(&r);
	fixture_assert_ok(room_store(&r, "pod"), r.err);
	away = fixture_path(&r.f, "away");
	cr_assert_eq(rename(r.path, away), 0);
	cr_assert_eq(room_load(&r, "pod"), KATA_E_IO, "%s", error_text(r.err));
	assert_message_has(r.err, "removed or unmounted");
	error_clear(&r.err);
	fixture_assert_fails(kata_persistence_get_info(r.p, "pod", &info, &r.err), KATA_E_IO, r.err);
	cr_assert_eq(rename(away, r.path), 0);
	fixture_assert_ok(room_load(&r, "pod"), r.err);
	free(away);
	room_close(&r);
}

/* Whoever has it open locks a file that nobody else sees. */
Test(file, a_directory_that_was_made_anew_meanwhile_is_another)
{
	kata_persistence *other = NULL;
	struct room r, second;
	char *away;

	room_open(&r);
	second = r;
	away = fixture_path(&r.f, "away");
	cr_assert_eq(rename(r.path, away), 0);
	fixture_assert_ok(room_try(&second), second.err);
	other = second.p;
	fixture_assert_fails(kata_persistence_create_sandbox(r.p, "pod", &r.err), KATA_E_IO, r.err);
	assert_message_has(r.err, "removed or unmounted? open it again");
	error_clear(&r.err);
	fixture_assert_ok(kata_persistence_create_sandbox(other, "pod", &r.err), r.err);
	kata_persistence_free(other);
	free(away);
	room_close(&r);
}

Test(file, a_relative_path_is_resolved_once)
{
	kata_persistence *p = NULL;
	struct room r;

	room_open(&r);
	fixture_assert_ok(room_store(&r, "pod"), r.err);
	cr_assert_eq(chdir(r.f.dir), 0);
	fixture_assert_ok(kata_persistence_new_file(r.f.context, "records", &p, &r.err), r.err);
	cr_assert_eq(chdir("/"), 0);
	fixture_assert_fails(kata_persistence_create_sandbox(p, "pod", &r.err), KATA_E_EXISTS, r.err);
	error_clear(&r.err);
	kata_persistence_free(p);
	room_close(&r);
}

Test(file, what_was_there_before_is_not_swept)
{
	struct room r;
	char *path;

	room_open(&r);
	room_shut(&r);
	path = in_room(&r, "format");
	cr_assert_eq(unlink(path), 0);
	free(path);
	path = in_room(&r, "sandboxes/mine.tmp");
	close(open(path, O_CREAT | O_WRONLY, 0600));
	fixture_assert_ok(room_try(&r), r.err);
	cr_assert_eq(access(path, F_OK), 0);
	free(path);
	room_close(&r);
}

/* Directories of quotes, which are twice as long in JSON. */
Test(file, an_entry_that_could_not_be_read_back_is_not_written)
{
	struct kata__entry e = {.id = "pod", .reservation_count = 2 * KATA__RESERVATIONS_MAX - 1};
	kata_error *err = NULL;
	char *text = NULL;

	e.reservations = calloc(e.reservation_count, sizeof(*e.reservations));
	for (size_t i = 0; i < e.reservation_count; i++) {
		snprintf(e.reservations[i].id, sizeof(e.reservations[i].id), "%064zu", i);
		memset(e.reservations[i].directory, '"', sizeof(e.reservations[i].directory) - 1);
	}
	fixture_assert_fails(kata__entry_to_text(&e, &text, &err), KATA_E_EXHAUSTED, err);
	cr_assert_null(text);
	kata_error_free(err);
	kata__entry_deinit(&e);
}

Test(file, what_was_half_written_by_a_dead_process_is_swept)
{
	struct room r;
	char *path;

	room_open(&r);
	room_shut(&r);
	path = in_room(&r, "sandboxes/pod.json.4711.tmp");
	close(open(path, O_CREAT | O_WRONLY, 0600));
	fixture_assert_ok(room_try(&r), r.err);
	cr_assert_eq(access(path, F_OK), -1);
	free(path);
	room_close(&r);
}

/* ---- the lock ---- */

Test(file, two_of_one_process_exclude_each_other)
{
	kata_persistence *other = NULL;
	struct room r;

	room_open(&r);
	fixture_assert_ok(kata_persistence_new_file(r.f.context, r.path, &other, &r.err), r.err);
	fixture_assert_ok(kata_persistence_create_sandbox(r.p, "pod", &r.err), r.err);
	fixture_assert_fails(kata_persistence_create_sandbox(other, "pod", &r.err), KATA_E_EXISTS, r.err);
	error_clear(&r.err);
	fixture_assert_ok(kata_persistence_delete_sandbox(other, "pod", &r.err), r.err);
	fixture_assert_fails(room_load(&r, "pod"), KATA_E_NOT_FOUND, r.err);
	kata_persistence_free(other);
	room_close(&r);
}

/* A holder that is stuck: stopped while it holds the lock. It is named; once it is dead the lock is free. */
Test(file, a_stuck_holder_of_the_lock_is_named_and_a_dead_one_holds_nothing, .timeout = 60)
{
	struct room r;
	char *path, who[48];
	int pipes[2], status;
	pid_t pid;

	room_open(&r);
	path = in_room(&r, "lock");
	cr_assert_eq(pipe(pipes), 0);
	pid = fork();
	cr_assert_geq(pid, 0);
	if (pid == 0) {
		struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
		int fd = open(path, O_RDWR | O_CLOEXEC);
		int n = snprintf(who, sizeof(who), "%d 4711\n", (int)getpid());

		if (fcntl(fd, F_OFD_SETLK, &l) < 0 || pwrite(fd, who, (size_t)n, 0) != n ||
		    write(pipes[1], "x", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	cr_assert_eq(read(pipes[0], who, 1), 1);
	fixture_assert_fails(kata_persistence_create_sandbox(r.p, "pod", &r.err), KATA_E_BUSY, r.err);
	snprintf(who, sizeof(who), "process %d (start time 4711)", (int)pid);
	assert_message_has(r.err, who);
	error_clear(&r.err);
	cr_assert_eq(kill(pid, SIGKILL), 0);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	fixture_assert_ok(kata_persistence_create_sandbox(r.p, "pod", &r.err), r.err);
	close(pipes[0]);
	close(pipes[1]);
	free(path);
	room_close(&r);
}

static void read_on_and_on(struct room *r, int started)
{
	kata_context *context = fixture_new_context(&r->f, KATA_CONTEXT_EXTERNAL_LOOP);
	static kata_sandbox_info infos[128];
	kata_persistence *p = NULL;
	size_t count;
	int rc = kata_persistence_new_file(context, r->path, &p, NULL);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	infos[0].size = sizeof(infos[0]);
	if (rc < 0 || write(started, "x", 1) != 1)
		_exit(1);
	while (kata_persistence_list_infos(p, NULL, infos, 128, &count, NULL) == 0)
		;
	_exit(2);
}

Test(file, who_writes_is_not_kept_out_by_those_who_read_all_the_time, .timeout = 60)
{
	enum { READERS = 4, SANDBOXES = 100 };
	pid_t pids[READERS];
	struct room r;
	int fds[2];
	char id[32];

	room_open(&r);
	cr_assert_eq(pipe(fds), 0);
	for (int i = 0; i < SANDBOXES; i++) {
		snprintf(id, sizeof(id), "pod%d", i);
		fixture_assert_ok(kata_persistence_create_sandbox(r.p, id, &r.err), r.err);
	}
	for (int i = 0; i < READERS; i++) {
		pids[i] = fork();
		cr_assert_geq(pids[i], 0);
		if (pids[i] == 0)
			read_on_and_on(&r, fds[1]);
		cr_assert_eq(read(fds[0], id, 1), 1);
	}
	for (int i = 0; i < 10; i++) {
		snprintf(id, sizeof(id), "late%d", i);
		fixture_assert_ok(kata_persistence_create_sandbox(r.p, id, &r.err), r.err);
	}
	for (int i = 0; i < READERS; i++) {
		cr_assert_eq(waitpid(pids[i], NULL, WNOHANG), 0, "a reader was refused");
		kill(pids[i], SIGKILL);
		waitpid(pids[i], NULL, 0);
	}
	close(fds[0]);
	close(fds[1]);
	room_close(&r);
}

/* Each adds its own, all raise one epoch: none is lost, none is raised twice. */
static void be_one_of_many(struct room *r, int number)
{
	kata_context *context = fixture_new_context(&r->f, KATA_CONTEXT_EXTERNAL_LOOP);
	kata_persistence *p = NULL;
	int raised = 0;

	if (kata_persistence_new_file(context, r->path, &p, NULL) < 0)
		_exit(1);
	for (int i = 0; i < 10; i++) {
		char id[32];

		snprintf(id, sizeof(id), "pod%d-%d", number, i);
		if (kata_persistence_create_sandbox(p, id, NULL) < 0)
			_exit(2);
	}
	for (uint64_t epoch = 1; epoch < 40; epoch++)
		raised += kata__persistence_set_epoch(p, "shared", epoch, epoch + 1, NULL) == 0;
	kata_persistence_free(p);
	_exit(100 + raised);
}

Test(file, many_processes_at_once_lose_nothing, .timeout = 120)
{
	enum { PROCESSES = 6 };
	pid_t pids[PROCESSES];
	int raised = 0, status;
	char **ids = NULL;
	kata_record *record = NULL;
	struct room r;

	room_open(&r);
	fixture_assert_ok(room_store(&r, "shared"), r.err);
	for (int i = 0; i < PROCESSES; i++) {
		pids[i] = fork();
		cr_assert_geq(pids[i], 0);
		if (pids[i] == 0)
			be_one_of_many(&r, i);
	}
	for (int i = 0; i < PROCESSES; i++) {
		cr_assert_eq(waitpid(pids[i], &status, 0), pids[i]);
		cr_assert(WIFEXITED(status) && WEXITSTATUS(status) >= 100, "ended with %d", status);
		raised += WEXITSTATUS(status) - 100;
	}
	fixture_assert_ok(kata_persistence_list_sandboxes(r.p, &ids, &r.err), r.err);
	cr_assert_eq(kata__strv_length((const char *const *)ids), 10 * PROCESSES + 1);
	kata_string_list_free(ids);
	fixture_assert_ok(kata__persistence_load(r.p, "shared", &record, &r.err), r.err);
	cr_assert_eq(record->epoch, (uint64_t)raised + 1);
	kata__record_free(record);
	room_close(&r);
}
