/* SPDX-License-Identifier: Apache-2.0 */
/* What the guest answers, and what becomes of it. */
#include "unit/agent/agent_test.h"

struct taken {
	unsigned times;
	kata_agent_reply reply;
	char text[5000];
	uint8_t data[64];
};

static void take(void *user, const kata_agent_reply *reply)
{
	struct taken *t = user;

	t->times++;
	t->reply = *reply;
	if (reply->text)
		snprintf(t->text, sizeof(t->text), "%s", reply->text);
	cr_assert_leq(reply->data_length, sizeof(t->data));
	if (reply->data_length)
		memcpy(t->data, reply->data, reply->data_length);
}

static int decode_bytes(kata_agent_method method, size_t most, const void *bytes, size_t length, struct taken *ret,
			kata_error **err)
{
	struct kata__kata_expected expected = {.method = method, .most = most, .reset = KATA_RESET_ENTROPY};
	struct kata__ttrpc_response response = {.payload = {.data = length ? bytes : NULL, .length = length}};
	int rc;

	*ret = (struct taken){0};
	rc = kata__kata_decode(&expected, &response, take, ret, err);
	cr_assert_eq(ret->times, rc == 0 ? 1u : 0u);
	return rc;
}

static int decode(kata_agent_method method, size_t most, const ProtobufCMessage *message, struct taken *ret,
		  kata_error **err)
{
	uint8_t *bytes = malloc(protobuf_c_message_get_packed_size(message) + 1);
	size_t length = protobuf_c_message_pack(message, bytes);
	int rc = decode_bytes(method, most, bytes, length, ret, err);

	free(bytes);
	return rc;
}

static int refuse(kata_agent_method method, int32_t code, const char *text, struct taken *ret, kata_error **err)
{
	struct kata__kata_expected expected = {.method = method, .most = 10};
	struct kata__ttrpc_response response = {.code = code,
						.text = {.data = (const uint8_t *)text, .length = strlen(text)}};

	*ret = (struct taken){0};
	return kata__kata_decode(&expected, &response, take, ret, err);
}

Test(kata_reply, check_wants_an_agent_that_serves)
{
	Grpc__HealthCheckResponse m = GRPC__HEALTH_CHECK_RESPONSE__INIT;
	struct taken t;
	kata_error *err = NULL;

	m.status = GRPC__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING;
	fixture_assert_ok(decode(KATA_AGENT_CHECK, 0, &m.base, &t, &err), err);
	m.status = GRPC__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING;
	fixture_assert_fails(decode(KATA_AGENT_CHECK, 0, &m.base, &t, &err), KATA_E_GUEST, err);
	error_clear(&err);
	fixture_assert_fails(decode_bytes(KATA_AGENT_CHECK, 0, "", 0, &t, &err), KATA_E_GUEST, err);
	kata_error_free(err);
}

Test(kata_reply, version_is_cleaned_text)
{
	Grpc__VersionCheckResponse m = GRPC__VERSION_CHECK_RESPONSE__INIT;
	struct taken t;
	kata_error *err = NULL;

	m.agent_version = (char *)"4.1\x1b[31m\n0";
	fixture_assert_ok(decode(KATA_AGENT_VERSION, 0, &m.base, &t, &err), err);
	cr_assert_str_eq(t.text, "4.1?[31m 0");
}

Test(kata_reply, await_device_gives_name_and_size)
{
	Grpc__AwaitDeviceResponse m = GRPC__AWAIT_DEVICE_RESPONSE__INIT;
	struct taken t;
	kata_error *err = NULL;

	m.name = (char *)"vdb";
	m.size_bytes = UINT64_C(1) << 40;
	fixture_assert_ok(decode(KATA_AGENT_AWAIT_DEVICE, 0, &m.base, &t, &err), err);
	cr_assert_str_eq(t.text, "vdb");
	cr_assert_eq(t.reply.size_bytes, UINT64_C(1) << 40);
}

Test(kata_reply, await_device_refuses_names_that_are_none)
{
	static const char *const names[] = {
		"",     "..",    "../vda",  "/dev/vda",
		"vd a", "vda\n", ".hidden", "aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffffggggg"};
	Grpc__AwaitDeviceResponse m = GRPC__AWAIT_DEVICE_RESPONSE__INIT;
	struct taken t;

	for (size_t i = 0; i < kata__array_size(names); i++) {
		kata_error *err = NULL;

		m.name = (char *)(uintptr_t)names[i];
		fixture_assert_fails(decode(KATA_AGENT_AWAIT_DEVICE, 0, &m.base, &t, &err), KATA_E_PROTOCOL, err);
		kata_error_free(err);
	}
}

