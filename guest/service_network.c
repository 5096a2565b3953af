/* SPDX-License-Identifier: Apache-2.0 */
/* The network methods of grpc.AgentService. A NIC that is not there yet is awaited, by its PCI path or its MAC. */
#include <stdlib.h>

#include "guest/device_wait.h"
#include "guest/guest.h"
#include "guest/network.h"

struct update {
	struct call *call;
	struct device_wait *wait;
};

static void forget_update(struct call *call, void *user)
{
	struct update *u = user;

	device_wait_cancel(u->wait);
	free(u);
}

static void link_found(void *user, const char *name, kata_error *take_err)
{
	struct update *u = user;
	const Grpc__UpdateInterfaceRequest *q = call_request(u->call);
	kata_error *err = take_err;

	if (err)
		kata__error_wrap(&err, kata_error_get_status(err), "interface: Link not found");
	if (!err && network_update_interface(name, q->interface, &err) == 0)
		call_answer(u->call, q->interface);
	else
		call_answer_error(u->call, &err);
	free(u);
}

static int update_begin(struct guest *guest, struct call *call, const Grpc__Interface *wanted, kata_error **err)
{
	struct update *u;
	int rc;

	if (!wanted)
		return kata__fail(err, KATA_E_INVALID, CALLER, "interface: missing");
	if ((rc = network_check_interface(wanted, err)) != 0)
		return rc;
	u = calloc(1, sizeof(*u));
	if (!u)
		return kata__fail_no_memory(err);
	u->call = call;
	call_park(call, forget_update, u);
	rc = device_wait_begin(guest->waits, DEVICE_NET, wanted->devicepath[0] ? wanted->devicepath : wanted->hwaddr,
			       guest->hotplug_timeout_ms, link_found, u, &u->wait, err);
	if (rc != 0)
		free(u);
	return rc;
}

static void update_interface(void *user, struct call *call, const void *request)
{
	const Grpc__UpdateInterfaceRequest *q = request;
	kata_error *err = NULL;

	if (update_begin(user, call, q->interface, &err) != 0)
		call_answer_error(call, &err);
}

static void answer_routes(struct call *call)
{
	Grpc__Routes *list = NULL;
	kata_error *err = NULL;

	if (network_list_routes(&list, &err) == 0)
		call_answer(call, list);
	else
		call_answer_error(call, &err);
	network_free_routes(list);
}

static void update_routes(void *user, struct call *call, const void *request)
{
	const Grpc__UpdateRoutesRequest *q = request;
	kata_error *err = NULL;

	if (!q->routes || network_update_routes(q->routes, &err) == 0)
		answer_routes(call);
	else
		call_answer_error(call, &err);
}

static void list_routes(void *user, struct call *call, const void *request)
{
	answer_routes(call);
}

static void list_interfaces(void *user, struct call *call, const void *request)
{
	Grpc__Interfaces *list = NULL;
	kata_error *err = NULL;

	if (network_list_interfaces(&list, &err) == 0)
		call_answer(call, list);
	else
		call_answer_error(call, &err);
	network_free_interfaces(list);
}

static void add_neighbors(void *user, struct call *call, const void *request)
{
	const Grpc__AddARPNeighborsRequest *q = request;
	kata_error *err = NULL;

	if (!q->neighbors || network_add_neighbors(q->neighbors, &err) == 0)
		call_answer(call, NULL);
	else
		call_answer_error(call, &err);
}

void service_network_register(struct guest *guest)
{
	rpc_handler_fn *m = guest->handlers.methods;

	m[KATA__AGENT_UPDATE_INTERFACE] = update_interface;
	m[KATA__AGENT_UPDATE_ROUTES] = update_routes;
	m[KATA__AGENT_LIST_INTERFACES] = list_interfaces;
	m[KATA__AGENT_LIST_ROUTES] = list_routes;
	m[KATA__AGENT_ADD_ARP_NEIGHBORS] = add_neighbors;
}
