/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_PERSIST_SCHEMA_H
#define KATA_PERSIST_SCHEMA_H
/* What the schema consists of, by version, and how one version becomes the next. */
#include "persist/sqlite.h"

struct kata__schema_object {
	const char *type; /* as in sqlite_master */
	const char *verb; /* "CREATE TABLE " */
	const char *name;
	const char *rest; /* after the name */
	int since, until; /* the versions that have it so; until 0: still */
};
extern const struct kata__schema_object kata__schema_objects[];
extern const size_t kata__schema_object_count;

static inline bool kata__schema_has(const struct kata__schema_object *o, int64_t version)
{
	return o->since <= version && (o->until == 0 || version <= o->until);
}

/* schema_migrate.c */
struct kata__migration {
	int version; /* of the schema once it has run */
	int (*run)(struct kata__sqlite *s, kata_error **err);
};
/* Oldest first. The one for version 1 is not there: what has no tables gets those of today. */
extern const struct kata__migration kata__migrations[];
extern const size_t kata__migration_count;
/* Makes all tables as they are today. */
int kata__schema_make(struct kata__sqlite *s, kata_error **err);
/* Runs what is above `from`, each followed by its version number. Within the caller's savepoint. */
int kata__schema_migrate(struct kata__sqlite *s, int64_t from, const struct kata__migration *migrations, size_t count,
			 kata_error **err);
#endif
