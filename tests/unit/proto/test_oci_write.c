/* SPDX-License-Identifier: Apache-2.0 */
#include <jansson.h>

#include "proto/message.h"
#include "unit/proto/oci_test.h"

static void expect_write_refused(const Grpc__Spec *spec, const char *part)
{
	char *text = NULL;
	kata_error *err = NULL;

	expect_failure(kata__oci_spec_to_json(spec, &text, NULL, &err), KATA_E_INVALID, part, &err);
	cr_assert(!text);
}

Test(oci_write, the_maximal_spec_comes_back_byte_for_byte)
{
	char *text = compact_json(read_data(DATA("maximal.json")));
	Grpc__Spec *spec = read_spec(text);
	char *back = write_spec(spec);

	cr_assert_str_eq(back, text);
	free(back);
	kata__oci_free(spec);
	free(text);
}

Test(oci_write, the_maximal_spec_survives_the_wire)
{
	char *text = compact_json(read_data(DATA("maximal.json")));
	Grpc__Spec *spec = read_spec(text);
	size_t length = protobuf_c_message_get_packed_size(&spec->base);
	uint8_t *bytes = malloc(length);
	ProtobufCMessage *arrived = NULL;
	kata_error *err = NULL;
	char *back;

	protobuf_c_message_pack(&spec->base, bytes);
	expect_success(kata__proto_unpack(&grpc__spec__descriptor, bytes, length, &arrived, &err), &err);
	back = write_spec((Grpc__Spec *)arrived);
	cr_assert_str_eq(back, text);
	free(back);
	kata__proto_free(arrived);
	free(bytes);
	kata__oci_free(spec);
	free(text);
}

Test(oci_write, what_is_not_set_is_left_out)
{
	Grpc__Spec *spec = read_spec(
		"{\"ociVersion\":\"1.0.2\",\"process\":{\"args\":[\"sh\"],\"cwd\":\"/\",\"terminal\":false,\"env\":[],"
		"\"apparmorProfile\":\"\"},\"root\":{\"path\":\"r\",\"readonly\":false},\"mounts\":[],\"annotations\":{"
		"},"
		"\"linux\":{\"resources\":{\"memory\":{\"limit\":0},\"cpu\":{\"quota\":0,\"cpus\":\"\"}}}}");
	char *text = write_spec(spec);

	cr_assert_str_eq(
		text,
		"{\"ociVersion\":\"1.0.2\",\"process\":{\"args\":[\"sh\"],\"cwd\":\"/\"},\"root\":{\"path\":\"r\"},"
		"\"linux\":{\"resources\":{\"memory\":{},\"cpu\":{}}}}");
	free(text);
	kata__oci_free(spec);
}

Test(oci_write, a_later_version_is_written_as_the_one_whose_fields_are_carried)
{
	Grpc__Spec *spec = read_with((struct pieces){0});
	char *text;

	cr_assert_eq(kata__oci_set_string(&spec->version, "1.2.0", NULL), 0);
	text = write_spec(spec);
	cr_assert(strstr(text, "{\"ociVersion\":\"1.0.2\""));
	free(text);
	cr_assert_eq(kata__oci_set_string(&spec->version, "1.0.1-dev", NULL), 0);
	text = write_spec(spec);
	cr_assert(strstr(text, "{\"ociVersion\":\"1.0.1-dev\""));
	free(text);
	kata__oci_free(spec);
}

