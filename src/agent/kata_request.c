/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kata_request.c - kata_agent_request to messages of the Kata 3.x agent.
 *
 * Model: the message lies in the encoding, its strings in the request, its arrays in blocks that are freed together.
 * protobuf-c's structs hold `char *` where it only reads: text() is the one place that casts constness away. Where the
 * agent wants an exec id of a container's first process, that is the container's id (agent-protocols 3.6).
 */
#include <stdlib.h>
#include <string.h>

#include "agent/kata_messages.h"
#include "agent/request.h"
#include "base/compiler.h"
#include "base/text.h"
#include "proto/oci.h"

#define AWAIT_MAX_MS 600000u /* where the call has no deadline of its own */

struct kata__kata_block {
	struct kata__kata_block *next;
	_Alignas(max_align_t) uint8_t data[];
};

static char *text(const char *s)
{
	return (char *)(uintptr_t)(s ? s : "");
}

/* Zeroed; NULL when out of memory. */
static void *block(struct kata__kata_encoding *e, size_t size)
{
	struct kata__kata_block *b = calloc(1, sizeof(*b) + size);

	if (!b)
		return NULL;
	b->next = e->blocks;
	e->blocks = b;
	return b->data;
}

static char *copy(struct kata__kata_encoding *e, const char *s)
{
	char *to = block(e, strlen(s) + 1);

	return to ? memcpy(to, s, strlen(s)) : NULL;
}

/* `count` pointers to as many structs of `size` bytes, behind each other. */
static void *pointers_to(struct kata__kata_encoding *e, size_t count, size_t size)
{
	void **pointers = block(e, count * sizeof(*pointers));
	uint8_t *structs = block(e, count * size);

	for (size_t i = 0; pointers && structs && i < count; i++)
		pointers[i] = structs + i * size;
	return structs ? pointers : NULL;
}

/* protobuf-c never writes through the pointers of a message it packs. */
static char **list(const char *const *strings)
{
	return (char **)(uintptr_t)strings;
}

static const char *process_of(const kata_agent_request *r)
{
	return r->exec_id ? r->exec_id : r->container_id;
}

/* ---- parts ---- */

static int put_storages(struct kata__kata_encoding *e, const kata_agent_request *r, Grpc__Storage ***ret,
			size_t *ret_count, kata_error **err)
{
	Grpc__Storage **to = r->storage_count ? pointers_to(e, r->storage_count, sizeof(**to)) : NULL;

	if (r->storage_count && !to)
		return kata__fail_no_memory(err);
	for (size_t i = 0; i < r->storage_count; i++) {
		const kata_agent_storage *from = &r->storages[i];

		grpc__storage__init(to[i]);
		to[i]->driver = text(from->driver);
		to[i]->source = text(from->source);
		to[i]->fstype = text(from->fstype);
		to[i]->mount_point = text(from->mount_point);
		to[i]->options = list(from->options);
		to[i]->n_options = kata__strv_length(from->options);
	}
	*ret = to;
	*ret_count = r->storage_count;
	return 0;
}

static int put_addresses(struct kata__kata_encoding *e, const kata_agent_interface *from, kata_error **err)
{
	size_t count = kata__strv_length(from->addresses);
	Grpc__IPAddress **to = count ? pointers_to(e, count, sizeof(**to)) : NULL;

	if (count && !to)
		return kata__fail_no_memory(err);
	for (size_t i = 0; i < count; i++) {
		char address[46];
		unsigned prefix;
		bool is_v6;

		grpc__ipaddress__init(to[i]);
		if (!kata__agent_parse_prefix(from->addresses[i], address, &prefix, &is_v6))
			return kata__fail(err, KATA_E_INVALID, CALLER,
					  "request.interface_.addresses[%zu]: '%s' is no address", i,
					  from->addresses[i]);
		to[i]->family = is_v6 ? GRPC__IPFAMILY__v6 : GRPC__IPFAMILY__v4;
		to[i]->address = copy(e, address);
		to[i]->mask = copy(e, strchr(from->addresses[i], '/') + 1);
		if (!to[i]->address || !to[i]->mask)
			return kata__fail_no_memory(err);
	}
	e->interface_.ipaddresses = to;
	e->interface_.n_ipaddresses = count;
	return 0;
}

static bool is_v6_route(const kata_agent_route *route)
{
	const char *const named[] = {route->destination, route->gateway, route->source};

	for (size_t i = 0; i < kata__array_size(named); i++)
		if (named[i] && strchr(named[i], ':'))
			return true;
	return false;
}

/* ---- methods ---- */

static int encode_nothing(struct kata__kata_encoding *e, const kata_agent_request *r, uint64_t timeout_ms,
			  kata_error **err)
{
	return 0;
}

