/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_VM_MOCK_CALL_H
#define KATA_VM_MOCK_CALL_H
/* Between mock_agent.c, which has the connection, and mock_methods.c, which has the methods. */
#include <protobuf-c/protobuf-c.h>

#include "proto/methods.h"
#include "proto/ttrpc.h"
#include "vm/mock/mock_agent.h"
#include "vm/mock/mock_guest.h"

struct kata__mock_call {
	struct kata__mock_call *next;
	struct kata__mock_agent *agent;
	uint32_t stream_id;
	int method; /* enum kata__method_id, -1: unknown */
	ProtobufCMessage *request;
	uint64_t deadline_ns;       /* the host's, sent along with the call */
	uint64_t await_deadline_ns; /* AwaitDevice */
	size_t progress;            /* WriteStdin: bytes taken */
	bool in_list;
	void (*forget)(void *user); /* the host holds it */
	void *forget_user;
};

struct kata__mock_agent {
	struct kata__mock_host host;
	void *user;
	struct kata__mock_guest guest;
	struct kata__ttrpc_reader reader;
	struct kata__buffer in, out;
	struct kata__mock_call *calls; /* parked, or held by the host; oldest first */
	bool broken;                   /* an answer could not be kept: the connection must end */
	uint64_t sessions;             /* connections that said something, the present one included */
	bool session_seen;
	uint64_t born_ns;
	char boot_id[37];
	uint8_t entropy[64]; /* of the last ResetIdentity */
};

/* Tries a call: true when it was answered (and is freed), false when it has to wait for a change. */
bool kata__mock_method_try(struct kata__mock_agent *a, struct kata__mock_call *call);
/* Answers with a message (NULL: without fields) and frees the call. */
void kata__mock_call_answer(struct kata__mock_call *call, const ProtobufCMessage *response);
#endif
