/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checking and rewriting OCI specs. Only what the library itself depends on is checked: it is JSON, it says what to
 * run, and the storages it names can be told apart from paths. A `..` behind a storage is refused here; what lies on
 * the disk is resolved in the guest.
 */
#include "sandbox/spec.h"

#include <string.h>

#include "base/json.h"
#include "base/text.h"

static int parse_object(const char *argument, const char *text, size_t length, json_t **ret, kata_error **err)
{
	KATA_AUTO(kata_error_free) kata_error *cause = NULL;
	KATA_AUTO_JSON json_t *o = NULL;
	int rc;

	if (!text)
		return kata__fail(err, KATA_E_INVALID, CALLER, "%s: it is NULL, expected JSON text", argument);
	rc = kata__json_parse(argument, text, length ? length : strlen(text), KATA__SPEC_MAX, &o, &cause);
	if (rc == KATA_E_CORRUPT) /* the caller's argument, not a file */
		return kata__fail(err, KATA_E_INVALID, CALLER, "%s", kata_error_get_message(cause));
	if (rc < 0)
		return kata__error_move(err, &cause);
	if (!json_is_object(o))
		return kata__fail(err, KATA_E_INVALID, CALLER, "%s: expected a JSON object", argument);
	*ret = kata__take_ptr(o);
	return 0;
}

/* `where` ends with a dot, or is empty. */
static int check_process(const char *argument, const char *where, const json_t *process, bool *ret_terminal,
			 kata_error **err)
{
	const json_t *args = json_object_get(process, "args");
	const json_t *terminal = json_object_get(process, "terminal");
	json_t *arg;
	size_t i;

	if (!json_is_array(args) || json_array_size(args) == 0)
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "%s: %sargs is missing or empty, expected the program and its arguments", argument,
				  where);
	json_array_foreach(args, i, arg)
	{
		if (!json_is_string(arg))
			return kata__fail(err, KATA_E_INVALID, CALLER, "%s: %sargs[%zu]: expected a string", argument,
					  where, i);
	}
	if (terminal && !json_is_boolean(terminal))
		return kata__fail(err, KATA_E_INVALID, CALLER, "%s: %sterminal: expected true or false", argument,
				  where);
	*ret_terminal = json_is_true(terminal);
	return 0;
}

/* ---- storages */

static bool has_dot_dot(const char *path)
{
	for (const char *p = path; *p;) {
		size_t n = strcspn(p, "/");

		if (n == 2 && p[0] == '.' && p[1] == '.')
			return true;
		p += n;
		p += strspn(p, "/");
	}
	return false;
}

static int remember(struct kata__spec *spec, const char *id, kata_error **err)
{
	size_t n = kata__strv_length((const char *const *)spec->storages);
	char **grown;

	for (size_t i = 0; i < n; i++)
		if (strcmp(spec->storages[i], id) == 0)
			return 0;
	grown = realloc(spec->storages, (n + 2) * sizeof(*grown));
	if (!grown)
		return kata__fail_no_memory(err);
	spec->storages = grown;
	grown[n + 1] = NULL;
	grown[n] = kata__strdup(id);
	return grown[n] ? 0 : kata__fail_no_memory(err);
}

/* "storage:id/sub": *ret_path is the guest path, or NULL where `value` is an ordinary path. */
static int resolve(const char *argument, const char *where, const char *value, struct kata__spec *spec, char **ret_path,
		   kata_error **err)
{
	const size_t prefix = sizeof(KATA__SPEC_STORAGE_PREFIX) - 1;
	char id[KATA__ID_MAX + 1];
	const char *rest;
	size_t n;
	int rc;

	*ret_path = NULL;
	if (!value || strncmp(value, KATA__SPEC_STORAGE_PREFIX, prefix) != 0)
		return 0;
	rest = value + prefix;
	n = strcspn(rest, "/");
	snprintf(id, sizeof(id), "%.*s", n < sizeof(id) ? (int)n : (int)sizeof(id), rest);
	if (n > KATA__ID_MAX || !kata__id_is_valid(id))
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "%s: %s: '%.80s' names no storage, expected storage:<id> or storage:<id>/sub/path",
				  argument, where, value);
	if (has_dot_dot(rest + n))
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "%s: %s: '%.80s' leaves the storage, '..' is not allowed", argument, where, value);

	rc = remember(spec, id, err);
	if (rc < 0)
		return rc;
	*ret_path = kata__format(KATA__SPEC_STORAGE_DIR "/%s%s", id, rest + n);
	return *ret_path ? 0 : kata__fail_no_memory(err);
}

