/* SPDX-License-Identifier: Apache-2.0 */
/* The suite for kata_persistence_ops, second part: generations, reservations, rows beside the sandboxes, infos. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "support/persistence_contract.h"

static const char *const one[] = {"app", NULL};

#define OK(call) fixture_assert_ok(call, err)
#define FAILS(call, status)                                                                                            \
	do {                                                                                                           \
		fixture_assert_fails(call, status, err);                                                               \
		error_clear(&err);                                                                                     \
	} while (0)

/* ---- generations ---- */

void persistence_contract_a_store_on_another_generation_is_diverged_and_leaves_the_record(
	const struct persistence_kind *kind)
{
	struct record_wish wish = {.id = "pod", .epoch = 1, .generation = 1, .containers = one, .disks = 1};
	struct record_wish next;
	struct persistence_world w;

	persistence_world_up(&w, kind);
	cr_assert_eq(persistence_store(&w, &wish), 0);
	next = wish;
	next.generation = 3;
	next.base = 2; /* which was rolled back */
	next.disks = 2;
	cr_assert_eq(persistence_store(&w, &next), KATA_E_DIVERGED);
	persistence_assert_holds(&w, &wish);
	next.base = 0; /* as if nothing had been stored before */
	cr_assert_eq(persistence_store(&w, &next), KATA_E_DIVERGED);
	next.disks = 0;
	next.containers = NULL;
	cr_assert_eq(persistence_store(&w, &next), KATA_E_DIVERGED, "also where there is nothing below it");
	persistence_assert_holds(&w, &wish);
	next.base = 1;
	cr_assert_eq(persistence_store(&w, &next), 0);
	persistence_assert_holds(&w, &next);
	persistence_world_down(&w);
}

void persistence_contract_a_store_on_whatever_stands_there_replaces_it(const struct persistence_kind *kind)
{
	struct record_wish wish = {.id = "pod", .epoch = 1, .generation = 7, .base = -1, .disks = 2};
	struct persistence_world w;

	persistence_world_up(&w, kind);
	cr_assert_eq(persistence_store(&w, &wish), 0, "nothing stands there");
	persistence_assert_holds(&w, &wish);
	wish.generation = 12;
	wish.disks = 1;
	cr_assert_eq(persistence_store(&w, &wish), 0);
	persistence_assert_holds(&w, &wish);
	wish.epoch = 0;
	cr_assert_eq(persistence_store(&w, &wish), KATA_E_FENCED, "the fence holds nevertheless");
	persistence_world_down(&w);
}

void persistence_contract_a_store_of_what_is_no_more_there_is_diverged(const struct persistence_kind *kind)
{
	struct record_wish wish = {.id = "pod", .epoch = 1, .generation = 1};
	struct persistence_world w;
	char **ids = NULL;

	persistence_world_up(&w, kind);
	cr_assert_eq(persistence_store(&w, &wish), 0);
	cr_assert_eq(w.ops->remove(w.self, "pod", NULL), 0);
	wish.generation = 2;
	wish.base = 1;
	cr_assert_eq(persistence_store(&w, &wish), KATA_E_DIVERGED);
	cr_assert_eq(w.ops->list_sandboxes(w.self, &ids, NULL), 0);
	cr_assert_null(ids[0]);
	kata_string_list_free(ids);
	cr_assert_eq(w.ops->create_sandbox(w.self, "pod", NULL), 0);
	cr_assert_eq(persistence_store(&w, &wish), KATA_E_DIVERGED, "a reserved id has no generation either");
	wish.base = -1;
	cr_assert_eq(persistence_store(&w, &wish), 0);
	persistence_world_down(&w);
}

void persistence_contract_taking_over_keeps_the_generation(const struct persistence_kind *kind)
{
	struct record_wish wish = {.id = "pod", .epoch = 1, .generation = 5, .base = -1, .disks = 1};
	struct persistence_world w;

	persistence_world_up(&w, kind);
	cr_assert_eq(persistence_store(&w, &wish), 0);
	cr_assert_eq(w.ops->set_epoch(w.self, "pod", 1, 2, NULL), 0);
	wish.epoch = 2;
	wish.generation = 6;
	wish.base = 4;
	cr_assert_eq(persistence_store(&w, &wish), KATA_E_DIVERGED);
	wish.base = 5;
	cr_assert_eq(persistence_store(&w, &wish), 0);
	persistence_assert_holds(&w, &wish);
	persistence_world_down(&w);
}

