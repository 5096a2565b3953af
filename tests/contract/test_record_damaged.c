/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Released records that were damaged, as they are, as a machine's, and as what a persistence hands out: each attempt
 * ends in time with an error or with the machine itself; nobody else gets a signal, nothing is made elsewhere, and the
 * good record works afterwards.
 */
#include "damage_kit.h"

#include <kata/driver/persistence.h>

/* ---- one node of a tree, as a number in the order of a walk */

static size_t count_nodes(json_t *o)
{
	const char *key;
	json_t *value;
	size_t n = 1, i;

	if (json_is_object(o))
		json_object_foreach(o, key, value) n += count_nodes(value);
	if (json_is_array(o))
		json_array_foreach(o, i, value) n += count_nodes(value);
	return n;
}

static json_t *any_value(struct site *w, json_t *before)
{
	char *text;
	json_t *o;

	switch (any(w, 8)) {
	case 0:
		return json_null();
	case 1:
		return json_boolean(any(w, 2));
	case 2:
		return json_real(1e300);
	case 3:
		return any(w, 2) ? json_object() : json_array();
	case 4:
	case 5:
		if (!json_is_integer(before))
			break;
		return json_integer(any(w, 2) ? any_number(w) : json_integer_value(before) + (any(w, 2) ? 1 : -1));
	default:
		break;
	}
	text = any_text(w);
	o = json_string_nocheck(text);
	free(text);
	return o;
}

/* Changes a member that is there: to something else, away, or doubled. */
static void change_member(struct site *w, json_t *parent, const char *key, size_t index)
{
	json_t *before = json_is_object(parent) ? json_object_get(parent, key) : json_array_get(parent, index);

	if (any(w, 6) == 0) {
		if (json_is_object(parent))
			json_object_del(parent, key);
		else
			json_array_remove(parent, index);
	} else if (any(w, 6) == 0) {
		if (json_is_object(parent))
			json_object_set_new(parent, "unknown", json_deep_copy(before));
		else
			json_array_append_new(parent, json_deep_copy(before));
	} else if (json_is_object(parent)) {
		json_object_set_new_nocheck(parent, key, any_value(w, before));
	} else {
		json_array_set_new(parent, index, any_value(w, before));
	}
}

/* Whether the n-th node below `o` was reached, and so changed. */
static bool change_nth(struct site *w, json_t *o, size_t *n)
{
	const char *key;
	json_t *value;
	size_t i;

	if (json_is_object(o)) {
		json_object_foreach(o, key, value)
		{
			if ((*n)-- == 0) {
				change_member(w, o, key, 0);
				return true;
			}
			if (change_nth(w, value, n))
				return true;
		}
	} else if (json_is_array(o)) {
		json_array_foreach(o, i, value)
		{
			if ((*n)-- == 0) {
				change_member(w, o, NULL, i);
				return true;
			}
			if (change_nth(w, value, n))
				return true;
		}
	}
	return false;
}

/* Another process as if it were the machine's, wherever the record names one. */
static void accuse(struct site *w, json_t *root)
{
	json_t *vm = json_object_get(root, "vm") ? json_object_get(root, "vm") : root;
	json_t *process = json_object_get(vm, "process");
	struct identity id = any_victim(w);

	json_object_set_new(process, "pid", json_integer(id.pid));
	json_object_set_new(process, "start_time", json_integer(id.start_time));
	if (vm == root)
		return;
	json_object_set_new(root, "vm_pid", json_integer(id.pid));
	json_object_set_new(root, "vm_start_time", json_integer(id.start_time));
	if (any(w, 3) == 0) {
		json_object_set_new(root, "owner_pid", json_integer(id.pid));
		json_object_set_new(root, "owner_start_time", json_integer(id.start_time));
	}
}

/* Another id or directory, wherever the record has one. */
static void rename_it(struct site *w, json_t *root)
{
	json_t *vm = json_object_get(root, "vm") ? json_object_get(root, "vm") : root;
	char *text = any_text(w);

	json_object_set_new_nocheck(vm, "id", json_string_nocheck(text));
	json_object_set_new_nocheck(json_object_get(vm, "config"), "id", json_string_nocheck(text));
	if (vm != root)
		json_object_set_new_nocheck(root, "vm_id", json_string_nocheck(text));
	free(text);
}

