/* SPDX-License-Identifier: Apache-2.0 */
/* Rows that somebody else wrote: wrong types, lengths, counts, texts; and files whose pages are damaged. */
#include <fcntl.h>
#include <sys/stat.h>

#include "unit/persist/persist_test.h"

/* The same tables without STRICT hold anything: what a hostile file may do by writing its pages itself. The text of the
 * schema is put back, so that only the rows are wrong. */
static void loosen(sqlite3 *db)
{
	sql(db, "PRAGMA writable_schema = ON;"
		"CREATE TEMP TABLE saved AS SELECT name, sql FROM main.sqlite_master;"
		"UPDATE main.sqlite_master SET sql = replace(replace(replace(sql, ' STRICT, WITHOUT', ' WITHOUT'), ' "
		"STRICT', ''), "
		"' INTEGER', '') WHERE type = 'table' AND name LIKE 'kata%';"
		"UPDATE main.sqlite_master SET sql = replace(replace(sql, ' NOT NULL', ''), ' TEXT', '')"
		" WHERE type = 'table' AND name LIKE 'kata%' AND sql NOT LIKE '%WITHOUT ROWID%';"
		"PRAGMA writable_schema = RESET");
}

static void tighten(sqlite3 *db)
{
	sql(db,
	    "PRAGMA writable_schema = ON;"
	    "UPDATE main.sqlite_master SET sql = (SELECT s.sql FROM saved AS s WHERE s.name = main.sqlite_master.name)"
	    " WHERE name IN (SELECT name FROM saved) AND sql IS NOT NULL;"
	    "DROP TABLE saved;"
	    "PRAGMA writable_schema = RESET");
}

/* Stores a good sandbox, runs the text on the loosened tables, and expects the load to fail. */
static void assert_unreadable(const char *text, const char *part)
{
	struct record_wish wish = full_wish("pod");
	struct caller c;

	caller_open(&c);
	fixture_assert_ok(caller_store(&c, &wish), c.err);
	loosen(c.db);
	sql(c.db, text);
	tighten(c.db);
	fixture_assert_fails(caller_load(&c, "pod"), KATA_E_CORRUPT, c.err);
	assert_message_has(c.err, part);
	cr_assert_eq(sqlite3_get_autocommit(c.db), 1);
	caller_close(&c);
}

Test(rows, of_another_type_are_corrupt)
{
	assert_unreadable("UPDATE kata_sandboxes SET vm_pid = 'x'", "kata_sandboxes.vm_pid: must be INTEGER, is TEXT");
	assert_unreadable("UPDATE kata_sandboxes SET hostname = x'00ff'",
			  "kata_sandboxes.hostname: must be TEXT, is BLOB");
	assert_unreadable("UPDATE kata_sandboxes SET vm_id = NULL", "kata_sandboxes.vm_id: is NULL");
	assert_unreadable("UPDATE kata_storages SET size_bytes = 1.5",
			  "kata_storages.size_bytes: must be INTEGER, is REAL");
	assert_unreadable("UPDATE kata_nics SET mac = 7 WHERE id = 'nic0'", "'7' is not a MAC address");
}

Test(rows, with_a_nul_or_broken_utf8_are_corrupt)
{
	assert_unreadable("UPDATE kata_sandboxes SET hostname = CAST(x'610062' AS TEXT)",
			  "hostname: has a NUL or is not UTF-8");
	assert_unreadable("UPDATE kata_storages SET path = CAST(x'2fff' AS TEXT)", "path: has a NUL or is not UTF-8");
	assert_unreadable("UPDATE kata_storages SET path = CAST(x'2fc0af' AS TEXT)", "path: has a NUL or is not UTF-8");
	assert_unreadable("UPDATE kata_storages SET path = CAST(x'2feda080' AS TEXT)",
			  "path: has a NUL or is not UTF-8");
}

