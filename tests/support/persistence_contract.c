/* SPDX-License-Identifier: Apache-2.0 */
/* The suite for kata_persistence_ops. The ops are called directly: their err may stay unset, so statuses are what
 * counts. */
#include "support/persistence_contract.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void free_nothing(void *self)
{
}

void persistence_world_up(struct persistence_world *w, const struct persistence_kind *kind)
{
	kata_persistence_ops ops;
	kata_error *err = NULL;

	memset(w, 0, sizeof(*w));
	fixture_init(&w->f, true, 0);
	w->kind = kind;
	kind->open(w);
	ops = *w->ops;
	ops.free = free_nothing;
	fixture_assert_ok(kata_persistence_new(w->f.context, &ops, w->self, &w->p, &err), err);
}

void persistence_world_down(struct persistence_world *w)
{
	kata_persistence_free(w->p);
	w->kind->close(w);
	fixture_deinit(&w->f);
}

int persistence_store(struct persistence_world *w, const struct record_wish *wish)
{
	kata_record *record = w->kind->make_record(wish);
	kata_error *err = NULL;
	int rc;

	cr_assert_not_null(record);
	rc = w->ops->store(w->self, record, &err);
	kata_error_free(err);
	w->kind->free_record(record);
	return rc;
}

static char *json_of(struct persistence_world *w, const struct record_wish *wish)
{
	kata_record *record = w->kind->make_record(wish);
	char *json = kata_record_to_json(record);

	cr_assert_not_null(json);
	w->kind->free_record(record);
	return json;
}

void persistence_assert_holds(struct persistence_world *w, const struct record_wish *wish)
{
	char *expected = json_of(w, wish), *json = NULL;
	kata_error *err = NULL;
	uint64_t epoch = 0;

	fixture_assert_ok(w->ops->load(w->self, wish->id, &json, &epoch, &err), err);
	cr_assert_str_eq(json, expected);
	cr_assert_eq(epoch, wish->epoch);
	free(json);
	free(expected);
}

/* "a,b,c" of a list that is consumed. */
static void assert_list(int rc, char **list, const char *expected)
{
	char text[512] = "";

	cr_assert_eq(rc, 0);
	cr_assert_not_null(list);
	for (size_t i = 0; list[i]; i++)
		snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%s", i ? "," : "", list[i]);
	cr_assert_str_eq(text, expected);
	kata_string_list_free(list);
}

static void assert_sandboxes(struct persistence_world *w, const char *expected)
{
	char **list = NULL;

	int rc = w->ops->list_sandboxes(w->self, &list, NULL);

	assert_list(rc, list, expected);
}

static void assert_containers(struct persistence_world *w, const char *sandbox, const char *expected)
{
	char **list = NULL;

	int rc = w->ops->list_containers(w->self, sandbox, &list, NULL);

	assert_list(rc, list, expected);
}

static int set_epoch(struct persistence_world *w, const char *id, uint64_t from, uint64_t to)
{
	return w->ops->set_epoch(w->self, id, from, to, NULL);
}

static const char *const two[] = {"app", "sidecar", NULL};
static const char *const two_swapped[] = {"sidecar", "app", NULL};
static const char *const one[] = {"app", NULL};
static const char *const three[] = {"app", "extra", "sidecar", NULL};

void persistence_contract_what_was_stored_is_loaded_to_the_byte(const struct persistence_kind *kind)
{
	struct record_wish wish = {.id = "pod", .epoch = 3, .containers = two, .disks = 3, .nics = 2};
	struct persistence_world w;

	persistence_world_up(&w, kind);
	cr_assert_eq(persistence_store(&w, &wish), 0);
	persistence_assert_holds(&w, &wish);
	persistence_world_down(&w);
}

void persistence_contract_a_sandbox_with_nothing_in_it_is_kept_too(const struct persistence_kind *kind)
{
	struct record_wish wish = {.id = "bare", .epoch = 1};
	struct persistence_world w;

	persistence_world_up(&w, kind);
	for (int i = 0; i < 3; i++) {
		wish.hostname = i == 1 ? "second" : "third";
		cr_assert_eq(persistence_store(&w, &wish), 0);
		persistence_assert_holds(&w, &wish);
	}
	assert_containers(&w, "bare", "");
	persistence_world_down(&w);
}

