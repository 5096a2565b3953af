/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Making the tables, and bringing those of an older version forward. It runs on what was found to be exactly that
 * version's tables, inside one savepoint, and what comes out is compared with today's before it is kept.
 */
#include <stdio.h>

#include "base/text.h"
#include "persist/schema.h"

static int make_object(struct kata__sqlite *s, const struct kata__schema_object *o, kata_error **err)
{
	KATA_AUTO(free) char *text = kata__format("%s@.%s%s", o->verb, o->name, o->rest);

	return text ? kata__sqlite_exec_text(s, text, o->name, err) : kata__fail_no_memory(err);
}

int kata__schema_make(struct kata__sqlite *s, kata_error **err)
{
	char text[80];

	for (size_t i = 0; i < kata__schema_object_count; i++) {
		const struct kata__schema_object *o = &kata__schema_objects[i];
		int rc = kata__schema_has(o, KATA_SCHEMA_VERSION) ? make_object(s, o, err) : 0;

		if (rc < 0)
			return rc;
	}
	snprintf(text, sizeof(text), "INSERT INTO @.kata_schema (id, version) VALUES (1, %d)", KATA_SCHEMA_VERSION);
	return kata__sqlite_exec_text(s, text, "kata_schema", err);
}

static int run_all(struct kata__sqlite *s, const char *const *texts, size_t count, kata_error **err)
{
	for (size_t i = 0; i < count; i++) {
		int rc = kata__sqlite_exec_text(s, texts[i], NULL, err);

		if (rc < 0)
			return rc;
	}
	return 0;
}

/* Generations, and who took an epoch in full; reservations are intents now, what NICs hold is found in kata_nics by
 * index; and the four tables of what is no sandbox. */
static int migrate_to_2(struct kata__sqlite *s, kata_error **err)
{
	static const char *const texts[] = {
		"DROP VIEW @.kata_v_sandbox",
		"DROP TABLE @.kata_reservations",
		"ALTER TABLE @.kata_sandboxes ADD COLUMN generation INTEGER NOT NULL DEFAULT 0",
		"ALTER TABLE @.kata_sandboxes ADD COLUMN intent_count INTEGER NOT NULL DEFAULT 0",
		"ALTER TABLE @.kata_sandboxes ADD COLUMN taken_start_time INTEGER NOT NULL DEFAULT 0",
		"ALTER TABLE @.kata_sandboxes ADD COLUMN taken_boot_id TEXT",
	};
	int rc = run_all(s, texts, kata__array_size(texts), err);

	for (size_t i = 0; rc == 0 && i < kata__schema_object_count; i++) {
		const struct kata__schema_object *o = &kata__schema_objects[i];

		if (o->since == 2 && sqlite3_stricmp(o->name, "kata_sandboxes") != 0)
			rc = make_object(s, o, err);
	}
	return rc;
}

const struct kata__migration kata__migrations[] = {{2, migrate_to_2}};
const size_t kata__migration_count = kata__array_size(kata__migrations);

int kata__schema_migrate(struct kata__sqlite *s, int64_t from, const struct kata__migration *list, size_t count,
			 kata_error **err)
{
	for (size_t i = 0; i < count; i++) {
		char text[96];
		int rc;

		if (list[i].version <= from)
			continue;
		rc = list[i].run(s, err);
		if (rc < 0)
			return rc;
		snprintf(text, sizeof(text), "UPDATE @.kata_schema SET version = %d", list[i].version);
		rc = kata__sqlite_exec_text(s, text, "kata_schema", err);
		if (rc < 0)
			return rc;
	}
	return 0;
}