/* ---- reservations ---- */

static kata_reservation_config reservation(uint32_t kind, const char *id)
{
	kata_reservation_config c = KATA_RESERVATION_CONFIG_INIT;

	c.sandbox_id = "pod";
	c.kind = kind;
	c.id = id;
	return c;
}

static int reserve(struct persistence_world *w, uint32_t kind, const char *id, kata_error **err)
{
	kata_reservation_config c = reservation(kind, id);

	return kata_persistence_reserve(w->p, &c, err);
}

/* "pod/nic/eth0 intent,..." */
static void assert_reservations(struct persistence_world *w, const char *sandbox, const char *expected)
{
	kata_reservation *list = NULL;
	kata_error *err = NULL;
	char text[1024] = "";
	size_t count = 0;

	OK(kata_persistence_list_reservations(w->p, sandbox, &list, &count, &err));
	for (size_t i = 0; i < count; i++)
		snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%s/%s/%s %s", i ? "," : "",
			 list[i].sandbox_id, kata_reservation_kind_get_name((kata_reservation_kind)list[i].kind),
			 list[i].id, kata_reservation_state_get_name((kata_reservation_state)list[i].state));
	cr_assert_str_eq(text, expected);
	free(list);
}

void persistence_contract_a_reservation_needs_its_sandbox(const struct persistence_kind *kind)
{
	struct persistence_world w;
	kata_error *err = NULL;

	persistence_world_up(&w, kind);
	FAILS(reserve(&w, KATA_RESERVE_STORAGE, "disk0", &err), KATA_E_NOT_FOUND);
	assert_reservations(&w, NULL, "");
	OK(kata_persistence_create_sandbox(w.p, "pod", &err));
	OK(reserve(&w, KATA_RESERVE_STORAGE, "disk0", &err));
	FAILS(reserve(&w, KATA_RESERVE_STORAGE, "disk0", &err), KATA_E_EXISTS);
	OK(reserve(&w, KATA_RESERVE_NIC, "disk0", &err)); /* another kind, another thing */
	assert_reservations(&w, "pod", "pod/nic/disk0 intent,pod/storage/disk0 intent");
	persistence_world_down(&w);
}

void persistence_contract_a_reservation_is_an_intent_until_its_device_is_stored(const struct persistence_kind *kind)
{
	struct record_wish wish = {.id = "pod", .epoch = 1, .disks = 1, .nics = 1};
	kata_reservation_config c;
	struct persistence_world w;
	kata_error *err = NULL;

	persistence_world_up(&w, kind);
	OK(kata_persistence_create_sandbox(w.p, "pod", &err));
	c = reservation(KATA_RESERVE_VM, "vm-pod"); /* the name that sample records give it */
	c.cid = 77;
	OK(kata_persistence_reserve(w.p, &c, &err));
	OK(reserve(&w, KATA_RESERVE_STORAGE, "disk0", &err));
	OK(reserve(&w, KATA_RESERVE_STORAGE, "disk1", &err));
	OK(reserve(&w, KATA_RESERVE_NIC, "nic0", &err));
	cr_assert_eq(persistence_store(&w, &wish), 0);
	assert_reservations(&w, "pod",
			    "pod/nic/nic0 done,pod/storage/disk0 done,pod/storage/disk1 intent,pod/vm/vm-pod done");
	persistence_assert_holds(&w, &wish);
	wish.disks = 2;
	cr_assert_eq(persistence_store(&w, &wish), 0);
	assert_reservations(&w, "pod",
			    "pod/nic/nic0 done,pod/storage/disk0 done,pod/storage/disk1 done,pod/vm/vm-pod done");
	persistence_world_down(&w);
}