Test(oci_write, zeros_that_mean_something_are_kept)
{
	Grpc__Spec *spec =
		read_with((struct pieces){.process = ",\"user\":{\"uid\":0,\"gid\":0},\"rlimits\":[{\"type\":\"RLIMIT_"
						     "CORE\",\"hard\":0,\"soft\":0}]",
					  .linux_ = ",\"uidMappings\":[{\"hostID\":0,\"containerID\":0,\"size\":0}],"
						    "\"resources\":{\"devices\":[{\"allow\":false,\"major\":0,"
						    "\"minor\":0}],\"pids\":{\"limit\":0}}"});
	char *text = write_spec(spec);

	cr_assert(strstr(text, "{\"uid\":0,\"gid\":0}"));
	cr_assert(strstr(text, "{\"type\":\"RLIMIT_CORE\",\"hard\":0,\"soft\":0}"));
	cr_assert(strstr(text, "{\"hostID\":0,\"containerID\":0,\"size\":0}"));
	cr_assert(strstr(text, "{\"allow\":false,\"major\":0,\"minor\":0}"));
	cr_assert(strstr(text, "\"pids\":{\"limit\":0}"));
	free(text);
	kata__oci_free(spec);
}

Test(oci_write, a_message_off_the_wire_is_checked_as_json_is)
{
	Grpc__Spec *spec = read_with((struct pieces){.linux_ = ",\"namespaces\":[{\"type\":\"pid\"}]"});

	cr_assert_eq(kata__oci_set_string(&spec->linux->namespaces[0]->type, "net\n", NULL), 0);
	expect_write_refused(spec, "linux.namespaces[0].type: 'net ' is none of pid");
	kata__oci_free(spec);
}

Test(oci_write, a_number_off_the_wire_that_is_out_of_range_is_refused)
{
	Grpc__Spec *spec = read_with((struct pieces){0});

	spec->process->oomscoreadj = 1001;
	expect_write_refused(spec, "process.oomScoreAdj: expected an integer from -1000 to 1000, found 1001");
	kata__oci_free(spec);
}

Test(oci_write, an_empty_message_lacks_a_version)
{
	Grpc__Spec spec = GRPC__SPEC__INIT;

	expect_write_refused(&spec, "ociVersion: is missing");
}

Test(oci_write, required_parts_that_are_absent_are_named)
{
	Grpc__Spec *spec = read_with((struct pieces){0});
	size_t n_args = spec->process->n_args;
	Grpc__Root *root = spec->root;

	spec->process->n_args = 0;
	expect_write_refused(spec, "process.args: is missing");
	spec->process->n_args = n_args;
	spec->root = NULL;
	expect_write_refused(spec, "root: is missing");
	spec->root = root;
	cr_assert_eq(kata__oci_set_string(&spec->process->cwd, "a", NULL), 0);
	expect_write_refused(spec, "process.cwd: 'a' is not an absolute path");
	kata__oci_free(spec);
}

Test(oci_write, strings_that_are_not_utf_8_are_refused)
{
	Grpc__Spec *spec = read_with((struct pieces){.spec = ",\"annotations\":{\"k\":\"v\"}"});

	cr_assert_eq(kata__oci_set_string(&spec->hostname, "\xff", NULL), 0);
	expect_write_refused(spec, "hostname: a string that is not UTF-8");
	cr_assert_eq(kata__oci_set_string(&spec->hostname, "", NULL), 0);
	cr_assert_eq(kata__oci_set_string(&spec->annotations[0]->value, "\xc3", NULL), 0);
	expect_write_refused(spec, "annotations.k: a string that is not UTF-8");
	kata__oci_free(spec);
}

Test(oci_write, a_windows_part_off_the_wire_is_refused)
{
	Grpc__Spec *spec = read_with((struct pieces){0});
	Grpc__Windows windows = GRPC__WINDOWS__INIT;

	spec->windows = &windows;
	expect_write_refused(spec, "Windows: has no place");
	spec->windows = NULL;
	kata__oci_free(spec);
}

Test(oci_write, control_characters_and_quotes_are_escaped)
{
	Grpc__Spec *spec = read_with((struct pieces){0});
	char *text;

	cr_assert_eq(kata__oci_set_string(&spec->process->args[0], "\x01\"\\\n\x7f/", NULL), 0);
	text = write_spec(spec);
	cr_assert(strstr(text, "[\"\\u0001\\\"\\\\\\u000a\x7f/\"]"), "%s", text);
	free(text);
	kata__oci_free(spec);
}