Test(rows, with_numbers_out_of_range_are_corrupt)
{
	assert_unreadable("UPDATE kata_sandboxes SET vm_pid = -1", "vm_pid: is out of range");
	assert_unreadable("UPDATE kata_sandboxes SET owner_pid = 4194305", "owner_pid: is out of range");
	assert_unreadable("UPDATE kata_sandboxes SET vm_cpus = 4294967296", "vm_cpus: is out of range");
	assert_unreadable("UPDATE kata_sandboxes SET epoch = -9", "epoch: is out of range");
	assert_unreadable("UPDATE kata_storages SET read_only = 2", "read_only: is out of range");
	assert_unreadable("UPDATE kata_storages SET size_bytes = -1", "size_bytes: is out of range");
}

Test(rows, with_texts_of_another_form_are_corrupt)
{
	assert_unreadable("UPDATE kata_sandboxes SET state = 'flying'", "is not running, paused or released");
	assert_unreadable("UPDATE kata_sandboxes SET vm_id = '../../etc'", "is not an id");
	assert_unreadable("UPDATE kata_sandboxes SET vm_uuid = 'x'", "is not a UUID");
	assert_unreadable("UPDATE kata_sandboxes SET vm = '[1]'", "is not a JSON object");
	assert_unreadable("UPDATE kata_sandboxes SET vm = '{\"a\":'", "not JSON");
	assert_unreadable("UPDATE kata_sandboxes SET dns = '[1]'", "array of strings");
	assert_unreadable("UPDATE kata_containers SET storages = '[\"../x\"]'", "array of ids");
	assert_unreadable("UPDATE kata_nics SET mac = '02:00:00:00:00:0G'", "is not a MAC address");
	assert_unreadable("UPDATE kata_nics SET id = 'a/b' WHERE id = 'nic0'", "is not an id");
}

Test(rows, that_contradict_one_another_are_corrupt)
{
	assert_unreadable("DELETE FROM kata_nics WHERE id = 'nic0'",
			  "kata_nics has 1 rows, kata_sandboxes.nic_count says 2");
	assert_unreadable("UPDATE kata_sandboxes SET storage_count = 1", "kata_storages has 2 rows");
	assert_unreadable("UPDATE kata_sandboxes SET process_count = -1", "process_count is -1");
	assert_unreadable("UPDATE kata_sandboxes SET container_count = 1000000000000", "must be from 0 to 4096");
	assert_unreadable("UPDATE kata_processes SET container_id = 'stranger' WHERE exec_id = 'app'",
			  "no container 'stranger'");
	assert_unreadable("UPDATE kata_sandboxes SET boot_id = NULL", "a pid alone identifies nobody");
	assert_unreadable("UPDATE kata_sandboxes SET vm_start_time = 0", "a pid alone identifies nobody");
}

Test(rows, longer_than_the_cap_are_corrupt)
{
	assert_unreadable("UPDATE kata_sandboxes SET hostname = replace(hex(zeroblob(524289)), '00', 'aa')",
			  "hostname: is longer than 1 MiB");
	assert_unreadable(
		"UPDATE kata_sandboxes SET hostname = CAST(replace(hex(zeroblob(5000000)), '00', 'aa') AS TEXT)",
		"more than 8388608 bytes");
}