void persistence_contract_a_plug_that_was_undone_settles_its_reservation(const struct persistence_kind *kind)
{
	struct record_wish wish = {.id = "pod", .epoch = 1, .disks = 1, .undone_storages = {"disk1", "unknown"}};
	struct persistence_world w;
	kata_error *err = NULL;

	persistence_world_up(&w, kind);
	cr_assert_eq(persistence_store(&w, &wish), 0);
	OK(reserve(&w, KATA_RESERVE_STORAGE, "disk1", &err));
	OK(reserve(&w, KATA_RESERVE_STORAGE, "disk2", &err));
	cr_assert_eq(persistence_store(&w, &wish), 0);
	assert_reservations(&w, "pod", "pod/storage/disk1 undone,pod/storage/disk2 intent");
	OK(reserve(&w, KATA_RESERVE_STORAGE, "disk1", &err)); /* which it makes room for */
	assert_reservations(&w, "pod", "pod/storage/disk1 intent,pod/storage/disk2 intent");
	persistence_world_down(&w);
}

void persistence_contract_a_device_that_went_away_gives_its_reservation_up(const struct persistence_kind *kind)
{
	struct record_wish wish = {.id = "pod", .epoch = 1, .disks = 1, .nics = 2};
	kata_reservation_config c = reservation(KATA_RESERVE_NIC, "nic1");
	struct persistence_world w;
	kata_error *err = NULL;

	persistence_world_up(&w, kind);
	OK(kata_persistence_create_sandbox(w.p, "pod", &err));
	c.tap_name = "tap9";
	OK(kata_persistence_reserve(w.p, &c, &err));
	OK(reserve(&w, KATA_RESERVE_STORAGE, "disk0", &err));
	cr_assert_eq(persistence_store(&w, &wish), 0);
	assert_reservations(&w, "pod", "pod/nic/nic1 done,pod/storage/disk0 done");
	wish.nics = 1;
	cr_assert_eq(persistence_store(&w, &wish), 0);
	assert_reservations(&w, "pod", "pod/storage/disk0 done");
	OK(kata_persistence_reserve(w.p, &c, &err)); /* the tap is free again */
	persistence_world_down(&w);
}

void persistence_contract_what_is_reserved_is_taken(const struct persistence_kind *kind)
{
	kata_reservation_config c = reservation(KATA_RESERVE_NIC, "eth0"), d = reservation(KATA_RESERVE_VM, NULL);
	kata_reservation_config by_cid = reservation(KATA_RESERVE_VM, NULL), by_tap = c, by_mac = c, by_dir = d;
	struct persistence_world w;
	kata_error *err = NULL;

	persistence_world_up(&w, kind);
	OK(kata_persistence_create_sandbox(w.p, "pod", &err));
	OK(kata_persistence_create_sandbox(w.p, "other", &err));
	c.tap_name = "tap7";
	c.mac = "02:aa:aa:aa:aa:aa";
	d.cid = 33;
	d.directory = "/run/vms/pod";
	OK(kata_persistence_reserve(w.p, &c, &err));
	OK(kata_persistence_reserve(w.p, &d, &err));
	by_cid.sandbox_id = by_tap.sandbox_id = by_mac.sandbox_id = by_dir.sandbox_id = "other";
	by_cid.cid = 33;
	by_tap.tap_name = "tap7";
	by_mac.mac = "02:aa:aa:aa:aa:aa";
	by_dir.directory = "/run/vms/pod";
	FAILS(kata_persistence_reserve(w.p, &by_cid, &err), KATA_E_EXISTS);
	FAILS(kata_persistence_reserve(w.p, &by_tap, &err), KATA_E_EXISTS);
	FAILS(kata_persistence_reserve(w.p, &by_mac, &err), KATA_E_EXISTS);
	FAILS(kata_persistence_reserve(w.p, &by_dir, &err), KATA_E_EXISTS);
	by_cid.cid = 2; /* the host's */
	FAILS(kata_persistence_reserve(w.p, &by_cid, &err), KATA_E_INVALID);
	assert_reservations(&w, "other", "");
	OK(kata_persistence_settle(w.p, "pod", KATA_RESERVE_NIC, "eth0", KATA_RESERVATION_UNDONE, &err));
	OK(kata_persistence_reserve(w.p, &by_tap, &err)); /* what was undone holds nothing */
	persistence_world_down(&w);
}

