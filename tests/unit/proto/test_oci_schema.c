/* SPDX-License-Identifier: Apache-2.0 */
#include <strings.h>

#include "agent.pb-c.h"
#include "proto/oci_schema.h"
#include "unit/proto/proto_test.h"

/* Visits every message of a spec. */
static void check_names(const ProtobufCMessageDescriptor *descriptor, unsigned depth)
{
	const struct kata__oci_message *schema = kata__oci_message_of(descriptor);

	cr_assert(schema, "%s has no table", descriptor->name);
	cr_assert_lt(depth, 10);
	cr_assert_leq(descriptor->n_fields, 32, "fields seen are kept in 32 bits");
	for (unsigned i = 0; i < descriptor->n_fields; i++) {
		const ProtobufCFieldDescriptor *type = &descriptor->fields[i];
		const struct kata__oci_field *field = &schema->fields[i];

		if (!field->json_name)
			continue;
		if (strcmp(type->name, "Version") != 0)
			cr_assert_eq(strcasecmp(field->json_name, type->name), 0, "%s: row %u is %s, the field %s",
				     descriptor->name, i, field->json_name, type->name);
		if (type->type == PROTOBUF_C_TYPE_MESSAGE && !(field->flags & KATA__OCI_MAP))
			check_names(type->descriptor, depth + 1);
	}
}

Test(oci_schema, each_table_has_the_fields_of_its_message_in_order)
{
	check_names(&grpc__spec__descriptor, 0);
}

Test(oci_schema, only_solaris_and_windows_have_no_place)
{
	const struct kata__oci_message *schema = kata__oci_message_of(&grpc__spec__descriptor);

	for (unsigned i = 0; i < grpc__spec__descriptor.n_fields; i++) {
		const char *name = grpc__spec__descriptor.fields[i].name;

		cr_assert_eq(!schema->fields[i].json_name, !strcmp(name, "Solaris") || !strcmp(name, "Windows"), "%s",
			     name);
	}
}

Test(oci_schema, maps_are_strings_to_strings_as_the_reader_takes_them_to_be)
{
	cr_assert_eq(sizeof(Grpc__Spec__AnnotationsEntry), sizeof(Grpc__Linux__SysctlEntry));
	cr_assert_eq(offsetof(Grpc__Spec__AnnotationsEntry, key), offsetof(Grpc__Linux__SysctlEntry, key));
	cr_assert_eq(offsetof(Grpc__Spec__AnnotationsEntry, value), offsetof(Grpc__Linux__SysctlEntry, value));
}

Test(oci_schema, a_message_that_is_no_part_of_a_spec_has_no_table)
{
	cr_assert(!kata__oci_message_of(&grpc__storage__descriptor));
}

Test(oci_schema, paths_grow_and_shrink)
{
	struct kata__oci_path p = {0};
	size_t before;

	kata__oci_path_push_key(&p, "linux");
	before = kata__oci_path_push_key(&p, "devices");
	kata__oci_path_push_index(&p, 3);
	kata__oci_path_push_key(&p, "type");
	cr_assert_str_eq(p.text, "linux.devices[3].type");
	kata__oci_path_pop(&p, before);
	cr_assert_str_eq(p.text, "linux");
}

Test(oci_schema, paths_are_bounded_and_printable)
{
	struct kata__oci_path p = {0};

	kata__oci_path_push_key(&p, "a\nb\x7f\xc3\xa9");
	cr_assert_str_eq(p.text, "a?b???");
	for (unsigned i = 0; i < 1000; i++)
		kata__oci_path_push_key(&p, "0123456789012345678901234567890123456789012345678901234567890123456789");
	cr_assert_eq(p.length, KATA__OCI_PATH_MAX - 1);
	cr_assert_eq(strlen(p.text), p.length);
}
