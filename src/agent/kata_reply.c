/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kata_reply.c - responses of the Kata 3.x agent to kata_agent_reply, and its errors to ours.
 *
 * The guest is hostile: a message is unpacked under a cap, numbers and lengths are held against what was asked, texts
 * are cleaned.
 *
 * End of file is said in three ways (agent-protocols 3.6, 4.4): no data; an error "EOF" or EIO of a pipe or terminal
 * whose other end is closed; NOT_FOUND once somebody has waited for the process.
 */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "agent/kata_messages.h"
#include "base/compiler.h"
#include "proto/message.h"

#define NAME_MAX_BYTES 64u
#define NO_CONTAINER "Invalid container id"

struct decoding {
	const struct kata__kata_expected *expected;
	kata_agent_reply reply;
	char *text; /* owned */
};

/* ---- errors ---- */

/* A Kata agent says it with INTERNAL or INVALID_ARGUMENT (agent-protocols 3.2, 3.6). Of a create it means the id's
 * form.
 */
static bool is_no_container(kata_agent_method method, const char *text)
{
	return method != KATA_AGENT_CREATE_CONTAINER && strncmp(text, NO_CONTAINER, strlen(NO_CONTAINER)) == 0;
}

static int status_of(kata_agent_method method, int32_t code, const char *text)
{
	if (is_no_container(method, text))
		return KATA_E_NOT_FOUND;
	switch (code) {
	case KATA__GRPC_DEADLINE_EXCEEDED:
		return KATA_E_TIMEOUT;
	case KATA__GRPC_NOT_FOUND:
		return KATA_E_NOT_FOUND;
	case KATA__GRPC_ALREADY_EXISTS: /* of a start: libkata's agent says so of a container that runs */
		return method == KATA_AGENT_START_CONTAINER ? KATA_E_EXISTS : KATA_E_GUEST;
	case KATA__GRPC_UNIMPLEMENTED:
		return KATA_E_UNSUPPORTED;
	case KATA__GRPC_FAILED_PRECONDITION: /* of a device: it is mounted */
		return method == KATA_AGENT_OFFLINE_DEVICE ? KATA_E_BUSY : KATA_E_GUEST;
	default:
		return KATA_E_GUEST;
	}
}

static bool is_read(kata_agent_method method)
{
	return method == KATA_AGENT_READ_STDOUT || method == KATA_AGENT_READ_STDERR;
}

static bool is_end_of_file(int32_t code, const char *text)
{
	return code == KATA__GRPC_NOT_FOUND || strcmp(text, "EOF") == 0 || strcasestr(text, "input/output error") ||
	       strstr(text, "(os error 5)") || strstr(text, "EIO");
}

static int refused(const struct kata__kata_expected *expected, int32_t code, const char *text, kata_error **err)
{
	int status = status_of(expected->method, code, text);

	return kata__fail(err, status, GUEST, "agent: %s: %s (%s)", kata_agent_method_get_name(expected->method),
			  *text ? text : "no message", kata__grpc_code_name(code));
}

/* ---- methods ---- */

static int decode_check(struct decoding *d, const void *message, kata_error **err)
{
	const Grpc__HealthCheckResponse *m = message;

	if (m->status == GRPC__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING)
		return 0;
	return kata__fail(err, KATA_E_GUEST, GUEST, "agent: Check: the agent says that it does not serve (status %d)",
			  (int)m->status);
}

static int set_text(struct decoding *d, const char *text, kata_error **err)
{
	d->text = kata__sanitize(text, strlen(text), false);
	if (!d->text)
		return kata__fail_no_memory(err);
	d->reply.text = d->text;
	return 0;
}

static int decode_version(struct decoding *d, const void *message, kata_error **err)
{
	return set_text(d, ((const Grpc__VersionCheckResponse *)message)->agent_version, err);
}

/* A kernel's name of a device: it becomes part of paths in the guest. */
static bool is_device_name(const char *name)
{
	size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-!:.");

	return n && n <= NAME_MAX_BYTES && !name[n] && name[0] != '.';
}

