/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mock_process.c - the tiny language of simulated processes, and what all of them share.
 *
 * A program is two functions: start, once, and run, whenever something may have changed. Both may end the process.
 * Pipes are soft-limited to KATA__MOCK_PIPE_SIZE by those who move data; what a program prints at its start may exceed
 * that, bounded by the message its arguments came in.
 */
#include "vm/mock/mock_process.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

#define OUTPUT_MAX (8u << 20)

struct kata__mock_program {
	const char *name;
	void (*start)(struct kata__mock_process *p, uint64_t now_ns);
	void (*run)(struct kata__mock_process *p, uint64_t now_ns);
};

static struct kata__buffer *stderr_of(struct kata__mock_process *p)
{
	return p->tty ? &p->out : &p->err;
}

/* A pipe that is full beyond its cap ends the process, as a write error would. */
static void put(struct kata__mock_process *p, struct kata__buffer *to, const char *text, size_t length)
{
	if (kata__buffer_append(to, text, length) < 0)
		kata__mock_process_exit(p, 1);
}

static void put_words(struct kata__mock_process *p, struct kata__buffer *to)
{
	for (size_t i = 1; p->args[i]; i++) {
		if (i > 1)
			put(p, to, " ", 1);
		put(p, to, p->args[i], strlen(p->args[i]));
	}
	put(p, to, "\n", 1);
}

static size_t room_in(const struct kata__buffer *b)
{
	size_t used = kata__buffer_len(b);

	return used < KATA__MOCK_PIPE_SIZE ? KATA__MOCK_PIPE_SIZE - used : 0;
}

/* The one argument as a number, or `otherwise` where there is none; false and exit 2 when it is no number. */
static bool number_argument(struct kata__mock_process *p, double scale, uint64_t otherwise, uint64_t *ret)
{
	const char *text = p->args[1];
	char *end = NULL;
	double v;

	if (!text) {
		*ret = otherwise;
		return true;
	}
	v = strtod(text, &end);
	if (end == text || *end || !(v >= 0) || v * scale > 1e15) {
		kata__buffer_printf(stderr_of(p), "%s: '%s' is not a number\n", p->args[0], text);
		kata__mock_process_exit(p, 2);
		return false;
	}
	*ret = (uint64_t)(v * scale);
	return true;
}

static void start_echo(struct kata__mock_process *p, uint64_t now_ns)
{
	put_words(p, &p->out);
	kata__mock_process_exit(p, 0);
}

static void start_err(struct kata__mock_process *p, uint64_t now_ns)
{
	put_words(p, stderr_of(p));
	kata__mock_process_exit(p, 0);
}

static void start_exit(struct kata__mock_process *p, uint64_t now_ns)
{
	uint64_t code;

	if (number_argument(p, 1, 0, &code))
		kata__mock_process_exit(p, (int32_t)(code & 0xff));
}

static void run_cat(struct kata__mock_process *p, uint64_t now_ns)
{
	size_t n = kata__buffer_len(&p->in);
	size_t room = room_in(&p->out);

	n = n < room ? n : room;
	if (n) {
		put(p, &p->out, (const char *)kata__buffer_bytes(&p->in), n);
		kata__buffer_consume(&p->in, n);
	}
	if (p->stdin_closed && kata__buffer_len(&p->in) == 0)
		kata__mock_process_exit(p, 0);
}

static void start_sleep(struct kata__mock_process *p, uint64_t now_ns)
{
	uint64_t ns;

	p->deadline_ns = KATA__NEVER;
	if (number_argument(p, 1e9, KATA__NEVER, &ns) && ns != KATA__NEVER)
		p->deadline_ns = now_ns + ns;
}

static void run_sleep(struct kata__mock_process *p, uint64_t now_ns)
{
	if (now_ns >= p->deadline_ns)
		kata__mock_process_exit(p, 0);
}

static void start_flood(struct kata__mock_process *p, uint64_t now_ns)
{
	number_argument(p, 1, 0, &p->left);
}

static void run_flood(struct kata__mock_process *p, uint64_t now_ns)
{
	static const char line[] = "0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopq\n";
	size_t room = room_in(&p->out);

	while (room && p->left) {
		size_t n = sizeof(line) - 1;

		n = n < room ? n : room;
		n = n < p->left ? n : (size_t)p->left;
		put(p, &p->out, line, n);
		room -= n;
		p->left -= n;
	}
	if (!p->left)
		kata__mock_process_exit(p, 0);
}

static void run_winsize(struct kata__mock_process *p, uint64_t now_ns)
{
	if (p->resized)
		kata__buffer_printf(&p->out, "%" PRIu32 " %" PRIu32 "\n", p->rows, p->columns);
	p->resized = false;
}

