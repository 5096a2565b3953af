/* SPDX-License-Identifier: Apache-2.0 */
/* script.c - reads the script and finds the rule for what happens next. */
#include "qemu_standin/script.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct {
	const char *name;
	enum action action;
} actions[] = {
	{"error", ACT_ERROR},
	{"half-line", ACT_HALF_LINE},
	{"garbage", ACT_GARBAGE},
	{"line", ACT_LINE},
	{"silence", ACT_SILENCE},
	{"lost", ACT_LOST},
	{"hang-up", ACT_HANG_UP},
	{"flood", ACT_FLOOD},
	{"event-first", ACT_EVENT_FIRST},
	{"no-event", ACT_NO_EVENT},
	{"reply-twice", ACT_REPLY_TWICE},
	{"unasked", ACT_UNASKED},
	{"wrong-type", ACT_WRONG_TYPE},
	{"delay", ACT_DELAY},
	{"bad-frame", ACT_BAD_FRAME},
	{"wrong-stream", ACT_WRONG_STREAM},
	{"truncated", ACT_TRUNCATED},
	{"oversize", ACT_OVERSIZE},
	{"no-message", ACT_NO_MESSAGE},
	{"exit", ACT_EXIT},
	{"stop", ACT_STOP},
	{"kill", ACT_KILL},
};

static void give_up(const char *line)
{
	fprintf(stderr, "qemu_standin: script: cannot read '%s'\n", line);
	_exit(125);
}

static enum action find_action(const char *name)
{
	for (size_t i = 0; i < sizeof(actions) / sizeof(actions[0]); i++)
		if (strcmp(actions[i].name, name) == 0)
			return actions[i].action;
	return ACT_NONE;
}

/* What follows the action: a number, a text in quotes, both, none. */
static bool parse_rest(const char *at, struct rule *r)
{
	int used = 0;

	if (sscanf(at, " %" SCNu64 "%n", &r->number, &used) == 1)
		at += used;
	at += strspn(at, " \t");
	if (*at != '"')
		return *at == 0;
	used = 0;
	return sscanf(at, "\"%255[^\"]\"%n", r->text, &used) == 1 && used && at[used] == 0;
}

static struct rule *parse_line(const char *line)
{
	struct rule *r = calloc(1, sizeof(*r));
	char action[32];
	char *hash;
	int used = 0;

	if (!r || sscanf(line, "on %63s %31s%n", r->name, action, &used) != 2 || !parse_rest(line + used, r))
		give_up(line);
	r->action = find_action(action);
	hash = strchr(r->name, '#');
	if (hash) {
		*hash = 0;
		r->nth = (uint32_t)strtoul(hash + 1, NULL, 10);
	}
	if (r->action == ACT_NONE || (hash && !r->nth))
		give_up(line);
	return r;
}

static FILE *open_script(void)
{
	char path[512];
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 8);

	if (n < 0)
		return NULL;
	path[n] = 0;
	memcpy(strrchr(path, '/') + 1, "script", sizeof("script"));
	return fopen(path, "re");
}

struct rule *script_load(void)
{
	struct rule *first = NULL, **at = &first;
	FILE *f = open_script();
	char line[512];

	while (f && fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = 0;
		if (!line[0] || line[0] == '#')
			continue;
		*at = parse_line(line);
		at = &(*at)->next;
	}
	if (f)
		fclose(f);
	return first;
}

static void end_or_stop(const struct rule *r)
{
	if (r->action == ACT_EXIT) {
		fprintf(stderr, "%s%s", r->text, r->text[0] ? "\n" : "");
		fflush(stderr);
		_exit((int)r->number);
	}
	if (r->action == ACT_STOP)
		raise(SIGSTOP);
	if (r->action == ACT_KILL)
		raise(SIGKILL);
}

const struct rule *script_next(struct rule *rules, const char *name)
{
	const struct rule *found = NULL;

	for (struct rule *r = rules; r; r = r->next) {
		if (strcmp(r->name, name) != 0)
			continue;
		r->seen++;
		if (!found && (!r->nth || r->nth == r->seen))
			found = r;
	}
	if (found)
		end_or_stop(found);
	return found;
}
