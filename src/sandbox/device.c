/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Storages and NICs of a sandbox: the VM plugs and unplugs, the guest is waited for and told. Routes, too.
 */
#include <string.h>

#include "agent/request.h"
#include "base/json.h"
#include "base/options.h"
#include "base/text.h"
#include "sandbox/container.h"
#include "sandbox/device.h"
#include "sandbox/sandbox_op.h"
#include "sandbox/stored.h"

#define IN(s) KATA__IN(KATA_SANDBOX_##s)

struct device_op {
	struct kata__sandbox_op base;
	char *id;
	kata_storage *storage; /* referenced */
	kata_nic *nic;         /* referenced */
	bool configure;        /* `interface_` is to be applied */
	char name[16];
	char **addresses;
	uint32_t mtu;
	struct kata__sandbox_leaving leaving;
	bool is_leaving;
	json_t *routes;
	kata_agent_route *route_views; /* into routes */
};

static struct device_op *device(const kata_op *op)
{
	return kata__op_data(op);
}

static void free_device_op(void *data)
{
	struct device_op *d = data;

	kata__strv_free(d->addresses);
	kata_storage_unref(d->storage);
	kata_nic_unref(d->nic);
	json_decref(d->routes);
	free(d->route_views);
	free(d->id);
	kata__sandbox_op_deinit(&d->base);
	free(d);
}

/* ---- plug and unplug through the VM */

static int step_plug(kata_op *op, kata_error **err)
{
	kata_op_options options = kata__sandbox_child_options(op);
	struct device_op *d = device(op);
	kata_vm *vm = d->base.sandbox->vm;
	kata_op *child = NULL;
	int rc = d->storage ? kata_vm_add_storage_begin(vm, d->storage, &options, &child, err)
			    : kata_vm_add_nic_begin(vm, d->nic, &options, &child, err);

	return kata__sandbox_run_child(op, rc, child, err);
}

static bool vm_is_going(kata_vm *vm)
{
	kata_vm_state state = kata_vm_get_state(vm);

	return state != KATA_VM_RUNNING && state != KATA_VM_PAUSED;
}

static int step_unplug(kata_op *op, kata_error **err)
{
	kata_op_options options = kata__sandbox_child_options(op);
	struct device_op *d = device(op);
	kata_vm *vm = d->base.sandbox->vm;
	kata_op *child = NULL;
	int rc;

	if (kata__op_is_undoing(op) && vm_is_going(vm))
		return KATA__STEP_DONE; /* its devices go with it */
	rc = d->storage ? kata_vm_remove_storage_begin(vm, kata_storage_get_id(d->storage), &options, &child, err)
			: kata_vm_remove_nic_begin(vm, kata_nic_get_id(d->nic), &options, &child, err);
	return kata__sandbox_run_child(op, rc, child, err);
}

/* ---- storages */

const char *kata__storage_agent_driver(const kata_storage *storage)
{
	return kata_storage_get_driver(storage) == KATA_STORAGE_VIRTIO_SCSI ? "scsi" : "blk";
}

static bool guest_knows_devices(kata_sandbox *s)
{
	return s->agent && kata_agent_has_guest_service(s->agent);
}

static int device_call(kata_op *op, kata_agent_method method, bool anyhow, kata_error **err)
{
	kata_agent_request request = {.size = sizeof(request), .method = method};
	struct device_op *d = device(op);
	char address[64];

	kata_storage_get_address(d->storage, address, sizeof(address));
	request.device_kind = kata__storage_agent_driver(d->storage);
	request.device_address = address;
	return anyhow ? kata__sandbox_call_anyhow(op, &request, err) : kata__sandbox_call(op, &request, err);
}

static int step_await_device(kata_op *op, kata_error **err)
{
	/* A guest without that service looks for the disk when a container names it. */
	return guest_knows_devices(kata__sandbox_of(op)) ? device_call(op, KATA_AGENT_AWAIT_DEVICE, false, err)
							 : KATA__STEP_DONE;
}

/* One that the guest has not was taken offline at an earlier try, or by an owner who died behind it. */
static int step_offline_device(kata_op *op, kata_error **err)
{
	if (!guest_knows_devices(kata__sandbox_of(op)))
		return KATA__STEP_DONE;
	kata__op_forgive_child(op, KATA_E_NOT_FOUND);
	return device_call(op, KATA_AGENT_OFFLINE_DEVICE, false, err);
}