void persistence_contract_storing_again_replaces(const struct persistence_kind *kind)
{
	struct record_wish wish = {.id = "pod", .epoch = 1, .containers = two, .disks = 2, .nics = 1};
	struct persistence_world w;

	persistence_world_up(&w, kind);
	cr_assert_eq(persistence_store(&w, &wish), 0);
	wish.hostname = "renamed";
	wish.state = "paused";
	for (int i = 0; i < 3; i++) {
		cr_assert_eq(persistence_store(&w, &wish), 0);
		persistence_assert_holds(&w, &wish);
	}
	wish.containers = three;
	wish.disks = 4;
	wish.nics = 2;
	cr_assert_eq(persistence_store(&w, &wish), 0);
	persistence_assert_holds(&w, &wish);
	assert_sandboxes(&w, "pod");
	assert_containers(&w, "pod", "app,extra,sidecar");
	persistence_world_down(&w);
}

void persistence_contract_rows_that_went_away_are_gone_after_the_next_store(const struct persistence_kind *kind)
{
	struct record_wish wish = {.id = "pod", .epoch = 1, .containers = three, .disks = 4, .nics = 3};
	struct persistence_world w;

	persistence_world_up(&w, kind);
	cr_assert_eq(persistence_store(&w, &wish), 0);
	wish.containers = one;
	wish.disks = 1;
	wish.nics = 2;
	cr_assert_eq(persistence_store(&w, &wish), 0);
	persistence_assert_holds(&w, &wish);
	assert_containers(&w, NULL, "app");
	wish.containers = (const char *const[]){"other", NULL}; /* as many as before, but another */
	cr_assert_eq(persistence_store(&w, &wish), 0);
	persistence_assert_holds(&w, &wish);
	assert_containers(&w, NULL, "other");
	wish.containers = NULL;
	wish.disks = wish.nics = 0;
	cr_assert_eq(persistence_store(&w, &wish), 0);
	persistence_assert_holds(&w, &wish);
	assert_containers(&w, NULL, "");
	persistence_world_down(&w);
}

void persistence_contract_rows_that_changed_places_come_back_in_their_new_order(const struct persistence_kind *kind)
{
	struct record_wish wish = {.id = "pod", .epoch = 1, .containers = two};
	struct persistence_world w;

	persistence_world_up(&w, kind);
	cr_assert_eq(persistence_store(&w, &wish), 0);
	wish.containers = two_swapped;
	cr_assert_eq(persistence_store(&w, &wish), 0);
	persistence_assert_holds(&w, &wish);
	persistence_world_down(&w);
}

void persistence_contract_an_older_epoch_is_fenced_and_leaves_the_record(const struct persistence_kind *kind)
{
	struct record_wish wish = {.id = "pod", .epoch = 5, .containers = two, .disks = 1};
	struct record_wish older = {.id = "pod", .epoch = 4, .containers = one, .hostname = "late"};
	struct persistence_world w;

	persistence_world_up(&w, kind);
	cr_assert_eq(persistence_store(&w, &wish), 0);
	cr_assert_eq(persistence_store(&w, &older), KATA_E_FENCED);
	persistence_assert_holds(&w, &wish);
	older.containers = NULL;
	cr_assert_eq(persistence_store(&w, &older), KATA_E_FENCED);
	persistence_assert_holds(&w, &wish);
	assert_containers(&w, NULL, "app,sidecar");
	persistence_world_down(&w);
}

void persistence_contract_a_greater_epoch_takes_over(const struct persistence_kind *kind)
{
	struct record_wish wish = {.id = "pod", .epoch = 1, .containers = two};
	struct persistence_world w;

	persistence_world_up(&w, kind);
	cr_assert_eq(persistence_store(&w, &wish), 0);
	wish.epoch = 7;
	cr_assert_eq(persistence_store(&w, &wish), 0);
	persistence_assert_holds(&w, &wish);
	wish.epoch = 6;
	cr_assert_eq(persistence_store(&w, &wish), KATA_E_FENCED);
	persistence_world_down(&w);
}

void persistence_contract_the_epoch_is_compared_and_set(const struct persistence_kind *kind)
{
	struct record_wish wish = {.id = "pod", .epoch = 2, .containers = one};
	struct persistence_world w;

	persistence_world_up(&w, kind);
	cr_assert_eq(set_epoch(&w, "pod", 0, 1), KATA_E_NOT_FOUND);
	cr_assert_eq(persistence_store(&w, &wish), 0);
	cr_assert_eq(set_epoch(&w, "pod", 1, 2), KATA_E_FENCED);
	cr_assert_eq(set_epoch(&w, "pod", 2, 3), 0);
	cr_assert_eq(set_epoch(&w, "pod", 2, 3), KATA_E_FENCED);
	cr_assert_eq(persistence_store(&w, &wish), KATA_E_FENCED, "the owner before must not store any more");
	cr_assert_eq(set_epoch(&w, "pod", 3, 2), 0, "giving it back");
	cr_assert_eq(persistence_store(&w, &wish), 0);
	persistence_assert_holds(&w, &wish);
	persistence_world_down(&w);
}

