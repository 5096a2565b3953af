/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The released record of a VM, all the way into a rebuild by a driver without a machine: what is taken can be dumped,
 * and what was dumped is taken again and dumps the same but for the epoch.
 */
#include <string.h>

#include "base/fd.h"
#include "fuzz.h"
#include "vm/core.h"

static int init(kata_vm *vm, kata_error **err)
{
	return 0;
}

static void deinit(kata_vm *vm)
{
}

static int dump(kata_vm *vm, json_t *driver, kata_error **err)
{
	return 0;
}

static int restore(kata_vm *vm, const json_t *driver, kata_error **err)
{
	return 0;
}

static int nothing(kata_op *op, kata_error **err)
{
	return KATA__STEP_DONE;
}

static const struct kata__step steps[] = {{.name = "nothing", .run = nothing}};
#define TABLE(text)                                                                                                    \
	{                                                                                                              \
		.name = text, KATA__STEPS(steps), .timeout_ms = 1000, .finish = kata__vm_finish_device,                \
		.free_data = kata__vm_free_op_data                                                                     \
	}
static const struct kata__op_table rebuild_table = TABLE("rebuild"), release_table = TABLE("release"),
				   destroy_table = TABLE("destroy");
static const struct kata__vm_driver driver = {.name = "qemu",
					      .release = &release_table,
					      .rebuild = &rebuild_table,
					      .destroy = &destroy_table,
					      .init = init,
					      .deinit = deinit,
					      .dump = dump,
					      .restore = restore,
					      .no_files = true};

static kata_context *context(void)
{
	static kata_context *ctx;
	static char dir[] = "/tmp/kata-fuzz-XXXXXX";
	kata_context_options o = KATA_CONTEXT_OPTIONS_INIT;

	if (ctx)
		return ctx;
	must(mkdtemp(dir));
	o.state_dir = dir;
	o.flags = KATA_CONTEXT_EXTERNAL_LOOP;
	must(kata_context_new(&o, &ctx, NULL) == 0);
	must(kata__remove_tree(dir, NULL) == 0); /* this driver keeps no files */
	return ctx;
}

/* NULL when it was refused. */
static char *take_and_dump(const char *text, size_t size)
{
	kata_error *err = NULL;
	char *dumped = NULL;
	kata_vm *vm = NULL;
	kata_op *op = NULL;
	int rc = kata__vm_rebuild_begin(context(), &driver, text, size, NULL, NULL, NULL, &vm, &op, &err);

	must_agree(rc, err);
	must((rc == 0) == (vm != NULL));
	kata_error_free(err);
	if (rc < 0)
		return NULL;
	must(kata_op_wait(op, NULL) == 0);
	kata_op_unref(op);
	must(kata_vm_release(vm, NULL, &dumped, NULL) == 0);
	kata_vm_unref(vm);
	return dumped;
}

static char *without_epoch(const char *text)
{
	json_t *o = json_loads(text, 0, NULL);
	char *result;

	must(o && json_object_del(o, "epoch") == 0);
	result = json_dumps(o, JSON_SORT_KEYS);
	json_decref(o);
	return result;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *first = data ? take_and_dump((const char *)data, size) : NULL, *second, *a, *b;

	if (!first)
		return 0;
	second = take_and_dump(first, strlen(first));
	must(second);
	a = without_epoch(first);
	b = without_epoch(second);
	must(strcmp(a, b) == 0);
	free(a);
	free(b);
	free(first);
	free(second);
	return 0;
}