static int step_online_device(kata_op *op, kata_error **err)
{
	return guest_knows_devices(kata__sandbox_of(op)) ? device_call(op, KATA_AGENT_AWAIT_DEVICE, true, err)
							 : KATA__STEP_DONE;
}

static void stop_leaving(struct device_op *d)
{
	struct kata__sandbox_leaving **link = &d->base.sandbox->leaving;

	if (!d->is_leaving)
		return;
	while (*link != &d->leaving)
		link = &(*link)->next;
	*link = d->leaving.next;
	d->is_leaving = false;
}

static int step_check_unused(kata_op *op, kata_error **err)
{
	struct device_op *d = device(op);
	kata_sandbox *s = d->base.sandbox;
	int rc = kata__container_check_unused(s, d->id, err);

	if (rc < 0)
		return rc;
	if (kata_vm_find_storage(s->vm, d->id, &d->storage, err) < 0)
		return kata__error_wrap(err, KATA_E_NOT_FOUND, "storage '%s' is not plugged into sandbox '%s'", d->id,
					s->id);
	d->leaving = (struct kata__sandbox_leaving){d->id, s->leaving};
	s->leaving = &d->leaving;
	d->is_leaving = true;
	return KATA__STEP_DONE;
}

static int step_keep(kata_op *op, kata_error **err)
{
	stop_leaving(device(op));
	return KATA__STEP_DONE;
}

/* ---- interfaces */

static int step_find_nic(kata_op *op, kata_error **err)
{
	struct device_op *d = device(op);
	kata_sandbox *s = d->base.sandbox;

	if (kata_vm_find_nic(s->vm, d->id, &d->nic, err) < 0)
		return kata__error_wrap(err, KATA_E_NOT_FOUND, "NIC '%s' is not plugged into sandbox '%s'", d->id,
					s->id);
	return KATA__STEP_DONE;
}

static int step_update_interface(kata_op *op, kata_error **err)
{
	kata_agent_request request = {.size = sizeof(request), .method = KATA_AGENT_UPDATE_INTERFACE};
	kata_agent_interface interface = {0};
	struct device_op *d = device(op);
	char address[64];

	if (!d->configure)
		return KATA__STEP_DONE;
	kata_nic_get_address(d->nic, address, sizeof(address));
	interface.name = d->name;
	interface.mac = kata_nic_get_mac(d->nic);
	interface.pci_path = address;
	interface.mtu = d->mtu ? d->mtu : kata_nic_get_mtu(d->nic);
	interface.addresses = (const char *const *)d->addresses;
	request.interface_ = &interface;
	return kata__sandbox_call(op, &request, err);
}

static struct kata__sandbox_interface **find_interface(kata_sandbox *s, const char *nic_id)
{
	struct kata__sandbox_interface **link = &s->interfaces;

	while (*link && strcmp((*link)->nic_id, nic_id) != 0)
		link = &(*link)->next;
	return link;
}

static void forget_interface(kata_sandbox *s, const char *nic_id)
{
	struct kata__sandbox_interface **link, *gone;

	pthread_mutex_lock(&s->mutex);
	link = find_interface(s, nic_id);
	gone = *link;
	if (gone)
		*link = gone->next;
	pthread_mutex_unlock(&s->mutex);
	if (gone) {
		free(gone->nic_id);
		free(gone->json);
		free(gone);
	}
}

int kata__interface_remember(kata_sandbox *s, const char *nic_id, const char *json, kata_error **err)
{
	struct kata__sandbox_interface *new = calloc(1, sizeof(*new));

	if (!new || !(new->nic_id = kata__strdup(nic_id)) || !(new->json = kata__strdup(json))) {
		if (new)
			free(new->nic_id);
		free(new);
		return kata__fail_no_memory(err);
	}
	forget_interface(s, nic_id);
	pthread_mutex_lock(&s->mutex);
	new->next = s->interfaces;
	s->interfaces = new;
	pthread_mutex_unlock(&s->mutex);
	return 0;
}

