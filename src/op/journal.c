/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The journal of intent. Each event is one short write to a file opened with O_APPEND, so a line is whole unless the
 * process died inside write(); a half last line is one that did not happen yet.
 */
#include "op/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/json.h"
#include "base/text.h"

#define JOURNAL_MAX_BYTES (4u * 1024u * 1024u)
#define LINE_FORMAT "{\"op\":\"%s\",\"subject\":\"%s\",\"step\":\"%s\",\"event\":\"%s\"}\n"
#define COMPACT_BYTES (64 * 1024)

int kata__journal_init(struct kata__journal *j, const char *dir, kata_error **err)
{
	j->path = kata__format("%s/journal", dir);
	return j->path ? 0 : kata__fail_no_memory(err);
}

void kata__journal_deinit(struct kata__journal *j)
{
	free(j->path);
	j->path = NULL;
}

static int compact(struct kata__journal *j, kata_error **err);

int kata__journal_write(struct kata__journal *j, const char *op, const char *subject, const char *step,
			const char *event, kata_error **err)
{
	KATA_AUTO(free) char *line = NULL;
	KATA_AUTO_FD int fd = -1;
	size_t len;

	/* None of the four can need escaping: names of ours and checked ids. */
	line = kata__format(LINE_FORMAT, op, subject ? subject : "", step, event);
	if (!line)
		return kata__fail_no_memory(err);
	fd = open(j->path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	len = strlen(line);
	if (fd < 0 || write(fd, line, len) != (ssize_t)len)
		return kata__fail_errno(err, errno, "cannot write the journal '%s'", j->path);
	if (strcmp(event, "end") == 0 && lseek(fd, 0, SEEK_CUR) > COMPACT_BYTES)
		return compact(j, err);
	return 0;
}

struct begun {
	json_t *line;
	bool done;
};

/* Of one op (its table's name and subject); with step, also of one step. */
static bool is_same(json_t *a, json_t *b, bool step)
{
	static const char *const keys[] = {"op", "subject", "step"};

	for (size_t i = 0; i < (step ? 3u : 2u); i++)
		if (!json_equal(json_object_get(a, keys[i]), json_object_get(b, keys[i])))
			return false;
	return true;
}

static void drop(struct begun *list, size_t *count, size_t i)
{
	json_decref(list[i].line);
	memmove(&list[i], &list[i + 1], (*count - i - 1) * sizeof(*list));
	(*count)--;
}

static void apply(struct begun *list, size_t *count, json_t *line, const char *event)
{
	if (strcmp(event, "begin") == 0) {
		list[*count].line = json_incref(line);
		list[(*count)++].done = false;
		return;
	}
	for (size_t i = *count; i-- > 0;) {
		if (!is_same(list[i].line, line, strcmp(event, "end") != 0))
			continue;
		if (strcmp(event, "done") == 0) {
			list[i].done = true;
			return;
		}
		drop(list, count, i);
		if (strcmp(event, "undone") == 0)
			return;
	}
}

static int apply_line(struct begun *list, size_t *count, const char *text, size_t len, kata_error **err)
{
	KATA_AUTO_JSON json_t *line = NULL;
	const char *op, *subject, *step, *event;
	int rc = kata__json_parse("journal", text, len, 1024, &line, err);

	if (!rc)
		rc = kata__json_get_string(line, "journal", "op", &op, err);
	if (!rc)
		rc = kata__json_get_string(line, "journal", "subject", &subject, err);
	if (!rc)
		rc = kata__json_get_string(line, "journal", "step", &step, err);
	if (!rc)
		rc = kata__json_get_string(line, "journal", "event", &event, err);
	if (!rc)
		apply(list, count, line, event);
	return rc;
}

static int apply_all(struct begun *list, size_t *count, const char *text, kata_error **err)
{
	for (;;) {
		const char *end = strchr(text, '\n');
		int rc;

		if (!end)
			return 0;
		rc = apply_line(list, count, text, (size_t)(end - text), err);
		if (rc)
			return rc;
		text = end + 1;
	}
}

int kata__journal_read(const char *dir,
		       void (*fn)(void *user, const char *op, const char *subject, const char *step, bool done),
		       void *user, kata_error **err)
{
	KATA_AUTO(free) char *path = kata__format("%s/journal", dir);
	KATA_AUTO(free) char *text = NULL;
	struct begun *list;
	size_t count = 0, lines = 1;
	int rc;

	if (!path)
		return kata__fail_no_memory(err);
	if (access(path, F_OK) < 0)
		return 0;
	rc = kata__read_file(path, JOURNAL_MAX_BYTES, &text, NULL, err);
	if (rc)
		return rc;
	for (const char *p = text; (p = strchr(p, '\n')); p++)
		lines++;
	list = calloc(lines, sizeof(*list));
	if (!list)
		return kata__fail_no_memory(err);
	rc = apply_all(list, &count, text, err);
	for (size_t i = 0; i < count; i++) {
		if (!rc)
			fn(user, json_string_value(json_object_get(list[i].line, "op")),
			   json_string_value(json_object_get(list[i].line, "subject")),
			   json_string_value(json_object_get(list[i].line, "step")), list[i].done);
		json_decref(list[i].line);
	}
	free(list);
	return rc;
}

/* ---- keeping it short ---- */

static void keep(void *user, const char *op, const char *subject, const char *step, bool done)
{
	FILE *out = user;

	fprintf(out, LINE_FORMAT, op, subject, step, "begin");
	if (done)
		fprintf(out, LINE_FORMAT, op, subject, step, "done");
}

/* Writes anew what has begun and not ended. */
static int compact(struct kata__journal *j, kata_error **err)
{
	KATA_AUTO(free) char *dir = kata__strdup(j->path);
	KATA_AUTO(free) char *text = NULL;
	size_t len = 0;
	FILE *out = dir ? open_memstream(&text, &len) : NULL;
	int rc;

	if (!out)
		return kata__fail_no_memory(err);
	*strrchr(dir, '/') = '\0';
	rc = kata__journal_read(dir, keep, out, err);
	if (fclose(out) != 0 && !rc)
		rc = kata__fail_no_memory(err);
	return rc ? rc : kata__write_file_atomic(j->path, text, len, err);
}
