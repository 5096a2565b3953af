/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qemu_standin - an executable that passes for QEMU at the wire: it takes the driver's command line, speaks QMP and the
 * agent's protocol on the sockets it is given, and misbehaves as the script beside it says (qemu_standin/script.h). It
 * emulates nothing. Like QEMU it outlives whoever started it, and ends by `quit`, by a signal, or when its guest powers
 * off.
 *
 * One thread, one poll loop; never blocks but by order of the script.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "qemu_standin/standin.h"

#define OUT_MAX (256u << 20)

/* ---- endpoints */

void endpoint_init(struct endpoint *e)
{
	e->listen_fd = -1;
	e->fd = -1;
	kata__buffer_init(&e->out, OUT_MAX);
}

bool endpoint_accept(struct endpoint *e)
{
	if (e->fd >= 0 || e->listen_fd < 0)
		return false;
	e->fd = accept4(e->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	return e->fd >= 0;
}

void endpoint_close(struct endpoint *e)
{
	kata__close_fd(&e->fd);
	kata__buffer_consume(&e->out, kata__buffer_len(&e->out));
}

void endpoint_put(struct endpoint *e, const void *data, size_t length)
{
	if (length && kata__buffer_append(&e->out, data, length) < 0)
		abort();
}

bool endpoint_flush(struct endpoint *e)
{
	while (e->fd >= 0 && kata__buffer_len(&e->out)) {
		ssize_t n = kata__unix_send(e->fd, kata__buffer_bytes(&e->out), kata__buffer_len(&e->out), -1);

		if (n == -EAGAIN)
			return true;
		if (n < 0) {
			endpoint_close(e);
			return false;
		}
		kata__buffer_consume(&e->out, (size_t)n);
	}
	return e->fd >= 0;
}

struct pollfd endpoint_poll(const struct endpoint *e, bool may_read)
{
	struct pollfd p = {.fd = e->fd >= 0 ? e->fd : e->listen_fd};

	if (e->fd < 0 || may_read)
		p.events |= POLLIN;
	if (e->fd >= 0 && kata__buffer_len(&e->out))
		p.events |= POLLOUT;
	return p;
}

void console_print(struct standin *s, const char *text)
{
	if (s->console.fd < 0)
		endpoint_accept(&s->console);
	if (s->console.fd < 0)
		return;
	endpoint_put(&s->console, text, strlen(text));
	endpoint_flush(&s->console);
}

static void console_serve(struct standin *s, short revents)
{
	char ignored[256];

	endpoint_accept(&s->console);
	if (s->console.fd >= 0 && revents & (POLLIN | POLLHUP | POLLERR) &&
	    recv(s->console.fd, ignored, sizeof(ignored), MSG_DONTWAIT) == 0)
		endpoint_close(&s->console);
	else if (s->console.fd >= 0)
		endpoint_flush(&s->console);
}

/* ---- the command line */

struct chardev {
	char id[32];
	int fd;
	bool listening;
};

struct command_line {
	struct chardev chardevs[8];
	size_t chardev_count;
	const char *monitor, *serial;
	bool listens; /* itself, on what it is given listening already */
};

__attribute__((format(printf, 1, 2), noreturn)) static void die(const char *fmt, ...)
{
	va_list ap;

	fputs("qemu-system-x86_64: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	fflush(stderr);
	_exit(1);
}

/* The value of key in "type,key=value,key=value"; out is "" when it is not there. */
static void option_value(const char *options, const char *key, char *out, size_t size)
{
	size_t key_length = strlen(key);
	const char *at = options;

	out[0] = 0;
	while (at) {
		if (strncmp(at, key, key_length) == 0 && at[key_length] == '=')
			snprintf(out, size, "%.*s", (int)strcspn(at + key_length + 1, ","), at + key_length + 1);
		at = strchr(at, ',');
		at = at ? at + 1 : NULL;
	}
}

static void take_chardev(struct command_line *c, const char *value)
{
	struct chardev *d = &c->chardevs[c->chardev_count];
	char fd[16], server[8];

	if (c->chardev_count == 8)
		die("-chardev %s: the stand-in has room for 8", value);
	option_value(value, "id", d->id, sizeof(d->id));
	option_value(value, "fd", fd, sizeof(fd));
	option_value(value, "server", server, sizeof(server));
	if (strncmp(value, "socket,", 7) != 0 || !d->id[0] || fcntl(atoi(fd), F_GETFD) < 0)
		die("-chardev %s: no socket with an id and an open fd", value);
	d->fd = atoi(fd);
	d->listening = strcmp(server, "on") == 0;
	if (d->listening && c->listens && listen(d->fd, 1) < 0) /* as QEMU does */
		die("-chardev %s: cannot listen on it", value);
	fcntl(d->fd, F_SETFD, FD_CLOEXEC);
	fcntl(d->fd, F_SETFL, O_NONBLOCK);
	c->chardev_count++;
}

static const struct chardev *find_chardev(const struct command_line *c, const char *id, const char *option)
{
	for (size_t i = 0; i < c->chardev_count; i++)
		if (strcmp(c->chardevs[i].id, id) == 0)
			return &c->chardevs[i];
	die("%s: chardev \"%s\" not found", option, id);
}

static json_t *parse_json(const char *option, const char *value)
{
	json_error_t where;
	json_t *o = json_loads(value, JSON_REJECT_DUPLICATES, &where);

	if (!json_is_object(o))
		die("%s %s: %s", option, value, o ? "not an object" : where.text);
	return o;
}

static void take_device(struct standin *s, const struct command_line *c, const char *value)
{
	json_t *o = parse_json("-device", value);
	const char *chardev = json_string_value(json_object_get(o, "chardev"));
	struct refusal why = {0};

	if (!model_device_add(&s->model, o, &why))
		die("-device %s: %s", value, why.text);
	if (chardev) {
		const struct chardev *d = find_chardev(c, chardev, "-device");

		port_new(s, d->fd, d->listening);
	}
	json_decref(o);
}

static void take_object(struct standin *s, const char *option, const char *value,
			bool (*add)(struct model *m, const json_t *args, struct refusal *why))
{
	json_t *o = parse_json(option, value);
	struct refusal why = {0};

	if (!add(&s->model, o, &why))
		die("%s %s: %s", option, value, why.text);
	json_decref(o);
}

static void take_fd(struct standin *s, const char *value)
{
	struct refusal why = {0};
	char fd[16], set[16];

	option_value(value, "fd", fd, sizeof(fd));
	option_value(value, "set", set, sizeof(set));
	if (!fd[0] || !set[0] || fcntl(atoi(fd), F_GETFD) < 0)
		die("-add-fd %s: no open fd and set", value);
	model_add_fd(&s->model, atoi(set), atoi(fd), &why);
}

static void take_file(const char *option, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		die("could not open %s file '%s': %s", option, path, strerror(errno));
	close(fd);
}

static bool is_among(const char *name, const char *const *list)
{
	while (*list && strcmp(*list, name) != 0)
		list++;
	return *list;
}

/* Devices may name chardevs that come later, so these are taken in a first round. */
static void take_first_round(struct standin *s, struct command_line *c, const char *option, const char *value)
{
	if (strcmp(option, "-chardev") == 0)
		take_chardev(c, value);
	else if (strcmp(option, "-mon") == 0)
		c->monitor = value;
	else if (strcmp(option, "-serial") == 0)
		c->serial = value;
	else if (strcmp(option, "-uuid") == 0)
		snprintf(s->model.uuid, sizeof(s->model.uuid), "%s", value);
	else if (strcmp(option, "-name") == 0)
		snprintf(s->model.name, sizeof(s->model.name), "%s", value);
	else if (strcmp(option, "-add-fd") == 0)
		take_fd(s, value);
	else if (strcmp(option, "-incoming") == 0)
		s->model.incoming = strcmp(value, "defer") == 0;
	else if (strcmp(option, "-kernel") == 0 || strcmp(option, "-initrd") == 0)
		take_file(option, value);
}

static void take_second_round(struct standin *s, const struct command_line *c, const char *option, const char *value)
{
	if (strcmp(option, "-device") == 0)
		take_device(s, c, value);
	else if (strcmp(option, "-blockdev") == 0)
		take_object(s, option, value, model_blockdev_add);
	else if (strcmp(option, "-netdev") == 0)
		take_object(s, option, value, model_netdev_add);
	else if (strcmp(option, "-object") == 0)
		json_decref(parse_json(option, value));
}

static void read_options(struct standin *s, struct command_line *c, char **argv, int round)
{
	static const char *const flags[] = {"-nodefaults", "-no-user-config", "-no-reboot", "-S", NULL};
	static const char *const valued[] = {"-chardev", "-mon",      "-serial", "-uuid",   "-name",     "-add-fd",
					     "-kernel",  "-initrd",   "-append", "-device", "-blockdev", "-netdev",
					     "-object",  "-machine",  "-cpu",    "-smp",    "-m",        "-display",
					     "-sandbox", "-incoming", NULL};

	for (size_t i = 1; argv[i]; i++) {
		if (is_among(argv[i], flags))
			continue;
		if (!is_among(argv[i], valued))
			die("%s: invalid option", argv[i]);
		if (!argv[i + 1])
			die("%s: requires an argument", argv[i]);
		if (round == 1)
			take_first_round(s, c, argv[i], argv[i + 1]);
		else
			take_second_round(s, c, argv[i], argv[i + 1]);
		i++;
	}
}

static void set_up(struct standin *s, char **argv)
{
	struct command_line c = {.listens = !s->borrows};
	const struct chardev *d;
	char id[32];

	endpoint_init(&s->console);
	read_options(s, &c, argv, 1);
	read_options(s, &c, argv, 2);
	s->model.hot = true;
	if (!c.monitor)
		die("the stand-in needs -mon");
	option_value(c.monitor, "chardev", id, sizeof(id));
	d = find_chardev(&c, id, "-mon");
	if (!s->mute)
		monitor_new(s, d->fd, d->listening);
	if (c.serial && strncmp(c.serial, "chardev:", 8) == 0)
		s->console.listen_fd = find_chardev(&c, c.serial + 8, "-serial")->fd;
}

/* ---- the loop */

static void end_by_guest(struct standin *s)
{
	monitor_event(s, "SHUTDOWN", json_pack("{s:b, s:s}", "guest", 1, "reason", "guest-shutdown"));
	monitor_serve(s, 0);
	_exit(0);
}

static void loop(struct standin *s)
{
	for (;;) {
		struct pollfd fds[3] = {monitor_poll(s), endpoint_poll(&s->console, true), port_poll(s)};
		uint64_t monitor_ns = monitor_deadline(s), port_ns = port_deadline(s);

		if (poll(fds, 3, kata__deadline_left_ms(monitor_ns < port_ns ? monitor_ns : port_ns)) < 0 &&
		    errno != EINTR)
			abort();
		monitor_serve(s, fds[0].revents);
		console_serve(s, fds[1].revents);
		port_serve(s, fds[2].revents);
		if (s->powered_off && port_is_idle(s) && monitor_is_idle(s))
			end_by_guest(s);
	}
}

int main(int argc, char **argv)
{
	static struct standin s;
	const struct rule *start;

	s.rules = script_load();
	start = script_next(s.rules, "start");
	s.mute = start && start->action == ACT_SILENCE;
	s.borrows = start && start->action == ACT_LOST;
	set_up(&s, argv);
	while (s.mute)
		pause();
	loop(&s);
}