static char *interface_json(const struct device_op *d)
{
	KATA_AUTO_JSON json_t *o = json_object();
	json_t *addresses = json_array();

	json_object_set_new(o, "name", json_string(d->name));
	json_object_set_new(o, "mtu", json_integer(d->mtu ? d->mtu : kata_nic_get_mtu(d->nic)));
	for (size_t i = 0; d->addresses && d->addresses[i]; i++)
		json_array_append_new(addresses, json_string(d->addresses[i]));
	json_object_set_new(o, "addresses", addresses);
	return o ? kata__json_dump(o) : NULL;
}

static int step_remember_interface(kata_op *op, kata_error **err)
{
	struct device_op *d = device(op);
	KATA_AUTO(free) char *json = NULL;

	if (!d->configure)
		return KATA__STEP_DONE;
	json = interface_json(d);
	if (!json)
		return kata__fail_no_memory(err);
	return kata__interface_remember(d->base.sandbox, kata_nic_get_id(d->nic), json, err);
}

/* ---- routes */

static int step_update_routes(kata_op *op, kata_error **err)
{
	kata_agent_request request = {.size = sizeof(request), .method = KATA_AGENT_UPDATE_ROUTES};
	struct device_op *d = device(op);

	request.routes = d->route_views;
	request.route_count = json_array_size(d->routes);
	return kata__sandbox_call(op, &request, err);
}

static bool same_text(const json_t *a, const json_t *b, const char *key)
{
	const char *x = json_string_value(json_object_get(a, key));
	const char *y = json_string_value(json_object_get(b, key));

	return strcmp(x ? x : "", y ? y : "") == 0;
}

/* The mutex is held. One destination has one route: the later replaces. */
static int merge_route(json_t *routes, json_t *route)
{
	json_t *old;
	size_t i;

	json_array_foreach(routes, i, old)
	{
		if (same_text(old, route, "destination"))
			return json_array_set(routes, i, route);
	}
	if (json_array_size(routes) >= KATA__SANDBOX_ROUTES_MAX)
		return 0;
	return json_array_append(routes, route);
}

static int step_remember_routes(kata_op *op, kata_error **err)
{
	struct device_op *d = device(op);
	kata_sandbox *s = d->base.sandbox;
	json_t *route;
	size_t i;
	int rc = 0;

	pthread_mutex_lock(&s->mutex);
	if (!s->routes)
		s->routes = json_array();
	json_array_foreach(d->routes, i, route)
	{
		if (merge_route(s->routes, route) < 0)
			rc = -1;
	}
	pthread_mutex_unlock(&s->mutex);
	return rc < 0 ? kata__fail_no_memory(err) : KATA__STEP_DONE;
}

static int copy_routes(struct device_op *d, const kata_agent_route *routes, size_t count, kata_error **err)
{
	d->routes = json_array();
	d->route_views = calloc(count, sizeof(*d->route_views));
	if (!d->routes || !d->route_views)
		return kata__fail_no_memory(err);
	for (size_t i = 0; i < count; i++) {
		json_t *o = json_pack("{s:s?, s:s?, s:s?, s:s?}", "destination", routes[i].destination, "gateway",
				      routes[i].gateway, "device", routes[i].device, "source", routes[i].source);
		kata_agent_route *view = &d->route_views[i];

		if (!o || json_array_append_new(d->routes, o) < 0)
			return kata__fail(err, KATA_E_INVALID, CALLER, "routes[%zu]: it is not UTF-8 text", i);
		view->destination = json_string_value(json_object_get(o, "destination"));
		view->gateway = json_string_value(json_object_get(o, "gateway"));
		view->device = json_string_value(json_object_get(o, "device"));
		view->source = json_string_value(json_object_get(o, "source"));
	}
	return 0;
}

/* ---- tables */

static void finish_device(kata_op *op, int status, kata_error **error)
{
	stop_leaving(device(op));
	kata__sandbox_op_end(op, status);
}

/* Whether the VM has it; one that is not known to be gone counts as there. */
static bool is_plugged(kata_sandbox *s, const struct device_op *d)
{
	kata_storage *storage = NULL;
	kata_nic *nic = NULL;
	int rc = d->storage ? kata_vm_find_storage(s->vm, kata_storage_get_id(d->storage), &storage, NULL)
			    : kata_vm_find_nic(s->vm, kata_nic_get_id(d->nic), &nic, NULL);

	kata_storage_unref(storage);
	kata_nic_unref(nic);
	return rc != KATA_E_NOT_FOUND;
}

