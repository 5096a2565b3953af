/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_PROTO_METHODS_H
#define KATA_PROTO_METHODS_H
/*
 * Every method of grpc.AgentService, grpc.Health and our own kata.Guest: service and method strings as they are on the
 * wire, with the types of the request and the response.
 */
#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>

#define KATA__SERVICE_AGENT "grpc.AgentService"
#define KATA__SERVICE_HEALTH "grpc.Health"
#define KATA__SERVICE_GUEST "kata.Guest"

enum kata__method_id {
	KATA__AGENT_CREATE_CONTAINER,
	KATA__AGENT_START_CONTAINER,
	KATA__AGENT_REMOVE_CONTAINER,
	KATA__AGENT_EXEC_PROCESS,
	KATA__AGENT_SIGNAL_PROCESS,
	KATA__AGENT_WAIT_PROCESS,
	KATA__AGENT_UPDATE_CONTAINER,
	KATA__AGENT_UPDATE_EPHEMERAL_MOUNTS,
	KATA__AGENT_STATS_CONTAINER,
	KATA__AGENT_PAUSE_CONTAINER,
	KATA__AGENT_RESUME_CONTAINER,
	KATA__AGENT_REMOVE_STALE_VIRTIOFS_SHARE_MOUNTS,
	KATA__AGENT_GET_DIAGNOSTIC_DATA,
	KATA__AGENT_WRITE_STDIN,
	KATA__AGENT_READ_STDOUT,
	KATA__AGENT_READ_STDERR,
	KATA__AGENT_CLOSE_STDIN,
	KATA__AGENT_TTY_WIN_RESIZE,
	KATA__AGENT_UPDATE_INTERFACE,
	KATA__AGENT_UPDATE_ROUTES,
	KATA__AGENT_LIST_INTERFACES,
	KATA__AGENT_LIST_ROUTES,
	KATA__AGENT_ADD_ARP_NEIGHBORS,
	KATA__AGENT_GET_IP_TABLES,
	KATA__AGENT_SET_IP_TABLES,
	KATA__AGENT_GET_METRICS,
	KATA__AGENT_MEM_AGENT_MEMCG_SET,
	KATA__AGENT_MEM_AGENT_COMPACT_SET,
	KATA__AGENT_CREATE_SANDBOX,
	KATA__AGENT_DESTROY_SANDBOX,
	KATA__AGENT_ONLINE_CPU_MEM,
	KATA__AGENT_RESEED_RANDOM_DEV,
	KATA__AGENT_GET_GUEST_DETAILS,
	KATA__AGENT_MEM_HOTPLUG_BY_PROBE,
	KATA__AGENT_SET_GUEST_DATE_TIME,
	KATA__AGENT_COPY_FILE,
	KATA__AGENT_GET_OOM_EVENT,
	KATA__AGENT_ADD_SWAP,
	KATA__AGENT_ADD_SWAP_PATH,
	KATA__AGENT_GET_VOLUME_STATS,
	KATA__AGENT_RESIZE_VOLUME,
	KATA__AGENT_SET_POLICY,
	KATA__HEALTH_CHECK,
	KATA__HEALTH_VERSION,
	KATA__GUEST_AWAIT_DEVICE,   /* AwaitDeviceRequest -> AwaitDeviceResponse */
	KATA__GUEST_OFFLINE_DEVICE, /* OfflineDeviceRequest -> Empty */
	KATA__GUEST_IDENTIFY,       /* IdentifyRequest -> IdentifyResponse */
	KATA__GUEST_RESET_IDENTITY, /* ResetIdentityRequest -> ResetIdentityResponse */
	KATA__GUEST_SETTLE,         /* SettleRequest -> Empty */
	KATA__METHOD_COUNT
};

struct kata__method {
	const char *service;
	const char *name;
	const ProtobufCMessageDescriptor *request;
	const ProtobufCMessageDescriptor *response;
};

/* Indexed by kata__method_id. */
extern const struct kata__method kata__methods[KATA__METHOD_COUNT];

/* What a server is called by; lengths are of the two strings, which need no NUL. The id, or -1 for no such method. */
int kata__method_find(const char *service, size_t service_length, const char *method, size_t method_length);
/* True when at least one method belongs to the service: tells "unknown method" from "unknown service". */
bool kata__service_is_known(const char *service, size_t service_length);
#endif
