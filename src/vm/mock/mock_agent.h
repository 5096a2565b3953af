/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_VM_MOCK_AGENT_H
#define KATA_VM_MOCK_AGENT_H
/*
 * An agent that answers, without a guest: the Kata 3.x protocol over ttrpc, bytes in, bytes out. Its containers are
 * simulated (mock_process.h, docs/mock.md). The mock VMM puts it behind a socket pair, the stand-in for QEMU behind its
 * virtio-serial socket.
 *
 * Model: one connection at a time, as on a virtio-serial port. What the guest holds survives kata__mock_agent_reset(),
 * which stands for a host that went away: the frame parser starts anew, unsent answers and calls under way are gone.
 * Single-threaded; does no I/O, keeps no timer: the owner calls kata__mock_agent_changed() by
 * kata__mock_agent_deadline().
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/compiler.h"
#include "base/error.h"

struct kata__mock_agent;
struct kata__mock_call;

struct kata__mock_host {
	/* may: sees every request before it runs. True: the host has the call now, after kata__mock_call_take(), or has
	 * ended it. */
	bool (*intercept)(void *user, struct kata__mock_call *call);
	/* must: does the guest see this device? kind "blk", "scsi" (addresses as docs/design) or "net" (address is the
	 * MAC). */
	bool (*find_device)(void *user, const char *kind, const char *address, char ret_name[32],
			    uint64_t *ret_size_bytes);
	/* must: the guest has powered off; its last answer is in the output. */
	void (*power_off)(void *user);
};

int kata__mock_agent_new(const struct kata__mock_host *host, void *user, struct kata__mock_agent **ret,
			 kata_error **err);
void kata__mock_agent_free(struct kata__mock_agent *a); /* NULL is fine */

/* Runs every request that is whole now. PROTOCOL: the host broke the protocol, close the connection. */
int kata__mock_agent_input(struct kata__mock_agent *a, const void *data, size_t length, kata_error **err);
/* What is to be sent; the owner consumes. Do not give input while more than KATA__MOCK_AGENT_BACKLOG bytes wait here.
 */
struct kata__buffer *kata__mock_agent_output(struct kata__mock_agent *a);
#define KATA__MOCK_AGENT_BACKLOG (1u << 20)
void kata__mock_agent_reset(struct kata__mock_agent *a);
/* Something changed outside: a device came or went, the deadline passed, output was consumed. Goes on with what waits.
 */
void kata__mock_agent_changed(struct kata__mock_agent *a);
/* CLOCK_MONOTONIC in ns, KATA__NEVER. */
uint64_t kata__mock_agent_deadline(const struct kata__mock_agent *a);

/* ---- one call, for hosts that intercept */

const char *kata__mock_call_method(const struct kata__mock_call *call); /* "CreateSandbox"; "" for an unknown one */
/* ReadStdout, ReadStderr, WaitProcess, GetOOMEvent: calls that may wait for ever. */
bool kata__mock_call_is_waiting(const struct kata__mock_call *call);
uint32_t kata__mock_call_get_stream_id(const struct kata__mock_call *call);
void kata__mock_call_set_stream_id(struct kata__mock_call *call, uint32_t stream_id);
/* The host keeps the call; `forget` is called when the connection is reset meanwhile, after which it is gone. */
void kata__mock_call_take(struct kata__mock_call *call, void (*forget)(void *user), void *user);
/* Each ends the host's hold on it: run it as if nothing had been; answer it with an error; never answer. */
void kata__mock_call_run(struct kata__mock_call *call);
void kata__mock_call_fail(struct kata__mock_call *call, int32_t grpc_code, const char *fmt, ...) KATA__PRINTF(3, 4);
void kata__mock_call_drop(struct kata__mock_call *call);
#endif
