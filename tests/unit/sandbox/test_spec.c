/* SPDX-License-Identifier: Apache-2.0 */
/* Checking and rewriting OCI specs. */
#include <criterion/criterion.h>
#include <jansson.h>
#include <string.h>

#include "sandbox/spec.h"

static const char plain[] =
	"{ \"process\":{\"args\":[\"a\"]}, \"root\" : {\"path\":\"/r\"}, \"x-unknown\":[1,2.5,null] }";

static struct kata__spec parse_ok(const char *text)
{
	struct kata__spec spec = {0};
	kata_error *err = NULL;

	cr_assert_eq(kata__spec_parse("spec", text, 0, &spec, &err), 0, "%s", kata_error_get_message(err));
	return spec;
}

static void assert_invalid(const char *text, const char *says)
{
	struct kata__spec spec = {0};
	kata_error *err = NULL;

	cr_assert_eq(kata__spec_parse("spec", text, 0, &spec, &err), KATA_E_INVALID, "taken: %s", text);
	cr_assert(strstr(kata_error_get_message(err), says), "'%s' does not say '%s'", kata_error_get_message(err),
		  says);
	cr_assert_eq(strncmp(kata_error_get_message(err), "spec: ", 6), 0);
	cr_assert_null(strstr(kata_error_get_message(err) + 6, "spec: "), "'%s' names the argument twice",
		       kata_error_get_message(err));
	cr_assert_null(spec.json);
	kata_error_free(err);
}

static const char *path_of(const json_t *o, const char *array, size_t index, const char *key)
{
	const json_t *where = array ? json_array_get(json_object_get(o, array), index) : json_object_get(o, "root");

	return json_string_value(json_object_get(where, key));
}

Test(spec, a_spec_without_storages_goes_on_byte_for_byte)
{
	struct kata__spec spec = parse_ok(plain);

	cr_assert_str_eq(spec.json, plain);
	cr_assert_eq(spec.json_length, strlen(plain));
	cr_assert_null(spec.storages);
	cr_assert(!spec.terminal);
	kata__spec_deinit(&spec);
}

Test(spec, a_length_ends_the_text_before_its_nul)
{
	struct kata__spec spec = {0};
	char text[sizeof(plain) + 8];

	memcpy(text, plain, strlen(plain));
	memcpy(text + strlen(plain), "garbage", 8);
	cr_assert_eq(kata__spec_parse("spec", text, strlen(plain), &spec, NULL), 0);
	cr_assert_str_eq(spec.json, plain);
	kata__spec_deinit(&spec);
}

Test(spec, storages_become_guest_paths_and_everything_else_stays)
{
	struct kata__spec spec =
		parse_ok("{\"process\":{\"args\":[\"a\"],\"terminal\":true},\"root\":{\"path\":\"storage:root.1/"
			 "sub\",\"readonly\":true},"
			 "\"annotations\":{\"k\":\"storage:untouched\"},"
			 "\"mounts\":[{\"source\":\"proc\",\"destination\":\"/"
			 "proc\"},{\"source\":\"storage:data\",\"destination\":\"/d\"},"
			 "{\"source\":\"storage:data/a/b\",\"destination\":\"/e\"},{\"destination\":\"/none\"}]}");
	json_t *o = json_loads(spec.json, 0, NULL);

	cr_assert_not_null(o);
	cr_assert_str_eq(path_of(o, NULL, 0, "path"), "/run/kata-containers/sandbox/storage/root.1/sub");
	cr_assert_str_eq(path_of(o, "mounts", 0, "source"), "proc");
	cr_assert_str_eq(path_of(o, "mounts", 1, "source"), "/run/kata-containers/sandbox/storage/data");
	cr_assert_str_eq(path_of(o, "mounts", 2, "source"), "/run/kata-containers/sandbox/storage/data/a/b");
	cr_assert_null(path_of(o, "mounts", 3, "source"));
	cr_assert_str_eq(json_string_value(json_object_get(json_object_get(o, "annotations"), "k")),
			 "storage:untouched");
	cr_assert(json_is_true(json_object_get(json_object_get(o, "root"), "readonly")));
	cr_assert(spec.terminal);
	cr_assert_str_eq(spec.storages[0], "root.1");
	cr_assert_str_eq(spec.storages[1], "data");
	cr_assert_null(spec.storages[2], "each is listed once");
	json_decref(o);
	kata__spec_deinit(&spec);
}

#define WITH_ROOT(path) "{\"process\":{\"args\":[\"a\"]},\"root\":{\"path\":\"" path "\"}}"

Test(spec, a_storage_cannot_be_left_by_dot_dot)
{
	assert_invalid(WITH_ROOT("storage:d/.."), "..");
	assert_invalid(WITH_ROOT("storage:d/../../etc"), "..");
	assert_invalid(WITH_ROOT("storage:d/a/../b"), "..");
	assert_invalid(WITH_ROOT("storage:d//..//x"), "..");
}

Test(spec, names_that_merely_contain_dots_are_fine)
{
	struct kata__spec spec = parse_ok(WITH_ROOT("storage:d/..a/b../..."));

	cr_assert(strstr(spec.json, "/storage/d/..a/b../..."));
	kata__spec_deinit(&spec);
}

Test(spec, an_id_that_is_none_is_refused)
{
	assert_invalid(WITH_ROOT("storage:"), "names no storage");
	assert_invalid(WITH_ROOT("storage:/abs"), "names no storage");
	assert_invalid(WITH_ROOT("storage:.."), "names no storage");
	assert_invalid(WITH_ROOT("storage:-x"), "names no storage");
	assert_invalid(WITH_ROOT("storage:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
		       "names no storage");
}

Test(spec, what_is_missing_or_of_another_type_is_named)
{
	assert_invalid("", "not JSON");
	assert_invalid("{\"process\"", "not JSON");
	assert_invalid("\"text\"", "not JSON");
	assert_invalid("[]", "object");
	assert_invalid("{}", "process");
	assert_invalid("{\"process\":[],\"root\":{\"path\":\"/\"}}", "process");
	assert_invalid("{\"process\":{\"args\":\"a\"},\"root\":{\"path\":\"/\"}}", "process.args");
	assert_invalid("{\"process\":{\"args\":[\"a\",2]},\"root\":{\"path\":\"/\"}}", "process.args[1]");
	assert_invalid("{\"process\":{\"args\":[\"a\"],\"terminal\":1},\"root\":{\"path\":\"/\"}}", "process.terminal");
	assert_invalid("{\"process\":{\"args\":[\"a\"]},\"root\":{}}", "root.path");
	assert_invalid("{\"process\":{\"args\":[\"a\"]},\"root\":{\"path\":\"/\"},\"mounts\":{}}", "mounts");
	assert_invalid("{\"process\":{\"args\":[\"a\"]},\"process\":{\"args\":[\"b\"]},\"root\":{\"path\":\"/\"}}",
		       "not JSON");
}

Test(spec, a_process_is_checked_alone)
{
	struct kata__spec spec = {0};
	kata_error *err = NULL;

	cr_assert_eq(kata__spec_parse_process("process", "{\"args\":[\"sh\"],\"terminal\":true}", 0, &spec, &err), 0);
	cr_assert(spec.terminal);
	cr_assert_str_eq(spec.json, "{\"args\":[\"sh\"],\"terminal\":true}");
	kata__spec_deinit(&spec);
	cr_assert_eq(kata__spec_parse_process("process", "{}", 0, &spec, &err), KATA_E_INVALID);
	cr_assert(strstr(kata_error_get_message(err), "process: args"));
	kata_error_free(err);
}