Test(kata_reply, wait_process_takes_statuses_from_0_to_255_only)
{
	static const int32_t good[] = {0, 3, 137, 255}, bad[] = {-1, 256, INT32_MAX, INT32_MIN};
	Grpc__WaitProcessResponse m = GRPC__WAIT_PROCESS_RESPONSE__INIT;
	struct taken t;
	kata_error *err = NULL;

	for (size_t i = 0; i < 4; i++) {
		m.status = good[i];
		fixture_assert_ok(decode(KATA_AGENT_WAIT_PROCESS, 0, &m.base, &t, &err), err);
		cr_assert_eq(t.reply.exit_status, good[i]);
		m.status = bad[i];
		fixture_assert_fails(decode(KATA_AGENT_WAIT_PROCESS, 0, &m.base, &t, &err), KATA_E_PROTOCOL, err);
		error_clear(&err);
	}
}

Test(kata_reply, write_stdin_says_how_much_was_taken)
{
	Grpc__WriteStreamResponse m = GRPC__WRITE_STREAM_RESPONSE__INIT;
	struct taken t;
	kata_error *err = NULL;

	m.len = 10;
	fixture_assert_ok(decode(KATA_AGENT_WRITE_STDIN, 10, &m.base, &t, &err), err);
	cr_assert_eq(t.reply.size_bytes, 10u);
	m.len = 11;
	fixture_assert_fails(decode(KATA_AGENT_WRITE_STDIN, 10, &m.base, &t, &err), KATA_E_PROTOCOL, err);
	kata_error_free(err);
}

Test(kata_reply, a_read_gives_at_most_what_was_asked_for)
{
	Grpc__ReadStreamResponse m = GRPC__READ_STREAM_RESPONSE__INIT;
	struct taken t;
	kata_error *err = NULL;

	m.data.data = (uint8_t *)"hello\0world";
	m.data.len = 11;
	fixture_assert_ok(decode(KATA_AGENT_READ_STDOUT, 11, &m.base, &t, &err), err);
	cr_assert_eq(t.reply.data_length, 11u);
	cr_assert_eq(memcmp(t.data, "hello\0world", 11), 0);
	fixture_assert_fails(decode(KATA_AGENT_READ_STDERR, 10, &m.base, &t, &err), KATA_E_PROTOCOL, err);
	kata_error_free(err);
}

Test(kata_reply, no_data_is_the_end_of_a_stream)
{
	struct taken t;
	kata_error *err = NULL;

	fixture_assert_ok(decode_bytes(KATA_AGENT_READ_STDOUT, 10, "", 0, &t, &err), err);
	cr_assert_eq(t.reply.data_length, 0u);
	cr_assert_null(t.reply.data);
}

Test(kata_reply, a_read_takes_the_agents_words_for_end_of_file)
{
	static const struct {
		int32_t code;
		const char *text;
	} ends[] = {
		{KATA__GRPC_UNKNOWN, "EOF"},
		{KATA__GRPC_UNKNOWN, "read /dev/ptmx: input/output error"},
		{KATA__GRPC_INTERNAL, "Input/output error (os error 5)"},
		{KATA__GRPC_INTERNAL, "EIO: I/O error"},
		{KATA__GRPC_NOT_FOUND, "bad exec id"},
	};
	struct taken t;
	kata_error *err = NULL;

	for (size_t i = 0; i < kata__array_size(ends); i++) {
		fixture_assert_ok(refuse(KATA_AGENT_READ_STDERR, ends[i].code, ends[i].text, &t, &err), err);
		cr_assert_eq(t.times, 1u);
		cr_assert_eq(t.reply.data_length, 0u);
	}
}

Test(kata_reply, a_read_keeps_other_errors)
{
	struct taken t;
	kata_error *err = NULL;

	fixture_assert_fails(refuse(KATA_AGENT_READ_STDOUT, KATA__GRPC_INVALID_ARGUMENT, "no such container", &t, &err),
			     KATA_E_GUEST, err);
	error_clear(&err);
	fixture_assert_fails(
		refuse(KATA_AGENT_READ_STDOUT, KATA__GRPC_INTERNAL, "Cannot allocate (os error 51)", &t, &err),
		KATA_E_GUEST, err);
	kata_error_free(err);
}

