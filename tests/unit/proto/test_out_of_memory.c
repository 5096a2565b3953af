/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every allocation of every constructor of src/proto fails in turn, once alone and once with all that follow: the
 * status is NO_MEMORY, the outputs are untouched, nothing leaks (counted here). Sanitizers bring their own malloc, so
 * there these tests are skipped.
 */
#include "proto/message.h"
#include "proto/qmp.h"
#include "proto/ttrpc.h"
#include "support/counting_malloc.h"
#include "unit/proto/oci_test.h"

/* One run of the thing under test: frees what it made; returns its status. */
typedef int (*scenario_fn)(kata_error **err);

/* jansson does not tell every failed allocation from a broken text: a line then counts as one. */
static bool may_be_protocol;

static long points(scenario_fn scenario, bool all_that_follow)
{
	for (long n = 0;; n++) {
		kata_error *err = NULL;
		long before = live;
		int rc;

		hit = false;
		sticky = all_that_follow;
		countdown = n;
		rc = scenario(&err);
		countdown = -1;
		if (!hit) {
			cr_assert_eq(rc, 0);
			return n;
		}
		cr_assert(rc == KATA_E_NO_MEMORY || (may_be_protocol && rc == KATA_E_PROTOCOL),
			  "allocation %ld: status %d", n, rc);
		cr_assert_neq(kata_error_get_status(err), KATA_OK, "allocation %ld", n);
		kata_error_free(err);
		cr_assert_eq(live, before, "allocation %ld leaks %ld pieces", n, live - before);
	}
}

static void fail_each(scenario_fn scenario, long at_least)
{
	if (!CAN_FAIL)
		cr_skip_test("the sanitizer brings its own malloc");
	cr_assert_geq(points(scenario, false), at_least);
	cr_assert_geq(points(scenario, true), at_least);
}

static char *maximal;

static void load_maximal(void)
{
	maximal = read_data(DATA("maximal.json"));
}

static void drop_maximal(void)
{
	free(maximal);
}

static int read_maximal(kata_error **err)
{
	Grpc__Spec *spec = NULL;
	int rc = kata__oci_spec_from_json(maximal, strlen(maximal), &spec, err);

	cr_assert_eq(spec != NULL, rc == 0);
	kata__oci_free(spec);
	return rc;
}

Test(out_of_memory, reading_a_spec, .init = load_maximal, .fini = drop_maximal)
{
	fail_each(read_maximal, 300);
}

static Grpc__Spec *maximal_spec;

static int write_maximal(kata_error **err)
{
	char *text = NULL;
	int rc = kata__oci_spec_to_json(maximal_spec, &text, NULL, err);

	cr_assert_eq(text != NULL, rc == 0);
	free(text);
	return rc;
}

Test(out_of_memory, writing_a_spec, .init = load_maximal, .fini = drop_maximal)
{
	maximal_spec = read_spec(maximal);
	fail_each(write_maximal, 5);
	kata__oci_free(maximal_spec);
}

static uint8_t *packed;
static size_t packed_length;

static int unpack_maximal(kata_error **err)
{
	ProtobufCMessage *message = NULL;
	int rc = kata__proto_unpack(&grpc__spec__descriptor, packed, packed_length, &message, err);

	cr_assert_eq(message != NULL, rc == 0);
	kata__proto_free(message);
	return rc;
}

Test(out_of_memory, unpacking_a_message, .init = load_maximal, .fini = drop_maximal)
{
	Grpc__Spec *spec = read_spec(maximal);

	packed_length = protobuf_c_message_get_packed_size(&spec->base);
	packed = malloc(packed_length);
	protobuf_c_message_pack(&spec->base, packed);
	kata__oci_free(spec);
	fail_each(unpack_maximal, 1);
	free(packed);
}

static int append_request(kata_error **err)
{
	Grpc__StartContainerRequest start = GRPC__START_CONTAINER_REQUEST__INIT;
	struct kata__ttrpc_call call = {.service = "s", .method = "m", .message = &start.base};
	struct kata__buffer b;
	int rc;

	kata__buffer_init(&b, KATA__TTRPC_FRAME_MAX);
	rc = kata__ttrpc_append_request(&b, 1, &call, err);
	cr_assert_eq(kata__buffer_len(&b) > 0, rc == 0);
	kata__buffer_deinit(&b);
	return rc;
}

Test(out_of_memory, writing_a_request)
{
	fail_each(append_request, 1);
}

static int parse_line(kata_error **err)
{
	struct kata__slice line = slice_of("{\"return\": {\"a\": [1, \"x\", {\"b\": null}]}, \"id\": 7}");
	struct kata__qmp_message m = {0};
	int rc = kata__qmp_parse(&line, &m, err);

	kata__qmp_message_deinit(&m);
	return rc;
}

Test(out_of_memory, parsing_a_qmp_line)
{
	may_be_protocol = true;
	cr_assert_eq(parse_line(NULL), 0); /* jansson sets itself up once */
	fail_each(parse_line, 10);
}

static json_t *arguments;

static int append_command(kata_error **err)
{
	struct kata__buffer b;
	int rc;

	kata__buffer_init(&b, KATA__QMP_LINE_MAX);
	rc = kata__qmp_append_command(&b, 1, "device_add", arguments, err);
	cr_assert_eq(kata__buffer_len(&b) > 0, rc == 0);
	kata__buffer_deinit(&b);
	return rc;
}

Test(out_of_memory, writing_a_qmp_command)
{
	char value[3000] = "";

	memset(value, 'v', sizeof(value) - 1);
	arguments = json_pack("{s:s, s:[i,i]}", "id", value, "n", 1, 2);
	fail_each(append_command, 2);
	json_decref(arguments);
}
