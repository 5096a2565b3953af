/* SPDX-License-Identifier: Apache-2.0 */
/*
 * monitor.c - QMP: lines in, commands, lines out, with the script's faults at each command.
 *
 * Commands run one after another, as in QEMU. A command produces its reply and possibly an event; the script decides
 * what of that is sent, in which order, and what else comes with it.
 */
#include "qemu_standin/standin.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "proto/qmp.h"

#define FDS_MAX 64
#define IN_MAX (4u << 20)

struct monitor {
	struct endpoint e;
	struct kata__buffer in;
	struct kata__qmp_reader reader;
	bool negotiated;
	bool dead;        /* half a line was sent: nothing may follow */
	int fds[FDS_MAX]; /* came over the socket, not claimed yet; oldest first */
	size_t fd_count;
	json_t *waiting; /* a command whose delay runs */
	uint64_t due_ns;
	const struct rule *rule; /* of the command under way */
	char *event;             /* made by the command under way, as a line */
	bool quit;
};

static void put_json(struct standin *s, json_t *take_o)
{
	char *text = json_dumps(take_o, JSON_COMPACT);

	json_decref(take_o);
	if (!text)
		abort();
	if (!s->monitor->dead) {
		endpoint_put(&s->monitor->e, text, strlen(text));
		endpoint_put(&s->monitor->e, "\r\n", 2);
	}
	free(text);
}

static json_t *stamp(void)
{
	uint64_t us = kata__now_ns() / 1000;

	return json_pack("{s:I, s:I}", "seconds", (json_int_t)(us / 1000000), "microseconds",
			 (json_int_t)(us % 1000000));
}

void monitor_event(struct standin *s, const char *name, json_t *take_data)
{
	json_t *o = json_pack("{s:o, s:s}", "timestamp", stamp(), "event", name);

	if (take_data)
		json_object_set_new(o, "data", take_data);
	if (s->monitor->e.fd >= 0 && s->monitor->negotiated)
		put_json(s, o);
	else
		json_decref(o);
}

/* ---- commands: each returns the value to be returned, or NULL with *why set */

typedef json_t *(*command_fn)(struct standin *s, const json_t *args, struct refusal *why);

static int claim_fd(struct monitor *m)
{
	int fd = -1;

	if (m->fd_count) {
		fd = m->fds[0];
		m->fd_count--;
		memmove(m->fds, m->fds + 1, m->fd_count * sizeof(*m->fds));
	}
	return fd;
}

static json_t *nothing_if(bool ok)
{
	return ok ? json_object() : NULL;
}

static json_t *qmp_capabilities(struct standin *s, const json_t *args, struct refusal *why)
{
	s->monitor->negotiated = true;
	return json_object();
}

static json_t *version(void)
{
	return json_pack("{s:{s:i, s:i, s:i}, s:s}", "qemu", "micro", 22, "minor", 2, "major", 7, "package",
			 "stand-in");
}

static json_t *query_version(struct standin *s, const json_t *args, struct refusal *why)
{
	return version();
}

static json_t *query_status(struct standin *s, const json_t *args, struct refusal *why)
{
	const char *status = s->model.running       ? "running"
			     : s->model.incoming    ? "inmigrate"
			     : s->model.postmigrate ? "postmigrate"
			     : s->model.started     ? "paused"
						    : "prelaunch";

	return json_pack("{s:s, s:b, s:b}", "status", status, "running", s->model.running, "singlestep", 0);
}

static json_t *query_uuid(struct standin *s, const json_t *args, struct refusal *why)
{
	return json_pack("{s:s}", "UUID", s->model.uuid);
}

static json_t *query_name(struct standin *s, const json_t *args, struct refusal *why)
{
	return json_pack("{s:s}", "name", s->model.name);
}

static json_t *query_kvm(struct standin *s, const json_t *args, struct refusal *why)
{
	return json_pack("{s:b, s:b}", "enabled", 0, "present", 0);
}

static json_t *query_machines(struct standin *s, const json_t *args, struct refusal *why)
{
	return json_pack("[{s:s, s:s, s:i, s:b}, {s:s, s:s, s:i, s:b}, {s:s, s:i, s:b}, {s:s, s:i, s:b}]", "name",
			 "pc-q35-7.2", "alias", "q35", "cpu-max", 288, "hotpluggable-cpus", 1, "name", "pc-i440fx-7.2",
			 "alias", "pc", "cpu-max", 255, "hotpluggable-cpus", 1, "name", "microvm", "cpu-max", 288,
			 "hotpluggable-cpus", 0, "name", "none", "cpu-max", 1, "hotpluggable-cpus", 0);
}

