/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "guest/container_spec.h"
#include "proto/oci.h"

static Grpc__Spec *spec_of(const char *namespaces)
{
	Grpc__Spec *spec = NULL;
	char text[512];

	snprintf(text, sizeof(text),
		 "{\"ociVersion\":\"1.0.2\",\"process\":{\"args\":[\"sh\"],\"cwd\":\"/\",\"env\":[\"A=1\"]},"
		 "\"root\":{\"path\":\"/run/x\",\"readonly\":true},\"linux\":{\"namespaces\":[%s]}}",
		 namespaces);
	cr_assert_eq(kata__oci_spec_from_json(text, strlen(text), &spec, NULL), 0);
	return spec;
}

static json_t *written(const Grpc__Spec *spec)
{
	char *text = NULL;
	json_t *o;

	cr_assert_eq(container_spec_text(spec, &text, NULL), 0);
	o = json_loads(text, 0, NULL);
	cr_assert_not_null(o);
	free(text);
	return o;
}

static const char *type_of(const json_t *o, size_t i)
{
	json_t *list = json_object_get(json_object_get(o, "linux"), "namespaces");

	return json_string_value(json_object_get(json_array_get(list, i), "type"));
}

Test(container_spec, adds_a_pid_namespace_where_there_is_none)
{
	Grpc__Spec *spec = spec_of("{\"type\":\"mount\"}");
	json_t *o = written(spec);

	cr_assert_str_eq(type_of(o, 0), "mount");
	cr_assert_str_eq(type_of(o, 1), "pid");
	cr_assert_eq(spec->linux->n_namespaces, 1, "the message itself is left as it came");
	json_decref(o);
	kata__oci_free(spec);
}

Test(container_spec, leaves_a_spec_with_a_pid_namespace_as_it_came)
{
	Grpc__Spec *spec = spec_of("{\"type\":\"pid\",\"path\":\"/proc/7/ns/pid\"}");
	json_t *o = written(spec);

	cr_assert_str_eq(type_of(o, 0), "pid");
	cr_assert_null(type_of(o, 1));
	cr_assert_str_eq(json_string_value(json_object_get(json_object_get(o, "root"), "path")), "/run/x");
	json_decref(o);
	kata__oci_free(spec);
}

static void expect_refused(const Grpc__Spec *spec, const char *says)
{
	kata_error *err = NULL;
	char *text = NULL;

	cr_expect_eq(container_spec_text(spec, &text, &err), KATA_E_INVALID);
	cr_expect_not_null(strstr(kata_error_get_message(err), says), "%s", kata_error_get_message(err));
	cr_expect_null(text);
	kata_error_free(err);
}

Test(container_spec, refuses_a_spec_that_lacks_a_part)
{
	Grpc__Spec *spec = spec_of("");
	Grpc__Spec cut = *spec;
	Grpc__Root relative = *spec->root;
	Grpc__Process idle = *spec->process;

	expect_refused(NULL, "there is no spec");
	cut.process = NULL;
	expect_refused(&cut, "process.args");
	idle.n_args = 0;
	cut.process = &idle;
	expect_refused(&cut, "process.args");
	cut = *spec;
	cut.root = NULL;
	expect_refused(&cut, "root.path");
	relative.path = (char *)"rootfs";
	cut.root = &relative;
	expect_refused(&cut, "root.path is 'rootfs'");
	cut = *spec;
	cut.linux = NULL;
	expect_refused(&cut, "linux is missing");
	kata__oci_free(spec);
}

Test(container_spec, takes_ids_of_two_to_sixty_four_bytes)
{
	char longest[66];

	memset(longest, 'a', 65);
	longest[65] = '\0';
	cr_assert_eq(container_id_check("c1", NULL), 0);
	cr_assert_eq(container_id_check(longest + 1, NULL), 0);
	cr_assert_eq(container_id_check(longest, NULL), KATA_E_INVALID);
	cr_assert_eq(container_id_check("c", NULL), KATA_E_INVALID);
	cr_assert_eq(container_id_check("", NULL), KATA_E_INVALID);
	cr_assert_eq(container_id_check("../x", NULL), KATA_E_INVALID);
	cr_assert_eq(container_id_check("-x", NULL), KATA_E_INVALID);
	cr_assert_eq(container_id_check("a/b", NULL), KATA_E_INVALID);
}
