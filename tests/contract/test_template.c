/* SPDX-License-Identifier: Apache-2.0 */
/* The template builder: its arguments, and what it does where the inner builder cannot save a machine. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "support/fixture.h"

static struct fixture f;
static kata_vm_builder *inner, *builder;
static kata_template_options options;
static char *path;
static kata_error *err;

static void setup(void)
{
	fixture_init(&f, true, 0);
	fixture_assert_ok(kata_vm_builder_new_mock(f.context, &inner, &err), err);
	path = fixture_path(&f, "template");
	options = (kata_template_options)KATA_TEMPLATE_OPTIONS_INIT;
	options.path = path;
	options.flags = KATA_TEMPLATE_SHARE_MEMORY;
}

static void teardown(void)
{
	kata_vm_builder_free(builder);
	kata_vm_builder_free(inner);
	free(path);
	error_clear(&err);
	fixture_deinit(&f);
}

TestSuite(template, .init = setup, .fini = teardown, .timeout = 60);

static void make_builder(void)
{
	fixture_assert_ok(kata_vm_builder_new_template(f.context, inner, NULL, &options, &builder, &err), err);
}

static void refused(const char *word)
{
	fixture_assert_fails(kata_vm_builder_new_template(f.context, inner, NULL, &options, &builder, &err),
			     KATA_E_INVALID, err);
	cr_assert(strstr(error_text(err), word), "%s", error_text(err));
	cr_assert_null(builder);
	error_clear(&err);
}

Test(template, making_a_builder_touches_nothing)
{
	struct census *before = fixture_census(&f);

	make_builder();
	fixture_assert_census(&f, before, "a builder was made");
	cr_assert_lt(access(path, F_OK), 0);
}

Test(template, memory_is_shared_only_when_the_caller_says_so)
{
	options.flags = 0;
	refused("KATA_TEMPLATE_SHARE_MEMORY");
	options.flags = KATA_TEMPLATE_REFUSE_STALE;
	refused("KATA_TEMPLATE_SHARE_MEMORY");
	options.flags = KATA_TEMPLATE_SHARE_MEMORY | UINT64_C(1) << 40;
	refused("unknown bits");
}

Test(template, the_path_must_be_an_absolute_name)
{
	options.path = NULL;
	refused("options.path");
	options.path = "template";
	refused("absolute");
	options.path = "/";
	refused("ends in no name");
	options.path = "/tmp/..";
	refused("ends in no name");
	options.path = "/tmp/x/";
	refused("ends in no name");
}

Test(template, null_arguments_are_named)
{
	fixture_assert_fails(kata_vm_builder_new_template(NULL, inner, NULL, &options, &builder, &err), KATA_E_INVALID,
			     err);
	error_clear(&err);
	fixture_assert_fails(kata_vm_builder_new_template(f.context, NULL, NULL, &options, &builder, &err),
			     KATA_E_INVALID, err);
	cr_assert(strstr(error_text(err), "inner"));
	error_clear(&err);
	fixture_assert_fails(kata_vm_builder_new_template(f.context, inner, NULL, &options, NULL, &err), KATA_E_INVALID,
			     err);
	error_clear(&err);
}

Test(template, another_kind_of_builder_is_refused)
{
	kata_template_status s = {.size = sizeof(s)};
	kata_vm_config config = KATA_VM_CONFIG_INIT;

	fixture_assert_fails(kata_template_make(inner, &config, NULL, &err), KATA_E_INVALID, err);
	error_clear(&err);
	fixture_assert_fails(kata_template_remove(inner, NULL, &err), KATA_E_INVALID, err);
	error_clear(&err);
	fixture_assert_fails(kata_template_get_status(NULL, &s, &err), KATA_E_INVALID, err);
}

Test(template, of_one_that_is_not_there_the_status_says_so_and_a_removal_too)
{
	kata_template_status s = {.size = sizeof(s)};
	kata_op *op = NULL;

	make_builder();
	fixture_assert_ok(kata_template_get_status(builder, &s, &err), err);
	cr_assert_not(s.exists);
	cr_assert_not(s.is_valid);
	cr_assert_str_eq(s.problem, "there is none");
	fixture_assert_ok(kata_template_remove_begin(builder, NULL, &op, &err), err);
	fixture_assert_fails(kata_op_wait(op, &err), KATA_E_NOT_FOUND, err);
	kata_op_unref(op);
	cr_assert_lt(access(path, F_OK), 0);
}

Test(template, a_ram_file_of_the_callers_is_no_templates)
{
	kata_vm_config config = KATA_VM_CONFIG_INIT;
	kata_op *op = NULL;

	make_builder();
	config.memory_path = "/tmp/ram";
	fixture_assert_fails(kata_template_make_begin(builder, &config, NULL, &op, &err), KATA_E_INVALID, err);
	cr_assert(strstr(error_text(err), "memory_path"), "%s", error_text(err));
	error_clear(&err);
	fixture_assert_fails(kata_template_make_begin(builder, NULL, NULL, &op, &err), KATA_E_INVALID, err);
}