Test(kata_reply, stats_are_mapped_and_block_io_is_summed)
{
	Grpc__StatsContainerResponse m = GRPC__STATS_CONTAINER_RESPONSE__INIT;
	Grpc__CgroupStats c = GRPC__CGROUP_STATS__INIT;
	Grpc__CpuStats cpu = GRPC__CPU_STATS__INIT;
	Grpc__CpuUsage usage = GRPC__CPU_USAGE__INIT;
	Grpc__MemoryStats memory = GRPC__MEMORY_STATS__INIT;
	Grpc__MemoryData data = GRPC__MEMORY_DATA__INIT;
	Grpc__PidsStats pids = GRPC__PIDS_STATS__INIT;
	Grpc__BlkioStats blkio = GRPC__BLKIO_STATS__INIT;
	Grpc__BlkioStatsEntry e[3] = {GRPC__BLKIO_STATS_ENTRY__INIT, GRPC__BLKIO_STATS_ENTRY__INIT,
				      GRPC__BLKIO_STATS_ENTRY__INIT};
	Grpc__BlkioStatsEntry *entries[3] = {&e[0], &e[1], &e[2]};
	struct taken t;
	kata_error *err = NULL;

	usage.total_usage = 123456789;
	cpu.cpu_usage = &usage;
	data.usage = 1;
	data.max_usage = 2;
	data.limit = 3;
	memory.usage = &data;
	pids.current = 4;
	e[0].op = (char *)"Read";
	e[0].value = 100;
	e[1].op = (char *)"write";
	e[1].value = 7;
	e[2].op = (char *)"Read";
	e[2].value = 11;
	blkio.io_service_bytes_recursive = entries;
	blkio.n_io_service_bytes_recursive = 3;
	c.cpu_stats = &cpu;
	c.memory_stats = &memory;
	c.pids_stats = &pids;
	c.blkio_stats = &blkio;
	m.cgroup_stats = &c;

	fixture_assert_ok(decode(KATA_AGENT_STATS_CONTAINER, 0, &m.base, &t, &err), err);
	cr_assert_eq(t.reply.stats.cpu_usage_ns, 123456789u);
	cr_assert_eq(t.reply.stats.memory_usage_bytes, 1u);
	cr_assert_eq(t.reply.stats.memory_max_usage_bytes, 2u);
	cr_assert_eq(t.reply.stats.memory_limit_bytes, 3u);
	cr_assert_eq(t.reply.stats.pids_current, 4u);
	cr_assert_eq(t.reply.stats.block_read_bytes, 111u);
	cr_assert_eq(t.reply.stats.block_write_bytes, 7u);
}

Test(kata_reply, stats_without_their_message_are_a_violation)
{
	struct taken t;
	kata_error *err = NULL;

	fixture_assert_fails(decode_bytes(KATA_AGENT_STATS_CONTAINER, 0, "", 0, &t, &err), KATA_E_PROTOCOL, err);
	kata_error_free(err);
}

Test(kata_reply, each_code_has_its_status_and_comes_from_the_guest)
{
	static const int statuses[17] = {
		[1] = KATA_E_GUEST,     [2] = KATA_E_GUEST,  [3] = KATA_E_GUEST,  [4] = KATA_E_TIMEOUT,
		[5] = KATA_E_NOT_FOUND, [6] = KATA_E_EXISTS, [7] = KATA_E_GUEST,  [8] = KATA_E_GUEST,
		[9] = KATA_E_GUEST,     [10] = KATA_E_GUEST, [11] = KATA_E_GUEST, [12] = KATA_E_UNSUPPORTED,
		[13] = KATA_E_GUEST,    [14] = KATA_E_GUEST, [15] = KATA_E_GUEST, [16] = KATA_E_GUEST,
	};
	struct taken t;

	for (int32_t code = 1; code <= 16; code++) {
		kata_error *err = NULL;

		fixture_assert_fails(refuse(KATA_AGENT_START_CONTAINER, code, "because of this", &t, &err),
				     statuses[code], err);
		cr_assert_eq(kata_error_get_origin(err), KATA_ORIGIN_GUEST);
		cr_assert_not_null(strstr(kata_error_get_message(err), "StartContainer"));
		cr_assert_not_null(strstr(kata_error_get_message(err), "because of this"));
		cr_assert_not_null(strstr(kata_error_get_message(err), kata__grpc_code_name(code)));
		kata_error_free(err);
	}
}

