/* SPDX-License-Identifier: Apache-2.0 */
/* kata_persistence_new with a caller's own ops: a store in memory, which passes the suite; and implementations that
 * misbehave. */
#include "unit/persist/persist_test.h"

/* ---- a store in memory, as a user of the library would write it: public functions only ---- */

struct entry {
	struct entry *next;
	char id[65];
	uint64_t epoch;
	char *json; /* NULL: reserved */
	char **containers;
};

struct memory {
	struct entry *first; /* in order of ids */
	int frees;
};

static struct entry *memory_find(struct memory *m, const char *id)
{
	struct entry *e = m->first;

	while (e && strcmp(e->id, id) != 0)
		e = e->next;
	return e;
}

static struct entry *memory_add(struct memory *m, const char *id)
{
	struct entry **at = &m->first, *e = calloc(1, sizeof(*e));

	while (*at && strcmp((*at)->id, id) < 0)
		at = &(*at)->next;
	snprintf(e->id, sizeof(e->id), "%s", id);
	e->containers = calloc(1, sizeof(char *));
	e->next = *at;
	*at = e;
	return e;
}

static int memory_create(void *self, const char *id, kata_error **err)
{
	if (memory_find(self, id))
		return KATA_E_EXISTS;
	memory_add(self, id);
	return 0;
}

static int memory_store(void *self, const kata_record *record, kata_error **err)
{
	const char *id = kata_record_get_sandbox_id(record);
	size_t count = kata_record_get_container_count(record);
	struct entry *e = memory_find(self, id);
	char *json;

	if (e && e->epoch > kata_record_get_epoch(record))
		return KATA_E_FENCED;
	json = kata_record_to_json(record);
	if (!json)
		return KATA_E_NO_MEMORY;
	if (!e)
		e = memory_add(self, id);
	free(e->json);
	kata_string_list_free(e->containers);
	e->json = json;
	e->epoch = kata_record_get_epoch(record);
	e->containers = calloc(count + 1, sizeof(char *));
	for (size_t i = 0; i < count; i++)
		e->containers[i] = strdup(kata_record_get_container_id(record, i));
	return 0;
}

static int memory_load(void *self, const char *id, char **ret_json, uint64_t *ret_epoch, kata_error **err)
{
	struct entry *e = memory_find(self, id);

	if (!e || !e->json)
		return KATA_E_NOT_FOUND;
	*ret_json = strdup(e->json);
	*ret_epoch = e->epoch;
	return 0;
}

static int memory_set_epoch(void *self, const char *id, uint64_t from, uint64_t to, kata_error **err)
{
	struct entry *e = memory_find(self, id);

	if (!e)
		return KATA_E_NOT_FOUND;
	if (e->epoch != from)
		return KATA_E_FENCED;
	e->epoch = to;
	return 0;
}

static void memory_drop(struct entry *e)
{
	free(e->json);
	kata_string_list_free(e->containers);
	free(e);
}