static char *change_tree(struct site *w, const char *json)
{
	json_t *root = json_loads(json, 0, NULL);
	size_t times = 1 + any(w, 3);
	char *text;

	cr_assert_not_null(root);
	switch (any(w, 8)) {
	case 0:
		accuse(w, root);
		break;
	case 1:
		rename_it(w, root);
		break;
	default:
		for (size_t i = 0; i < times; i++) {
			size_t n = any(w, count_nodes(root) - 1);

			change_nth(w, root, &n);
		}
	}
	text = json_dumps(root, JSON_COMPACT);
	json_decref(root);
	return text ? text : strdup("{");
}

/* ---- the text itself; bytes may become NUL, so the length counts */

static char *double_a_key(struct site *w, const char *json)
{
	static const char *const members[] = {"\"pid\":1,",   "\"id\":\"other\",", "\"version\":1,",
					      "\"epoch\":9,", "\"vm_pid\":1,",     "\"path\":\"/etc/passwd\","};
	const char *member = members[any(w, sizeof(members) / sizeof(members[0]))], *at = json;
	char *text = malloc(strlen(json) + strlen(member) + 1);
	size_t braces = any(w, 12);

	for (size_t i = 0; i < braces; i++) {
		const char *next = strchr(at + 1, '{');

		if (!next)
			break;
		at = next;
	}
	sprintf(text, "%.*s%s%s", (int)(at + 1 - json), json, member, at + 1);
	return text;
}

static char *change_text(struct site *w, const char *json, size_t *ret_length)
{
	size_t length = strlen(json);
	char *text;

	switch (any(w, 4)) {
	case 0:
		text = double_a_key(w, json);
		*ret_length = strlen(text);
		return text;
	case 1: /* cut */
		*ret_length = any(w, length);
		return strndup(json, *ret_length);
	case 2: /* bits */
		text = strdup(json);
		for (size_t i = 0, n = 1 + any(w, 8); i < n; i++)
			text[any(w, length)] ^= (char)(1 << any(w, 8));
		break;
	default: /* a piece in place of another */
		text = strdup(json);
		memmove(text + any(w, length - 64), text + any(w, length - 64), any(w, 64));
	}
	*ret_length = length;
	return text;
}

static char *damage(struct site *w, const char *json, size_t *ret_length)
{
	char *text;

	if (any(w, 4) == 0)
		return change_text(w, json, ret_length);
	text = change_tree(w, json);
	*ret_length = strlen(text);
	return text;
}

/* ---- a persistence that hands it out */

static int hands_load(void *self, const char *id, char **ret_json, uint64_t *ret_epoch, kata_error **err)
{
	*ret_json = strdup(self);
	*ret_epoch = 1;
	return 0;
}

static int hands_create(void *self, const char *id, kata_error **err)
{
	return KATA_E_EXISTS;
}

static int hands_store(void *self, const kata_record *record, kata_error **err)
{
	return 0;
}

static int hands_epoch(void *self, const char *id, uint64_t from, uint64_t to, kata_error **err)
{
	return 0;
}

static int hands_remove(void *self, const char *id, kata_error **err)
{
	return 0;
}

static int hands_list(void *self, char ***ret_ids, kata_error **err)
{
	*ret_ids = calloc(2, sizeof(char *));
	(*ret_ids)[0] = strdup("sb");
	return 0;
}

static int hands_containers(void *self, const char *sandbox_id, char ***ret_ids, kata_error **err)
{
	return hands_list(self, ret_ids, err);
}

static int hands_find(void *self, const char *container_id, char **ret_id, kata_error **err)
{
	return KATA_E_NOT_FOUND;
}

static void hands_free(void *self)
{
}

