/* SPDX-License-Identifier: Apache-2.0 */
/* kata_agent with an implementation of the caller's. */
#include "unit/agent/agent_test.h"

struct own {
	unsigned calls, cancels, releases, frees;
	kata_agent_method method;
	uint64_t timeout_ms;
	bool answers_at_once;
	kata_agent_reply_fn fn;
	void *user;
	uint64_t cancelled;
};

static void answer(struct own *o, const char *text)
{
	kata_agent_reply reply = {.size = sizeof(reply), .text = text};

	o->fn(o->user, &reply, NULL);
}

static void own_call(void *self, const kata_agent_request *request, uint64_t timeout_ms, kata_agent_reply_fn fn,
		     void *user, uint64_t *ret_token)
{
	struct own *o = self;

	o->calls++;
	o->method = request->method;
	o->timeout_ms = timeout_ms;
	o->fn = fn;
	o->user = user;
	*ret_token = 77;
	if (o->answers_at_once)
		answer(o, "at once");
}

static void own_cancel(void *self, uint64_t token)
{
	struct own *o = self;

	o->cancels++;
	o->cancelled = token;
}

static int own_release(void *self, char **ret_json, kata_error **err)
{
	struct own *o = self;

	o->releases++;
	*ret_json = strdup("{}");
	return 0;
}

static void own_free(void *self)
{
	struct own *o = self;

	o->frees++;
}

static const kata_agent_ops own_ops = {.size = sizeof(own_ops),
				       .name = "own",
				       .call = own_call,
				       .cancel = own_cancel,
				       .release = own_release,
				       .free = own_free};

static kata_agent *make(struct fixture *f, struct own *o, const kata_agent_ops *ops)
{
	kata_agent *agent = NULL;
	kata_error *err = NULL;

	*o = (struct own){0};
	fixture_assert_ok(kata_agent_new(f->context, NULL, ops, o, &agent, &err), err);
	return agent;
}

static kata_op *begin(kata_agent *agent, uint64_t timeout_ms)
{
	kata_op_options options = {.size = sizeof(options), .timeout_ms = timeout_ms};
	kata_error *err = NULL;
	kata_op *op = NULL;

	fixture_assert_ok(kata_agent_call_begin(agent, REQUEST(.method = KATA_AGENT_VERSION), &options, &op, &err),
			  err);
	return op;
}

Test(agent, states_have_names)
{
	cr_assert_str_eq(kata_agent_state_get_name(KATA_AGENT_CONNECTING), "connecting");
	cr_assert_str_eq(kata_agent_state_get_name(KATA_AGENT_CONNECTED), "connected");
	cr_assert_str_eq(kata_agent_state_get_name(KATA_AGENT_RELEASED), "released");
	cr_assert_str_eq(kata_agent_state_get_name(KATA_AGENT_LOST), "lost");
	cr_assert_str_eq(kata_agent_state_get_name((kata_agent_state)4), "unknown");
	cr_assert_str_eq(kata_agent_method_get_name((kata_agent_method)-1), "unknown");
}

Test(agent, of_the_callers_own_is_connected_and_knows_nothing_of_itself)
{
	struct fixture f;
	struct own o;
	kata_agent *agent;

	fixture_init(&f, true, KATA_CONTEXT_EXTERNAL_LOOP);
	agent = make(&f, &o, &own_ops);
	cr_assert_eq(kata_agent_get_state(agent), KATA_AGENT_CONNECTED);
	cr_assert_str_eq(kata_agent_get_version(agent), "");
	cr_assert_not(kata_agent_has_guest_service(agent));
	kata_agent_unref(agent);
	cr_assert_eq(o.frees, 1u);
	fixture_deinit(&f);
}

Test(agent, passes_calls_on_and_keeps_their_replies)
{
	struct fixture f;
	struct own o;
	kata_agent *agent;
	kata_error *err = NULL;
	kata_op *op;

	fixture_init(&f, true, KATA_CONTEXT_EXTERNAL_LOOP);
	agent = make(&f, &o, &own_ops);
	op = begin(agent, 1234);
	cr_assert_eq(o.method, KATA_AGENT_VERSION);
	cr_assert_eq(o.timeout_ms, 1234u);
	answer(&o, "later");
	fixture_assert_ok(kata_op_wait(op, &err), err);
	cr_assert_str_eq(kata_agent_op_get_reply(op)->text, "later");
	kata_op_unref(op);
	kata_agent_unref(agent);
	fixture_deinit(&f);
}

Test(agent, takes_an_answer_that_comes_before_the_call_returns)
{
	struct fixture f;
	struct own o;
	kata_agent *agent;
	kata_error *err = NULL;
	kata_op *op;

	fixture_init(&f, true, 0);
	agent = make(&f, &o, &own_ops);
	o.answers_at_once = true;
	op = begin(agent, 0);
	fixture_assert_ok(kata_op_wait(op, &err), err);
	cr_assert_str_eq(kata_agent_op_get_reply(op)->text, "at once");
	kata_op_unref(op);
	kata_agent_unref(agent);
	fixture_deinit(&f);
}

