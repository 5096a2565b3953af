/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_AGENT_KATA_MESSAGES_H
#define KATA_AGENT_KATA_MESSAGES_H
/* Requests as messages of the Kata protocol, and its responses as replies. Any thread on different objects. */
#include <kata/agent.h>

#include "agent.pb-c.h"
#include "base/error.h"
#include "proto/methods.h"
#include "proto/ttrpc.h"

struct kata__kata_block;

/* A request as a message; strings and data are borrowed from the request. */
struct kata__kata_encoding {
	enum kata__method_id method;
	bool is_empty; /* no field is set, so that there is nothing to pack */
	union {
		ProtobufCMessage base;
		Grpc__CheckRequest check;
		Grpc__CreateSandboxRequest create_sandbox;
		Grpc__UpdateInterfaceRequest update_interface;
		Grpc__UpdateRoutesRequest update_routes;
		Grpc__AwaitDeviceRequest await_device;
		Grpc__OfflineDeviceRequest offline_device;
		Grpc__CreateContainerRequest create_container;
		Grpc__StartContainerRequest start_container;
		Grpc__RemoveContainerRequest remove_container;
		Grpc__ExecProcessRequest exec_process;
		Grpc__SignalProcessRequest signal_process;
		Grpc__WaitProcessRequest wait_process;
		Grpc__StatsContainerRequest stats_container;
		Grpc__PauseContainerRequest pause_container;
		Grpc__ResumeContainerRequest resume_container;
		Grpc__WriteStreamRequest write_stream;
		Grpc__CloseStdinRequest close_stdin;
		Grpc__ReadStreamRequest read_stream;
		Grpc__TtyWinResizeRequest tty_win_resize;
		Grpc__SetGuestDateTimeRequest set_time;
		Grpc__ReseedRandomDevRequest reseed;
		Grpc__OnlineCPUMemRequest online_cpu_mem;
		Grpc__DestroySandboxRequest destroy_sandbox;
		Grpc__ResetIdentityRequest reset_identity;
		Grpc__SettleRequest settle;
	} message;
	Grpc__Routes routes;
	Grpc__Interface interface_;
	struct kata__kata_block *blocks; /* arrays of the message */
	void *oci;                       /* Spec or Process */
};

/* The request is a checked one (request.h). timeout_ms: of the call, for methods that wait in the guest; 0: none.
 * INVALID and UNSUPPORTED as kata__oci_*_from_json; NO_MEMORY. On success kata__kata_encoding_deinit() must follow. */
int kata__kata_encode(const kata_agent_request *request, uint64_t timeout_ms, struct kata__kata_encoding *ret,
		      kata_error **err);
void kata__kata_encoding_deinit(struct kata__kata_encoding *e);

/* The method on the wire. */
enum kata__method_id kata__kata_method_id(kata_agent_method method);

/* What of a request matters for its answer. */
struct kata__kata_expected {
	kata_agent_method method;
	size_t most;    /* READ_*, RESET_IDENTITY: bytes asked for; WRITE_STDIN: bytes given */
	uint64_t reset; /* RESET_IDENTITY: KATA_RESET_* that are asked for */
};
struct kata__kata_expected kata__kata_expect(const kata_agent_request *request);

/*
 * Gives the reply in a response to `fn`, valid during the call. Returns 0 after it has; else `fn` was not called:
 * GUEST, TIMEOUT, NOT_FOUND, BUSY, UNSUPPORTED (what the agent answered; origin guest), PROTOCOL (an answer that may
 * not be), NO_MEMORY.
 */
int kata__kata_decode(const struct kata__kata_expected *expected, const struct kata__ttrpc_response *response,
		      void (*fn)(void *user, const kata_agent_reply *reply), void *user, kata_error **err);
#endif
