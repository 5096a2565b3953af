/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kata_error: an owned value with a cause chain.
 *
 * Model: an error is built by one thread and immutable once it left the library. Out of memory is one static object
 * that is never freed or changed; every function here recognises it by address. Invariants: 1. message is never
 * NULL. 2. the chain has no cycle: an error is attached once.
 */
#include "base/error.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/text.h"

struct kata_error {
	int status;
	kata_origin origin;
	int os_errno;
	bool uncertain;
	char *message;
	char *step;
	char *vmm_output;
	char *console;
	char *hint;
	const char *file;
	int line;
	char birth[96];
	char **problems;
	size_t problem_count;
	struct kata_error *cause;
};

static struct kata_error no_memory = {
	.status = KATA_E_NO_MEMORY,
	.origin = KATA_ORIGIN_HOST,
	.message = (char *)"out of memory",
};

static const struct {
	int status;
	const char *name;
} status_names[] = {
	{KATA_OK, "ok"},
	{KATA_E_INVALID, "invalid"},
	{KATA_E_STATE, "state"},
	{KATA_E_NOT_FOUND, "not-found"},
	{KATA_E_EXISTS, "exists"},
	{KATA_E_BUSY, "busy"},
	{KATA_E_EXHAUSTED, "exhausted"},
	{KATA_E_TIMEOUT, "timeout"},
	{KATA_E_CANCELLED, "cancelled"},
	{KATA_E_UNSUPPORTED, "unsupported"},
	{KATA_E_NO_MEMORY, "no-memory"},
	{KATA_E_IO, "io"},
	{KATA_E_PERMISSION, "permission"},
	{KATA_E_PROTOCOL, "protocol"},
	{KATA_E_GONE, "gone"},
	{KATA_E_VERSION, "version"},
	{KATA_E_CORRUPT, "corrupt"},
	{KATA_E_IDENTITY, "identity"},
	{KATA_E_FENCED, "fenced"},
	{KATA_E_VMM, "vmm"},
	{KATA_E_GUEST, "guest"},
	{KATA_E_DATABASE, "database"},
	{KATA_E_INJECTED, "injected"},
	{KATA_E_DIVERGED, "diverged"},
};

const char *kata_status_get_name(int status)
{
	for (size_t i = 0; i < kata__array_size(status_names); i++)
		if (status_names[i].status == status)
			return status_names[i].name;
	return "unknown";
}

const char *kata_origin_get_name(kata_origin origin)
{
	static const char *const names[] = {"caller", "host", "vmm", "guest"};

	return (size_t)origin < kata__array_size(names) ? names[origin] : "unknown";
}

/* ---- making ---- */

static struct kata_error *error_new(const char *file, int line, int status, kata_origin origin, int os_errno)
{
	struct kata_error *e = calloc(1, sizeof(*e));

	if (!e)
		return NULL;
	e->status = status;
	e->origin = origin;
	e->os_errno = os_errno;
	e->file = file;
	e->line = line;
#ifndef NDEBUG
	snprintf(e->birth, sizeof(e->birth), "%s:%d", file, line);
#endif
	return e;
}

/* Newlines would break "one line"; texts of peers come in here through %s too. */
static char *one_line(const char *fmt, va_list ap)
{
	char *raw = NULL, *clean;

	if (vasprintf(&raw, fmt, ap) < 0)
		return NULL;
	clean = kata__sanitize(raw, strlen(raw), false);
	free(raw);
	return clean;
}

static int publish(kata_error **err, struct kata_error *e, int status)
{
	if (!e || !e->message) {
		kata_error_free(e);
		return kata__fail_no_memory(err);
	}
	*err = e;
	return status;
}

int kata__fail_no_memory(kata_error **err)
{
	if (err)
		*err = &no_memory;
	return KATA_E_NO_MEMORY;
}

int kata__error_set(kata_error **err, const char *file, int line, int status, kata_origin origin, int os_errno,
		    const char *fmt, ...)
{
	struct kata_error *e;
	va_list ap;

	if (!err)
		return status;
	e = error_new(file, line, status, origin, os_errno);
	if (e) {
		va_start(ap, fmt);
		e->message = one_line(fmt, ap);
		va_end(ap);
	}
	return publish(err, e, status);
}

static int status_of_errno(int os_errno)
{
	switch (os_errno) {
	case EACCES:
	case EPERM:
	case EROFS:
		return KATA_E_PERMISSION;
	case ENOENT:
		return KATA_E_NOT_FOUND;
	case ENOMEM:
		return KATA_E_NO_MEMORY;
	default:
		return KATA_E_IO;
	}
}

