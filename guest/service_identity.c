/* SPDX-License-Identifier: Apache-2.0 */
/* kata.Guest ResetIdentity. */
#include <sys/random.h>
#include <time.h>

#include "guest/guest.h"
#include "guest/identity.h"
#include "guest/text_file.h"

static void reset_identity(void *user, struct call *call, const void *request)
{
	const Grpc__ResetIdentityRequest *q = request;
	Grpc__ResetIdentityResponse r = GRPC__RESET_IDENTITY_RESPONSE__INIT;
	uint8_t sample[IDENTITY_SAMPLE_MAX];
	struct timespec now;
	kata_error *err = NULL;

	if (identity_reset(&identity_kernel, q, &r.done, &err) != 0) {
		call_answer_error(call, &err);
		return;
	}
	if (q->sample_length && getrandom(sample, q->sample_length, GRND_NONBLOCK) == (ssize_t)q->sample_length)
		r.sample = (ProtobufCBinaryData){.len = q->sample_length, .data = sample};
	clock_gettime(CLOCK_REALTIME, &now);
	r.seconds = now.tv_sec;
	r.microseconds = now.tv_nsec / 1000;
	r.agent_version = (char *)"libkata-" AGENT_VERSION;
	call_answer(call, &r);
}

void service_identity_register(struct guest *guest)
{
	guest->handlers.methods[KATA__GUEST_RESET_IDENTITY] = reset_identity;
}
