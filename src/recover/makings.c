/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Half-made snapshots and templates, and what a dead server of a factory leaves. Each has a lock that goes with the
 * process that makes it, and names that nobody else gives: locked it is being made; free it is left. All are removed by
 * name alone, under that lock.
 */
#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/text.h"
#include "factory/left.h"
#include "recover/recover.h"
#include "vm/notes.h"

/* ---- snapshots ---- */

static int judge_making(struct kata__recovery *r, const char *path, kata_error **err)
{
	struct stat st;

	if (lstat(path, &st) < 0)
		return 0;
	if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 022))
		return kata__finding_add(r, &kata__recover_snapshot, path, KATA_RECOVER_FOREIGN,
					 kata__strdup("named as a snapshot in the making, but not a directory of ours "
						      "alone"),
					 NULL, err);
	if (kata__saving_is_under_way(path))
		return 0;
	return kata__finding_add(r, &kata__recover_snapshot, path, KATA_RECOVER_HALF_MADE,
				 kata__strdup("nobody is making it any more"), NULL, err);
}

static int find_snapshots_in(struct kata__recovery *r, const char *dir, kata_error **err)
{
	DIR *d = opendir(dir);
	struct dirent *e;
	int rc = 0;

	while (d && rc == 0 && (e = readdir(d))) {
		KATA_AUTO(free) char *path = kata__format("%s/%s", strcmp(dir, "/") == 0 ? "" : dir, e->d_name);

		if (!path)
			rc = kata__fail_no_memory(err);
		else if (kata__is_saving_name(path) && !kata__finding_exists(r, &kata__recover_snapshot, path))
			rc = judge_making(r, path, err);
	}
	if (d)
		closedir(d);
	return rc;
}

static int find_snapshots(struct kata__recovery *r, kata_error **err)
{
	return kata__recover_places(r, find_snapshots_in, err);
}

static int undo_snapshot(struct kata__recovery *r, struct kata__finding *f, kata_error **err)
{
	return kata__remove_saving(f->id, err);
}

const struct kata__kind kata__recover_snapshot = {.name = "snapshot", .find = find_snapshots, .undo = undo_snapshot};

/* ---- templates ---- */

static int find_template_in(struct kata__recovery *r, const char *dir, kata_error **err)
{
	size_t left = kata__template_count_left(dir);

	if (left == 0 || kata__finding_exists(r, &kata__recover_template, dir))
		return 0;
	return kata__finding_add(
		r, &kata__recover_template, dir, KATA_RECOVER_HALF_MADE,
		kata__format("%zu file%s of a making that nobody is at any more", left, left == 1 ? "" : "s"), NULL,
		err);
}

static int find_templates(struct kata__recovery *r, kata_error **err)
{
	return kata__recover_places(r, find_template_in, err);
}

static int undo_template(struct kata__recovery *r, struct kata__finding *f, kata_error **err)
{
	return kata__template_remove_left(f->id, err);
}

const struct kata__kind kata__recover_template = {.name = "template", .find = find_templates, .undo = undo_template};

/* ---- sockets: those in the state directory alone, which is ours. Elsewhere others name theirs so too. */

static int find_sockets(struct kata__recovery *r, kata_error **err)
{
	const char *state_dir = kata_context_get_state_dir(r->ctx);
	DIR *d = opendir(state_dir);
	struct dirent *e;
	int rc = 0;

	while (d && rc == 0 && (e = readdir(d))) {
		size_t len = strlen(e->d_name);
		KATA_AUTO(free) char *path = NULL;

		if (len <= 5 || strcmp(e->d_name + len - 5, ".lock") != 0)
			continue;
		path = kata__format("%s/%.*s", state_dir, (int)(len - 5), e->d_name);
		if (!path)
			rc = kata__fail_no_memory(err);
		else if (kata__server_is_left(path))
			rc = kata__finding_add(r, &kata__recover_socket, path, KATA_RECOVER_GONE,
					       kata__strdup("its factory is dead"), NULL, err);
	}
	if (d)
		closedir(d);
	return rc;
}

static int undo_socket(struct kata__recovery *r, struct kata__finding *f, kata_error **err)
{
	return kata__server_remove_left(f->id, err);
}

const struct kata__kind kata__recover_socket = {.name = "socket", .find = find_sockets, .undo = undo_socket};