static int decode_await_device(struct decoding *d, const void *message, kata_error **err)
{
	const Grpc__AwaitDeviceResponse *m = message;

	if (!is_device_name(m->name))
		return kata__fail(err, KATA_E_PROTOCOL, GUEST, "agent: AwaitDevice: '%.80s' is no name of a device",
				  m->name);
	d->reply.size_bytes = m->size_bytes;
	return set_text(d, m->name, err);
}

static int decode_wait_process(struct decoding *d, const void *message, kata_error **err)
{
	int32_t status = ((const Grpc__WaitProcessResponse *)message)->status;

	if (status < 0 || status > 255)
		return kata__fail(err, KATA_E_PROTOCOL, GUEST,
				  "agent: WaitProcess: exit status %d is not from 0 to 255", (int)status);
	d->reply.exit_status = status;
	return 0;
}

static int decode_write_stdin(struct decoding *d, const void *message, kata_error **err)
{
	uint32_t taken = ((const Grpc__WriteStreamResponse *)message)->len;

	if (taken > d->expected->most)
		return kata__fail(err, KATA_E_PROTOCOL, GUEST,
				  "agent: WriteStdin: %u bytes taken of %zu that were given", taken, d->expected->most);
	d->reply.size_bytes = taken;
	return 0;
}

static int decode_read_stream(struct decoding *d, const void *message, kata_error **err)
{
	const Grpc__ReadStreamResponse *m = message;

	if (m->data.len > d->expected->most)
		return kata__fail(err, KATA_E_PROTOCOL, GUEST, "agent: %s: %zu bytes, where %zu were asked for",
				  kata_agent_method_get_name(d->expected->method), m->data.len, d->expected->most);
	d->reply.data_length = m->data.len;
	d->reply.data = m->data.len ? m->data.data : NULL;
	return 0;
}

static void sum_block_io(const Grpc__BlkioStats *b, kata_container_stats *to)
{
	for (size_t i = 0; i < b->n_io_service_bytes_recursive; i++) {
		const Grpc__BlkioStatsEntry *e = b->io_service_bytes_recursive[i];

		if (strcasecmp(e->op, "read") == 0)
			to->block_read_bytes += e->value;
		else if (strcasecmp(e->op, "write") == 0)
			to->block_write_bytes += e->value;
	}
}

static int decode_stats(struct decoding *d, const void *message, kata_error **err)
{
	const Grpc__CgroupStats *c = ((const Grpc__StatsContainerResponse *)message)->cgroup_stats;
	kata_container_stats *to = &d->reply.stats;

	if (!c)
		return kata__fail(err, KATA_E_PROTOCOL, GUEST, "agent: StatsContainer: an answer without cgroup_stats");
	if (c->cpu_stats && c->cpu_stats->cpu_usage)
		to->cpu_usage_ns = c->cpu_stats->cpu_usage->total_usage;
	if (c->memory_stats && c->memory_stats->usage) {
		to->memory_usage_bytes = c->memory_stats->usage->usage;
		to->memory_max_usage_bytes = c->memory_stats->usage->max_usage;
		to->memory_limit_bytes = c->memory_stats->usage->limit;
	}
	if (c->pids_stats)
		to->pids_current = c->pids_stats->current;
	if (c->blkio_stats)
		sum_block_io(c->blkio_stats, to);
	return 0;
}

/* What a RESET_IDENTITY asks for. */
static uint64_t reset_bits(const kata_agent_request *r)
{
	return (r->data_length ? KATA_RESET_ENTROPY : 0) | (r->seconds ? KATA_RESET_CLOCK : 0) |
	       (r->hostname && *r->hostname ? KATA_RESET_HOSTNAME : 0) | (r->machine_id ? KATA_RESET_MACHINE_ID : 0) |
	       (r->mac_count ? KATA_RESET_MACS : 0);
}

