/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Operations on a process: exec, wait, signal, resize.
 */
#include <string.h>

#include "base/options.h"
#include "base/text.h"
#include "sandbox/container.h"
#include "sandbox/sandbox_op.h"
#include "sandbox/spec.h"

#define IN(s) KATA__IN(KATA_SANDBOX_##s)
#define CALL_MS 30000u

struct process_op {
	struct kata__sandbox_op base;
	char container_id[KATA__ID_MAX + 1];
	char exec_id[KATA__ID_MAX + 1]; /* "": not given */
	struct kata__spec spec;
	bool reserved;
	bool killed; /* by the undo: the agent keeps its id until it is over and somebody has waited for it */
	uint32_t signal, rows, columns;
	struct kata__waiter waiter;
};

static struct process_op *data_of(const kata_op *op)
{
	return kata__op_data(op);
}

static const char *exec_of(const struct process_op *o)
{
	return o->exec_id[0] ? o->exec_id : NULL;
}

static void free_process_op(void *data)
{
	struct process_op *o = data;

	kata__spec_deinit(&o->spec);
	kata__sandbox_op_deinit(&o->base);
	free(o);
}

static int find(kata_op *op, struct kata__process **ret, kata_error **err)
{
	struct process_op *o = data_of(op);

	return kata__process_get(o->base.sandbox, o->container_id, exec_of(o), ret, err);
}

static void finish(kata_op *op, int status, kata_error **error)
{
	kata__sandbox_op_end(op, status);
}

/* ---- exec */

/* Reserved and not shown yet, or NULL. */
static struct kata__process *reserved(kata_op *op, struct kata__container **ret_container)
{
	struct process_op *o = data_of(op);
	struct kata__container *c = kata__container_find(o->base.sandbox, o->container_id);

	*ret_container = c;
	return c && o->reserved ? kata__process_find(c, o->exec_id) : NULL;
}

static int step_reserve(kata_op *op, kata_error **err)
{
	struct process_op *o = data_of(op);
	struct kata__container *c;
	struct kata__process *p;
	int rc = kata__container_get(o->base.sandbox, o->container_id, &c, err);

	if (rc == 0)
		rc = kata__process_reserve(o->base.sandbox, c, o->exec_id, o->spec.terminal, &p, err);
	o->reserved = rc == 0;
	return rc;
}

static int step_unreserve(kata_op *op, kata_error **err)
{
	kata_agent_request request = {.size = sizeof(request), .method = KATA_AGENT_WAIT_PROCESS};
	struct process_op *o = data_of(op);
	struct kata__container *c;
	struct kata__process *p = reserved(op, &c);

	if (p)
		kata__process_forget(kata__sandbox_of(op), c, p);
	o->reserved = false;
	if (!o->killed)
		return KATA__STEP_DONE;
	request.container_id = o->container_id;
	request.exec_id = o->exec_id;
	return kata__sandbox_call_anyhow(op, &request, err);
}

static int step_exec(kata_op *op, kata_error **err)
{
	kata_agent_request request = {.size = sizeof(request), .method = KATA_AGENT_EXEC_PROCESS};
	struct process_op *o = data_of(op);

	request.container_id = o->container_id;
	request.exec_id = o->exec_id;
	request.json = o->spec.json;
	request.json_length = o->spec.json_length;
	return kata__sandbox_call(op, &request, err);
}

static int step_unexec(kata_op *op, kata_error **err)
{
	kata_agent_request request = {.size = sizeof(request), .method = KATA_AGENT_SIGNAL_PROCESS};
	struct process_op *o = data_of(op);

	request.container_id = o->container_id;
	request.exec_id = o->exec_id;
	request.signal = 9;
	o->killed = true;
	return kata__sandbox_call_anyhow(op, &request, err);
}

static int step_show(kata_op *op, kata_error **err)
{
	struct kata__container *c;
	struct kata__process *p = reserved(op, &c);

	if (!p)
		return kata__fail(err, KATA_E_GONE, CALLER, "container '%s' was removed meanwhile",
				  data_of(op)->container_id);
	kata__process_show(p, KATA_PROCESS_RUNNING);
	return KATA__STEP_DONE;
}

static const struct kata__step exec_steps[] = {
	{.name = "reserve", .run = step_reserve, .undo = step_unreserve},
	{.name = "exec", .run = step_exec, .undo = step_unexec, .flags = KATA__STEP_UNCERTAIN},
	{.name = "show", .run = step_show},
};
static const struct kata__op_table exec_table = {
	.name = "add-process",
	KATA__STEPS(exec_steps),
	.timeout_ms = CALL_MS,
	.finish = finish,
	.free_data = free_process_op,
};

