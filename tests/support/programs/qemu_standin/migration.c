/* SPDX-License-Identifier: Apache-2.0 */
/*
 * migration.c - the pretended machine's state: a line of text with its devices, written to a passed fd, or read from
 * one and compared: as with QEMU, a state is loaded only where the same devices are, and one that cannot be loaded ends
 * the process.
 *
 * The transfer happens when the reply is out, and its end is told by an event where the capability is on. The script's
 * name "state" stands for it: error "TEXT" makes it fail.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "qemu_standin/standin.h"

#define STATE_MAX (1u << 20)
#define MAGIC "kata-standin-state"

static bool fail(struct refusal *why, const char *text)
{
	snprintf(why->class, sizeof(why->class), "GenericError");
	snprintf(why->text, sizeof(why->text), "%s", text);
	return false;
}

/* ---- the state */

static int by_id(const void *a, const void *b)
{
	return strcmp((*(const struct device *const *)a)->id, (*(const struct device *const *)b)->id);
}

/* Sorted, as the order of plugging is not part of a state. */
static char *describe(const struct standin *s)
{
	const struct device *all[1024];
	size_t count = 0, len = 0;
	char *text = NULL;
	FILE *out = open_memstream(&text, &len);

	if (!out)
		abort();
	for (const struct device *d = s->model.devices; d && count < 1024; d = d->next)
		all[count++] = d;
	qsort(all, count, sizeof(all[0]), by_id);
	fprintf(out, MAGIC " %s", s->migration.ignore_shared ? "shared" : "full");
	for (size_t i = 0; i < count; i++)
		fprintf(out, " %s@%s.%lld", all[i]->id, all[i]->bus, (long long)all[i]->lun);
	fputc('\n', out);
	fclose(out);
	return text;
}

static void set_status(struct standin *s, const char *status)
{
	s->migration.status = status;
	if (s->migration.events)
		monitor_event(s, "MIGRATION", json_pack("{s:s}", "status", status));
}

static bool write_state(struct standin *s)
{
	char *text = describe(s);
	size_t len = strlen(text);
	bool ok = write(s->migration.fd, text, len) == (ssize_t)len;

	free(text);
	if (!ok)
		snprintf(s->migration.why, sizeof(s->migration.why),
			 "Unable to write to socket: No space left on device");
	return ok;
}

static void load_state(struct standin *s)
{
	char *mine = describe(s), *text = calloc(1, STATE_MAX);
	ssize_t n = text ? read(s->migration.fd, text, STATE_MAX - 1) : -1;

	if (n < 0 || strcmp(mine, text) != 0) {
		fprintf(stderr, "qemu-system-x86_64: load of migration failed: Invalid argument\n");
		fflush(stderr);
		_exit(1);
	}
	free(mine);
	free(text);
}

/* ---- commands */

json_t *migration_set_capabilities(struct standin *s, const json_t *args, struct refusal *why)
{
	const json_t *list = json_object_get(args, "capabilities"), *c;
	size_t i;

	json_array_foreach(list, i, c)
	{
		const char *name = json_string_value(json_object_get(c, "capability"));
		bool on = json_is_true(json_object_get(c, "state"));

		if (name && strcmp(name, "events") == 0)
			s->migration.events = on;
		else if (name && strcmp(name, "x-ignore-shared") == 0)
			s->migration.ignore_shared = on;
		else
			return fail(why, "Parameter 'capability' does not accept that value"), NULL;
	}
	return json_object();
}

/* "fd:NAME": takes the fd. */
static bool open_uri(struct standin *s, const json_t *args, struct refusal *why)
{
	const char *uri = json_string_value(json_object_get(args, "uri"));

	if (!uri || strncmp(uri, "fd:", 3) != 0)
		return fail(why, "unknown migration protocol");
	s->migration.fd = model_take_fd(&s->model, uri + 3);
	if (s->migration.fd < 0) {
		snprintf(why->text, sizeof(why->text), "File descriptor named '%.64s' has not been found", uri + 3);
		return false;
	}
	s->migration.pending = true;
	s->migration.why[0] = '\0';
	return true;
}

json_t *migration_begin(struct standin *s, const json_t *args, struct refusal *why)
{
	if (s->model.incoming)
		return fail(why, "Guest is waiting for an incoming migration"), NULL;
	if (s->migration.pending)
		return fail(why, "There's a migration process in progress"), NULL;
	if (s->model.postmigrate)
		return fail(why, "Can't migrate the vm that was paused due to previous migration"), NULL;
	return open_uri(s, args, why) ? json_object() : NULL;
}

json_t *migration_incoming(struct standin *s, const json_t *args, struct refusal *why)
{
	if (!s->model.incoming)
		return fail(why, "'-incoming' was not specified on the command line"), NULL;
	return open_uri(s, args, why) ? json_object() : NULL;
}

json_t *migration_cancel(struct standin *s, const json_t *args, struct refusal *why)
{
	if (s->migration.pending && !s->model.incoming)
		s->migration.cancelled = true;
	return json_object();
}

json_t *migration_query(struct standin *s, const json_t *args, struct refusal *why)
{
	const struct rule *blocked = script_next(s->rules, "blocked");
	json_t *o = json_object();

	if (blocked && blocked->action == ACT_ERROR)
		json_object_set_new(o, "blocked-reasons", json_pack("[s]", blocked->text));
	if (s->migration.pending)
		json_object_set_new(o, "status", json_string("active"));
	else if (s->migration.status)
		json_object_set_new(o, "status", json_string(s->migration.status));
	if (s->migration.why[0])
		json_object_set_new(o, "error-desc", json_string(s->migration.why));
	return o;
}

/* ---- after the reply */

static const char *transfer(struct standin *s)
{
	const struct rule *r = script_next(s->rules, "state");

	if (r && r->action == ACT_ERROR) {
		snprintf(s->migration.why, sizeof(s->migration.why), "%s", r->text);
		return "failed";
	}
	if (s->model.incoming) {
		load_state(s);
		s->model.incoming = false;
		s->model.started = true;
		return "completed";
	}
	if (!write_state(s))
		return "failed";
	s->model.running = false;
	s->model.postmigrate = true;
	s->migration.unfinished = true;
	return "completed";
}

void migration_run(struct standin *s)
{
	const char *status;

	if (!s->migration.pending)
		return;
	if (!s->migration.cancelled)
		set_status(s, s->model.incoming ? "active" : "setup");
	status = s->migration.cancelled ? "cancelled" : transfer(s);
	close(s->migration.fd);
	s->migration.fd = -1;
	s->migration.pending = false;
	s->migration.cancelled = false;
	set_status(s, status);
}

bool migration_may_continue(struct standin *s, struct refusal *why)
{
	if (s->migration.unfinished) {
		s->migration.unfinished = false;
		return fail(why, "Migration is not finalized yet");
	}
	s->model.postmigrate = false;
	return true;
}