static int encode_create_sandbox(struct kata__kata_encoding *e, const kata_agent_request *r, uint64_t timeout_ms,
				 kata_error **err)
{
	Grpc__CreateSandboxRequest *m = &e->message.create_sandbox;

	m->sandbox_id = text(r->sandbox_id);
	m->hostname = text(r->hostname);
	m->dns = list(r->dns);
	m->n_dns = kata__strv_length(r->dns);
	return put_storages(e, r, &m->storages, &m->n_storages, err);
}

static int encode_update_interface(struct kata__kata_encoding *e, const kata_agent_request *r, uint64_t timeout_ms,
				   kata_error **err)
{
	const kata_agent_interface *from = r->interface_;

	grpc__interface__init(&e->interface_);
	e->interface_.device = text(from->name);
	e->interface_.name = text(from->name);
	e->interface_.hwaddr = text(from->mac);
	e->interface_.devicepath = text(from->pci_path);
	e->interface_.mtu = from->mtu;
	e->message.update_interface.interface = &e->interface_;
	return put_addresses(e, from, err);
}

static int encode_update_routes(struct kata__kata_encoding *e, const kata_agent_request *r, uint64_t timeout_ms,
				kata_error **err)
{
	Grpc__Route **to = r->route_count ? pointers_to(e, r->route_count, sizeof(**to)) : NULL;

	if (r->route_count && !to)
		return kata__fail_no_memory(err);
	for (size_t i = 0; i < r->route_count; i++) {
		const kata_agent_route *from = &r->routes[i];

		grpc__route__init(to[i]);
		to[i]->dest = text(from->destination);
		to[i]->gateway = text(from->gateway);
		to[i]->device = text(from->device);
		to[i]->source = text(from->source);
		to[i]->family = is_v6_route(from) ? GRPC__IPFAMILY__v6 : GRPC__IPFAMILY__v4;
	}
	grpc__routes__init(&e->routes);
	e->routes.routes = to;
	e->routes.n_routes = r->route_count;
	e->message.update_routes.routes = &e->routes;
	return 0;
}

static int encode_await_device(struct kata__kata_encoding *e, const kata_agent_request *r, uint64_t timeout_ms,
			       kata_error **err)
{
	Grpc__AwaitDeviceRequest *m = &e->message.await_device;

	m->kind = text(r->device_kind);
	m->address = text(r->device_address);
	m->timeout_ms = timeout_ms && timeout_ms < AWAIT_MAX_MS ? (uint32_t)timeout_ms : AWAIT_MAX_MS;
	return 0;
}

static int encode_offline_device(struct kata__kata_encoding *e, const kata_agent_request *r, uint64_t timeout_ms,
				 kata_error **err)
{
	e->message.offline_device.kind = text(r->device_kind);
	e->message.offline_device.address = text(r->device_address);
	return 0;
}

static int encode_create_container(struct kata__kata_encoding *e, const kata_agent_request *r, uint64_t timeout_ms,
				   kata_error **err)
{
	Grpc__CreateContainerRequest *m = &e->message.create_container;
	Grpc__Spec *spec = NULL;
	int rc = kata__oci_spec_from_json(r->json, r->json_length, &spec, err);

	if (rc)
		return rc;
	e->oci = spec;
	m->container_id = text(r->container_id);
	m->exec_id = text(r->container_id);
	m->oci = spec;
	return put_storages(e, r, &m->storages, &m->n_storages, err);
}

static int encode_exec_process(struct kata__kata_encoding *e, const kata_agent_request *r, uint64_t timeout_ms,
			       kata_error **err)
{
	Grpc__ExecProcessRequest *m = &e->message.exec_process;
	Grpc__Process *process = NULL;
	int rc = kata__oci_process_from_json(r->json, r->json_length, &process, err);

	if (rc)
		return rc;
	e->oci = process;
	m->container_id = text(r->container_id);
	m->exec_id = text(r->exec_id);
	m->process = process;
	return 0;
}

static int encode_start_container(struct kata__kata_encoding *e, const kata_agent_request *r, uint64_t timeout_ms,
				  kata_error **err)
{
	e->message.start_container.container_id = text(r->container_id);
	return 0;
}

static int encode_remove_container(struct kata__kata_encoding *e, const kata_agent_request *r, uint64_t timeout_ms,
				   kata_error **err)
{
	e->message.remove_container.container_id = text(r->container_id);
	return 0;
}

static int encode_signal_process(struct kata__kata_encoding *e, const kata_agent_request *r, uint64_t timeout_ms,
				 kata_error **err)
{
	e->message.signal_process.container_id = text(r->container_id);
	e->message.signal_process.exec_id = text(r->exec_id);
	e->message.signal_process.signal = r->signal;
	return 0;
}