struct kata__kata_expected kata__kata_expect(const kata_agent_request *r)
{
	return (struct kata__kata_expected){.method = r->method,
					    .most = r->method == KATA_AGENT_WRITE_STDIN ? r->data_length
											: r->max_length,
					    .reset = r->method == KATA_AGENT_RESET_IDENTITY ? reset_bits(r) : 0};
}

static int decode_reset_identity(struct decoding *d, const void *message, kata_error **err)
{
	const Grpc__ResetIdentityResponse *m = message;

	if (m->done != d->expected->reset)
		return kata__fail(err, KATA_E_PROTOCOL, GUEST,
				  "agent: ResetIdentity: says that 0x%x was done, 0x%llx was asked for", m->done,
				  (unsigned long long)d->expected->reset);
	if (m->sample.len > d->expected->most)
		return kata__fail(err, KATA_E_PROTOCOL, GUEST,
				  "agent: ResetIdentity: a sample of %zu bytes, where %zu were asked for",
				  m->sample.len, d->expected->most);
	d->reply.reset = m->done;
	d->reply.seconds = m->seconds;
	d->reply.microseconds = m->microseconds;
	d->reply.data_length = m->sample.len;
	d->reply.data = m->sample.len ? m->sample.data : NULL;
	return set_text(d, m->agent_version, err);
}

/* Of methods that are not here the answer has no fields that matter; it must be a message of its type all the same. */
static int (*const decoders[KATA_AGENT_METHOD_COUNT])(struct decoding *d, const void *message, kata_error **err) = {
	[KATA_AGENT_CHECK] = decode_check,
	[KATA_AGENT_VERSION] = decode_version,
	[KATA_AGENT_AWAIT_DEVICE] = decode_await_device,
	[KATA_AGENT_WAIT_PROCESS] = decode_wait_process,
	[KATA_AGENT_STATS_CONTAINER] = decode_stats,
	[KATA_AGENT_WRITE_STDIN] = decode_write_stdin,
	[KATA_AGENT_READ_STDOUT] = decode_read_stream,
	[KATA_AGENT_READ_STDERR] = decode_read_stream,
	[KATA_AGENT_RESET_IDENTITY] = decode_reset_identity,
};

/* The usual answer to Check, known by its bytes: a round trip is nearly as fast as a bare echo, and unpacking is a
 * fifth of the difference. */
static bool is_plain(kata_agent_method method, const struct kata__slice *payload)
{
	static const uint8_t serving[] = {0x08, GRPC__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING};

	return method == KATA_AGENT_CHECK && payload->length == sizeof(serving) &&
	       memcmp(payload->data, serving, sizeof(serving)) == 0;
}

int kata__kata_decode(const struct kata__kata_expected *expected, const struct kata__ttrpc_response *response,
		      void (*fn)(void *user, const kata_agent_reply *reply), void *user, kata_error **err)
{
	struct decoding d = {.expected = expected,
			     .reply = {.size = sizeof(d.reply), .stats = {.size = sizeof(d.reply.stats)}}};
	ProtobufCMessage *message = NULL;
	int rc = 0;

	if (response->code != KATA__GRPC_OK) {
		KATA_AUTO(free)
		char *text = kata__sanitize((const char *)response->text.data, response->text.length, false);

		if (!text)
			return kata__fail_no_memory(err);
		if (!is_read(expected->method) || !is_end_of_file(response->code, text))
			return refused(expected, response->code, text, err);
		fn(user, &d.reply);
		return 0;
	}
	if (is_plain(expected->method, &response->payload)) {
		fn(user, &d.reply);
		return 0;
	}
	if (response->payload.length || decoders[expected->method])
		rc = kata__proto_unpack(kata__methods[kata__kata_method_id(expected->method)].response,
					response->payload.data, response->payload.length, &message, err);
	if (!rc && decoders[expected->method])
		rc = decoders[expected->method](&d, message, err);
	if (!rc)
		fn(user, &d.reply);
	kata__proto_free(message);
	free(d.text);
	return rc;
}