static void finish_add(kata_op *op, int status, kata_error **error)
{
	struct device_op *d = device(op);
	kata_sandbox *s = d->base.sandbox;
	bool undone = status < 0 && !is_plugged(s, d);

	if (status == 0 || undone)
		kata__sandbox_note_plug(s, d->storage ? KATA_RESERVE_STORAGE : KATA_RESERVE_NIC,
					d->storage ? kata_storage_get_id(d->storage) : kata_nic_get_id(d->nic), undone);
	finish_device(op, status, error);
}

static void finish_remove_nic(kata_op *op, int status, kata_error **error)
{
	if (status == 0)
		forget_interface(kata__sandbox_of(op), device(op)->id);
	finish_device(op, status, error);
}

#define DEVICE_TABLE(variable, op_name, step_array, finish_fn, ms)                                                     \
	static const struct kata__op_table variable = {                                                                \
		.name = (op_name),                                                                                     \
		KATA__STEPS(step_array),                                                                               \
		.timeout_ms = (ms),                                                                                    \
		.undo_timeout_ms = 10000,                                                                              \
		.finish = (finish_fn),                                                                                 \
		.free_data = free_device_op,                                                                           \
	}

static const struct kata__step add_storage_steps[] = {
	{.name = "plug", .run = step_plug, .undo = step_unplug},
	{.name = "await-device", .run = step_await_device},
};
DEVICE_TABLE(add_storage_table, "add-storage", add_storage_steps, finish_add, 15000);

static const struct kata__step remove_storage_steps[] = {
	{.name = "check-unused", .run = step_check_unused, .undo = step_keep},
	{.name = "offline-device", .run = step_offline_device, .undo = step_online_device},
	{.name = "unplug", .run = step_unplug},
};
DEVICE_TABLE(remove_storage_table, "remove-storage", remove_storage_steps, finish_device, 15000);

static const struct kata__step add_nic_steps[] = {
	{.name = "plug", .run = step_plug, .undo = step_unplug},
	{.name = "update-interface", .run = step_update_interface},
	{.name = "remember", .run = step_remember_interface},
};
DEVICE_TABLE(add_nic_table, "add-nic", add_nic_steps, finish_add, 15000);

static const struct kata__step update_nic_steps[] = {
	{.name = "find", .run = step_find_nic},
	{.name = "update-interface", .run = step_update_interface},
	{.name = "remember", .run = step_remember_interface},
};
DEVICE_TABLE(update_nic_table, "update-nic", update_nic_steps, finish_device, 15000);

static const struct kata__step remove_nic_steps[] = {
	{.name = "find", .run = step_find_nic},
	{.name = "unplug", .run = step_unplug},
};
DEVICE_TABLE(remove_nic_table, "remove-nic", remove_nic_steps, finish_remove_nic, 15000);

static const struct kata__step update_routes_steps[] = {
	{.name = "update-routes", .run = step_update_routes},
	{.name = "remember", .run = step_remember_routes},
};
DEVICE_TABLE(update_routes_table, "update-routes", update_routes_steps, finish_device, 15000);

/* ---- public */

static int new_op(struct device_op **ret, const char *id, kata_error **err)
{
	struct device_op *d = calloc(1, sizeof(*d));

	if (!d || (id && !(d->id = kata__strdup(id)))) {
		free(d);
		return kata__fail_no_memory(err);
	}
	*ret = d;
	return 0;
}

static int begin(kata_sandbox *s, const char *function, const struct kata__op_table *table, struct device_op *take,
		 const kata_op_options *options, kata_op **ret_op, kata_error **err)
{
	const struct kata__sandbox_entry entry = {function, IN(RUNNING), -1, 0};

	return kata__sandbox_begin(s, &entry, table, take, options, ret_op, err);
}

int kata_sandbox_add_storage_begin(kata_sandbox *sandbox, kata_storage *storage, const kata_op_options *options,
				   kata_op **ret_op, kata_error **err)
{
	struct device_op *d = NULL;
	int rc = kata__sandbox_check(sandbox, err);

	if (rc == 0 && !storage)
		rc = kata__fail(err, KATA_E_INVALID, CALLER, "storage: it is NULL");
	if (rc == 0)
		rc = new_op(&d, NULL, err);
	if (rc < 0)
		return rc;
	d->storage = kata_storage_ref(storage);
	return begin(sandbox, "kata_sandbox_add_storage", &add_storage_table, d, options, ret_op, err);
}