/* The header of the row says a gigabyte; the page has a few bytes. */
Test(rows, that_claim_a_gigabyte_are_refused_before_it_is_read)
{
	struct record_wish wish = full_wish("pod");
	struct caller c;
	char *path, *page;
	struct stat st;
	int fd, found = 0;

	caller_open(&c);
	wish.hostname = "a-name-that-is-found-in-the-page";
	fixture_assert_ok(caller_store(&c, &wish), c.err);
	sql(c.db, "PRAGMA wal_checkpoint(TRUNCATE)");
	kata_persistence_free(c.p);
	c.p = NULL;
	cr_assert_eq(sqlite3_close(c.db), SQLITE_OK);
	path = fixture_path(&c.f, "caller.db");
	fd = open(path, O_RDWR | O_CLOEXEC);
	cr_assert_eq(fstat(fd, &st), 0);
	page = malloc((size_t)st.st_size);
	cr_assert_eq(pread(fd, page, (size_t)st.st_size, 0), st.st_size);
	/* The serial type of the hostname: a text of 32 bytes is 2 * 32 + 13 = 77, in the header of a row that begins
	 * with its length. The payload's length stands before it as two bytes of a varint; there it becomes a gigabyte.
	 */
	for (off_t i = 4; i + 40 < st.st_size && !found; i++) {
		if (memcmp(page + i, "a-name-that-is-found", 20) != 0)
			continue;
		for (off_t k = i; k > i - 200 && k > 0 && !found; k--)
			if (page[k] == 77) {
				static const unsigned char huge[] = {0x83, 0xdc, 0xd6, 0x80, 0x0d}; /* 1000000013 */

				cr_assert_eq(pwrite(fd, huge, sizeof(huge), k), (ssize_t)sizeof(huge));
				found = 1;
			}
	}
	cr_assert(found);
	free(page);
	close(fd);
	cr_assert_eq(sqlite3_open(path, &c.db), SQLITE_OK);
	fixture_assert_ok(kata_persistence_new_sqlite_attached(c.f.context, c.db, NULL, &c.p, &c.err), c.err);
	fixture_assert_fails(caller_load(&c, "pod"), KATA_E_CORRUPT, c.err);
	free(path);
	caller_close(&c);
}

Test(rows, in_lists_are_checked_too)
{
	struct record_wish wish = full_wish("pod");
	struct caller c;
	char **ids = NULL, *id = NULL;

	caller_open(&c);
	fixture_assert_ok(caller_store(&c, &wish), c.err);
	sql(c.db, "INSERT INTO kata_sandboxes (id, state) VALUES ('../../root', 'new')");
	fixture_assert_fails(kata_persistence_list_sandboxes(c.p, &ids, &c.err), KATA_E_CORRUPT, c.err);
	cr_assert_null(ids);
	error_clear(&c.err);
	sql(c.db, "UPDATE kata_containers SET sandbox_id = '-x' WHERE id = 'app'");
	fixture_assert_fails(kata_persistence_sandbox_of_container(c.p, "app", &id, &c.err), KATA_E_CORRUPT, c.err);
	cr_assert_null(id);
	caller_close(&c);
}

Test(rows, left_by_somebody_are_removed_by_a_delete)
{
	struct record_wish wish = full_wish("pod");
	struct caller c;

	caller_open(&c);
	fixture_assert_ok(caller_store(&c, &wish), c.err);
	sql(c.db, "DELETE FROM kata_sandboxes"); /* foreign keys are off: what is below it stays */
	fixture_assert_ok(caller_store(&c, &(struct record_wish){.id = "pod", .epoch = 1}), c.err);
	fixture_assert_fails(caller_load(&c, "pod"), KATA_E_CORRUPT, c.err);
	error_clear(&c.err);
	fixture_assert_ok(kata_persistence_delete_sandbox(c.p, "pod", &c.err), c.err);
	cr_assert_eq(sql_int(c.db, "SELECT count(*) FROM kata_storages"), 0);
	fixture_assert_ok(caller_store(&c, &wish), c.err);
	fixture_assert_ok(caller_load(&c, "pod"), c.err);
	caller_close(&c);
}

static void assert_loads_as(struct caller *c, const struct record_wish *wish)
{
	kata_record *r = sample_record(wish), *back = NULL;
	char *expected = kata_record_to_json(r), *json;

	fixture_assert_ok(kata__persistence_load(c->p, wish->id, &back, &c->err), c->err);
	json = kata_record_to_json(back);
	cr_assert_str_eq(json, expected);
	free(json);
	free(expected);
	kata__record_free(r);
	kata__record_free(back);
}

