/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a factory's server and the builders in other processes say to each other: whatever comes is taken or refused,
 * and what is taken says the same when it is said again.
 */
#include <string.h>

#include "factory/message.h"
#include "fuzz.h"

static void request(const char *text, size_t size)
{
	struct kata__take_request r = {0}, again = {0};
	kata_error *err = NULL;
	char *said, *said_again;
	int rc = kata__take_request_decode(text, size, &r, &err);

	must_agree(rc, err);
	kata_error_free(err);
	if (rc < 0) {
		must(!r.config);
		return;
	}
	said = kata__take_request_encode(&r);
	must(said && kata__take_request_decode(said, strlen(said), &again, NULL) == 0);
	said_again = kata__take_request_encode(&again);
	must(said_again && strcmp(said, said_again) == 0);
	free(said);
	free(said_again);
	kata__take_request_deinit(&r);
	kata__take_request_deinit(&again);
}

static void reply(const char *text, size_t size)
{
	struct kata__take_reply r = {0}, again = {0};
	kata_error *err = NULL;
	char *said, *said_again;
	int rc = kata__take_reply_decode(text, size, &r, &err);

	must_agree(rc, err);
	kata_error_free(err);
	if (rc < 0) {
		must(!r.record && !r.none && !r.message);
		return;
	}
	must((r.status < 0) + (r.record != NULL) + (r.none != NULL) == 1);
	said = kata__take_reply_encode(&r);
	must(said && kata__take_reply_decode(said, strlen(said), &again, NULL) == 0);
	said_again = kata__take_reply_encode(&again);
	must(said_again && strcmp(said, said_again) == 0);
	free(said);
	free(said_again);
	kata__take_reply_deinit(&r);
	kata__take_reply_deinit(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	kata_error *err = NULL;
	bool taken;
	int rc;

	if (!data)
		return 0;
	request((const char *)data, size);
	reply((const char *)data, size);
	rc = kata__taken_decode((const char *)data, size, &taken, &err);
	must_agree(rc, err);
	kata_error_free(err);
	return 0;
}
