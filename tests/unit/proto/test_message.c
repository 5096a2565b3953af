/* SPDX-License-Identifier: Apache-2.0 */
#include "agent.pb-c.h"
#include "proto/message.h"
#include "unit/proto/proto_test.h"

static void *unpack(const ProtobufCMessageDescriptor *descriptor, const void *bytes, size_t length)
{
	ProtobufCMessage *m = NULL;
	kata_error *err = NULL;

	expect_success(kata__proto_unpack(descriptor, bytes, length, &m, &err), &err);
	cr_assert_eq(m->descriptor, descriptor);
	return m;
}

static void expect_refused(const ProtobufCMessageDescriptor *descriptor, const void *bytes, size_t length,
			   const char *part)
{
	ProtobufCMessage *m = NULL;
	kata_error *err = NULL;

	expect_failure(kata__proto_unpack(descriptor, bytes, length, &m, &err), KATA_E_PROTOCOL, part, &err);
	cr_assert(!m);
}

Test(message, an_empty_message_unpacks_from_no_bytes)
{
	Grpc__AgentDetails *m = unpack(&grpc__agent_details__descriptor, NULL, 0);

	cr_assert_str_eq(m->version, "");
	kata__proto_free(m);
}

Test(message, freeing_nothing_is_fine)
{
	kata__proto_free(NULL);
}

Test(message, fields_of_every_kind_survive)
{
	Grpc__AgentDetails out = GRPC__AGENT_DETAILS__INIT;
	Grpc__GuestDetailsResponse response = GRPC__GUEST_DETAILS_RESPONSE__INIT;
	Grpc__GuestDetailsResponse *in;
	char *handlers[] = {(char *)"blk", (char *)"", (char *)"scsi"};
	uint8_t bytes[256];

	out.version = (char *)"4.1.0";
	out.n_storage_handlers = 3;
	out.storage_handlers = handlers;
	out.supports_seccomp = true;
	response.agent_details = &out;
	response.mem_block_size_bytes = UINT64_MAX;
	in = unpack(&grpc__guest_details_response__descriptor, bytes, protobuf_c_message_pack(&response.base, bytes));
	cr_assert_eq(in->mem_block_size_bytes, UINT64_MAX);
	cr_assert_str_eq(in->agent_details->version, "4.1.0");
	cr_assert_eq(in->agent_details->n_storage_handlers, 3);
	cr_assert_str_eq(in->agent_details->storage_handlers[1], "");
	cr_assert_str_eq(in->agent_details->storage_handlers[2], "scsi");
	cr_assert(in->agent_details->supports_seccomp);
	kata__proto_free(in);
}

Test(message, packed_and_unpacked_numbers_are_both_accepted)
{
	Grpc__CpuUsage *packed = unpack(&grpc__cpu_usage__descriptor, "\x12\x02\x07\x08", 4);
	Grpc__CpuUsage *single = unpack(&grpc__cpu_usage__descriptor, "\x10\x07\x10\x08", 4);

	cr_assert_eq(packed->n_percpu_usage, 2);
	cr_assert_eq(single->n_percpu_usage, 2);
	cr_assert_eq(packed->percpu_usage[1], 8);
	cr_assert_eq(single->percpu_usage[1], 8);
	kata__proto_free(packed);
	kata__proto_free(single);
}

Test(message, an_optional_zero_is_told_from_an_absent_one)
{
	Grpc__MemAgentMemcgConfig *zero = unpack(&grpc__mem_agent_memcg_config__descriptor, "\x18\x00", 2);
	Grpc__MemAgentMemcgConfig *absent = unpack(&grpc__mem_agent_memcg_config__descriptor, "", 0);

	cr_assert_eq(zero->opt_swappiness_max_case, GRPC__MEM_AGENT_MEMCG_CONFIG__OPT_SWAPPINESS_MAX_SWAPPINESS_MAX);
	cr_assert_eq(absent->opt_swappiness_max_case, GRPC__MEM_AGENT_MEMCG_CONFIG__OPT_SWAPPINESS_MAX__NOT_SET);
	kata__proto_free(zero);
	kata__proto_free(absent);
}

Test(message, unknown_fields_are_ignored)
{
	Grpc__WaitProcessResponse *m = unpack(&grpc__wait_process_response__descriptor, "\x08\x03\xfa\x01\x03xyz", 8);

	cr_assert_eq(m->status, 3);
	kata__proto_free(m);
}