int kata__error_set_errno(kata_error **err, const char *file, int line, int os_errno, const char *fmt, ...)
{
	int status = status_of_errno(os_errno);
	struct kata_error *e;
	char *message;
	va_list ap;

	if (!err)
		return status;
	e = error_new(file, line, status, KATA_ORIGIN_HOST, os_errno);
	if (e) {
		va_start(ap, fmt);
		message = one_line(fmt, ap);
		va_end(ap);
		if (message)
			e->message =
				kata__format("%s: %s", message,
					     strerrordesc_np(os_errno) ? strerrordesc_np(os_errno) : "unknown error");
		free(message);
	}
	return publish(err, e, status);
}

int kata__error_wrap(kata_error **err, int status, const char *fmt, ...)
{
	struct kata_error *cause, *e;
	va_list ap;

	if (!err || !*err || *err == &no_memory)
		return status;
	cause = *err;
	e = error_new(cause->file, cause->line, cause->status, cause->origin, cause->os_errno);
	if (!e)
		return status;
	va_start(ap, fmt);
	e->message = one_line(fmt, ap);
	va_end(ap);
	if (!e->message) {
		kata_error_free(e);
		return status;
	}
	e->uncertain = cause->uncertain;
	e->cause = cause;
	*err = e;
	return status;
}

static bool is_fixed(const kata_error *err)
{
	return !err || err == &no_memory;
}

void kata__error_set_step(kata_error *err, const char *op, const char *step)
{
	char *s;

	if (is_fixed(err))
		return;
	s = kata__format("%s/%s", op, step);
	if (!s)
		return;
	free(err->step);
	err->step = s;
}

void kata__error_set_hint(kata_error *err, const char *fmt, ...)
{
	char *s;
	va_list ap;

	if (is_fixed(err))
		return;
	va_start(ap, fmt);
	s = one_line(fmt, ap);
	va_end(ap);
	if (!s)
		return;
	free(err->hint);
	err->hint = s;
}

static void set_text(char **slot, const char *text, size_t len)
{
	char *clean;

	if (len > KATA__ERROR_TEXT_MAX) {
		text += len - KATA__ERROR_TEXT_MAX;
		len = KATA__ERROR_TEXT_MAX;
	}
	clean = kata__sanitize(text, len, true);
	if (!clean)
		return;
	free(*slot);
	*slot = clean;
}

void kata__error_set_vmm_output(kata_error *err, const char *text, size_t len)
{
	if (!is_fixed(err) && len)
		set_text(&err->vmm_output, text, len);
}

void kata__error_set_console(kata_error *err, const char *text, size_t len)
{
	if (!is_fixed(err) && len)
		set_text(&err->console, text, len);
}

void kata__error_set_uncertain(kata_error *err)
{
	if (!is_fixed(err))
		err->uncertain = true;
}

void kata__error_add_cause(kata_error *err, kata_error *take_other)
{
	if (!take_other)
		return;
	if (is_fixed(err) || err == take_other) {
		if (err != take_other)
			kata_error_free(take_other);
		return;
	}
	while (err->cause && err->cause != &no_memory)
		err = err->cause;
	if (err->cause)
		kata_error_free(take_other);
	else
		err->cause = take_other;
}

static bool dup_text(char **to, const char *from)
{
	*to = kata__strdup(from);
	return *to || !from;
}

kata_error *kata__error_dup(const kata_error *err)
{
	struct kata_error *e;
	bool ok;

	if (is_fixed(err))
		return (kata_error *)(uintptr_t)err;
	e = malloc(sizeof(*e));
	if (!e)
		return &no_memory;
	*e = *err;
	e->problems = NULL;
	e->cause = NULL;
	ok = dup_text(&e->message, err->message);
	ok &= dup_text(&e->step, err->step);
	ok &= dup_text(&e->vmm_output, err->vmm_output);
	ok &= dup_text(&e->console, err->console);
	ok &= dup_text(&e->hint, err->hint);
	if (err->problems) {
		e->problems = kata__strv_dup((const char *const *)err->problems);
		ok &= e->problems != NULL;
	}
	e->cause = kata__error_dup(err->cause);
	if (ok)
		return e;
	kata_error_free(e);
	return &no_memory;
}

int kata__error_move(kata_error **err, kata_error **from)
{
	int status = kata_error_get_status(*from);

	if (err)
		*err = *from;
	else
		kata_error_free(*from);
	*from = NULL;
	return status;
}