static json_t *qom_list_types(struct standin *s, const json_t *args, struct refusal *why)
{
	static const char *const types[] = {"virtio-blk-pci", "virtio-scsi-pci",   "scsi-hd",        "virtio-net-pci",
					    "virtserialport", "virtio-serial-pci", "pcie-root-port", "isa-serial",
					    "virtio-rng-pci", "vhost-vsock-pci"};
	json_t *list = json_array();

	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		json_array_append_new(list, json_pack("{s:s, s:s}", "name", types[i], "parent", "device"));
	return list;
}

static json_t *qom_list(struct standin *s, const json_t *args, struct refusal *why)
{
	const char *path = json_string_value(json_object_get(args, "path"));
	json_t *list;
	char type[64];

	if (!path || strcmp(path, "/machine/peripheral") != 0) {
		snprintf(why->class, sizeof(why->class), "DeviceNotFound");
		snprintf(why->text, sizeof(why->text), "Device '%s' not found", path ? path : "");
		return NULL;
	}
	list = json_pack("[{s:s, s:s}]", "name", "type", "type", "string");
	for (const struct device *d = s->model.devices; d; d = d->next) {
		if (!d->id[0])
			continue;
		snprintf(type, sizeof(type), "child<%s>", d->driver);
		json_array_append_new(list, json_pack("{s:s, s:s}", "name", d->id, "type", type));
	}
	return list;
}

/* Of the properties that the driver asks for. */
static json_t *qom_get(struct standin *s, const json_t *args, struct refusal *why)
{
	static const char dir[] = "/machine/peripheral/";
	const char *path = json_string_value(json_object_get(args, "path"));
	const char *property = json_string_value(json_object_get(args, "property"));
	const struct device *d = NULL;
	char bus[192];

	if (path && property && strcmp(path, "/machine") == 0 && strcmp(property, "type") == 0)
		return json_string("pc-q35-7.2-machine");
	if (path && property && strncmp(path, dir, sizeof(dir) - 1) == 0)
		d = model_find_device(&s->model, path + sizeof(dir) - 1);
	if (!d) {
		snprintf(why->class, sizeof(why->class), "DeviceNotFound");
		snprintf(why->text, sizeof(why->text), "Device '%s' not found", path ? path : "");
		return NULL;
	}
	snprintf(bus, sizeof(bus), "/machine/peripheral/%s/%s", d->bus, d->bus);
	if (strcmp(property, "parent_bus") == 0)
		return json_string(bus);
	if (strcmp(property, "drive") == 0 && d->drive[0])
		return json_string(d->drive);
	if (strcmp(property, "netdev") == 0 && d->netdev[0])
		return json_string(d->netdev);
	if (strcmp(property, "mac") == 0 && d->mac[0])
		return json_string(d->mac);
	snprintf(why->text, sizeof(why->text), "Property '%s.%s' not found", d->driver, property);
	return NULL;
}

static json_t *query_nodes(struct standin *s, const json_t *args, struct refusal *why)
{
	json_t *list = json_array();

	for (const struct node *n = s->model.nodes; n; n = n->next)
		json_array_append_new(list, json_pack("{s:s, s:s, s:b, s:{s:I}}", "node-name", n->name, "drv",
						      n->driver, "ro", n->read_only, "image", "virtual-size",
						      (json_int_t)n->size_bytes));
	return list;
}

static json_t *query_fdsets(struct standin *s, const json_t *args, struct refusal *why)
{
	json_t *list = json_array();

	for (const struct named_fd *f = s->model.fds; f; f = f->next)
		if (f->set >= 0)
			json_array_append_new(list, json_pack("{s:I, s:[{s:i}]}", "fdset-id", (json_int_t)f->set, "fds",
							      "fd", f->fd));
	return list;
}

static json_t *getfd(struct standin *s, const json_t *args, struct refusal *why)
{
	return nothing_if(model_getfd(&s->model, args, claim_fd(s->monitor), why));
}

static json_t *closefd(struct standin *s, const json_t *args, struct refusal *why)
{
	return nothing_if(model_closefd(&s->model, args, why));
}

static json_t *add_fd(struct standin *s, const json_t *args, struct refusal *why)
{
	int64_t set = json_integer_value(json_object_get(args, "fdset-id"));
	int fd = claim_fd(s->monitor);

	if (!model_add_fd(&s->model, set, fd, why))
		return NULL;
	return json_pack("{s:I, s:i}", "fdset-id", (json_int_t)set, "fd", fd);
}