Test(message, bytes_that_are_no_message_are_refused)
{
	expect_refused(&grpc__oomevent__descriptor,
		       "\x0a\x05"
		       "ab",
		       4, "OOMEvent: 4 bytes");
	expect_refused(&grpc__oomevent__descriptor, "\xff", 1, "not an encoding");
	expect_refused(&grpc__guest_details_response__descriptor, "\x12\x02\x0a\x05", 4, "GuestDetailsResponse");
}

Test(message, a_message_cut_at_every_byte_is_refused_or_whole)
{
	static const char bytes[] = "\x0a\x02"
				    "c1\x12\x02"
				    "e1\x1a\x03xyz";
	size_t length = sizeof(bytes) - 1;

	for (size_t n = 0; n <= length; n++) {
		ProtobufCMessage *m = NULL;
		kata_error *err = NULL;
		bool whole = n == 0 || n == 4 || n == 8 || n == length;
		int rc = kata__proto_unpack(&grpc__write_stream_request__descriptor, bytes, n, &m, &err);

		cr_assert_eq(rc, whole ? 0 : KATA_E_PROTOCOL, "%zu bytes", n);
		cr_assert_eq(m != NULL, whole);
		kata__proto_free(m);
		kata_error_free(err);
	}
}

Test(message, the_memory_cap_is_sixteen_times_while_little_and_4_mib_more_while_much)
{
	cr_assert_eq(kata__proto_memory_cap(0), 65536);
	cr_assert_eq(kata__proto_memory_cap(1000), 65536 + 16000);
	cr_assert_eq(kata__proto_memory_cap(4u << 20), 65536 + (8u << 20));
}

Test(message, a_few_bytes_that_want_much_memory_are_refused)
{
	size_t length = 1u << 20;
	uint8_t *bytes = malloc(length);

	/* Half a million empty routes: two bytes each here, over a hundred in memory. */
	for (size_t i = 0; i < length; i += 2) {
		bytes[i] = 0x0a;
		bytes[i + 1] = 0;
	}
	expect_refused(&grpc__routes__descriptor, bytes, length, "unpack to more than");
	free(bytes);
}

Test(message, a_large_payload_within_the_frame_unpacks)
{
	Grpc__ReadStreamResponse out = GRPC__READ_STREAM_RESPONSE__INIT;
	Grpc__ReadStreamResponse *in;
	uint8_t *bytes = malloc(4u << 20);

	out.data.len = (4u << 20) - 5;
	out.data.data = calloc(1, out.data.len);
	out.data.data[out.data.len - 1] = 7;
	in = unpack(&grpc__read_stream_response__descriptor, bytes, protobuf_c_message_pack(&out.base, bytes));
	cr_assert_eq(in->data.len, out.data.len);
	cr_assert_eq(in->data.data[in->data.len - 1], 7);
	kata__proto_free(in);
	free(out.data.data);
	free(bytes);
}

Test(message, what_a_stats_reply_of_many_cpus_needs_is_within_the_cap)
{
	Grpc__CpuUsage usage = GRPC__CPU_USAGE__INIT;
	Grpc__CpuStats cpu = GRPC__CPU_STATS__INIT;
	Grpc__CgroupStats cgroup = GRPC__CGROUP_STATS__INIT;
	Grpc__StatsContainerResponse out = GRPC__STATS_CONTAINER_RESPONSE__INIT;
	Grpc__StatsContainerResponse *in;
	uint64_t percpu[4096];
	uint8_t *bytes;

	for (size_t i = 0; i < 4096; i++)
		percpu[i] = i % 2 ? 0 : UINT64_MAX;
	usage.n_percpu_usage = 4096;
	usage.percpu_usage = percpu;
	cpu.cpu_usage = &usage;
	cgroup.cpu_stats = &cpu;
	out.cgroup_stats = &cgroup;
	bytes = malloc(protobuf_c_message_get_packed_size(&out.base));
	in = unpack(&grpc__stats_container_response__descriptor, bytes, protobuf_c_message_pack(&out.base, bytes));
	cr_assert_eq(in->cgroup_stats->cpu_stats->cpu_usage->n_percpu_usage, 4096);
	kata__proto_free(in);
	free(bytes);
}

Test(message, the_origin_of_an_error_is_the_guest)
{
	ProtobufCMessage *m = NULL;
	kata_error *err = NULL;

	cr_assert_eq(kata__proto_unpack(&grpc__oomevent__descriptor, "\xff", 1, &m, &err), KATA_E_PROTOCOL);
	cr_assert_eq(kata_error_get_origin(err), KATA_ORIGIN_GUEST);
	kata_error_free(err);
}