void persistence_contract_names_in_other_networks_may_be_shared(const struct persistence_kind *kind)
{
	kata_reservation_config c = reservation(KATA_RESERVE_NIC, "eth0"), other = c;
	struct persistence_world w;
	kata_error *err = NULL;

	persistence_world_up(&w, kind);
	OK(kata_persistence_create_sandbox(w.p, "pod", &err));
	OK(kata_persistence_create_sandbox(w.p, "other", &err));
	c.tap_name = "tap7";
	c.mac = "02:aa:aa:aa:aa:aa";
	OK(kata_persistence_reserve(w.p, &c, &err));
	other = c;
	other.sandbox_id = "other";
	FAILS(kata_persistence_reserve(w.p, &other, &err), KATA_E_EXISTS);
	other.flags = KATA_RESERVE_SHARED;
	OK(kata_persistence_reserve(w.p, &other, &err));
	persistence_world_down(&w);
}

void persistence_contract_an_intent_is_settled_by_hand_once(const struct persistence_kind *kind)
{
	struct persistence_world w;
	kata_error *err = NULL;

	persistence_world_up(&w, kind);
	OK(kata_persistence_create_sandbox(w.p, "pod", &err));
	FAILS(kata_persistence_settle(w.p, "pod", KATA_RESERVE_STORAGE, "d", KATA_RESERVATION_DONE, &err),
	      KATA_E_NOT_FOUND);
	OK(reserve(&w, KATA_RESERVE_STORAGE, "d", &err));
	FAILS(kata_persistence_settle(w.p, "pod", KATA_RESERVE_STORAGE, "d", KATA_RESERVATION_INTENT, &err),
	      KATA_E_INVALID);
	OK(kata_persistence_settle(w.p, "pod", KATA_RESERVE_STORAGE, "d", KATA_RESERVATION_DONE, &err));
	FAILS(kata_persistence_settle(w.p, "pod", KATA_RESERVE_STORAGE, "d", KATA_RESERVATION_UNDONE, &err),
	      KATA_E_NOT_FOUND);
	assert_reservations(&w, "pod", "pod/storage/d done");
	persistence_world_down(&w);
}

void persistence_contract_reservations_go_with_their_sandbox(const struct persistence_kind *kind)
{
	struct persistence_world w;
	kata_error *err = NULL;

	persistence_world_up(&w, kind);
	OK(kata_persistence_create_sandbox(w.p, "pod", &err));
	OK(reserve(&w, KATA_RESERVE_VM, NULL, &err));
	OK(kata_persistence_delete_sandbox(w.p, "pod", &err));
	assert_reservations(&w, NULL, "");
	OK(kata_persistence_create_sandbox(w.p, "pod", &err));
	OK(reserve(&w, KATA_RESERVE_VM, NULL, &err));
	persistence_world_down(&w);
}

void persistence_contract_reservations_are_listed_in_order(const struct persistence_kind *kind)
{
	kata_reservation_config c = reservation(KATA_RESERVE_STORAGE, "z");
	kata_reservation *list = NULL;
	struct persistence_world w;
	kata_error *err = NULL;
	size_t count = 0;

	persistence_world_up(&w, kind);
	OK(kata_persistence_create_sandbox(w.p, "pod", &err));
	OK(kata_persistence_create_sandbox(w.p, "a", &err));
	OK(kata_persistence_reserve(w.p, &c, &err));
	c.id = "b";
	c.slot = 0;
	OK(kata_persistence_reserve(w.p, &c, &err));
	c.sandbox_id = "a";
	c.slot = -1;
	OK(kata_persistence_reserve(w.p, &c, &err));
	assert_reservations(&w, NULL, "a/storage/b intent,pod/storage/b intent,pod/storage/z intent");
	OK(kata_persistence_list_reservations(w.p, "pod", &list, &count, &err));
	cr_assert_eq(count, 2);
	cr_assert_eq(list[0].slot, 0);
	cr_assert_eq(list[1].slot, -1);
	cr_assert_eq(list[0].owner_pid, getpid());
	cr_assert_gt(list[0].owner_start_time, 0u);
	cr_assert_gt(list[0].reserved_at, 1600000000);
	free(list);
	persistence_world_down(&w);
}

/* ---- rows ---- */