static json_t *remove_fd(struct standin *s, const json_t *args, struct refusal *why)
{
	return nothing_if(model_remove_fd(&s->model, args, why));
}

static json_t *blockdev_add(struct standin *s, const json_t *args, struct refusal *why)
{
	return nothing_if(model_blockdev_add(&s->model, args, why));
}

static json_t *blockdev_del(struct standin *s, const json_t *args, struct refusal *why)
{
	return nothing_if(model_blockdev_del(&s->model, args, why));
}

static json_t *netdev_add(struct standin *s, const json_t *args, struct refusal *why)
{
	return nothing_if(model_netdev_add(&s->model, args, why));
}

static json_t *netdev_del(struct standin *s, const json_t *args, struct refusal *why)
{
	return nothing_if(model_netdev_del(&s->model, args, why));
}

static json_t *device_add(struct standin *s, const json_t *args, struct refusal *why)
{
	if (!model_device_add(&s->model, args, why))
		return NULL;
	port_machine_changed(s);
	return json_object();
}

/* What comes of a command besides its reply. The guest lets go at once where it runs, else when it runs again. */
static void let_go(struct standin *s)
{
	struct device *next;

	migration_run(s);

	for (struct device *d = s->model.devices; d; d = next) {
		char path[128];

		next = d->next;
		if (!d->unplugging || (model_is_pci(d) && !s->model.running))
			continue;
		snprintf(path, sizeof(path), "/machine/peripheral/%s/virtio-backend", d->id);
		if (model_is_pci(d))
			monitor_event(s, "DEVICE_DELETED", json_pack("{s:s}", "path", path));
		*strrchr(path, '/') = 0;
		monitor_event(s, "DEVICE_DELETED", json_pack("{s:s, s:s}", "device", d->id, "path", path));
		model_device_remove(&s->model, d);
		port_machine_changed(s);
	}
}

/* Where a device is added: that of the one before it of that name. */
static void tell_late(struct standin *s, const char *command, const json_t *args)
{
	if (strcmp(command, "device_add") == 0)
		monitor_event(s, "DEVICE_DELETED",
			      json_pack("{s:O, s:s}", "device", json_object_get(args, "id"), "path",
					"/machine/peripheral/x"));
}

static json_t *device_del(struct standin *s, const json_t *args, struct refusal *why)
{
	return nothing_if(model_device_del(&s->model, args, why));
}

static json_t *stop(struct standin *s, const json_t *args, struct refusal *why)
{
	if (s->model.running) {
		s->model.running = false;
		monitor_event(s, "STOP", NULL);
	}
	return json_object();
}

static json_t *cont(struct standin *s, const json_t *args, struct refusal *why)
{
	if (s->model.running)
		return json_object();
	if (!migration_may_continue(s, why))
		return NULL;
	s->model.running = true;
	if (!s->model.started)
		console_print(s, "Booting the stand-in\r\nstand-in: guest is up\r\n");
	s->model.started = true;
	monitor_event(s, "RESUME", NULL);
	port_machine_changed(s);
	return json_object();
}

static json_t *quit(struct standin *s, const json_t *args, struct refusal *why)
{
	s->monitor->quit = true;
	return json_object();
}

static json_t *accept_anything(struct standin *s, const json_t *args, struct refusal *why)
{
	return json_object();
}

static const struct {
	const char *name;
	command_fn fn;
} commands[] = {
	{"qmp_capabilities", qmp_capabilities},
	{"query-version", query_version},
	{"query-status", query_status},
	{"query-uuid", query_uuid},
	{"query-name", query_name},
	{"query-kvm", query_kvm},
	{"query-machines", query_machines},
	{"qom-list-types", qom_list_types},
	{"qom-list", qom_list},
	{"qom-get", qom_get},
	{"query-named-block-nodes", query_nodes},
	{"query-fdsets", query_fdsets},
	{"getfd", getfd},
	{"closefd", closefd},
	{"add-fd", add_fd},
	{"remove-fd", remove_fd},
	{"blockdev-add", blockdev_add},
	{"blockdev-del", blockdev_del},
	{"netdev_add", netdev_add},
	{"netdev_del", netdev_del},
	{"device_add", device_add},
	{"device_del", device_del},
	{"stop", stop},
	{"cont", cont},
	{"quit", quit},
	{"set_link", accept_anything},
	{"system_powerdown", accept_anything},
	{"migrate-set-capabilities", migration_set_capabilities},
	{"migrate-set-parameters", accept_anything},
	{"migrate", migration_begin},
	{"migrate-incoming", migration_incoming},
	{"migrate_cancel", migration_cancel},
	{"query-migrate", migration_query},
};