static int memory_remove(void *self, const char *id, kata_error **err)
{
	struct memory *m = self;

	for (struct entry **at = &m->first; *at; at = &(*at)->next) {
		struct entry *e = *at;

		if (strcmp(e->id, id) != 0)
			continue;
		*at = e->next;
		memory_drop(e);
		return 0;
	}
	return KATA_E_NOT_FOUND;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static int memory_list(void *self, char ***ret_ids, kata_error **err)
{
	size_t count = 0;
	char **list = calloc(1, sizeof(char *));

	for (struct entry *e = ((struct memory *)self)->first; e; e = e->next) {
		list = realloc(list, (count + 2) * sizeof(char *));
		list[count++] = strdup(e->id);
		list[count] = NULL;
	}
	*ret_ids = list;
	return 0;
}

static int memory_list_containers(void *self, const char *sandbox_id, char ***ret_ids, kata_error **err)
{
	size_t count = 0, kept = 0;
	char **list = calloc(1, sizeof(char *));

	for (struct entry *e = ((struct memory *)self)->first; e; e = e->next)
		for (char **c = e->containers; *c && (!sandbox_id || strcmp(sandbox_id, e->id) == 0); c++) {
			list = realloc(list, (count + 2) * sizeof(char *));
			list[count++] = strdup(*c);
			list[count] = NULL;
		}
	qsort(list, count, sizeof(char *), by_name);
	for (size_t i = 0; i < count; i++) {
		if (kept && strcmp(list[kept - 1], list[i]) == 0)
			free(list[i]);
		else
			list[kept++] = list[i];
	}
	list[kept] = NULL;
	*ret_ids = list;
	return 0;
}

static int memory_sandbox_of(void *self, const char *container_id, char **ret_id, kata_error **err)
{
	const struct entry *found = NULL;

	for (struct entry *e = ((struct memory *)self)->first; e; e = e->next)
		for (char **c = e->containers; *c; c++)
			if (strcmp(*c, container_id) == 0) {
				if (found)
					return KATA_E_EXISTS;
				found = e;
			}
	if (!found)
		return KATA_E_NOT_FOUND;
	*ret_id = strdup(found->id);
	return 0;
}

static void memory_free(void *self)
{
	struct memory *m = self;

	while (m->first) {
		struct entry *e = m->first;

		m->first = e->next;
		memory_drop(e);
	}
	m->frees++;
}

static const kata_persistence_ops memory_ops = {
	.size = sizeof(kata_persistence_ops),
	.name = "memory",
	.create_sandbox = memory_create,
	.store = memory_store,
	.load = memory_load,
	.set_epoch = memory_set_epoch,
	.remove = memory_remove,
	.list_sandboxes = memory_list,
	.list_containers = memory_list_containers,
	.sandbox_of_container = memory_sandbox_of,
	.free = memory_free,
};

/* ---- the suite ---- */

static struct memory suite_memory;

static void open_memory(struct persistence_world *w)
{
	suite_memory = (struct memory){0};
	w->ops = &memory_ops;
	w->self = &suite_memory;
}

static void close_memory(struct persistence_world *w)
{
	memory_free(w->self);
}

static const struct persistence_kind memory_kind = {"memory", open_memory, close_memory, sample_record,
						    kata__record_free};

#define CASE(name)                                                                                                     \
	Test(persistence_memory, name)                                                                                 \
	{                                                                                                              \
		persistence_contract_##name(&memory_kind);                                                             \
	}
PERSISTENCE_CONTRACT_CASES(CASE)
#undef CASE

/* ---- the object around it ---- */

struct world {
	struct fixture f;
	struct memory memory;
	kata_persistence_ops ops;
	kata_persistence *p;
	kata_error *err;
};

static void up(struct world *w)
{
	memset(w, 0, sizeof(*w));
	fixture_init(&w->f, true, 0);
	w->ops = memory_ops;
}

static int make(struct world *w)
{
	error_clear(&w->err);
	return kata_persistence_new(w->f.context, &w->ops, &w->memory, &w->p, &w->err);
}

static void down(struct world *w)
{
	error_clear(&w->err);
	kata_persistence_free(w->p);
	fixture_deinit(&w->f);
}

Test(persistence, frees_the_implementation_once)
{
	struct world w;

	up(&w);
	fixture_assert_ok(make(&w), w.err);
	fixture_assert_fails(kata_context_free(w.f.context, &w.err), KATA_E_BUSY, w.err);
	kata_persistence_free(w.p);
	w.p = NULL;
	cr_assert_eq(w.memory.frees, 1);
	kata_persistence_free(NULL);
	down(&w);
}

Test(persistence, names_the_op_that_is_missing)
{
	struct world w;

	up(&w);
	w.ops.set_epoch = NULL;
	fixture_assert_fails(make(&w), KATA_E_INVALID, w.err);
	assert_message_has(w.err, "ops.set_epoch: is NULL");
	w.ops = memory_ops;
	w.ops.size = 8;
	fixture_assert_fails(make(&w), KATA_E_INVALID, w.err);
	w.ops = memory_ops;
	w.ops.name = NULL;
	fixture_assert_fails(make(&w), KATA_E_INVALID, w.err);
	cr_assert_eq(w.memory.frees, 0, "self stays the caller's when it fails");
	cr_assert_null(w.p);
	error_clear(&w.err);
	fixture_assert_fails(kata_persistence_new(w.f.context, NULL, &w.memory, &w.p, &w.err), KATA_E_INVALID, w.err);
	error_clear(&w.err);
	fixture_assert_fails(kata_persistence_new(NULL, &w.ops, &w.memory, &w.p, &w.err), KATA_E_INVALID, w.err);
	down(&w);
}

Test(persistence, takes_ops_of_a_newer_caller_only_where_the_rest_is_zero)
{
	struct {
		kata_persistence_ops ops;
		void *more;
	} newer = {memory_ops, NULL};
	struct world w;

	up(&w);
	newer.ops.size = sizeof(newer);
	newer.more = &w;
	fixture_assert_fails(kata_persistence_new(w.f.context, &newer.ops, &w.memory, &w.p, &w.err), KATA_E_INVALID,
			     w.err);
	error_clear(&w.err);
	newer.more = NULL;
	fixture_assert_ok(kata_persistence_new(w.f.context, &newer.ops, &w.memory, &w.p, &w.err), w.err);
	down(&w);
}

Test(persistence, an_absent_create_schema_succeeds)
{
	struct world w;

	up(&w);
	fixture_assert_ok(make(&w), w.err);
	fixture_assert_ok(kata_persistence_create_schema(w.p, &w.err), w.err);
	down(&w);
}

Test(persistence, checks_arguments_before_the_implementation_sees_them)
{
	struct world w;
	char **ids = NULL, *id = NULL;

	up(&w);
	fixture_assert_ok(make(&w), w.err);
#define REFUSED(call)                                                                                                  \
	fixture_assert_fails(call, KATA_E_INVALID, w.err);                                                             \
	error_clear(&w.err)
	REFUSED(kata_persistence_create_sandbox(w.p, NULL, &w.err));
	REFUSED(kata_persistence_create_sandbox(w.p, "../x", &w.err));
	REFUSED(kata_persistence_create_sandbox(NULL, "x", &w.err));
	REFUSED(kata_persistence_delete_sandbox(w.p, "", &w.err));
	REFUSED(kata_persistence_list_sandboxes(w.p, NULL, &w.err));
	REFUSED(kata_persistence_list_containers(w.p, "a/b", &ids, &w.err));
	REFUSED(kata_persistence_list_containers(w.p, "a", NULL, &w.err));
	REFUSED(kata_persistence_sandbox_of_container(w.p, "-x", &id, &w.err));
	REFUSED(kata_persistence_sandbox_of_container(w.p, "x", NULL, &w.err));
	REFUSED(kata_persistence_create_schema(NULL, &w.err));
	cr_assert_null(w.memory.first);
	kata_string_list_free(NULL);
	down(&w);
}

Test(persistence, explains_an_error_that_the_implementation_left_unexplained)
{
	struct world w;

	up(&w);
	fixture_assert_ok(make(&w), w.err);
	fixture_assert_fails(kata_persistence_delete_sandbox(w.p, "pod", &w.err), KATA_E_NOT_FOUND, w.err);
	assert_message_has(w.err, "persistence 'memory': remove 'pod': not-found");
	down(&w);
}

static int nonsense(void *self, const char *id, kata_error **err)
{
	return id[0] == 'p' ? 17 : -4711;
}

Test(persistence, does_not_pass_on_a_status_that_is_none)
{
	struct world w;

	up(&w);
	w.ops.remove = nonsense;
	fixture_assert_ok(make(&w), w.err);
	fixture_assert_fails(kata_persistence_delete_sandbox(w.p, "pod", &w.err), KATA_E_DATABASE, w.err);
	assert_message_has(w.err, "answered 17");
	error_clear(&w.err);
	fixture_assert_fails(kata_persistence_delete_sandbox(w.p, "other", &w.err), KATA_E_DATABASE, w.err);
	cr_assert_eq(kata_persistence_delete_sandbox(w.p, "other", NULL), KATA_E_DATABASE);
	down(&w);
}

static const char *bad_json;

static int load_bad(void *self, const char *id, char **ret_json, uint64_t *ret_epoch, kata_error **err)
{
	*ret_json = bad_json ? strdup(bad_json) : NULL;
	*ret_epoch = 1;
	return 0;
}

Test(persistence, reads_what_an_implementation_gives_back_as_hostile)
{
	struct record_wish wish = full_wish("somebody");
	kata_record *r = sample_record(&wish), *back = NULL;
	char *json = kata_record_to_json(r);
	struct world w;

	up(&w);
	w.ops.load = load_bad;
	fixture_assert_ok(make(&w), w.err);
	fixture_assert_fails(kata__persistence_load(w.p, "pod", &back, &w.err), KATA_E_CORRUPT, w.err);
	error_clear(&w.err);
	bad_json = "{}";
	fixture_assert_fails(kata__persistence_load(w.p, "pod", &back, &w.err), KATA_E_CORRUPT, w.err);
	assert_message_has(w.err, "record of sandbox 'pod' in persistence 'memory'");
	error_clear(&w.err);
	bad_json = json; /* a good record, but another's */
	fixture_assert_fails(kata__persistence_load(w.p, "pod", &back, &w.err), KATA_E_CORRUPT, w.err);
	assert_message_has(w.err, "says it is of 'somebody'");
	cr_assert_null(back);
	error_clear(&w.err);
	fixture_assert_ok(kata__persistence_load(w.p, "somebody", &back, &w.err), w.err);
	kata__record_free(back);
	kata__record_free(r);
	free(json);
	down(&w);
}

Test(persistence, the_epoch_of_now_counts_over_the_recorded_one)
{
	struct record_wish wish = full_wish("pod");
	kata_record *r = sample_record(&wish), *back = NULL;
	struct world w;

	up(&w);
	fixture_assert_ok(make(&w), w.err);
	fixture_assert_ok(kata__persistence_store(w.p, r, &w.err), w.err);
	fixture_assert_ok(kata__persistence_set_epoch(w.p, "pod", 1, 5, &w.err), w.err);
	fixture_assert_ok(kata__persistence_load(w.p, "pod", &back, &w.err), w.err);
	cr_assert_eq(back->epoch, 5);
	kata__record_free(back);
	kata__record_free(r);
	down(&w);
}