static void start_unknown(struct kata__mock_process *p, uint64_t now_ns)
{
	kata__buffer_printf(stderr_of(p), "%s: no such program in the mock's guest\n", p->args[0]);
	kata__mock_process_exit(p, 127);
}

static const struct kata__mock_program programs[] = {
	{"echo", start_echo, NULL},     {"err", start_err, NULL},          {"exit", start_exit, NULL},
	{"cat", NULL, run_cat},         {"sleep", start_sleep, run_sleep}, {"flood", start_flood, run_flood},
	{"winsize", NULL, run_winsize},
};
static const struct kata__mock_program unknown_program = {"", start_unknown, NULL};

static const struct kata__mock_program *find_program(const char *name)
{
	for (size_t i = 0; i < kata__array_size(programs); i++)
		if (strcmp(programs[i].name, name) == 0)
			return &programs[i];
	return &unknown_program;
}

struct kata__mock_process *kata__mock_process_new(const char *id, char *const *args, size_t arg_count, bool tty)
{
	struct kata__mock_process *p = calloc(1, sizeof(*p));
	size_t copied = 0;

	if (!p)
		return NULL;
	kata__buffer_init(&p->in, KATA__MOCK_PIPE_SIZE);
	kata__buffer_init(&p->out, OUTPUT_MAX);
	kata__buffer_init(&p->err, OUTPUT_MAX);
	p->tty = tty;
	p->deadline_ns = KATA__NEVER;
	p->resized = true;
	p->id = kata__strdup(id);
	p->args = calloc(arg_count + 1, sizeof(*p->args));
	while (p->args && copied < arg_count && (p->args[copied] = kata__strdup(args[copied])) != NULL)
		copied++;
	if (!p->id || !p->args || copied < arg_count) {
		kata__mock_process_free(p);
		return NULL;
	}
	p->program = find_program(p->args[0]);
	return p;
}

void kata__mock_process_free(struct kata__mock_process *p)
{
	if (!p)
		return;
	kata__buffer_deinit(&p->in);
	kata__buffer_deinit(&p->out);
	kata__buffer_deinit(&p->err);
	kata__strv_free(p->args);
	free(p->id);
	free(p);
}

void kata__mock_process_start(struct kata__mock_process *p)
{
	if (p->state == KATA__MOCK_PROCESS_CREATED)
		p->state = KATA__MOCK_PROCESS_RUNNING;
}

void kata__mock_process_exit(struct kata__mock_process *p, int32_t status)
{
	if (p->state == KATA__MOCK_PROCESS_EXITED)
		return;
	p->state = KATA__MOCK_PROCESS_EXITED;
	p->status = status;
	p->deadline_ns = KATA__NEVER;
	kata__buffer_deinit(&p->in);
	kata__buffer_init(&p->in, KATA__MOCK_PIPE_SIZE);
}

static bool is_fatal(uint32_t signal)
{
	switch (signal) {
	case 0:
	case SIGCHLD:
	case SIGCONT:
	case SIGURG:
	case SIGWINCH:
	case SIGSTOP:
	case SIGTSTP:
	case SIGTTIN:
	case SIGTTOU:
		return false;
	default:
		return true;
	}
}

void kata__mock_process_signal(struct kata__mock_process *p, uint32_t signal)
{
	if (!is_fatal(signal))
		return;
	if (p->frozen && signal != SIGKILL)
		p->signals |= UINT64_C(1) << (signal & 63);
	else
		kata__mock_process_exit(p, 128 + (int32_t)signal);
}

static void take_pending_signal(struct kata__mock_process *p)
{
	for (uint32_t s = 1; s < 64 && p->signals; s++)
		if (p->signals & UINT64_C(1) << s) {
			p->signals = 0;
			kata__mock_process_exit(p, 128 + (int32_t)s);
		}
}

void kata__mock_process_run(struct kata__mock_process *p, uint64_t now_ns)
{
	if (p->frozen)
		return;
	take_pending_signal(p);
	if (p->state == KATA__MOCK_PROCESS_RUNNING && !p->started) {
		p->started = true;
		if (p->program->start)
			p->program->start(p, now_ns);
	}
	if (p->state == KATA__MOCK_PROCESS_RUNNING && p->program->run)
		p->program->run(p, now_ns);
}

size_t kata__mock_process_write(struct kata__mock_process *p, const void *data, size_t length)
{
	size_t room = room_in(&p->in);
	size_t n = length < room ? length : room;

	return n && kata__buffer_append(&p->in, data, n) < 0 ? 0 : n;
}

void kata__mock_process_close_stdin(struct kata__mock_process *p)
{
	p->stdin_closed = true;
	p->tty_dropped = p->tty_dropped || p->tty;
}

void kata__mock_process_resize(struct kata__mock_process *p, uint32_t rows, uint32_t columns)
{
	p->rows = rows;
	p->columns = columns;
	p->resized = true;
}