/* Length of the valid UTF-8 sequence at p (n bytes left), or 0. */
static size_t utf8_length(const unsigned char *p, size_t n)
{
	size_t len;

	if (p[0] < 0x80)
		return 1;
	len = p[0] >= 0xf0 && p[0] <= 0xf4 ? 4 : p[0] >= 0xe0 ? 3 : p[0] >= 0xc2 ? 2 : 0;
	if (p[0] > 0xf4 || !len || len > n)
		return 0;
	for (size_t i = 1; i < len; i++)
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xed && p[1] >= 0xa0) ||
	    (p[0] == 0xf4 && p[1] >= 0x90))
		return 0;
	/* C1 controls */
	if (p[0] == 0xc2 && p[1] < 0xa0)
		return 0;
	return len;
}

char *kata__sanitize(const char *text, size_t len, bool keep_newlines)
{
	const unsigned char *p = (const unsigned char *)text;
	size_t out = 0;
	char *s;

	if (len > KATA__ERROR_TEXT_MAX)
		len = KATA__ERROR_TEXT_MAX;
	s = malloc(len + 1);
	if (!s)
		return NULL;
	for (size_t i = 0; i < len;) {
		size_t n = utf8_length(p + i, len - i);
		bool control = n == 1 && (p[i] < 0x20 || p[i] == 0x7f);

		if (control && p[i] == '\r' && keep_newlines) {
			i++;
			continue;
		}
		if (control && (p[i] == '\t' || (p[i] == '\n' && keep_newlines)))
			control = false;
		if (!n || control) {
			s[out++] = n && p[i] == '\n' ? ' ' : '?';
			i++;
			continue;
		}
		memcpy(s + out, p + i, n);
		out += n;
		i += n;
	}
	s[out] = '\0';
	return s;
}

/* ---- problems ---- */

void kata__problems_add(struct kata__problems *p, const char *fmt, ...)
{
	char **lines = realloc(p->lines, (p->count + 2) * sizeof(*lines));
	va_list ap;

	if (!lines) {
		p->out_of_memory = true;
		return;
	}
	p->lines = lines;
	va_start(ap, fmt);
	lines[p->count] = one_line(fmt, ap);
	va_end(ap);
	lines[p->count + 1] = NULL;
	if (lines[p->count])
		p->count++;
	else
		p->out_of_memory = true;
}

static char *join(char *const *lines, size_t count)
{
	size_t len = 1;
	char *s, *at;

	for (size_t i = 0; i < count; i++)
		len += strlen(lines[i]) + 2;
	s = malloc(len);
	if (!s)
		return NULL;
	at = s;
	*at = '\0';
	for (size_t i = 0; i < count; i++) {
		if (i)
			at = stpcpy(at, "; ");
		at = stpcpy(at, lines[i]);
	}
	return s;
}

int kata__problems_finish(struct kata__problems *p, const char *what, kata_error **err)
{
	int rc = 0;

	if (p->out_of_memory) {
		rc = kata__fail_no_memory(err);
	} else if (p->count) {
		char *all = join(p->lines, p->count);

		if (!all)
			rc = kata__fail_no_memory(err);
		else if (p->count == 1)
			rc = kata__fail(err, KATA_E_INVALID, CALLER, "%s", all);
		else
			rc = kata__fail(err, KATA_E_INVALID, CALLER, "%zu problems in %s: %s", p->count, what, all);
		free(all);
		if (err && *err && !is_fixed(*err)) {
			(*err)->problems = p->lines;
			(*err)->problem_count = p->count;
			p->lines = NULL;
		}
	}
	kata__strv_free(p->lines);
	memset(p, 0, sizeof(*p));
	return rc;
}

/* ---- reading ---- */

kata_status kata_error_get_status(const kata_error *err)
{
	return err ? (kata_status)err->status : KATA_OK;
}

kata_origin kata_error_get_origin(const kata_error *err)
{
	return err ? err->origin : KATA_ORIGIN_CALLER;
}

int kata_error_get_errno(const kata_error *err)
{
	return err ? err->os_errno : 0;
}

const char *kata_error_get_message(const kata_error *err)
{
	return err ? err->message : NULL;
}

const kata_error *kata_error_get_cause(const kata_error *err)
{
	return err ? err->cause : NULL;
}

/* These may sit deeper in the chain, where they were known first. */
#define FIND_IN_CHAIN(err, member)                                                                                     \
	for (; (err); (err) = (err)->cause)                                                                            \
		if ((err)->member)                                                                                     \
			return (err)->member;                                                                          \
	return NULL