Test(oci_write, a_text_past_the_cap_is_refused)
{
	Grpc__Spec *spec = read_with((struct pieces){0});
	size_t length = KATA__OCI_WRITE_MAX / 6 + 1;

	free(spec->hostname == protobuf_c_empty_string ? NULL : spec->hostname);
	spec->hostname = malloc(length + 1);
	memset(spec->hostname, 1, length);
	spec->hostname[length] = '\0';
	expect_write_refused(spec, "exceeds 16777216 bytes");
	kata__oci_free(spec);
}

Test(oci_write, process_and_resources_alone_come_back)
{
	const char *process = "{\"terminal\":true,\"args\":[\"id\"],\"cwd\":\"/tmp\"}";
	const char *resources = "{\"memory\":{\"limit\":5},\"cpu\":{\"shares\":2}}";
	Grpc__LinuxResources *r = NULL;
	Grpc__Process *p = NULL;
	char *text = NULL;
	kata_error *err = NULL;

	expect_success(kata__oci_process_from_json(process, strlen(process), &p, &err), &err);
	expect_success(kata__oci_process_to_json(p, &text, NULL, &err), &err);
	cr_assert_str_eq(text, process);
	free(text);
	expect_success(kata__oci_resources_from_json(resources, strlen(resources), &r, &err), &err);
	expect_success(kata__oci_resources_to_json(r, &text, NULL, &err), &err);
	cr_assert_str_eq(text, resources);
	free(text);
	kata__oci_free(p);
	kata__oci_free(r);
}

/* ---- a property: whatever is read is written so that it reads the same */

struct dice {
	uint64_t state;
};

static unsigned roll(struct dice *d, unsigned sides)
{
	d->state = d->state * 6364136223846793005u + 1442695040888963407u;
	return (unsigned)(d->state >> 33) % sides;
}

/* A spec with members of the maximal one left out at random. */
static json_t *thinned(const json_t *value, struct dice *d)
{
	json_t *out;
	const char *key;
	json_t *member;
	size_t i;

	if (json_is_array(value)) {
		out = json_array();
		json_array_foreach(value, i, member) if (i == 0 || roll(d, 3))
			json_array_append_new(out, thinned(member, d));
		return out;
	}
	if (!json_is_object(value))
		return json_deep_copy(value);
	out = json_object();
	json_object_foreach((json_t *)value, key, member) if (roll(d, 32))
		json_object_set_new(out, key, thinned(member, d));
	return out;
}

/* jansson has no numbers past INT64_MAX. */
static void drop_large_numbers(char *text)
{
	for (char *at = strstr(text, "18446744073709551615"); at; at = strstr(at, "18446744073709551615")) {
		memset(at, ' ', 19);
		at[19] = '7';
	}
}

Test(oci_write, random_parts_of_the_maximal_spec_round_trip)
{
	char *text = read_data(DATA("maximal.json"));
	struct dice d = {1};
	unsigned accepted = 0;
	json_t *whole;

	drop_large_numbers(text);
	whole = json_loads(text, 0, NULL);
	cr_assert(whole);
	for (unsigned i = 0; i < 2000; i++) {
		json_t *thin = thinned(whole, &d);
		char *json = json_dumps(thin, JSON_COMPACT);
		Grpc__Spec *spec = NULL;

		if (!kata__oci_spec_from_json(json, strlen(json), &spec, NULL)) {
			char *once = write_spec(spec);
			Grpc__Spec *again = read_spec(once);
			char *twice = write_spec(again);

			accepted++;
			cr_assert_str_eq(once, twice);
			kata__oci_free(again);
			kata__oci_free(spec);
			free(once);
			free(twice);
		}
		free(json);
		json_decref(thin);
	}
	cr_assert_gt(accepted, 200, "only %u of 2000 had what is required", accepted);
	json_decref(whole);
	free(text);
}