/* ---- wait */

static int step_wait(kata_op *op, kata_error **err)
{
	struct process_op *o = data_of(op);
	kata_sandbox_state state = kata_sandbox_get_state(o->base.sandbox);
	struct kata__process *p;
	int rc = find(op, &p, err);

	if (rc < 0)
		return rc;
	if (p->exit_known) {
		o->waiter.exit_status = p->exit_status;
		return KATA__STEP_DONE;
	}
	if (state != KATA_SANDBOX_RUNNING && state != KATA_SANDBOX_PAUSED)
		return kata__fail(err, KATA_E_GONE, GUEST, "sandbox '%s' is %s, and nobody saw process '%s' exit",
				  o->base.sandbox->id, kata_sandbox_state_get_name(state), p->exec_id);
	o->waiter.op = op;
	o->waiter.token = kata__op_token(op);
	rc = kata__process_add_waiter(p, &o->waiter, err);
	return rc < 0 ? rc : KATA__STEP_WAIT;
}

static void cancel_wait(kata_op *op)
{
	kata__waiter_remove(&data_of(op)->waiter);
}

static void finish_wait(kata_op *op, int status, kata_error **error)
{
	kata__waiter_remove(&data_of(op)->waiter);
	kata__sandbox_op_end(op, status);
}

static const struct kata__step wait_steps[] = {
	{.name = "wait", .run = step_wait, .cancel = cancel_wait},
};
static const struct kata__op_table wait_table = {
	.name = "wait-process",
	KATA__STEPS(wait_steps),
	.flags = KATA__OP_NO_DEADLINE,
	.finish = finish_wait,
	.free_data = free_process_op,
};

/* ---- signal, resize */

static int step_signal(kata_op *op, kata_error **err)
{
	kata_agent_request request = {.size = sizeof(request), .method = KATA_AGENT_SIGNAL_PROCESS};
	struct process_op *o = data_of(op);
	struct kata__process *p;
	int rc = find(op, &p, err);

	if (rc < 0)
		return rc;
	request.container_id = o->container_id;
	request.exec_id = exec_of(o);
	request.signal = o->signal;
	return kata__sandbox_call(op, &request, err);
}

static int step_resize(kata_op *op, kata_error **err)
{
	kata_agent_request request = {.size = sizeof(request), .method = KATA_AGENT_TTY_WIN_RESIZE};
	struct process_op *o = data_of(op);
	struct kata__process *p;
	int rc = find(op, &p, err);

	if (rc < 0)
		return rc;
	if (!p->terminal)
		return kata__fail(err, KATA_E_INVALID, CALLER, "process '%s' of container '%s' has no terminal",
				  p->exec_id, p->container_id);
	request.container_id = o->container_id;
	request.exec_id = p->exec_id;
	request.rows = o->rows;
	request.columns = o->columns;
	return kata__sandbox_call(op, &request, err);
}

static const struct kata__step signal_steps[] = {{.name = "signal", .run = step_signal}};
static const struct kata__op_table signal_table = {
	.name = "signal-process",
	KATA__STEPS(signal_steps),
	.timeout_ms = CALL_MS,
	.finish = finish,
	.free_data = free_process_op,
};

static const struct kata__step resize_steps[] = {{.name = "resize", .run = step_resize}};
static const struct kata__op_table resize_table = {
	.name = "resize-terminal",
	KATA__STEPS(resize_steps),
	.timeout_ms = CALL_MS,
	.finish = finish,
	.free_data = free_process_op,
};

/* ---- public */

const char *kata_process_state_get_name(kata_process_state state)
{
	static const char *const names[] = {"created", "running", "paused", "exited"};

	return (size_t)state < kata__array_size(names) ? names[state] : "unknown";
}

static int new_op(const kata_sandbox *s, const char *container_id, const char *exec_id, struct process_op **ret,
		  kata_error **err)
{
	struct process_op *o;
	int rc = kata__sandbox_check_ids(s, container_id, exec_id, err);

	if (rc < 0)
		return rc;
	o = calloc(1, sizeof(*o));
	if (!o)
		return kata__fail_no_memory(err);
	snprintf(o->container_id, sizeof(o->container_id), "%s", container_id);
	snprintf(o->exec_id, sizeof(o->exec_id), "%s", exec_id ? exec_id : "");
	*ret = o;
	return 0;
}