const char *kata_error_get_step(const kata_error *err)
{
	FIND_IN_CHAIN(err, step);
}

const char *kata_error_get_vmm_output(const kata_error *err)
{
	FIND_IN_CHAIN(err, vmm_output);
}

const char *kata_error_get_console(const kata_error *err)
{
	FIND_IN_CHAIN(err, console);
}

const char *kata_error_get_hint(const kata_error *err)
{
	FIND_IN_CHAIN(err, hint);
}

bool kata_error_is_uncertain(const kata_error *err)
{
	for (; err; err = err->cause)
		if (err->uncertain)
			return true;
	return false;
}

const char *kata_error_get_birth(const kata_error *err)
{
	return err && err->birth[0] ? err->birth : NULL;
}

size_t kata_error_get_problem_count(const kata_error *err)
{
	return err ? err->problem_count : 0;
}

const char *kata_error_get_problem(const kata_error *err, size_t index)
{
	return err && index < err->problem_count ? err->problems[index] : NULL;
}

void kata_error_free(kata_error *err)
{
	while (err && err != &no_memory) {
		struct kata_error *cause = err->cause;

		free(err->message);
		free(err->step);
		free(err->vmm_output);
		free(err->console);
		free(err->hint);
		kata__strv_free(err->problems);
		free(err);
		err = cause;
	}
}

/* ---- as text ---- */

static void print_block(FILE *out, const char *title, const char *text)
{
	fprintf(out, "  %s:\n", title);
	while (*text) {
		size_t n = strcspn(text, "\n");

		if (n)
			fprintf(out, "    | %.*s\n", (int)n, text);
		text += n + (text[n] == '\n');
	}
}

static void print_text(FILE *out, const kata_error *err)
{
	fprintf(out, "%s (%s, %s%s)\n", err->message, kata_status_get_name(err->status),
		kata_origin_get_name(err->origin), kata_error_is_uncertain(err) ? ", uncertain" : "");
	if (kata_error_get_step(err))
		fprintf(out, "  step: %s\n", kata_error_get_step(err));
	for (size_t i = 0; err->problem_count > 1 && i < err->problem_count; i++)
		fprintf(out, "  - %s\n", err->problems[i]);
	for (const kata_error *c = err->cause; c; c = c->cause)
		fprintf(out, "  because: %s (%s, %s)\n", c->message, kata_status_get_name(c->status),
			kata_origin_get_name(c->origin));
	if (kata_error_get_vmm_output(err))
		print_block(out, "the VMM's last words", kata_error_get_vmm_output(err));
	if (kata_error_get_console(err))
		print_block(out, "the console's tail", kata_error_get_console(err));
	if (kata_error_get_hint(err))
		fprintf(out, "  hint: %s\n", kata_error_get_hint(err));
}

char *kata_error_to_text(const kata_error *err)
{
	char *text = NULL;
	size_t len = 0;
	FILE *out;
	int bad;

	if (!err)
		return NULL;
	out = open_memstream(&text, &len);
	if (!out)
		return NULL;
	print_text(out, err);
	bad = ferror(out);
	if (fclose(out) != 0 || bad) {
		free(text);
		return NULL;
	}
	return text;
}

static void set_string(json_t *o, const char *key, const char *value)
{
	if (value)
		json_object_set_new(o, key, json_string(value));
}

static json_t *to_json(const kata_error *err)
{
	json_t *o = json_object();

	set_string(o, "status", kata_status_get_name(err->status));
	set_string(o, "origin", kata_origin_get_name(err->origin));
	set_string(o, "message", err->message);
	if (err->os_errno)
		json_object_set_new(o, "errno", json_integer(err->os_errno));
	if (err->uncertain)
		json_object_set_new(o, "uncertain", json_true());
	set_string(o, "step", err->step);
	set_string(o, "vmm_output", err->vmm_output);
	set_string(o, "console", err->console);
	set_string(o, "hint", err->hint);
	set_string(o, "birth", kata_error_get_birth(err));
	if (err->problem_count) {
		json_t *list = json_array();

		for (size_t i = 0; i < err->problem_count; i++)
			json_array_append_new(list, json_string(err->problems[i]));
		json_object_set_new(o, "problems", list);
	}
	if (err->cause)
		json_object_set_new(o, "cause", to_json(err->cause));
	return o;
}

char *kata_error_to_json(const kata_error *err)
{
	json_t *o;
	char *text;

	if (!err)
		return NULL;
	o = to_json(err);
	text = o ? kata__json_dump(o) : NULL;
	json_decref(o);
	return text;
}