#define UUID "1c1c1c1c-1111-4222-8333-444455556666"

static kata_row snapshot_row(const char *id)
{
	kata_row row = KATA_ROW_INIT;

	row.kind = KATA_ROW_SNAPSHOT;
	row.id = id;
	row.state = "complete";
	row.type = "qemu";
	row.directory = "/var/lib/snapshots/one";
	return row;
}

static kata_row child_row(uint32_t kind, const char *id, const char *parent)
{
	kata_row row = KATA_ROW_INIT;

	row.kind = kind;
	row.id = id;
	row.state = "ready";
	row.type = kind == KATA_ROW_NETWORK ? "bridge" : "qemu";
	if (kind == KATA_ROW_NETWORK)
		row.sandbox_id = parent;
	else
		row.parent_id = parent;
	if (kind == KATA_ROW_TEMPLATE)
		row.directory = "/var/lib/templates/t";
	if (kind == KATA_ROW_POOLED_VM)
		row.vm_uuid = UUID;
	return row;
}

static void put(struct persistence_world *w, const kata_row *row)
{
	kata_error *err = NULL;

	OK(kata_persistence_put_row(w->p, row, &err));
}

static void assert_rows(struct persistence_world *w, kata_row_kind kind, const char *parent, const char *state,
			const char *expected)
{
	kata_error *err = NULL;
	char text[256] = "";
	char **ids = NULL;

	OK(kata_persistence_list_rows(w->p, kind, parent, state, &ids, &err));
	for (char **id = ids; *id; id++)
		snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%s", id == ids ? "" : ",", *id);
	cr_assert_str_eq(text, expected);
	kata_string_list_free(ids);
}

void persistence_contract_a_row_is_read_back_as_it_was_put(const struct persistence_kind *kind)
{
	kata_row row = snapshot_row("s1"), *back = NULL;
	struct persistence_world w;
	kata_error *err = NULL;

	persistence_world_up(&w, kind);
	row.sandbox_id = "long-gone";
	row.vm_id = "vm";
	row.vm_uuid = UUID;
	row.size_bytes = UINT64_C(1) << 41;
	cr_assert_str_eq(kata_row_kind_get_name(KATA_ROW_POOLED_VM), "pooled-vm");
	row.json = "{\"parts\":[1,2,{\"n\":\"m\xc3\xbcller\"}]}";
	for (int round = 0; round < 2; round++) { /* the second replaces */
		row.state = round ? "saving" : "complete";
		put(&w, &row);
		OK(kata_persistence_get_row(w.p, KATA_ROW_SNAPSHOT, "s1", &back, &err));
		cr_assert_str_eq(back->id, "s1");
		cr_assert_str_eq(back->state, row.state);
		cr_assert_str_eq(back->sandbox_id, "long-gone");
		cr_assert_str_eq(back->directory, row.directory);
		cr_assert_str_eq(back->vm_uuid, UUID);
		cr_assert_eq(back->size_bytes, row.size_bytes);
		cr_assert_str_eq(back->json, row.json);
		cr_assert_eq(back->owner_pid, getpid());
		cr_assert_null(back->name);
		kata_row_free(back);
		back = NULL;
	}
	FAILS(kata_persistence_get_row(w.p, KATA_ROW_SNAPSHOT, "s2", &back, &err), KATA_E_NOT_FOUND);
	FAILS(kata_persistence_get_row(w.p, KATA_ROW_TEMPLATE, "s1", &back, &err), KATA_E_NOT_FOUND);
	cr_assert_null(back);
	persistence_world_down(&w);
}

