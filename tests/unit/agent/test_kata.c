/* SPDX-License-Identifier: Apache-2.0 */
/* What a released agent connection leaves to its successor, as hostile text. */
#include "unit/agent/agent_test.h"

static void refused(const char *json, int status)
{
	kata_error *err = NULL;
	uint32_t id = 0;
	int rc = kata__kata_read_released(json, &id, &err);

	cr_assert_eq(rc, status, "%s: %s", json, error_text(err));
	kata_error_free(err);
}

static uint32_t first_id(const char *json)
{
	kata_error *err = NULL;
	uint32_t id = 0;

	fixture_assert_ok(kata__kata_read_released(json, &id, &err), err);
	return id;
}

Test(kata, counts_from_one_without_a_predecessor)
{
	cr_assert_eq(first_id(NULL), 1u);
}

Test(kata, goes_on_where_the_predecessor_ended)
{
	cr_assert_eq(first_id("{\"version\":1,\"protocol\":\"kata\",\"next_stream_id\":4711}"), 4711u);
}

Test(kata, starts_anew_when_the_ids_are_nearly_used_up)
{
	cr_assert_eq(first_id("{\"version\":1,\"protocol\":\"kata\",\"next_stream_id\":4294967297}"), 1u);
	cr_assert_eq(first_id("{\"version\":1,\"protocol\":\"kata\",\"next_stream_id\":4294967295}"), 1u);
}

Test(kata, refuses_released_text_that_is_not_its_own)
{
	static const char *const corrupt[] = {
		"",
		"{",
		"[]",
		"null",
		"{}",
		"{\"version\":1}",
		"{\"version\":\"1\",\"protocol\":\"kata\",\"next_stream_id\":1}",
		"{\"version\":1,\"protocol\":\"hyperstart\",\"next_stream_id\":1}",
		"{\"version\":1,\"protocol\":7,\"next_stream_id\":1}",
		"{\"version\":1,\"protocol\":\"kata\",\"next_stream_id\":2}",
		"{\"version\":1,\"protocol\":\"kata\",\"next_stream_id\":0}",
		"{\"version\":1,\"protocol\":\"kata\",\"next_stream_id\":-1}",
		"{\"version\":1,\"protocol\":\"kata\",\"next_stream_id\":1.5}",
		"{\"version\":1,\"protocol\":\"kata\",\"next_stream_id\":99999999999999999999}",
		"{\"version\":1,\"protocol\":\"kata\",\"next_stream_id\":4294967299}",
		"{\"version\":1,\"version\":1,\"protocol\":\"kata\",\"next_stream_id\":1}",
		"{\"version\":1,\"protocol\":\"kata\",\"next_stream_id\":1} trailing",
		"{\"version\":1,\"protocol\":\"kata\",\"next_stream_id\":1",
	};

	for (size_t i = 0; i < kata__array_size(corrupt); i++)
		refused(corrupt[i], KATA_E_CORRUPT);
}

Test(kata, refuses_released_text_of_another_version)
{
	refused("{\"version\":2,\"protocol\":\"kata\",\"next_stream_id\":1}", KATA_E_VERSION);
	refused("{\"version\":0,\"protocol\":\"kata\",\"next_stream_id\":1}", KATA_E_VERSION);
}

Test(kata, refuses_released_text_that_is_too_long)
{
	char *json = malloc(100001);

	memset(json, ' ', 100000);
	json[100000] = '\0';
	refused(json, KATA_E_CORRUPT);
	free(json);
}