void persistence_contract_loading_tells_the_epoch_of_now(const struct persistence_kind *kind)
{
	struct record_wish wish = {.id = "pod", .epoch = 2};
	struct persistence_world w;
	uint64_t epoch = 0;
	char *json = NULL;

	persistence_world_up(&w, kind);
	cr_assert_eq(persistence_store(&w, &wish), 0);
	cr_assert_eq(set_epoch(&w, "pod", 2, 9), 0);
	cr_assert_eq(w.ops->load(w.self, "pod", &json, &epoch, NULL), 0);
	cr_assert_eq(epoch, 9);
	cr_assert_not_null(json);
	free(json);
	persistence_world_down(&w);
}

void persistence_contract_an_id_is_reserved_once(const struct persistence_kind *kind)
{
	struct record_wish wish = {.id = "stored", .epoch = 1};
	struct persistence_world w;

	persistence_world_up(&w, kind);
	cr_assert_eq(w.ops->create_sandbox(w.self, "pod", NULL), 0);
	cr_assert_eq(w.ops->create_sandbox(w.self, "pod", NULL), KATA_E_EXISTS);
	cr_assert_eq(persistence_store(&w, &wish), 0);
	cr_assert_eq(w.ops->create_sandbox(w.self, "stored", NULL), KATA_E_EXISTS);
	persistence_assert_holds(&w, &wish);
	persistence_world_down(&w);
}

void persistence_contract_a_reserved_sandbox_is_listed_but_has_no_record(const struct persistence_kind *kind)
{
	struct persistence_world w;
	uint64_t epoch = 77;
	char *json = NULL;

	persistence_world_up(&w, kind);
	cr_assert_eq(w.ops->create_sandbox(w.self, "pod", NULL), 0);
	assert_sandboxes(&w, "pod");
	assert_containers(&w, "pod", "");
	cr_assert_eq(w.ops->load(w.self, "pod", &json, &epoch, NULL), KATA_E_NOT_FOUND);
	cr_assert_null(json);
	cr_assert_eq(epoch, 77, "outputs are written on success only");
	persistence_world_down(&w);
}

void persistence_contract_a_reserved_sandbox_can_be_stored(const struct persistence_kind *kind)
{
	struct record_wish wish = {.id = "pod", .epoch = 1, .containers = two, .disks = 1};
	struct record_wish bare = {.id = "bare", .epoch = 0};
	struct persistence_world w;

	persistence_world_up(&w, kind);
	cr_assert_eq(w.ops->create_sandbox(w.self, "pod", NULL), 0);
	cr_assert_eq(persistence_store(&w, &wish), 0);
	persistence_assert_holds(&w, &wish);
	cr_assert_eq(w.ops->create_sandbox(w.self, "bare", NULL), 0);
	cr_assert_eq(persistence_store(&w, &bare), 0);
	persistence_assert_holds(&w, &bare);
	persistence_world_down(&w);
}

void persistence_contract_what_is_not_there_is_not_found(const struct persistence_kind *kind)
{
	struct persistence_world w;
	uint64_t epoch = 0;
	char *json = NULL;

	persistence_world_up(&w, kind);
	cr_assert_eq(w.ops->load(w.self, "nobody", &json, &epoch, NULL), KATA_E_NOT_FOUND);
	cr_assert_eq(w.ops->remove(w.self, "nobody", NULL), KATA_E_NOT_FOUND);
	cr_assert_eq(w.ops->sandbox_of_container(w.self, "nothing", &json, NULL), KATA_E_NOT_FOUND);
	cr_assert_null(json);
	assert_sandboxes(&w, "");
	assert_containers(&w, NULL, "");
	assert_containers(&w, "nobody", "");
	persistence_world_down(&w);
}