void persistence_contract_rows_are_listed_by_what_they_belong_to(const struct persistence_kind *kind)
{
	struct persistence_world w;
	kata_row row;

	persistence_world_up(&w, kind);
	row = snapshot_row("s");
	put(&w, &row);
	row = child_row(KATA_ROW_TEMPLATE, "t2", "s");
	put(&w, &row);
	row = child_row(KATA_ROW_TEMPLATE, "t1", NULL);
	put(&w, &row);
	for (int i = 3; i-- > 0;) {
		char id[16];

		snprintf(id, sizeof(id), "vm%d", i);
		row = child_row(KATA_ROW_POOLED_VM, id, i ? "t2" : "t1");
		row.state = i == 2 ? "taken" : "ready";
		put(&w, &row);
	}
	assert_rows(&w, KATA_ROW_TEMPLATE, NULL, NULL, "t1,t2");
	assert_rows(&w, KATA_ROW_TEMPLATE, "s", NULL, "t2");
	assert_rows(&w, KATA_ROW_POOLED_VM, NULL, NULL, "vm0,vm1,vm2");
	assert_rows(&w, KATA_ROW_POOLED_VM, "t2", NULL, "vm1,vm2");
	assert_rows(&w, KATA_ROW_POOLED_VM, "t2", "ready", "vm1");
	assert_rows(&w, KATA_ROW_POOLED_VM, NULL, "ready", "vm0,vm1");
	assert_rows(&w, KATA_ROW_NETWORK, NULL, NULL, "");
	persistence_world_down(&w);
}

void persistence_contract_a_row_needs_what_it_belongs_to_and_keeps_it(const struct persistence_kind *kind)
{
	kata_row snapshot = snapshot_row("s"), template = child_row(KATA_ROW_TEMPLATE, "t", "s");
	kata_row pooled = child_row(KATA_ROW_POOLED_VM, "p", "t");
	struct persistence_world w;
	kata_error *err = NULL;

	persistence_world_up(&w, kind);
	FAILS(kata_persistence_put_row(w.p, &template, &err), KATA_E_NOT_FOUND);
	FAILS(kata_persistence_put_row(w.p, &pooled, &err), KATA_E_NOT_FOUND);
	put(&w, &snapshot);
	put(&w, &template);
	put(&w, &pooled);
	FAILS(kata_persistence_remove_row(w.p, KATA_ROW_SNAPSHOT, "s", &err), KATA_E_BUSY);
	FAILS(kata_persistence_remove_row(w.p, KATA_ROW_TEMPLATE, "t", &err), KATA_E_BUSY);
	OK(kata_persistence_remove_row(w.p, KATA_ROW_POOLED_VM, "p", &err));
	OK(kata_persistence_remove_row(w.p, KATA_ROW_TEMPLATE, "t", &err));
	OK(kata_persistence_remove_row(w.p, KATA_ROW_SNAPSHOT, "s", &err));
	FAILS(kata_persistence_remove_row(w.p, KATA_ROW_SNAPSHOT, "s", &err), KATA_E_NOT_FOUND);
	persistence_world_down(&w);
}

void persistence_contract_of_several_who_move_a_row_one_does(const struct persistence_kind *kind)
{
	kata_row row = child_row(KATA_ROW_POOLED_VM, "vm", NULL), *back = NULL;
	struct persistence_world w;
	kata_error *err = NULL;
	char *json = NULL;

	persistence_world_up(&w, kind);
	FAILS(kata_persistence_move_row(w.p, KATA_ROW_POOLED_VM, "vm", "ready", "taken", &err), KATA_E_NOT_FOUND);
	row.json = "{\"a\":1}";
	put(&w, &row);
	cr_assert_eq(w.ops->get_row(w.self, KATA_ROW_POOLED_VM, "vm", &json, NULL), 0);
	OK(kata_persistence_move_row(w.p, KATA_ROW_POOLED_VM, "vm", "ready", "taken", &err));
	FAILS(kata_persistence_move_row(w.p, KATA_ROW_POOLED_VM, "vm", "ready", "taken", &err), KATA_E_FENCED);
	/* Who read it before the other moved it is refused by what he read. */
	cr_assert_eq(w.ops->put_row(w.self, &row, json, json, NULL), KATA_E_FENCED);
	OK(kata_persistence_get_row(w.p, KATA_ROW_POOLED_VM, "vm", &back, &err));
	cr_assert_str_eq(back->state, "taken");
	cr_assert_str_eq(back->json, "{\"a\":1}");
	kata_row_free(back);
	free(json);
	persistence_world_down(&w);
}