static json_t *execute(struct standin *s, const char *name, const json_t *args, struct refusal *why)
{
	snprintf(why->class, sizeof(why->class), "CommandNotFound");
	if (!s->monitor->negotiated && strcmp(name, "qmp_capabilities") != 0) {
		snprintf(why->text, sizeof(why->text), "Expecting capabilities negotiation with 'qmp_capabilities'");
		return NULL;
	}
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (strcmp(commands[i].name, name) == 0) {
			snprintf(why->class, sizeof(why->class), "GenericError");
			return commands[i].fn(s, args, why);
		}
	snprintf(why->text, sizeof(why->text), "The command %.100s has not been found", name);
	return NULL;
}

/* ---- replies, as the script has them */

static json_t *error_reply(const struct refusal *why, json_t *id)
{
	return json_pack("{s:{s:s, s:s}, s:O}", "error", "class", why->class, "desc", why->text, "id", id);
}

static void flood(struct standin *s, uint64_t count)
{
	for (uint64_t i = 0; i < count; i++)
		monitor_event(s, "RTC_CHANGE", json_pack("{s:I}", "offset", (json_int_t)i));
}

/* A reply of which only a part, or something else, is sent. */
static void put_broken(struct standin *s, enum action action, const struct rule *r, json_t *reply)
{
	struct monitor *m = s->monitor;
	char *text;

	switch (action) {
	case ACT_HALF_LINE:
		text = json_dumps(reply, JSON_COMPACT);
		endpoint_put(&m->e, text, strlen(text) / 2);
		free(text);
		m->dead = true;
		break;
	case ACT_GARBAGE:
		endpoint_put(&m->e, "}{ this is no JSON\r\n", 20);
		break;
	case ACT_LINE:
		for (uint64_t i = 0; i < r->number; i++)
			endpoint_put(&m->e, " ", 1);
		endpoint_put(&m->e, "\n", 1);
		put_json(s, json_incref(reply));
		break;
	case ACT_HANG_UP:
		endpoint_flush(&m->e);
		endpoint_close(&m->e);
		break;
	default:
		break;
	}
}

static void put_reply(struct standin *s, const struct rule *r, json_t *take_reply, json_t *id)
{
	enum action action = r ? r->action : ACT_NONE;

	switch (action) {
	case ACT_SILENCE:
	case ACT_LOST:
		break;
	case ACT_HALF_LINE:
	case ACT_GARBAGE:
	case ACT_LINE:
	case ACT_HANG_UP:
		put_broken(s, action, r, take_reply);
		break;
	case ACT_WRONG_TYPE:
		put_json(s, json_pack("{s:i, s:O}", "return", 42, "id", id));
		break;
	case ACT_UNASKED:
		put_json(s, json_pack("{s:{}, s:i}", "return", "id", 1 << 30));
		put_json(s, json_incref(take_reply));
		break;
	case ACT_REPLY_TWICE:
		put_json(s, json_incref(take_reply));
		put_json(s, json_incref(take_reply));
		break;
	default:
		if (action == ACT_FLOOD)
			flood(s, r->number);
		put_json(s, json_incref(take_reply));
	}
	json_decref(take_reply);
}

static void run_command(struct standin *s, const json_t *command, const struct rule *r)
{
	const char *name = json_string_value(json_object_get(command, "execute"));
	json_t *id = json_object_get(command, "id");
	struct refusal why = {"GenericError", ""};
	json_t *value = NULL, *reply;
	json_t *no_id = id ? NULL : json_integer(0);

	id = id ? id : no_id;
	if (r && r->action == ACT_ERROR)
		snprintf(why.text, sizeof(why.text), "%s", r->text);
	else if (!r || r->action != ACT_SILENCE)
		value = execute(s, name, json_object_get(command, "arguments"), &why);
	reply = value ? json_pack("{s:o, s:O}", "return", value, "id", id) : error_reply(&why, id);
	if (r && r->action == ACT_EVENT_FIRST) {
		let_go(s);
		tell_late(s, name, json_object_get(command, "arguments"));
	}
	put_reply(s, r, reply, id);
	if (!r || r->action != ACT_NO_EVENT)
		let_go(s);
	json_decref(no_id);
}

/* ---- the connection */