int kata_sandbox_add_process_begin(kata_sandbox *sandbox, const char *container_id, const kata_process_config *config,
				   const kata_op_options *options, kata_op **ret_op, kata_error **err)
{
	static const struct kata__sandbox_entry entry = {"kata_sandbox_add_process", IN(RUNNING), -1, 0};
	kata_process_config c = KATA_PROCESS_CONFIG_INIT;
	struct process_op *o = NULL;
	int rc = config ? kata__options_read(&c, sizeof(c), config, "config", err)
			: kata__fail(err, KATA_E_INVALID, CALLER, "config: it is NULL");

	if (rc == 0)
		rc = kata__id_check("config.exec_id", c.exec_id, err);
	if (rc == 0)
		rc = new_op(sandbox, container_id, c.exec_id, &o, err);
	if (rc < 0)
		return rc;
	rc = kata__spec_parse_process("config.oci_process", c.oci_process, c.oci_process_length, &o->spec, err);
	if (rc < 0) {
		free_process_op(o);
		return rc;
	}
	return kata__sandbox_begin(sandbox, &entry, &exec_table, o, options, ret_op, err);
}

int kata_sandbox_add_process(kata_sandbox *sandbox, const char *container_id, const kata_process_config *config,
			     const kata_op_options *options, kata_error **err)
{
	kata_op *op = NULL;
	int rc = kata__sandbox_check_may_block(sandbox, "kata_sandbox_add_process", err);

	if (rc == 0)
		rc = kata_sandbox_add_process_begin(sandbox, container_id, config, options, &op, err);
	return kata__op_finish_sync(rc, &op, err);
}

int kata_sandbox_wait_process(kata_sandbox *sandbox, const char *container_id, const char *exec_id,
			      const kata_op_options *options, int32_t *ret_status, kata_error **err)
{
	static const struct kata__sandbox_entry entry = {"kata_sandbox_wait_process", ~(uint32_t)0, -1,
							 KATA__SANDBOX_OP_PASSIVE};
	struct process_op *o = NULL;
	kata_op *op = NULL;
	int rc = kata__sandbox_check_may_block(sandbox, "kata_sandbox_wait_process", err);

	if (rc == 0)
		rc = new_op(sandbox, container_id, exec_id, &o, err);

	if (rc == 0)
		rc = kata__sandbox_begin(sandbox, &entry, &wait_table, o, options, &op, err);
	if (rc < 0)
		return rc;
	rc = kata_op_wait(op, err);
	if (rc == 0 && ret_status)
		*ret_status = data_of(op)->waiter.exit_status;
	kata_op_unref(op);
	return rc;
}

int kata_sandbox_signal_process(kata_sandbox *sandbox, const char *container_id, const char *exec_id, uint32_t signal,
				const kata_op_options *options, kata_error **err)
{
	static const struct kata__sandbox_entry entry = {"kata_sandbox_signal_process", IN(RUNNING), -1, 0};
	struct process_op *o = NULL;
	kata_op *op = NULL;
	int rc = kata__sandbox_check_may_block(sandbox, "kata_sandbox_signal_process", err);

	if (rc == 0)
		rc = new_op(sandbox, container_id, exec_id, &o, err);

	if (rc < 0)
		return rc;
	if (signal < 1 || signal > 64) {
		free_process_op(o);
		return kata__fail(err, KATA_E_INVALID, CALLER, "signal: %u is out of range, expected 1 to 64", signal);
	}
	o->signal = signal;
	rc = kata__sandbox_begin(sandbox, &entry, &signal_table, o, options, &op, err);
	return kata__op_finish_sync(rc, &op, err);
}

int kata_sandbox_resize_terminal(kata_sandbox *sandbox, const char *container_id, const char *exec_id, uint32_t rows,
				 uint32_t columns, const kata_op_options *options, kata_error **err)
{
	static const struct kata__sandbox_entry entry = {"kata_sandbox_resize_terminal", IN(RUNNING), -1, 0};
	struct process_op *o = NULL;
	kata_op *op = NULL;
	int rc = kata__sandbox_check_may_block(sandbox, "kata_sandbox_resize_terminal", err);

	if (rc == 0)
		rc = new_op(sandbox, container_id, exec_id, &o, err);

	if (rc < 0)
		return rc;
	if (rows < 1 || rows > 65535 || columns < 1 || columns > 65535) {
		free_process_op(o);
		return kata__fail(err, KATA_E_INVALID, CALLER, "%s: %u is out of range, expected 1 to 65535",
				  rows < 1 || rows > 65535 ? "rows" : "columns",
				  rows < 1 || rows > 65535 ? rows : columns);
	}
	o->rows = rows;
	o->columns = columns;
	rc = kata__sandbox_begin(sandbox, &entry, &resize_table, o, options, &op, err);
	return kata__op_finish_sync(rc, &op, err);
}