Test(kata_reply, a_code_that_grpc_does_not_have_is_an_error_too)
{
	static const int32_t codes[] = {-1, 17, INT32_MAX, INT32_MIN};
	struct taken t;

	for (size_t i = 0; i < kata__array_size(codes); i++) {
		kata_error *err = NULL;

		fixture_assert_fails(refuse(KATA_AGENT_CHECK, codes[i], "", &t, &err), KATA_E_GUEST, err);
		kata_error_free(err);
	}
}

Test(kata_reply, a_device_that_is_mounted_is_busy)
{
	struct taken t;
	kata_error *err = NULL;

	fixture_assert_fails(
		refuse(KATA_AGENT_OFFLINE_DEVICE, KATA__GRPC_FAILED_PRECONDITION, "mounted on /x", &t, &err),
		KATA_E_BUSY, err);
	kata_error_free(err);
}

Test(kata_reply, texts_of_the_guest_are_cut_and_cleaned)
{
	char text[20000];
	struct taken t;
	kata_error *err = NULL;

	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	memcpy(text, "\x1b]0;evil\a\n%n%s\xff\xfe", 16);
	fixture_assert_fails(refuse(KATA_AGENT_CHECK, KATA__GRPC_INTERNAL, text, &t, &err), KATA_E_GUEST, err);
	cr_assert_leq(strlen(kata_error_get_message(err)), 4096u);
	for (const char *p = kata_error_get_message(err); *p; p++)
		cr_assert((unsigned char)*p >= 0x20 && (unsigned char)*p < 0x7f, "byte 0x%02x", (unsigned char)*p);
	cr_assert_not_null(strstr(kata_error_get_message(err), "%n%s"));
	kata_error_free(err);
}

Test(kata_reply, bytes_that_are_no_message_are_a_violation_for_every_method)
{
	struct taken t;

	for (int method = 0; method < KATA_AGENT_METHOD_COUNT; method++) {
		kata_error *err = NULL;

		fixture_assert_fails(decode_bytes((kata_agent_method)method, 100, "\x0a\xff\xff", 3, &t, &err),
				     KATA_E_PROTOCOL, err);
		kata_error_free(err);
	}
}

Test(kata_reply, unknown_fields_are_passed_over_for_every_method_without_one)
{
	struct taken t;
	kata_error *err = NULL;

	fixture_assert_ok(decode_bytes(KATA_AGENT_START_CONTAINER, 0, "\xfa\x7f\x03xyz", 6, &t, &err), err);
}

Test(kata_reply, reset_identity_says_what_was_done_and_shows_a_sample)
{
	Grpc__ResetIdentityResponse m = GRPC__RESET_IDENTITY_RESPONSE__INIT;
	struct taken t;
	kata_error *err = NULL;

	m.done = KATA_RESET_ENTROPY;
	m.seconds = 1700000000;
	m.microseconds = 7;
	m.agent_version = (char *)"1.2\x07";
	m.sample = (ProtobufCBinaryData){.len = 4, .data = (uint8_t *)"abcd"};
	fixture_assert_ok(decode(KATA_AGENT_RESET_IDENTITY, 4, &m.base, &t, &err), err);
	cr_assert_eq(t.reply.reset, KATA_RESET_ENTROPY);
	cr_assert_eq(t.reply.seconds, 1700000000);
	cr_assert_eq(t.reply.microseconds, 7);
	cr_assert_str_eq(t.text, "1.2?");
	cr_assert_eq(t.reply.data_length, 4u);
	cr_assert_eq(memcmp(t.data, "abcd", 4), 0);
	fixture_assert_fails(decode(KATA_AGENT_RESET_IDENTITY, 3, &m.base, &t, &err), KATA_E_PROTOCOL, err);
	kata_error_free(err);
}

Test(kata_reply, reset_identity_must_have_done_what_was_asked_for_and_no_more)
{
	static const uint32_t lies[] = {0, KATA_RESET_HOSTNAME, KATA_RESET_ENTROPY | KATA_RESET_UUID, UINT32_MAX};
	Grpc__ResetIdentityResponse m = GRPC__RESET_IDENTITY_RESPONSE__INIT;
	struct taken t;

	for (size_t i = 0; i < kata__array_size(lies); i++) {
		kata_error *err = NULL;

		m.done = lies[i];
		fixture_assert_fails(decode(KATA_AGENT_RESET_IDENTITY, 0, &m.base, &t, &err), KATA_E_PROTOCOL, err);
		kata_error_free(err);
	}
}
