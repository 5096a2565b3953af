/* SPDX-License-Identifier: Apache-2.0 */
/* kata_persistence_new with a caller's own ops: a store in memory, which passes the suite; and implementations that
 * misbehave. */
#include "support/own_store.h"
#include "unit/persist/persist_test.h"

/* ---- the suite ---- */

static struct own_store suite_memory;

static void open_memory(struct persistence_world *w)
{
	suite_memory = (struct own_store){0};
	w->ops = &own_store_ops;
	w->self = &suite_memory;
}

static void close_memory(struct persistence_world *w)
{
	own_store_ops.free(w->self);
}

static const struct persistence_kind memory_kind = {"memory", open_memory, close_memory, sample_record,
						    kata__record_free};

#define CASE(name)                                                                                                     \
	Test(persistence_memory, name)                                                                                 \
	{                                                                                                              \
		persistence_contract_##name(&memory_kind);                                                             \
	}
PERSISTENCE_CONTRACT_CASES(CASE)
PERSISTENCE_CONTRACT_MORE_CASES(CASE)
#undef CASE

/* ---- the object around it ---- */

struct world {
	struct fixture f;
	struct own_store memory;
	kata_persistence_ops ops;
	kata_persistence *p;
	kata_error *err;
};

static void up(struct world *w)
{
	memset(w, 0, sizeof(*w));
	fixture_init(&w->f, true, 0);
	w->ops = own_store_ops;
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
	w.ops = own_store_ops;
	w.ops.size = 8;
	fixture_assert_fails(make(&w), KATA_E_INVALID, w.err);
	w.ops = own_store_ops;
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
	} newer = {own_store_ops, NULL};
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
