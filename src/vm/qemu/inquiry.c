/* SPDX-License-Identifier: Apache-2.0 */
/* inquiry.c - properties of QEMU's devices: several questions side by side, as one wait of a step. */
#include "vm/qemu/machine.h"

#include <stdio.h>
#include <stdlib.h>

struct asked;

struct inquiry {
	kata_op *op; /* referenced */
	uint64_t token;
	size_t left;
	kata__qemu_answer_fn answer;
	kata_error *wrong; /* the first */
	struct asked *all;
};

struct asked {
	struct inquiry *inquiry;
	struct kata__qemu_question question;
};

static void end(struct inquiry *in)
{
	kata_error_free(in->wrong);
	kata_op_unref(in->op);
	free(in->all);
	free(in);
}

static void on_answer(void *user, const json_t *value, kata_error *take_err)
{
	struct asked *a = user;
	struct inquiry *in = a->inquiry;
	int rc;

	if (!in->wrong && take_err && !kata__qemu_says_absent(take_err))
		in->wrong = kata__take_ptr(take_err);
	else if (!in->wrong && !take_err)
		(void)in->answer(in->op, &a->question, json_string_value(value), &in->wrong);
	kata_error_free(take_err);
	if (--in->left)
		return;
	rc = (int)kata_error_get_status(in->wrong);
	kata__op_resume(in->op, in->token, rc, kata__take_ptr(in->wrong));
	end(in);
}

static int ask(struct kata__qemu *q, struct asked *a, kata_error **err)
{
	char path[sizeof("/machine/peripheral/") + KATA__QEMU_NAME_MAX];
	json_t *args;
	int rc;

	snprintf(path, sizeof(path), "/machine/peripheral/%s", a->question.device);
	args = json_pack("{s:s, s:s}", "path", path, "property", a->question.property);
	if (!args)
		return kata__fail_no_memory(err);
	rc = kata__qmp_execute(q->qmp, "qom-get", args, -1, on_answer, a, err);
	if (!rc)
		a->inquiry->left++;
	return rc;
}

static struct inquiry *inquiry_new(kata_op *op, size_t count, kata__qemu_answer_fn answer)
{
	struct inquiry *in = calloc(1, sizeof(*in));

	if (!in)
		return NULL;
	in->all = calloc(count, sizeof(*in->all));
	if (!in->all) {
		free(in);
		return NULL;
	}
	in->op = kata_op_ref(op);
	in->token = kata__op_token(op);
	in->answer = answer;
	return in;
}

int kata__qemu_inquire(kata_op *op, const struct kata__qemu_question *questions, size_t count,
		       kata__qemu_answer_fn answer, kata_error **err)
{
	struct kata__qemu *q = kata__qemu_of_op(op);
	struct inquiry *in;
	int rc = 0;

	if (!count)
		return KATA__STEP_DONE;
	in = inquiry_new(op, count, answer);
	if (!in)
		return kata__fail_no_memory(err);
	for (size_t i = 0; i < count && !rc; i++) {
		in->all[i] = (struct asked){.inquiry = in, .question = questions[i]};
		rc = ask(q, &in->all[i], err);
	}
	if (!rc)
		return KATA__STEP_WAIT;
	if (in->left)
		in->token = UINT64_MAX; /* answers to come must not resume what has failed */
	else
		end(in);
	return rc;
}