/* Storing does not believe the counts further than it must. */
Test(rows, that_somebody_changed_are_put_right_by_the_next_store)
{
	static const char *const lies[] = {
		"UPDATE kata_sandboxes SET storage_count = 1",
		"UPDATE kata_sandboxes SET nic_count = -7",
		"UPDATE kata_sandboxes SET process_count = 9000000000",
		"DELETE FROM kata_containers WHERE id = 'app'",
		"UPDATE kata_processes SET exec_id = 'other' WHERE exec_id = 'app'",
		"UPDATE kata_storages SET path = '/etc/shadow', position = 7",
	};
	struct record_wish wish = full_wish("pod");
	struct caller c;

	caller_open(&c);
	fixture_assert_ok(caller_store(&c, &wish), c.err);
	for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		sql(c.db, lies[i]);
		fixture_assert_ok(caller_store(&c, &wish), c.err);
		assert_loads_as(&c, &wish);
	}
	caller_close(&c);
}

/* ---- damaged files ---- */

static uint32_t next_random(uint32_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 17;
	*state ^= *state << 5;
	return *state;
}

/* Opens the damaged copy as the caller's and uses it: any answer is right that is an answer. */
static void use_damaged(struct fixture *f, const char *path)
{
	struct record_wish wish = full_wish("pod"), other = full_wish("other");
	kata_persistence *p = NULL;
	kata_record *r;
	sqlite3 *db;
	char **ids = NULL, *id = NULL;

	cr_assert_eq(sqlite3_open(path, &db), SQLITE_OK);
	cr_assert_eq(kata_persistence_new_sqlite_attached(f->context, db, NULL, &p, NULL), 0);
	r = NULL;
	if (kata__persistence_load(p, "pod", &r, NULL) == 0)
		cr_assert_str_eq(r->id, "pod");
	kata__record_free(r);
	if (kata_persistence_list_sandboxes(p, &ids, NULL) == 0)
		kata_string_list_free(ids);
	if (kata_persistence_sandbox_of_container(p, "app", &id, NULL) == 0)
		free(id);
	r = sample_record(&other);
	kata__persistence_store(p, r, NULL);
	kata__record_free(r);
	r = sample_record(&wish);
	kata__persistence_store(p, r, NULL);
	kata__record_free(r);
	kata_persistence_delete_sandbox(p, "pod", NULL);
	cr_assert_eq(sqlite3_get_autocommit(db), 1, "no transaction is left open");
	kata_persistence_free(p);
	cr_assert_eq(sqlite3_close(db), SQLITE_OK);
}

Test(damage, of_any_byte_is_an_error_or_harmless, .timeout = 120)
{
	enum { MUTANTS = 400 };
	struct record_wish wish = full_wish("pod");
	uint32_t seed = 20240229;
	char *path, *mutant, *good, *bad;
	struct stat st;
	struct caller c;
	int fd;

	caller_open(&c);
	fixture_assert_ok(caller_store(&c, &wish), c.err);
	sql(c.db, "PRAGMA journal_mode = DELETE");
	path = fixture_path(&c.f, "caller.db");
	mutant = fixture_path(&c.f, "mutant.db");
	fd = open(path, O_RDONLY | O_CLOEXEC);
	cr_assert_eq(fstat(fd, &st), 0);
	good = malloc((size_t)st.st_size);
	bad = malloc((size_t)st.st_size);
	cr_assert_eq(read(fd, good, (size_t)st.st_size), st.st_size);
	for (int i = 0; i < MUTANTS; i++) {
		size_t length = (size_t)st.st_size;
		int out = open(mutant, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

		memcpy(bad, good, length);
		for (uint32_t k = next_random(&seed) % 8; k < 8; k++) {
			size_t at = next_random(&seed) % length;

			if (i % 2) /* headers and cell pointers of a page rather than its middle */
				at = at / 4096 * 4096 + at % 64;
			bad[at] = (char)next_random(&seed);
		}
		if (i % 10 == 0)
			length = next_random(&seed) % length;
		cr_assert_eq(write(out, bad, length), (ssize_t)length);
		close(out);
		use_damaged(&c.f, mutant);
		unlink(mutant);
		char *journal = kata__format("%s-journal", mutant);
		unlink(journal);
		free(journal);
	}
	close(fd); /* SQLite's locks of this process on the file go: nobody uses it any more */
	free(good);
	free(bad);
	free(path);
	free(mutant);
	caller_close(&c);
}