int kata_sandbox_add_storage(kata_sandbox *sandbox, kata_storage *storage, const kata_op_options *options,
			     kata_error **err)
{
	kata_op *op = NULL;
	int rc = kata__sandbox_check_may_block(sandbox, "kata_sandbox_add_storage", err);

	if (rc == 0)
		rc = kata_sandbox_add_storage_begin(sandbox, storage, options, &op, err);
	return kata__op_finish_sync(rc, &op, err);
}

static int begin_by_id(kata_sandbox *s, const char *function, const char *argument, const char *id,
		       const struct kata__op_table *table, const kata_op_options *options, kata_op **ret_op,
		       kata_error **err)
{
	struct device_op *d = NULL;
	int rc = kata__sandbox_check(s, err);

	if (rc == 0)
		rc = kata__id_check(argument, id, err);
	if (rc == 0)
		rc = new_op(&d, id, err);
	return rc < 0 ? rc : begin(s, function, table, d, options, ret_op, err);
}

int kata_sandbox_remove_storage_begin(kata_sandbox *sandbox, const char *id, const kata_op_options *options,
				      kata_op **ret_op, kata_error **err)
{
	return begin_by_id(sandbox, "kata_sandbox_remove_storage", "id", id, &remove_storage_table, options, ret_op,
			   err);
}

int kata_sandbox_remove_storage(kata_sandbox *sandbox, const char *id, const kata_op_options *options, kata_error **err)
{
	kata_op *op = NULL;
	int rc = kata__sandbox_check_may_block(sandbox, "kata_sandbox_remove_storage", err);

	if (rc == 0)
		rc = kata_sandbox_remove_storage_begin(sandbox, id, options, &op, err);
	return kata__op_finish_sync(rc, &op, err);
}

static int check_interface(const kata_interface_config *c, kata_error **err)
{
	size_t n = c->name ? strlen(c->name) : 0;
	char address[46];
	unsigned prefix;
	bool is_v6;

	if (n < 1 || n > 15 || strpbrk(c->name, "/ \t\n%"))
		return kata__fail(
			err, KATA_E_INVALID, CALLER,
			"config.name: '%.32s' is no interface name, expected 1 to 15 bytes without '/', space or '%%'",
			c->name ? c->name : "NULL");
	if (c->mtu && (c->mtu < 68 || c->mtu > 65535))
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "config.mtu: %u is out of range, expected 68 to 65535, or 0", c->mtu);
	for (size_t i = 0; c->addresses && c->addresses[i]; i++)
		if (!kata__agent_parse_prefix(c->addresses[i], address, &prefix, &is_v6))
			return kata__fail(err, KATA_E_INVALID, CALLER,
					  "config.addresses[%zu]: '%.64s' is not like 10.0.0.2/24 or fd00::2/64", i,
					  c->addresses[i]);
	return 0;
}

static int copy_interface(struct device_op *d, const kata_interface_config *config, kata_error **err)
{
	kata_interface_config c = KATA_INTERFACE_CONFIG_INIT;
	int rc;

	if (!config)
		return 0;
	rc = kata__options_read(&c, sizeof(c), config, "config", err);
	if (rc == 0)
		rc = check_interface(&c, err);
	if (rc < 0)
		return rc;
	d->configure = true;
	d->mtu = c.mtu;
	snprintf(d->name, sizeof(d->name), "%s", c.name);
	d->addresses = c.addresses ? kata__strv_dup(c.addresses) : NULL;
	return c.addresses && !d->addresses ? kata__fail_no_memory(err) : 0;
}

