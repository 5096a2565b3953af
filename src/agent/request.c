/* SPDX-License-Identifier: Apache-2.0 */
/*
 * request.c - what a request must have, by a table, and its copy.
 *
 * Invariant: what kata__agent_request_check() has let through, the encoding of the Kata protocol can say
 * (kata_request.c), but for the JSON, which is read when the call is made.
 */
#include "agent/request.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/compiler.h"
#include "base/error.h"
#include "base/text.h"

#define LIST_MAX 1024u   /* strings in a list, storages, routes */
#define HOSTNAME_MAX 64u /* bytes, as the kernel has it */
#define ENTROPY_MIN 32u  /* bytes of a RESET_IDENTITY */
#define ENTROPY_MAX 4096u
#define SAMPLE_MAX 64u
#define MACS_MAX 64u
#define DATA_MAX (4194304u - 1024u) /* bytes: a frame holds 4 MiB with everything around them */

enum need {
	SANDBOX_ID = 1u << 0,
	CONTAINER_ID = 1u << 1,
	EXEC_ID = 1u << 2,
	JSON = 1u << 3,
	STORAGES = 1u << 4, /* checked where given */
	INTERFACE = 1u << 5,
	ROUTES = 1u << 6,
	DEVICE = 1u << 7,
	DATA = 1u << 8,
	MAX_LENGTH = 1u << 9,
	SIGNAL = 1u << 10,
	TIME = 1u << 11,
	HOST = 1u << 12, /* hostname and dns, checked where given */
	IDENTITY = 1u << 13,
};

static const uint16_t needs[KATA_AGENT_METHOD_COUNT] = {
	[KATA_AGENT_CREATE_SANDBOX] = SANDBOX_ID | STORAGES | HOST,
	[KATA_AGENT_UPDATE_INTERFACE] = INTERFACE,
	[KATA_AGENT_UPDATE_ROUTES] = ROUTES,
	[KATA_AGENT_AWAIT_DEVICE] = DEVICE,
	[KATA_AGENT_OFFLINE_DEVICE] = DEVICE,
	[KATA_AGENT_CREATE_CONTAINER] = CONTAINER_ID | JSON | STORAGES,
	[KATA_AGENT_START_CONTAINER] = CONTAINER_ID,
	[KATA_AGENT_REMOVE_CONTAINER] = CONTAINER_ID,
	[KATA_AGENT_EXEC_PROCESS] = CONTAINER_ID | EXEC_ID | JSON,
	[KATA_AGENT_SIGNAL_PROCESS] = CONTAINER_ID | SIGNAL,
	[KATA_AGENT_WAIT_PROCESS] = CONTAINER_ID,
	[KATA_AGENT_STATS_CONTAINER] = CONTAINER_ID,
	[KATA_AGENT_PAUSE_CONTAINER] = CONTAINER_ID,
	[KATA_AGENT_RESUME_CONTAINER] = CONTAINER_ID,
	[KATA_AGENT_WRITE_STDIN] = CONTAINER_ID | DATA,
	[KATA_AGENT_CLOSE_STDIN] = CONTAINER_ID,
	[KATA_AGENT_READ_STDOUT] = CONTAINER_ID | MAX_LENGTH,
	[KATA_AGENT_READ_STDERR] = CONTAINER_ID | MAX_LENGTH,
	[KATA_AGENT_TTY_WIN_RESIZE] = CONTAINER_ID,
	[KATA_AGENT_SET_TIME] = TIME,
	[KATA_AGENT_RESEED] = DATA,
	[KATA_AGENT_RESET_IDENTITY] = IDENTITY,
};

/* ---- texts ---- */

bool kata__agent_parse_prefix(const char *text, char address[46], unsigned *prefix, bool *is_v6)
{
	const char *slash = strchr(text, '/');
	size_t length = slash ? (size_t)(slash - text) : 0;
	unsigned char binary[16];
	char end;

	if (!length || length > 45 || !isdigit((unsigned char)slash[1]) || strlen(slash + 1) > 3 ||
	    sscanf(slash + 1, "%3u%c", prefix, &end) != 1)
		return false;
	memcpy(address, text, length);
	address[length] = '\0';
	*is_v6 = strchr(address, ':') != NULL;
	return inet_pton(*is_v6 ? AF_INET6 : AF_INET, address, binary) == 1 && *prefix <= (*is_v6 ? 128u : 32u);
}

