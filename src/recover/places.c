/* SPDX-License-Identifier: Apache-2.0 */
/* Directories outside the state directory in which something may be half made: those the caller names, those of rows,
 * and those that machines' notes tell of. */
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "recover/recover.h"
#include "vm/notes.h"

struct list {
	char **paths;
	size_t count, room;
};

/* The path is taken; NULL: there is none. */
static int add(struct list *l, char *take_path, kata_error **err)
{
	for (size_t i = 0; take_path && i < l->count; i++)
		if (strcmp(l->paths[i], take_path) == 0)
			free(kata__take_ptr(take_path));
	if (!take_path)
		return 0;
	if (l->count == l->room) {
		char **grown = reallocarray(l->paths, l->room ? 2 * l->room : 8, sizeof(*grown));

		if (!grown) {
			free(take_path);
			return kata__fail_no_memory(err);
		}
		l->paths = grown;
		l->room = l->room ? 2 * l->room : 8;
	}
	l->paths[l->count++] = take_path;
	return 0;
}

static char *parent_of(const char *path)
{
	const char *slash = strrchr(path, '/');

	return !slash ? NULL : slash == path ? kata__strdup("/") : kata__format("%.*s", (int)(slash - path), path);
}

static int add_named(const struct kata__recovery *r, struct list *l, kata_error **err)
{
	int rc = 0;

	for (size_t i = 0; rc == 0 && r->directories && r->directories[i]; i++)
		rc = add(l, kata__strdup(r->directories[i]), err);
	return rc;
}

/* Rows that cannot be read are reported by their own kinds. */
static int add_rows(const struct kata__recovery *r, kata_row_kind kind, struct list *l, kata_error **err)
{
	char **ids = NULL;
	int rc = 0;

	if (!r->p || r->store_failed || kata_persistence_list_rows(r->p, kind, NULL, NULL, &ids, NULL) < 0)
		return 0;
	for (char **id = ids; rc == 0 && *id; id++) {
		kata_row *row = NULL;

		if (kata_persistence_get_row(r->p, kind, *id, &row, NULL) == 0 && row->directory)
			rc = add(l,
				 kind == KATA_ROW_TEMPLATE ? kata__strdup(row->directory) : parent_of(row->directory),
				 err);
		kata_row_free(row);
	}
	kata_string_list_free(ids);
	return rc;
}

static int add_noted(const struct kata__recovery *r, struct list *l, kata_error **err)
{
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < r->machine_count; i++) {
		KATA_AUTO(free)
		char *dir = kata__format("%s/vm/%s", kata_context_get_state_dir(r->ctx), r->findings[i].id);
		KATA_AUTO(free) char *saving = NULL;

		if (!dir)
			return kata__fail_no_memory(err);
		if (r->findings[i].verdict != KATA_RECOVER_FOREIGN && r->findings[i].verdict != KATA_RECOVER_OWNED)
			saving = kata__get_saving(dir);
		if (saving)
			rc = add(l, parent_of(saving), err);
	}
	return rc;
}

int kata__recover_places(struct kata__recovery *r,
			 int (*fn)(struct kata__recovery *r, const char *dir, kata_error **err), kata_error **err)
{
	struct list l = {0};
	int rc = add_named(r, &l, err);

	if (rc == 0)
		rc = add_rows(r, KATA_ROW_TEMPLATE, &l, err);
	if (rc == 0)
		rc = add_rows(r, KATA_ROW_SNAPSHOT, &l, err);
	if (rc == 0)
		rc = add_noted(r, &l, err);
	for (size_t i = 0; rc == 0 && i < l.count; i++)
		rc = fn(r, l.paths[i], err);
	for (size_t i = 0; i < l.count; i++)
		free(l.paths[i]);
	free(l.paths);
	return rc;
}