void persistence_contract_networks_go_with_their_sandbox(const struct persistence_kind *kind)
{
	kata_row row = child_row(KATA_ROW_NETWORK, "net", "pod");
	struct persistence_world w;
	kata_error *err = NULL;

	persistence_world_up(&w, kind);
	FAILS(kata_persistence_put_row(w.p, &row, &err), KATA_E_NOT_FOUND);
	OK(kata_persistence_create_sandbox(w.p, "pod", &err));
	row.directory = "/run/netns/pod";
	row.name = "br0";
	put(&w, &row);
	assert_rows(&w, KATA_ROW_NETWORK, "pod", NULL, "net");
	OK(kata_persistence_delete_sandbox(w.p, "pod", &err));
	assert_rows(&w, KATA_ROW_NETWORK, NULL, NULL, "");
	persistence_world_down(&w);
}

/* ---- infos ---- */

void persistence_contract_infos_say_what_the_records_say(const struct persistence_kind *kind)
{
	struct record_wish wish = {
		.id = "pod", .epoch = 3, .generation = 9, .base = -1, .containers = one, .disks = 3, .nics = 2};
	kata_sandbox_info info = {.size = sizeof(info)};
	struct persistence_world w;
	kata_error *err = NULL;

	persistence_world_up(&w, kind);
	FAILS(kata_persistence_get_info(w.p, "pod", &info, &err), KATA_E_NOT_FOUND);
	OK(kata_persistence_create_sandbox(w.p, "new", &err));
	OK(kata_persistence_get_info(w.p, "new", &info, &err));
	cr_assert_str_eq(info.id, "new");
	cr_assert_str_eq(info.state, "new");
	cr_assert_eq(info.generation, 0);
	cr_assert_eq(persistence_store(&w, &wish), 0);
	OK(kata_persistence_get_info(w.p, "pod", &info, &err));
	cr_assert_str_eq(info.state, "running");
	cr_assert_eq(info.epoch, 3);
	cr_assert_eq(info.generation, 9);
	cr_assert_eq(info.owner_pid, 4242); /* of sample records */
	cr_assert_str_eq(info.vm_id, "vm-pod");
	cr_assert_eq(info.vm_pid, 777);
	cr_assert_eq(info.cpus, 2);
	cr_assert_eq(info.memory_mib, 512);
	cr_assert_eq(info.storage_count, 3);
	cr_assert_eq(info.nic_count, 2);
	cr_assert_eq(info.container_count, 1);
	cr_assert_eq(info.process_count, 1);
	cr_assert_eq(info.size, sizeof(info));
	cr_assert_eq(w.ops->set_epoch(w.self, "pod", 3, 4, NULL), 0);
	OK(kata_persistence_get_info(w.p, "pod", &info, &err));
	cr_assert_eq(info.epoch, 4);
	persistence_world_down(&w);
}

void persistence_contract_infos_come_in_pages(const struct persistence_kind *kind)
{
	kata_sandbox_info infos[4] = {{.size = sizeof(infos[0])}};
	struct persistence_world w;
	kata_error *err = NULL;
	size_t count = 99;
	char id[16];

	persistence_world_up(&w, kind);
	OK(kata_persistence_list_infos(w.p, NULL, infos, 4, &count, &err));
	cr_assert_eq(count, 0);
	for (int i = 0; i < 10; i++) {
		snprintf(id, sizeof(id), "pod%d", i);
		cr_assert_eq(persistence_store(&w, &(struct record_wish){.id = id, .epoch = 1}), 0);
	}
	id[0] = '\0';
	for (int i = 0; i < 10; i += 4) {
		infos[0].size = sizeof(infos[0]);
		OK(kata_persistence_list_infos(w.p, id[0] ? id : NULL, infos, 4, &count, &err));
		cr_assert_eq(count, i < 8 ? 4 : 2);
		for (size_t k = 0; k < count; k++) {
			snprintf(id, sizeof(id), "pod%d", i + (int)k);
			cr_assert_str_eq(infos[k].id, id);
			cr_assert_eq(infos[k].size, sizeof(infos[k]));
		}
	}
	OK(kata_persistence_list_infos(w.p, "pod9", infos, 4, &count, &err));
	cr_assert_eq(count, 0);
	FAILS(kata_persistence_list_infos(w.p, NULL, infos, 0, &count, &err), KATA_E_INVALID);
	persistence_world_down(&w);
}