void persistence_contract_removing_takes_the_containers_along_and_frees_the_id(const struct persistence_kind *kind)
{
	struct record_wish wish = {.id = "pod", .epoch = 4, .containers = two, .disks = 2, .nics = 2};
	struct record_wish again = {.id = "pod", .epoch = 1, .containers = one};
	struct persistence_world w;
	char *id = NULL;

	persistence_world_up(&w, kind);
	cr_assert_eq(persistence_store(&w, &wish), 0);
	cr_assert_eq(w.ops->remove(w.self, "pod", NULL), 0);
	cr_assert_eq(w.ops->remove(w.self, "pod", NULL), KATA_E_NOT_FOUND);
	cr_assert_eq(w.ops->sandbox_of_container(w.self, "app", &id, NULL), KATA_E_NOT_FOUND);
	assert_sandboxes(&w, "");
	cr_assert_eq(w.ops->create_sandbox(w.self, "pod", NULL), 0);
	cr_assert_eq(persistence_store(&w, &again), 0);
	persistence_assert_holds(&w, &again);
	persistence_world_down(&w);
}

void persistence_contract_lists_are_in_order(const struct persistence_kind *kind)
{
	static const char *const ids[] = {"m", "a", "z", "B", "a1"};
	struct persistence_world w;

	persistence_world_up(&w, kind);
	for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++)
		cr_assert_eq(w.ops->create_sandbox(w.self, ids[i], NULL), 0);
	assert_sandboxes(&w, "B,a,a1,m,z");
	cr_assert_eq(persistence_store(&w, &(struct record_wish){.id = "z", .epoch = 1, .containers = two_swapped}), 0);
	cr_assert_eq(persistence_store(&w, &(struct record_wish){.id = "a", .epoch = 1, .containers = one}), 0);
	assert_containers(&w, "z", "app,sidecar");
	assert_containers(&w, NULL, "app,sidecar");
	persistence_world_down(&w);
}

void persistence_contract_a_container_leads_to_its_sandbox(const struct persistence_kind *kind)
{
	struct persistence_world w;
	char *id = NULL;

	persistence_world_up(&w, kind);
	cr_assert_eq(persistence_store(&w, &(struct record_wish){.id = "first", .epoch = 1, .containers = one}), 0);
	cr_assert_eq(
		persistence_store(&w, &(struct record_wish){.id = "other",
							    .epoch = 1,
							    .containers = (const char *const[]){"db", "web", NULL}}),
		0);
	cr_assert_eq(w.ops->sandbox_of_container(w.self, "web", &id, NULL), 0);
	cr_assert_str_eq(id, "other");
	free(id);
	cr_assert_eq(w.ops->sandbox_of_container(w.self, "app", &id, NULL), 0);
	cr_assert_str_eq(id, "first");
	free(id);
	persistence_world_down(&w);
}

void persistence_contract_a_container_of_two_sandboxes_is_ambiguous(const struct persistence_kind *kind)
{
	struct persistence_world w;
	char *id = NULL;

	persistence_world_up(&w, kind);
	cr_assert_eq(persistence_store(&w, &(struct record_wish){.id = "p1", .epoch = 1, .containers = two}), 0);
	cr_assert_eq(persistence_store(&w, &(struct record_wish){.id = "p2", .epoch = 1, .containers = one}), 0);
	cr_assert_eq(w.ops->sandbox_of_container(w.self, "app", &id, NULL), KATA_E_EXISTS);
	cr_assert_null(id);
	cr_assert_eq(w.ops->sandbox_of_container(w.self, "sidecar", &id, NULL), 0);
	cr_assert_str_eq(id, "p1");
	free(id);
	persistence_world_down(&w);
}

void persistence_contract_many_sandboxes_do_not_disturb_one_another(const struct persistence_kind *kind)
{
	struct persistence_world w;
	char id[16];

	persistence_world_up(&w, kind);
	for (int round = 0; round < 2; round++)
		for (int i = 0; i < 50; i++) {
			snprintf(id, sizeof(id), "pod%02d", i);
			cr_assert_eq(persistence_store(&w, &(struct record_wish){.id = id,
										 .epoch = 1,
										 .containers = i % 2 ? one : two,
										 .disks = (unsigned)(i + round) % 3,
										 .nics = (unsigned)i % 2}),
				     0);
		}
	for (int i = 0; i < 50; i += 2) {
		snprintf(id, sizeof(id), "pod%02d", i);
		cr_assert_eq(w.ops->remove(w.self, id, NULL), 0);
	}
	for (int i = 1; i < 50; i += 2) {
		snprintf(id, sizeof(id), "pod%02d", i);
		persistence_assert_holds(
			&w,
			&(struct record_wish){
				.id = id, .epoch = 1, .containers = one, .disks = (unsigned)(i + 1) % 3, .nics = 1});
	}
	persistence_world_down(&w);
}