static const kata_persistence_ops hands_ops = {
	.size = sizeof(kata_persistence_ops),
	.name = "hands",
	.create_sandbox = hands_create,
	.store = hands_store,
	.load = hands_load,
	.set_epoch = hands_epoch,
	.remove = hands_remove,
	.list_sandboxes = hands_list,
	.list_containers = hands_containers,
	.sandbox_of_container = hands_find,
	.free = hands_free,
};

static void try_handed(struct site *w, char *text, const char *when)
{
	kata_sandbox_info info = {.size = sizeof(info)};
	kata_persistence *p = NULL;
	kata_sandbox *s = NULL;
	kata_error *err = NULL;
	size_t count;
	int rc;

	fixture_assert_ok(kata_persistence_new(w->k.f.context, &hands_ops, text, &p, &err), err);
	rc = kata_persistence_get_info(p, "sb", &info, &err);
	cr_assert_eq(rc < 0, err != NULL, "%s", when);
	error_clear(&err);
	rc = kata_persistence_list_infos(p, NULL, &info, 1, &count, &err);
	cr_assert_eq(rc < 0, err != NULL, "%s", when);
	error_clear(&err);
	rc = kata_persistence_obtain_sandbox(p, "sb", w->k.builder, NULL, NULL, &s, &err);
	settle_attempt(w, rc, s, err, when);
	error_clear(&err);
	fixture_assert_ok(kata_persistence_delete_sandbox(p, "sb", &err), err);
	kata_persistence_free(p);
}

/* ---- rounds */

static void try_sandbox(struct site *w, const char *text, size_t length, const char *when)
{
	kata_sandbox *s = NULL;
	kata_error *err = NULL;
	int rc = kata_sandbox_build_from_released(w->k.f.context, text, length, w->k.builder, NULL, NULL, &s, &err);

	settle_attempt(w, rc, s, err, when);
	error_clear(&err);
}

static void try_machine(struct site *w, const char *text, size_t length, const char *when)
{
	kata_vm *vm = NULL;
	kata_error *err = NULL;
	int rc = kata_vm_builder_build_from_released(w->k.builder, text, length, NULL, &vm, &err);

	cr_assert_eq(rc < 0, err != NULL, "%s", when);
	if (rc < 0) {
		cr_assert_neq(rc, KATA_E_TIMEOUT, "%s: it hung: %s", when, error_text(err));
		cr_assert_null(vm, "%s", when);
		error_clear(&err);
		return;
	}
	cr_assert_eq(kata_vm_get_pid(vm), w->vmm, "%s: it was given another process", when);
	w->succeeded++;
	cr_assert_eq(kata_vm_release(vm, NULL, NULL, &err), 0, "%s: %s", when, error_text(err));
	kata_vm_unref(vm);
	write_machine_file(w, "owner.json", w->owner);
	write_machine_file(w, "released.json", w->released);
}

Test(record_damaged, records_are_refused_or_right_and_nobody_else_is_touched, .timeout = 3600)
{
	struct site w;
	char *machine;
	json_t *root;

	site_init(&w, 400);
	site_release(&w, NULL);
	root = json_loads(w.json, 0, NULL);
	machine = json_dumps(json_object_get(root, "vm"), JSON_COMPACT | JSON_SORT_KEYS);
	json_decref(root);
	assert_good_record_works(&w, "before");
	for (unsigned i = 0; i < w.rounds; i++) {
		char when[64], *text;
		size_t length = 0;

		snprintf(when, sizeof(when), "round %u of seed %" PRIu64, i, number_of("KATA_TEST_SEED", 20260101));
		alarm(DAMAGE_SECONDS);
		text = damage(&w, i % 3 == 1 ? machine : w.json, &length);
		spill(DAMAGE_TRIED "record.json", text, length);
		if (i % 3 == 0)
			try_sandbox(&w, text, length, when);
		else if (i % 3 == 1)
			try_machine(&w, text, length, when);
		else
			try_handed(&w, text, when);
		free(text);
		assert_nobody_was_hurt(&w, when);
		if (i % 100 == 0)
			assert_good_record_works(&w, when);
	}
	cr_log_info("%u records, %u of them were right nevertheless", w.rounds, w.succeeded);
	free(machine);
	site_deinit(&w);
}