static int encode_wait_process(struct kata__kata_encoding *e, const kata_agent_request *r, uint64_t timeout_ms,
			       kata_error **err)
{
	e->message.wait_process.container_id = text(r->container_id);
	e->message.wait_process.exec_id = text(process_of(r));
	return 0;
}

static int encode_stats_container(struct kata__kata_encoding *e, const kata_agent_request *r, uint64_t timeout_ms,
				  kata_error **err)
{
	e->message.stats_container.container_id = text(r->container_id);
	return 0;
}

static int encode_pause_container(struct kata__kata_encoding *e, const kata_agent_request *r, uint64_t timeout_ms,
				  kata_error **err)
{
	e->message.pause_container.container_id = text(r->container_id);
	return 0;
}

static int encode_resume_container(struct kata__kata_encoding *e, const kata_agent_request *r, uint64_t timeout_ms,
				   kata_error **err)
{
	e->message.resume_container.container_id = text(r->container_id);
	return 0;
}

static int encode_write_stdin(struct kata__kata_encoding *e, const kata_agent_request *r, uint64_t timeout_ms,
			      kata_error **err)
{
	Grpc__WriteStreamRequest *m = &e->message.write_stream;

	m->container_id = text(r->container_id);
	m->exec_id = text(process_of(r));
	m->data = (ProtobufCBinaryData){.len = r->data_length, .data = (uint8_t *)(uintptr_t)r->data};
	return 0;
}

static int encode_close_stdin(struct kata__kata_encoding *e, const kata_agent_request *r, uint64_t timeout_ms,
			      kata_error **err)
{
	e->message.close_stdin.container_id = text(r->container_id);
	e->message.close_stdin.exec_id = text(process_of(r));
	return 0;
}

static int encode_read_stream(struct kata__kata_encoding *e, const kata_agent_request *r, uint64_t timeout_ms,
			      kata_error **err)
{
	e->message.read_stream.container_id = text(r->container_id);
	e->message.read_stream.exec_id = text(process_of(r));
	e->message.read_stream.len = r->max_length;
	return 0;
}

static int encode_tty_win_resize(struct kata__kata_encoding *e, const kata_agent_request *r, uint64_t timeout_ms,
				 kata_error **err)
{
	Grpc__TtyWinResizeRequest *m = &e->message.tty_win_resize;

	m->container_id = text(r->container_id);
	m->exec_id = text(process_of(r));
	m->row = r->rows;
	m->column = r->columns;
	return 0;
}

static int encode_set_time(struct kata__kata_encoding *e, const kata_agent_request *r, uint64_t timeout_ms,
			   kata_error **err)
{
	e->message.set_time.sec = r->seconds;
	e->message.set_time.usec = r->microseconds;
	return 0;
}

static int encode_reseed(struct kata__kata_encoding *e, const kata_agent_request *r, uint64_t timeout_ms,
			 kata_error **err)
{
	e->message.reseed.data = (ProtobufCBinaryData){.len = r->data_length, .data = (uint8_t *)(uintptr_t)r->data};
	return 0;
}

static int encode_online_cpu_mem(struct kata__kata_encoding *e, const kata_agent_request *r, uint64_t timeout_ms,
				 kata_error **err)
{
	e->message.online_cpu_mem.wait = true;
	e->message.online_cpu_mem.nb_cpus = r->cpus;
	return 0;
}

static int put_macs(struct kata__kata_encoding *e, const kata_agent_request *r, kata_error **err)
{
	Grpc__ResetIdentityRequest *m = &e->message.reset_identity;
	Grpc__MacChange **to = r->mac_count ? pointers_to(e, r->mac_count, sizeof(**to)) : NULL;

	if (r->mac_count && !to)
		return kata__fail_no_memory(err);
	for (size_t i = 0; i < r->mac_count; i++) {
		grpc__mac_change__init(to[i]);
		to[i]->address = text(r->macs[i].pci_path);
		to[i]->mac = text(r->macs[i].mac);
	}
	m->macs = to;
	m->n_macs = r->mac_count;
	return 0;
}

static int encode_reset_identity(struct kata__kata_encoding *e, const kata_agent_request *r, uint64_t timeout_ms,
				 kata_error **err)
{
	Grpc__ResetIdentityRequest *m = &e->message.reset_identity;

	m->entropy = (ProtobufCBinaryData){.len = r->data_length, .data = (uint8_t *)(uintptr_t)r->data};
	m->seconds = r->seconds;
	m->microseconds = r->microseconds;
	m->hostname = text(r->hostname);
	m->machine_id = text(r->machine_id);
	m->sample_length = r->max_length;
	return put_macs(e, r, err);
}