static bool is_mac(const char *text)
{
	for (size_t i = 0; i < 17; i++)
		if (i % 3 == 2 ? text[i] != ':' : !isxdigit((unsigned char)text[i]))
			return false;
	return text[17] == '\0';
}

static bool is_line(const char *text)
{
	for (; *text; text++)
		if (iscntrl((unsigned char)*text) && *text != '\t')
			return false;
	return true;
}

static int family_of(const char *address)
{
	unsigned char binary[16];

	return inet_pton(AF_INET, address, binary) == 1    ? AF_INET
	       : inet_pton(AF_INET6, address, binary) == 1 ? AF_INET6
							   : AF_UNSPEC;
}

static int missing(kata_error **err, const kata_agent_request *r, const char *member, const char *what)
{
	return kata__fail(err, KATA_E_INVALID, CALLER, "request.%s: is missing, %s needs %s", member,
			  kata_agent_method_get_name(r->method), what);
}

static int check_list(const char *const *list, const char *member, kata_error **err)
{
	for (size_t i = 0; list && list[i]; i++) {
		if (i >= LIST_MAX)
			return kata__fail(err, KATA_E_INVALID, CALLER, "request.%s: more than %u entries", member,
					  LIST_MAX);
		if (!is_line(list[i]))
			return kata__fail(err, KATA_E_INVALID, CALLER, "request.%s[%zu]: '%s' holds control characters",
					  member, i, list[i]);
	}
	return 0;
}

/* ---- members ---- */

static int check_id(const kata_agent_request *r, const char *id, const char *member, bool is_needed, kata_error **err)
{
	char name[32];

	if (!id)
		return is_needed ? missing(err, r, member, "it") : 0;
	snprintf(name, sizeof(name), "request.%s", member);
	return kata__id_check(name, id, err);
}

static int check_host(const kata_agent_request *r, kata_error **err)
{
	if (r->hostname && (strlen(r->hostname) > HOSTNAME_MAX || !is_line(r->hostname)))
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "request.hostname: '%s' must be one line of at most %u bytes", r->hostname,
				  HOSTNAME_MAX);
	return check_list(r->dns, "dns", err);
}

static int check_storages(const kata_agent_request *r, kata_error **err)
{
	int rc;

	if (r->storage_count > LIST_MAX || (r->storage_count && !r->storages))
		return kata__fail(err, KATA_E_INVALID, CALLER, "request.storages: %zu at %p, at most %u are taken",
				  r->storage_count, (const void *)r->storages, LIST_MAX);
	for (size_t i = 0; i < r->storage_count; i++) {
		const kata_agent_storage *s = &r->storages[i];

		if (!s->driver || !*s->driver)
			return kata__fail(err, KATA_E_INVALID, CALLER, "request.storages[%zu].driver: is missing", i);
		if (!s->mount_point || s->mount_point[0] != '/')
			return kata__fail(
				err, KATA_E_INVALID, CALLER,
				"request.storages[%zu].mount_point: '%s' must be an absolute path in the guest", i,
				s->mount_point ? s->mount_point : "");
		rc = check_list(s->options, "storages[].options", err);
		if (rc)
			return rc;
	}
	return 0;
}

static int check_interface(const kata_agent_request *r, kata_error **err)
{
	const kata_agent_interface *n = r->interface_;
	char address[46];
	unsigned prefix;
	bool is_v6;

	if (!n)
		return missing(err, r, "interface_", "it");
	if (!n->name || !*n->name || strlen(n->name) > 15)
		return kata__fail(err, KATA_E_INVALID, CALLER, "request.interface_.name: '%s' must have 1 to 15 bytes",
				  n->name ? n->name : "");
	if (!n->mac || !is_mac(n->mac))
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "request.interface_.mac: '%s' is not six hex bytes with ':' between",
				  n->mac ? n->mac : "");
	if (n->mtu < 68 || n->mtu > 65535)
		return kata__fail(err, KATA_E_INVALID, CALLER, "request.interface_.mtu: is %u, must be 68 to 65535",
				  n->mtu);
	for (size_t i = 0; n->addresses && n->addresses[i]; i++)
		if (i >= LIST_MAX || !kata__agent_parse_prefix(n->addresses[i], address, &prefix, &is_v6))
			return kata__fail(
				err, KATA_E_INVALID, CALLER,
				"request.interface_.addresses[%zu]: '%s' is not like 10.0.0.2/24 or fd00::2/64", i,
				n->addresses[i]);
	return 0;
}