Test(agent, forwards_deadline_and_cancel_to_the_implementation)
{
	struct fixture f;
	struct own o;
	kata_agent *agent;
	kata_error *err = NULL;
	kata_op *op;

	fixture_init(&f, true, KATA_CONTEXT_EXTERNAL_LOOP);
	agent = make(&f, &o, &own_ops);
	op = begin(agent, 10);
	fixture_assert_fails(link_end(op, &err), KATA_E_TIMEOUT, err);
	error_clear(&err);
	cr_assert_eq(o.cancels, 1u);
	cr_assert_eq(o.cancelled, 77u);
	op = begin(agent, 0);
	kata_op_cancel(op);
	fixture_assert_fails(link_end(op, &err), KATA_E_CANCELLED, err);
	kata_error_free(err);
	cr_assert_eq(o.cancels, 2u);
	kata_agent_unref(agent);
	fixture_deinit(&f);
}

Test(agent, a_call_under_way_keeps_the_agent)
{
	struct fixture f;
	struct own o;
	kata_agent *agent;
	kata_error *err = NULL;
	kata_op *op;

	fixture_init(&f, true, KATA_CONTEXT_EXTERNAL_LOOP);
	agent = make(&f, &o, &own_ops);
	op = begin(agent, 0);
	kata_agent_unref(agent);
	cr_assert_eq(o.frees, 0u);
	answer(&o, NULL);
	fixture_assert_ok(link_end(op, &err), err);
	cr_assert_eq(o.frees, 1u);
	fixture_deinit(&f);
}

Test(agent, release_asks_the_implementation_and_frees_it)
{
	struct fixture f;
	struct own o;
	kata_agent *agent;
	kata_error *err = NULL;
	char *json = NULL;
	kata_op *op;

	fixture_init(&f, true, KATA_CONTEXT_EXTERNAL_LOOP);
	agent = make(&f, &o, &own_ops);
	op = begin(agent, 0);
	fixture_assert_ok(kata_agent_release(agent, &json, &err), err);
	cr_assert_str_eq(json, "{}");
	free(json);
	cr_assert_eq(o.releases, 1u);
	cr_assert_eq(o.cancels, 1u);
	cr_assert_eq(o.frees, 1u);
	fixture_assert_fails(link_end(op, &err), KATA_E_CANCELLED, err);
	kata_error_free(err);
	cr_assert_eq(kata_agent_get_state(agent), KATA_AGENT_RELEASED);
	kata_agent_unref(agent);
	fixture_deinit(&f);
}

Test(agent, that_cannot_be_released_says_so_and_stays)
{
	kata_agent_ops ops = own_ops;
	struct fixture f;
	struct own o;
	kata_agent *agent;
	kata_error *err = NULL;
	char *json = NULL;

	fixture_init(&f, true, KATA_CONTEXT_EXTERNAL_LOOP);
	ops.release = NULL;
	agent = make(&f, &o, &ops);
	fixture_assert_fails(kata_agent_release(agent, &json, &err), KATA_E_UNSUPPORTED, err);
	error_clear(&err);
	cr_assert_eq(kata_agent_get_state(agent), KATA_AGENT_CONNECTED);
	fixture_assert_fails(kata_agent_release(NULL, &json, &err), KATA_E_INVALID, err);
	error_clear(&err);
	fixture_assert_fails(kata_agent_release(agent, NULL, &err), KATA_E_INVALID, err);
	kata_error_free(err);
	kata_agent_unref(agent);
	fixture_deinit(&f);
}

Test(agent, wants_all_that_an_implementation_must_have)
{
	struct fixture f;
	struct own o = {0};
	kata_agent *agent = NULL;

	fixture_init(&f, true, KATA_CONTEXT_EXTERNAL_LOOP);
	for (int i = 0; i < 6; i++) {
		kata_agent_ops ops = own_ops;
		kata_error *err = NULL;

		if (i == 0)
			ops.size = 8;
		else if (i == 1)
			ops.name = NULL;
		else if (i == 2)
			ops.call = NULL;
		else if (i == 3)
			ops.cancel = NULL;
		else if (i == 4)
			ops.free = NULL;
		fixture_assert_fails(kata_agent_new(f.context, NULL, i == 5 ? NULL : &ops, &o, &agent, &err),
				     KATA_E_INVALID, err);
		kata_error_free(err);
	}
	cr_assert_null(agent);
	cr_assert_eq(o.frees, 0u);
	fixture_deinit(&f);
}

Test(agent, keeps_its_context_from_being_freed)
{
	struct fixture f;
	struct own o;
	kata_agent *agent;
	kata_error *err = NULL;

	fixture_init(&f, true, 0);
	agent = make(&f, &o, &own_ops);
	fixture_assert_fails(kata_context_free(f.context, &err), KATA_E_BUSY, err);
	kata_error_free(err);
	kata_agent_ref(agent);
	kata_agent_unref(agent);
	kata_agent_unref(agent);
	kata_agent_unref(NULL);
	fixture_deinit(&f);
}

Test(agent, has_closed_its_connection_when_the_last_unref_returns)
{
	struct link l;
	char byte;

	link_open_with(&l, 0, 1, true);
	cr_assert_eq(recv(l.wire.fd, &byte, 1, 0), -1);
	kata_agent_unref(l.agent);
	l.agent = NULL;
	cr_assert_eq(recv(l.wire.fd, &byte, 1, 0), 0);
	link_close(&l);
}