static const struct {
	enum kata__method_id id;
	int (*encode)(struct kata__kata_encoding *e, const kata_agent_request *r, uint64_t timeout_ms,
		      kata_error **err);
} encoders[KATA_AGENT_METHOD_COUNT] = {
	[KATA_AGENT_CHECK] = {KATA__HEALTH_CHECK, encode_nothing},
	[KATA_AGENT_VERSION] = {KATA__HEALTH_VERSION, encode_nothing},
	[KATA_AGENT_CREATE_SANDBOX] = {KATA__AGENT_CREATE_SANDBOX, encode_create_sandbox},
	[KATA_AGENT_DESTROY_SANDBOX] = {KATA__AGENT_DESTROY_SANDBOX, encode_nothing},
	[KATA_AGENT_UPDATE_INTERFACE] = {KATA__AGENT_UPDATE_INTERFACE, encode_update_interface},
	[KATA_AGENT_UPDATE_ROUTES] = {KATA__AGENT_UPDATE_ROUTES, encode_update_routes},
	[KATA_AGENT_AWAIT_DEVICE] = {KATA__GUEST_AWAIT_DEVICE, encode_await_device},
	[KATA_AGENT_OFFLINE_DEVICE] = {KATA__GUEST_OFFLINE_DEVICE, encode_offline_device},
	[KATA_AGENT_CREATE_CONTAINER] = {KATA__AGENT_CREATE_CONTAINER, encode_create_container},
	[KATA_AGENT_START_CONTAINER] = {KATA__AGENT_START_CONTAINER, encode_start_container},
	[KATA_AGENT_REMOVE_CONTAINER] = {KATA__AGENT_REMOVE_CONTAINER, encode_remove_container},
	[KATA_AGENT_EXEC_PROCESS] = {KATA__AGENT_EXEC_PROCESS, encode_exec_process},
	[KATA_AGENT_SIGNAL_PROCESS] = {KATA__AGENT_SIGNAL_PROCESS, encode_signal_process},
	[KATA_AGENT_WAIT_PROCESS] = {KATA__AGENT_WAIT_PROCESS, encode_wait_process},
	[KATA_AGENT_STATS_CONTAINER] = {KATA__AGENT_STATS_CONTAINER, encode_stats_container},
	[KATA_AGENT_PAUSE_CONTAINER] = {KATA__AGENT_PAUSE_CONTAINER, encode_pause_container},
	[KATA_AGENT_RESUME_CONTAINER] = {KATA__AGENT_RESUME_CONTAINER, encode_resume_container},
	[KATA_AGENT_WRITE_STDIN] = {KATA__AGENT_WRITE_STDIN, encode_write_stdin},
	[KATA_AGENT_CLOSE_STDIN] = {KATA__AGENT_CLOSE_STDIN, encode_close_stdin},
	[KATA_AGENT_READ_STDOUT] = {KATA__AGENT_READ_STDOUT, encode_read_stream},
	[KATA_AGENT_READ_STDERR] = {KATA__AGENT_READ_STDERR, encode_read_stream},
	[KATA_AGENT_TTY_WIN_RESIZE] = {KATA__AGENT_TTY_WIN_RESIZE, encode_tty_win_resize},
	[KATA_AGENT_SET_TIME] = {KATA__AGENT_SET_GUEST_DATE_TIME, encode_set_time},
	[KATA_AGENT_RESEED] = {KATA__AGENT_RESEED_RANDOM_DEV, encode_reseed},
	[KATA_AGENT_ONLINE_CPU_MEM] = {KATA__AGENT_ONLINE_CPU_MEM, encode_online_cpu_mem},
	[KATA_AGENT_RESET_IDENTITY] = {KATA__GUEST_RESET_IDENTITY, encode_reset_identity},
	[KATA_AGENT_SETTLE] = {KATA__GUEST_SETTLE, encode_nothing},
};

enum kata__method_id kata__kata_method_id(kata_agent_method method)
{
	return encoders[method].id;
}

int kata__kata_encode(const kata_agent_request *r, uint64_t timeout_ms, struct kata__kata_encoding *e, kata_error **err)
{
	const ProtobufCMessageDescriptor *type;
	int rc;

	e->method = encoders[r->method].id;
	e->is_empty = encoders[r->method].encode == encode_nothing;
	e->blocks = NULL;
	e->oci = NULL;
	type = kata__methods[e->method].request;
	type->message_init(&e->message.base);
	rc = encoders[r->method].encode(e, r, timeout_ms, err);
	if (rc)
		kata__kata_encoding_deinit(e);
	return rc;
}

void kata__kata_encoding_deinit(struct kata__kata_encoding *e)
{
	while (e->blocks) {
		struct kata__kata_block *next = e->blocks->next;

		free(e->blocks);
		e->blocks = next;
	}
	kata__oci_free(e->oci);
	e->oci = NULL;
}