static void start_command(struct standin *s, json_t *take_command)
{
	const char *name = json_string_value(json_object_get(take_command, "execute"));
	struct monitor *m = s->monitor;
	const struct rule *r;

	if (!name) {
		put_json(s, json_pack("{s:{s:s, s:s}}", "error", "class", "GenericError", "desc",
				      "QMP input lacks member 'execute'"));
		json_decref(take_command);
		return;
	}
	r = script_next(s->rules, name);
	if (r && r->action == ACT_DELAY) {
		m->waiting = take_command;
		m->due_ns = kata__deadline_in_ms(r->number);
		return;
	}
	run_command(s, take_command, r);
	json_decref(take_command);
}

static void run_lines(struct standin *s)
{
	struct monitor *m = s->monitor;
	struct kata__slice line;

	while (!m->waiting && m->e.fd >= 0 && kata__qmp_next_line(&m->reader, &m->in, &line, NULL) > 0) {
		json_t *command = json_loadb((const char *)line.data, line.length, 0, NULL);

		kata__qmp_consume(&m->reader, &m->in);
		if (command)
			start_command(s, command);
		else
			put_json(s, json_pack("{s:{s:s, s:s}}", "error", "class", "GenericError", "desc",
					      "JSON parse error, expecting value"));
	}
}

static void keep_fds(struct monitor *m, struct msghdr *msg)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		int fds[16];

		if (c->cmsg_type != SCM_RIGHTS || count > 16)
			continue;
		memcpy(fds, CMSG_DATA(c), count * sizeof(int));
		for (size_t i = 0; i < count; i++) {
			if (m->fd_count < FDS_MAX)
				m->fds[m->fd_count++] = fds[i];
			else
				close(fds[i]);
		}
	}
}

/* False when the peer is gone. */
static bool receive(struct monitor *m)
{
	uint8_t *at = kata__buffer_reserve(&m->in, 65536);
	char control[CMSG_SPACE(16 * sizeof(int))];
	struct iovec iov = {.iov_base = at, .iov_len = 65536};
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	ssize_t n;

	if (!at)
		return false;
	n = recvmsg(m->e.fd, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	keep_fds(m, &msg);
	kata__buffer_added(&m->in, (size_t)n);
	return n > 0;
}

static void greet(struct standin *s)
{
	struct monitor *m = s->monitor;
	json_t *greeting = json_pack("{s:{s:o, s:[s]}}", "QMP", "version", version(), "capabilities", "oob");

	kata__buffer_consume(&m->in, kata__buffer_len(&m->in));
	m->reader = (struct kata__qmp_reader){0};
	m->negotiated = false;
	m->dead = false;
	json_decref(m->waiting);
	m->waiting = NULL;
	while (m->fd_count)
		close(m->fds[--m->fd_count]);
	put_reply(s, script_next(s->rules, "greeting"), greeting, json_null());
}

void monitor_new(struct standin *s, int fd, bool listening)
{
	s->monitor = calloc(1, sizeof(*s->monitor));
	if (!s->monitor)
		abort();
	endpoint_init(&s->monitor->e);
	kata__buffer_init(&s->monitor->in, IN_MAX);
	if (listening) {
		s->monitor->e.listen_fd = fd;
	} else {
		s->monitor->e.fd = fd;
		greet(s);
	}
}

struct pollfd monitor_poll(const struct standin *s)
{
	return endpoint_poll(&s->monitor->e, !s->monitor->waiting);
}

uint64_t monitor_deadline(const struct standin *s)
{
	return s->monitor->waiting ? s->monitor->due_ns : KATA__NEVER;
}

bool monitor_is_idle(const struct standin *s)
{
	return s->monitor->e.fd < 0 || !kata__buffer_len(&s->monitor->e.out);
}

static void finish_delayed(struct standin *s)
{
	struct monitor *m = s->monitor;
	json_t *command = m->waiting;

	if (!command || kata__now_ns() < m->due_ns)
		return;
	m->waiting = NULL;
	run_command(s, command, NULL);
	json_decref(command);
}

static void end_process(struct standin *s)
{
	monitor_event(s, "SHUTDOWN", json_pack("{s:b, s:s}", "guest", 0, "reason", "host-qmp-quit"));
	endpoint_flush(&s->monitor->e);
	_exit(0);
}

void monitor_serve(struct standin *s, short revents)
{
	struct monitor *m = s->monitor;

	if (endpoint_accept(&m->e))
		greet(s);
	else if (m->e.fd >= 0 && revents & (POLLIN | POLLHUP | POLLERR) && !m->waiting && !receive(m))
		endpoint_close(&m->e);
	finish_delayed(s);
	run_lines(s);
	if (m->e.fd >= 0)
		endpoint_flush(&m->e);
	if (m->quit)
		end_process(s);
}