/* The families that are named must agree. *family: AF_UNSPEC so far, or what was seen. */
static bool agrees(int *family, int seen)
{
	if (seen == AF_UNSPEC || (*family != AF_UNSPEC && *family != seen))
		return false;
	*family = seen;
	return true;
}

int kata__agent_check_route(const char *what, const kata_agent_route *route, kata_error **err)
{
	char address[46];
	unsigned prefix;
	int family = AF_UNSPEC;
	bool is_v6;

	if (!route->device || !*route->device || strlen(route->device) > 15)
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "%s.device: '%s' must be the name of an interface of the guest, 1 to 15 bytes", what,
				  route->device ? route->device : "");
	if (route->destination && *route->destination &&
	    (!kata__agent_parse_prefix(route->destination, address, &prefix, &is_v6) ||
	     !agrees(&family, is_v6 ? AF_INET6 : AF_INET)))
		return kata__fail(err, KATA_E_INVALID, CALLER, "%s.destination: '%s' is not like 10.0.0.0/8", what,
				  route->destination);
	if (route->gateway && *route->gateway && !agrees(&family, family_of(route->gateway)))
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "%s.gateway: '%s' is no address of the destination's family", what, route->gateway);
	if (route->source && *route->source && !agrees(&family, family_of(route->source)))
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "%s.source: '%s' is no address of the destination's family", what, route->source);
	return 0;
}

static int check_routes(const kata_agent_request *r, kata_error **err)
{
	if (r->route_count > LIST_MAX || (r->route_count && !r->routes))
		return kata__fail(err, KATA_E_INVALID, CALLER, "request.routes: %zu at %p, at most %u are taken",
				  r->route_count, (const void *)r->routes, LIST_MAX);
	for (size_t i = 0; i < r->route_count; i++) {
		char what[40];
		int rc;

		snprintf(what, sizeof(what), "request.routes[%zu]", i);
		rc = kata__agent_check_route(what, &r->routes[i], err);
		if (rc)
			return rc;
	}
	return 0;
}

static int check_device(const kata_agent_request *r, kata_error **err)
{
	static const char *const kinds[] = {"blk", "scsi", "net"};
	bool known = false;

	for (size_t i = 0; r->device_kind && i < kata__array_size(kinds); i++)
		known |= strcmp(r->device_kind, kinds[i]) == 0;
	if (!known)
		return kata__fail(err, KATA_E_INVALID, CALLER, "request.device_kind: '%s' must be blk, scsi or net",
				  r->device_kind ? r->device_kind : "");
	if (!r->device_address || !*r->device_address || strlen(r->device_address) > 64)
		return kata__fail(err, KATA_E_INVALID, CALLER, "request.device_address: '%s' must have 1 to 64 bytes",
				  r->device_address ? r->device_address : "");
	return 0;
}

static int check_time(const kata_agent_request *r, kata_error **err)
{
	if (r->seconds >= 0 && r->microseconds >= 0 && r->microseconds <= 999999)
		return 0;
	return kata__fail(err, KATA_E_INVALID, CALLER,
			  "request.microseconds: %lld s and %lld us are no time since 1970", (long long)r->seconds,
			  (long long)r->microseconds);
}

static int check_macs(const kata_agent_request *r, kata_error **err)
{
	if (r->mac_count > MACS_MAX || (r->mac_count && !r->macs))
		return kata__fail(err, KATA_E_INVALID, CALLER, "request.macs: %zu at %p, at most %u are taken",
				  r->mac_count, (const void *)r->macs, MACS_MAX);
	for (size_t i = 0; i < r->mac_count; i++) {
		const kata_agent_mac *m = &r->macs[i];

		if (!m->pci_path || !*m->pci_path || strlen(m->pci_path) > 64)
			return kata__fail(err, KATA_E_INVALID, CALLER,
					  "request.macs[%zu].pci_path: '%s' must have 1 to 64 bytes", i,
					  m->pci_path ? m->pci_path : "");
		if (!m->mac || !is_mac(m->mac))
			return kata__fail(err, KATA_E_INVALID, CALLER,
					  "request.macs[%zu].mac: '%s' is not six hex bytes with ':' between", i,
					  m->mac ? m->mac : "");
	}
	return 0;
}