int kata_sandbox_add_nic_begin(kata_sandbox *sandbox, kata_nic *nic, const kata_interface_config *config,
			       const kata_op_options *options, kata_op **ret_op, kata_error **err)
{
	struct device_op *d = NULL;
	int rc = kata__sandbox_check(sandbox, err);

	if (rc == 0 && !nic)
		rc = kata__fail(err, KATA_E_INVALID, CALLER, "nic: it is NULL");
	if (rc == 0)
		rc = new_op(&d, NULL, err);
	if (rc < 0)
		return rc;
	d->nic = kata_nic_ref(nic);
	rc = copy_interface(d, config, err);
	if (rc < 0) {
		free_device_op(d);
		return rc;
	}
	return begin(sandbox, "kata_sandbox_add_nic", &add_nic_table, d, options, ret_op, err);
}

int kata_sandbox_add_nic(kata_sandbox *sandbox, kata_nic *nic, const kata_interface_config *config,
			 const kata_op_options *options, kata_error **err)
{
	kata_op *op = NULL;
	int rc = kata__sandbox_check_may_block(sandbox, "kata_sandbox_add_nic", err);

	if (rc == 0)
		rc = kata_sandbox_add_nic_begin(sandbox, nic, config, options, &op, err);
	return kata__op_finish_sync(rc, &op, err);
}

int kata_sandbox_update_nic(kata_sandbox *sandbox, const char *id, const kata_interface_config *config,
			    const kata_op_options *options, kata_error **err)
{
	struct device_op *d = NULL;
	kata_op *op = NULL;
	int rc = kata__sandbox_check_may_block(sandbox, "kata_sandbox_update_nic", err);

	if (rc == 0)
		rc = kata__sandbox_check(sandbox, err);

	if (rc == 0)
		rc = kata__id_check("id", id, err);
	if (rc == 0 && !config)
		rc = kata__fail(err, KATA_E_INVALID, CALLER, "config: it is NULL");
	if (rc == 0)
		rc = new_op(&d, id, err);
	if (rc < 0)
		return rc;
	rc = copy_interface(d, config, err);
	if (rc < 0) {
		free_device_op(d);
		return rc;
	}
	rc = begin(sandbox, "kata_sandbox_update_nic", &update_nic_table, d, options, &op, err);
	return kata__op_finish_sync(rc, &op, err);
}

int kata_sandbox_remove_nic_begin(kata_sandbox *sandbox, const char *id, const kata_op_options *options,
				  kata_op **ret_op, kata_error **err)
{
	return begin_by_id(sandbox, "kata_sandbox_remove_nic", "id", id, &remove_nic_table, options, ret_op, err);
}

int kata_sandbox_remove_nic(kata_sandbox *sandbox, const char *id, const kata_op_options *options, kata_error **err)
{
	kata_op *op = NULL;
	int rc = kata__sandbox_check_may_block(sandbox, "kata_sandbox_remove_nic", err);

	if (rc == 0)
		rc = kata_sandbox_remove_nic_begin(sandbox, id, options, &op, err);
	return kata__op_finish_sync(rc, &op, err);
}

static int check_routes(const kata_agent_route *routes, size_t count, kata_error **err)
{
	if (!routes || count == 0 || count > KATA__SANDBOX_ROUTES_MAX)
		return kata__fail(err, KATA_E_INVALID, CALLER, "routes: expected 1 to %u routes, found %zu",
				  KATA__SANDBOX_ROUTES_MAX, routes ? count : 0);
	for (size_t i = 0; i < count; i++) {
		char what[32];
		int rc;

		snprintf(what, sizeof(what), "routes[%zu]", i);
		rc = kata__agent_check_route(what, &routes[i], err);
		if (rc < 0)
			return rc;
	}
	return 0;
}

int kata_sandbox_update_routes(kata_sandbox *sandbox, const kata_agent_route *routes, size_t count,
			       const kata_op_options *options, kata_error **err)
{
	struct device_op *d = NULL;
	kata_op *op = NULL;
	int rc = kata__sandbox_check_may_block(sandbox, "kata_sandbox_update_routes", err);

	if (rc == 0)
		rc = kata__sandbox_check(sandbox, err);

	if (rc == 0)
		rc = check_routes(routes, count, err);
	if (rc == 0)
		rc = new_op(&d, NULL, err);
	if (rc < 0)
		return rc;
	rc = copy_routes(d, routes, count, err);
	if (rc < 0) {
		free_device_op(d);
		return rc;
	}
	rc = begin(sandbox, "kata_sandbox_update_routes", &update_routes_table, d, options, &op, err);
	return kata__op_finish_sync(rc, &op, err);
}