/* Replaces object[key] where it names a storage. */
static int rewrite_member(const char *argument, const char *where, json_t *object, const char *key,
			  struct kata__spec *spec, bool *changed, kata_error **err)
{
	KATA_AUTO(free) char *path = NULL;
	int rc = resolve(argument, where, json_string_value(json_object_get(object, key)), spec, &path, err);

	if (rc < 0 || !path)
		return rc;
	*changed = true;
	return json_object_set_new(object, key, json_string(path)) == 0 ? 0 : kata__fail_no_memory(err);
}

static int rewrite_mounts(const char *argument, json_t *mounts, struct kata__spec *spec, bool *changed,
			  kata_error **err)
{
	json_t *mount;
	size_t i;

	json_array_foreach(mounts, i, mount)
	{
		char where[48];
		int rc;

		snprintf(where, sizeof(where), "mounts[%zu].source", i);
		rc = rewrite_member(argument, where, mount, "source", spec, changed, err);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int finish_text(const char *text, size_t length, const json_t *o, bool changed, struct kata__spec *spec,
		       kata_error **err)
{
	if (changed) {
		spec->json = kata__json_dump(o);
		if (!spec->json)
			return kata__fail_no_memory(err);
		spec->json_length = strlen(spec->json);
		return 0;
	}
	spec->json_length = length ? length : strlen(text);
	spec->json = malloc(spec->json_length + 1);
	if (!spec->json)
		return kata__fail_no_memory(err);
	memcpy(spec->json, text, spec->json_length);
	spec->json[spec->json_length] = 0;
	return 0;
}

static int parse_spec(const char *argument, const char *text, size_t length, struct kata__spec *spec, kata_error **err)
{
	KATA_AUTO_JSON json_t *o = NULL;
	json_t *root, *mounts;
	bool changed = false;
	int rc = parse_object(argument, text, length, &o, err);

	if (rc < 0)
		return rc;
	if (!json_is_object(json_object_get(o, "process")))
		return kata__fail(err, KATA_E_INVALID, CALLER, "%s: process is missing, expected an object with args",
				  argument);
	rc = check_process(argument, "process.", json_object_get(o, "process"), &spec->terminal, err);
	if (rc < 0)
		return rc;
	root = json_object_get(o, "root");
	if (!json_is_object(root) || !json_is_string(json_object_get(root, "path")))
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "%s: root.path is missing, expected a path or storage:<id>", argument);
	mounts = json_object_get(o, "mounts");
	if (mounts && !json_is_array(mounts))
		return kata__fail(err, KATA_E_INVALID, CALLER, "%s: mounts: expected an array", argument);

	rc = rewrite_member(argument, "root.path", root, "path", spec, &changed, err);
	if (rc == 0)
		rc = rewrite_mounts(argument, mounts, spec, &changed, err);
	if (rc == 0)
		rc = finish_text(text, length, o, changed, spec, err);
	return rc;
}

int kata__spec_parse(const char *argument, const char *text, size_t length, struct kata__spec *ret, kata_error **err)
{
	struct kata__spec spec = {0};
	int rc = parse_spec(argument, text, length, &spec, err);

	if (rc < 0) {
		kata__spec_deinit(&spec);
		return rc;
	}
	*ret = spec;
	return 0;
}

int kata__spec_parse_process(const char *argument, const char *text, size_t length, struct kata__spec *ret,
			     kata_error **err)
{
	KATA_AUTO_JSON json_t *o = NULL;
	struct kata__spec spec = {0};
	int rc = parse_object(argument, text, length, &o, err);

	if (rc == 0)
		rc = check_process(argument, "", o, &spec.terminal, err);
	if (rc == 0)
		rc = finish_text(text, length, o, false, &spec, err);
	if (rc < 0)
		return rc;
	*ret = spec;
	return 0;
}

void kata__spec_deinit(struct kata__spec *spec)
{
	free(spec->json);
	kata__strv_free(spec->storages);
	*spec = (struct kata__spec){0};
}