static int check_identity(const kata_agent_request *r, kata_error **err)
{
	static const char digits[] = "0123456789abcdef";
	int rc;

	if (r->data_length && (!r->data || r->data_length < ENTROPY_MIN || r->data_length > ENTROPY_MAX))
		return kata__fail(err, KATA_E_INVALID, CALLER, "request.data: %zu bytes, %s takes none or %u to %u",
				  r->data ? r->data_length : 0, kata_agent_method_get_name(r->method), ENTROPY_MIN,
				  ENTROPY_MAX);
	if (r->machine_id && (strlen(r->machine_id) != 32 || strspn(r->machine_id, digits) != 32))
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "request.machine_id: '%s' must be 32 lower-case hexadecimal digits", r->machine_id);
	if (r->max_length > SAMPLE_MAX)
		return kata__fail(err, KATA_E_INVALID, CALLER, "request.max_length: is %u, must be at most %u",
				  r->max_length, SAMPLE_MAX);
	rc = check_time(r, err);
	if (!rc)
		rc = check_host(r, err);
	return rc ? rc : check_macs(r, err);
}

static int check_amounts(const kata_agent_request *r, uint16_t need, kata_error **err)
{
	if (need & JSON && (!r->json || !r->json_length))
		return missing(err, r, "json", "the OCI JSON");
	if (need & DATA && (!r->data || !r->data_length || r->data_length > DATA_MAX))
		return kata__fail(err, KATA_E_INVALID, CALLER, "request.data: %zu bytes, %s takes 1 to %u",
				  r->data ? r->data_length : 0, kata_agent_method_get_name(r->method), DATA_MAX);
	if (need & MAX_LENGTH && (!r->max_length || r->max_length > DATA_MAX))
		return kata__fail(err, KATA_E_INVALID, CALLER, "request.max_length: is %u, must be 1 to %u",
				  r->max_length, DATA_MAX);
	if (need & SIGNAL && (!r->signal || r->signal > 64))
		return kata__fail(err, KATA_E_INVALID, CALLER, "request.signal: is %u, must be 1 to 64", r->signal);
	return need & TIME ? check_time(r, err) : 0;
}

int kata__agent_request_check(const kata_agent_request *r, kata_error **err)
{
	uint16_t need;
	int rc;

	if ((unsigned)r->method >= KATA_AGENT_METHOD_COUNT)
		return kata__fail(err, KATA_E_INVALID, CALLER, "request.method: %d is none, the last is %d",
				  (int)r->method, KATA_AGENT_METHOD_COUNT - 1);
	need = needs[r->method];
	rc = check_id(r, r->sandbox_id, "sandbox_id", need & SANDBOX_ID, err);
	if (!rc)
		rc = check_id(r, r->container_id, "container_id", need & CONTAINER_ID, err);
	if (!rc)
		rc = check_id(r, r->exec_id, "exec_id", need & EXEC_ID, err);
	if (!rc)
		rc = check_amounts(r, need, err);
	if (!rc && need & HOST)
		rc = check_host(r, err);
	if (!rc && need & STORAGES)
		rc = check_storages(r, err);
	if (!rc && need & INTERFACE)
		rc = check_interface(r, err);
	if (!rc && need & ROUTES)
		rc = check_routes(r, err);
	if (!rc && need & DEVICE)
		rc = check_device(r, err);
	if (!rc && need & IDENTITY)
		rc = check_identity(r, err);
	return rc;
}

/* ---- copy ---- */

struct packer {
	uint8_t *memory; /* NULL: count only */
	size_t used;
};

static void *pack(struct packer *p, const void *data, size_t size)
{
	size_t at = (p->used + sizeof(max_align_t) - 1) & ~(sizeof(max_align_t) - 1);
	void *to = p->memory ? p->memory + at : NULL;

	if (!data)
		return NULL;
	p->used = at + size;
	if (to && size)
		memcpy(to, data, size);
	return to;
}

static const char *pack_string(struct packer *p, const char *s)
{
	char *to = p->memory ? (char *)p->memory + p->used : NULL;
	size_t size = s ? strlen(s) + 1 : 0;

	if (!s)
		return NULL;
	p->used += size;
	return to ? memcpy(to, s, size) : NULL;
}

static const char *const *pack_list(struct packer *p, const char *const *list)
{
	size_t n = kata__strv_length(list);
	const char **to = pack(p, list, (n + 1) * sizeof(*list));

	for (size_t i = 0; i < n; i++) {
		const char *s = pack_string(p, list[i]);

		if (to)
			to[i] = s;
	}
	return to;
}

