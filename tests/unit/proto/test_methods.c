/* SPDX-License-Identifier: Apache-2.0 */
#include "agent.pb-c.h"
#include "proto/methods.h"
#include "unit/proto/proto_test.h"

static int find(const char *service, const char *method)
{
	return kata__method_find(service, strlen(service), method, strlen(method));
}

Test(methods, every_method_is_found_by_its_names_and_has_types)
{
	for (int i = 0; i < KATA__METHOD_COUNT; i++) {
		const struct kata__method *m = &kata__methods[i];

		cr_assert(m->service && m->name && m->request && m->response, "method %d", i);
		cr_assert_eq(find(m->service, m->name), i, "%s", m->name);
	}
}

Test(methods, there_are_the_42_of_the_agent_2_of_health_and_5_of_ours)
{
	int agent = 0, health = 0;

	for (int i = 0; i < KATA__METHOD_COUNT; i++) {
		agent += strcmp(kata__methods[i].service, "grpc.AgentService") == 0;
		health += strcmp(kata__methods[i].service, "grpc.Health") == 0;
	}
	cr_assert_eq(agent, 42);
	cr_assert_eq(health, 2);
	cr_assert_eq(KATA__METHOD_COUNT, 49);
}

Test(methods, types_are_those_of_the_protocol)
{
	cr_assert_eq(kata__methods[KATA__AGENT_UPDATE_INTERFACE].request, &grpc__update_interface_request__descriptor);
	cr_assert_eq(kata__methods[KATA__AGENT_UPDATE_INTERFACE].response, &grpc__interface__descriptor);
	cr_assert_eq(kata__methods[KATA__AGENT_READ_STDERR].request, &grpc__read_stream_request__descriptor);
	cr_assert_eq(kata__methods[KATA__AGENT_GET_OOM_EVENT].response, &grpc__oomevent__descriptor);
	cr_assert_eq(kata__methods[KATA__HEALTH_VERSION].response, &grpc__version_check_response__descriptor);
	cr_assert_eq(kata__methods[KATA__GUEST_IDENTIFY].response, &grpc__identify_response__descriptor);
}

Test(methods, names_are_compared_whole_and_with_their_service)
{
	cr_assert_eq(find("grpc.AgentService", "CreateSandboxes"), -1);
	cr_assert_eq(find("grpc.AgentService", "CreateSandbo"), -1);
	cr_assert_eq(find("grpc.AgentService", "createSandbox"), -1);
	cr_assert_eq(find("grpc.Health", "CreateSandbox"), -1);
	cr_assert_eq(find("", ""), -1);
	cr_assert_eq(kata__method_find(NULL, 0, NULL, 0), -1);
}

Test(methods, an_unknown_service_is_told_from_an_unknown_method)
{
	cr_assert(kata__service_is_known("kata.Guest", 10));
	cr_assert(kata__service_is_known("grpc.AgentService", 17));
	cr_assert(!kata__service_is_known("kata.Guests", 11));
	cr_assert(!kata__service_is_known(NULL, 0));
}

/* Field numbers that a slip of the pen would change silently: those that do not simply count from 1. */
Test(methods, odd_field_numbers_are_as_the_agent_has_them)
{
	cr_assert_eq(grpc__reseed_random_dev_request__descriptor.fields[0].id, 2);
	cr_assert_eq(grpc__fsgroup__descriptor.fields[0].id, 2);
	cr_assert_eq(grpc__fsgroup__descriptor.fields[1].id, 3);
	cr_assert_eq(protobuf_c_message_descriptor_get_field_by_name(&grpc__linux_syscall__descriptor, "Args")->id, 4);
	cr_assert_eq(protobuf_c_message_descriptor_get_field_by_name(&grpc__linux_seccomp__descriptor, "Syscalls")->id,
		     4);
	cr_assert_eq(
		protobuf_c_message_descriptor_get_field_by_name(&grpc__create_container_request__descriptor, "OCI")->id,
		6);
}