static const kata_agent_storage *pack_storages(struct packer *p, const kata_agent_storage *from, size_t count)
{
	kata_agent_storage *to = count ? pack(p, from, count * sizeof(*from)) : NULL;

	for (size_t i = 0; i < count; i++) {
		kata_agent_storage s = {.driver = pack_string(p, from[i].driver),
					.source = pack_string(p, from[i].source),
					.fstype = pack_string(p, from[i].fstype),
					.mount_point = pack_string(p, from[i].mount_point),
					.options = pack_list(p, from[i].options)};

		if (to)
			to[i] = s;
	}
	return to;
}

static const kata_agent_interface *pack_interface(struct packer *p, const kata_agent_interface *from)
{
	kata_agent_interface *to = pack(p, from, sizeof(*from));
	kata_agent_interface n;

	if (!from)
		return NULL;
	n = (kata_agent_interface){.name = pack_string(p, from->name),
				   .mac = pack_string(p, from->mac),
				   .pci_path = pack_string(p, from->pci_path),
				   .mtu = from->mtu,
				   .addresses = pack_list(p, from->addresses)};
	if (to)
		*to = n;
	return to;
}

static const kata_agent_route *pack_routes(struct packer *p, const kata_agent_route *from, size_t count)
{
	kata_agent_route *to = count ? pack(p, from, count * sizeof(*from)) : NULL;

	for (size_t i = 0; i < count; i++) {
		kata_agent_route r = {.destination = pack_string(p, from[i].destination),
				      .gateway = pack_string(p, from[i].gateway),
				      .device = pack_string(p, from[i].device),
				      .source = pack_string(p, from[i].source)};

		if (to)
			to[i] = r;
	}
	return to;
}

static const kata_agent_mac *pack_macs(struct packer *p, const kata_agent_mac *from, size_t count)
{
	kata_agent_mac *to = count ? pack(p, from, count * sizeof(*from)) : NULL;

	for (size_t i = 0; i < count; i++) {
		kata_agent_mac m = {.pci_path = pack_string(p, from[i].pci_path), .mac = pack_string(p, from[i].mac)};

		if (to)
			to[i] = m;
	}
	return to;
}

static void pack_identity(struct packer *p, const kata_agent_request *r, kata_agent_request *to)
{
	to->macs = pack_macs(p, r->macs, r->mac_count);
	if (r->data_length)
		to->data = pack(p, r->data, r->data_length);
	to->hostname = pack_string(p, r->hostname);
	to->machine_id = pack_string(p, r->machine_id);
}

static void pack_parts(struct packer *p, const kata_agent_request *r, uint16_t need, kata_agent_request *to)
{
	if (need & HOST) {
		to->hostname = pack_string(p, r->hostname);
		to->dns = pack_list(p, r->dns);
	}
	if (need & STORAGES)
		to->storages = pack_storages(p, r->storages, r->storage_count);
	if (need & INTERFACE)
		to->interface_ = pack_interface(p, r->interface_);
	if (need & ROUTES)
		to->routes = pack_routes(p, r->routes, r->route_count);
	if (need & DEVICE) {
		to->device_kind = pack_string(p, r->device_kind);
		to->device_address = pack_string(p, r->device_address);
	}
}

size_t kata__agent_request_copy(const kata_agent_request *r, void *memory, kata_agent_request *ret)
{
	uint16_t need = needs[r->method];
	struct packer p = {.memory = memory};
	kata_agent_request copy;

	if (!need && !memory)
		return 0;
	copy = (kata_agent_request){.size = r->size,
				    .method = r->method,
				    .json_length = r->json_length,
				    .storage_count = r->storage_count,
				    .route_count = r->route_count,
				    .data_length = r->data_length,
				    .signal = r->signal,
				    .rows = r->rows,
				    .columns = r->columns,
				    .max_length = r->max_length,
				    .cpus = r->cpus,
				    .seconds = r->seconds,
				    .microseconds = r->microseconds,
				    .mac_count = r->mac_count};

	if (need & SANDBOX_ID)
		copy.sandbox_id = pack_string(&p, r->sandbox_id);
	if (need & CONTAINER_ID) {
		copy.container_id = pack_string(&p, r->container_id);
		copy.exec_id = pack_string(&p, r->exec_id);
	}
	if (need & JSON)
		copy.json = pack(&p, r->json, r->json_length);
	if (need & DATA)
		copy.data = pack(&p, r->data, r->data_length);
	if (need & (HOST | STORAGES | INTERFACE | ROUTES | DEVICE))
		pack_parts(&p, r, need, &copy);
	if (need & IDENTITY)
		pack_identity(&p, r, &copy);
	if (memory)
		*ret = copy;
	return p.used;
}
