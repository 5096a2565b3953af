/* SPDX-License-Identifier: Apache-2.0 */
/* A record as JSON, and JSON that is not a record. */
#include "base/buffer.h"
#include "unit/persist/persist_test.h"

static char *good_json(void)
{
	struct record_wish wish = full_wish("pod");
	kata_record *r = sample_record(&wish);
	char *json = kata_record_to_json(r);

	cr_assert_not_null(json);
	kata__record_free(r);
	return json;
}

static int parse(const char *text, size_t len, kata_error **err)
{
	kata_record *r = NULL;
	int rc = kata__record_from_json(text, len, &r, err);

	cr_assert_eq(rc == 0, r != NULL);
	kata__record_free(r);
	return rc;
}

/* The good record with one piece of its text replaced. */
static void assert_bad(const char *piece, const char *by, int status, const char *part)
{
	char *json = good_json(), *at = strstr(json, piece), *bad;
	kata_error *err = NULL;

	cr_assert_not_null(at, "%s is not in %s", piece, json);
	bad = kata__format("%.*s%s%s", (int)(at - json), json, by, at + strlen(piece));
	fixture_assert_fails(parse(bad, strlen(bad), &err), status, err);
	assert_message_has(err, part);
	error_clear(&err);
	free(bad);
	free(json);
}

Test(record, as_json_and_back_is_the_same)
{
	char *json = good_json(), *again;
	kata_record *r = NULL;
	kata_error *err = NULL;

	fixture_assert_ok(kata__record_from_json(json, strlen(json), &r, &err), err);
	again = kata_record_to_json(r);
	cr_assert_str_eq(again, json);
	cr_assert_str_eq(r->storages[1].path, "/var/lib/pods/pod/d\xc3\xbcsk1.img");
	cr_assert(r->storages[1].read_only);
	cr_assert_eq(r->storages[1].size_bytes, UINT64_C(1) << 41);
	cr_assert_eq(r->processes[1].exit_status, 3);
	cr_assert_null(r->nics[0].tap_name);
	kata__record_free(r);
	free(again);
	free(json);
}

Test(record, tells_an_implementation_what_it_needs)
{
	struct record_wish wish = full_wish("pod");
	kata_record *r = sample_record(&wish);

	cr_assert_str_eq(kata_record_get_sandbox_id(r), "pod");
	cr_assert_eq(kata_record_get_epoch(r), 1);
	cr_assert_eq(kata_record_get_container_count(r), 2);
	cr_assert_str_eq(kata_record_get_container_id(r, 1), "sidecar");
	cr_assert_null(kata_record_get_container_id(r, 2));
	cr_assert_null(kata_record_get_sandbox_id(NULL));
	cr_assert_eq(kata_record_get_container_count(NULL), 0);
	cr_assert_null(kata_record_to_json(NULL));
	kata__record_free(r);
}

Test(record, half_filled_is_freed)
{
	kata_record *r = kata__record_new();

	r->id = strdup("x");
	r->storage_count = 3; /* counted before the array was made */
	kata__record_free(r);
	kata__record_free(NULL);
	r = kata__record_new();
	cr_assert_eq(kata__noun_alloc(&kata__nouns[KATA__NOUN_NIC], r, 2), 0);
	r->nics[1].mac = strdup("y");
	kata__record_free(r);
}

Test(record, that_lacks_what_it_must_have_is_no_json)
{
	struct record_wish wish = full_wish("pod");
	kata_record *r = sample_record(&wish);
	kata_error *err = NULL;
	char *json = NULL;

	free(r->vm_uuid);
	r->vm_uuid = NULL;
	cr_assert_null(kata_record_to_json(r));
	fixture_assert_fails(kata__record_to_json_text(r, &json, &err), KATA_E_INVALID, err);
	assert_message_has(err, "record.vm_uuid: is missing");
	error_clear(&err);
	r->vm_uuid = strdup("1c1c1c1c-1111-4222-8333-444455556666");
	free(r->vm_json);
	r->vm_json = strdup("{\"a\":");
	fixture_assert_fails(kata__record_to_json_text(r, &json, &err), KATA_E_INVALID, err);
	error_clear(&err);
	free(r->vm_json);
	r->vm_json = strdup("{}");
	r->storages[0].path[1] = '\xff';
	fixture_assert_fails(kata__record_to_json_text(r, &json, &err), KATA_E_INVALID, err);
	assert_message_has(err, "record.storages[0].path: is not UTF-8");
	error_clear(&err);
	kata__record_free(r);
}

Test(record, longer_than_could_be_read_back_is_refused)
{
	struct record_wish wish = full_wish("pod");
	kata_record *r = sample_record(&wish);
	kata_error *err = NULL;
	char *json = NULL;

	for (int i = 0; i < 2; i++) {
		free(r->storages[i].path);
		r->storages[i].path = malloc(700001);
		memset(r->storages[i].path, 'p', 700000);
		r->storages[i].path[700000] = '\0';
	}
	fixture_assert_fails(kata__record_to_json_text(r, &json, &err), KATA_E_EXHAUSTED, err);
	error_clear(&err);
	kata__record_free(r);
}

/* The version decides before anything else is looked at: a newer one may have other members. */
Test(record, of_another_version_is_refused_as_such)
{
	assert_bad("\"version\":2,\"vm\"", "\"version\":3,\"something_new\":[],\"vm\"", KATA_E_VERSION,
		   "record.version: is 3");
	assert_bad("\"version\":2,\"vm\"", "\"version\":0,\"vm\"", KATA_E_VERSION, "record.version: is 0");
	assert_bad("\"version\":2,\"vm\"", "\"version\":\"2\",\"vm\"", KATA_E_CORRUPT, "record.version");
}

Test(record, cut_anywhere_is_corrupt)
{
	char *json = good_json();
	size_t len = strlen(json);

	for (size_t n = 0; n < len; n++) {
		char *copy = malloc(n ? n : 1); /* exactly so long: reading past the end shows under ASan */

		memcpy(copy, json, n);
		cr_assert_eq(parse(copy, n, NULL), KATA_E_CORRUPT, "cut at %zu", n);
		free(copy);
	}
	free(json);
}

/* Bytes changed at random: an error, or a record that passes its own checks; never a crash. */
Test(record, changed_anywhere_is_an_error_or_a_record, .timeout = 60)
{
	char *json = good_json(), *copy = strdup(json);
	size_t len = strlen(json);
	uint32_t seed = 7;
	unsigned refused = 0;

	for (int i = 0; i < 5000; i++) {
		kata_record *r = NULL;
		char *again;

		memcpy(copy, json, len);
		for (int k = 0; k <= i % 3; k++) {
			seed = seed * 1664525u + 1013904223u;
			copy[(seed >> 8) % len] = (char)(seed >> 24);
		}
		if (kata__record_from_json(copy, len, &r, NULL) < 0) {
			refused++;
			continue;
		}
		again = kata_record_to_json(r);
		cr_assert_not_null(again);
		free(again);
		kata__record_free(r);
	}
	cr_assert_gt(refused, 2500);
	free(copy);
	free(json);
}

Test(record, with_wrong_members_is_corrupt_and_says_which)
{
	assert_bad("\"format\":\"kata-sandbox\"", "\"format\":\"kata-vm\"", KATA_E_CORRUPT, "record.format");
	assert_bad("\"format\":\"kata-sandbox\",", "", KATA_E_CORRUPT, "record.format");
	assert_bad("\"hostname\":\"guest\",", "", KATA_E_CORRUPT, "record.hostname: is missing");
	assert_bad("\"hostname\"", "\"surprise\":1,\"hostname\"", KATA_E_CORRUPT, "has 'surprise'");
	assert_bad("\"hostname\"", "\"epoch\":2,\"hostname\"", KATA_E_CORRUPT, "not JSON");
	assert_bad("\"hostname\":\"guest\"", "\"hostname\":7", KATA_E_CORRUPT, "record.hostname");
	assert_bad("\"hostname\":\"guest\"", "\"hostname\":\"a\\u0000b\"", KATA_E_CORRUPT, "");
	assert_bad("\"state\":\"running\",\"storages\":[{", "\"state\":\"new\",\"storages\":[{", KATA_E_CORRUPT,
		   "running, paused");
	assert_bad("\"epoch\":1", "\"epoch\":-1", KATA_E_CORRUPT, "record.epoch");
	assert_bad("\"epoch\":1", "\"epoch\":1.0", KATA_E_CORRUPT, "record.epoch");
	assert_bad("\"epoch\":1", "\"epoch\":9223372036854775808", KATA_E_CORRUPT, "");
	assert_bad("\"id\":\"pod\"", "\"id\":\"../pod\"", KATA_E_CORRUPT, "is not an id");
	assert_bad("\"read_only\":false", "\"read_only\":0", KATA_E_CORRUPT, "read_only");
	assert_bad("\"vm_id\":\"vm-pod\"", "\"vm_id\":null", KATA_E_CORRUPT, "record.vm_id: is missing");
	assert_bad("\"vm_pid\":777", "\"vm_pid\":4194305", KATA_E_CORRUPT, "record.vm_pid");
	assert_bad("\"vm\":{", "\"vm\":[{", KATA_E_CORRUPT, "");
	assert_bad("\"dns\":[\"nameserver", "\"dns\":[7,\"nameserver", KATA_E_CORRUPT, "array of strings");
	assert_bad("\"mac\":\"02:00:00:00:00:00\"", "\"mac\":\"02:00:00:00:00:0\"", KATA_E_CORRUPT, "MAC");
}

Test(record, that_contradicts_itself_is_corrupt)
{
	assert_bad("\"id\":\"disk1\"", "\"id\":\"disk0\"", KATA_E_CORRUPT, "'disk0' is there twice");
	assert_bad("\"id\":\"sidecar\"", "\"id\":\"app\"", KATA_E_CORRUPT, "'app' is there twice");
	assert_bad("\"container_id\":\"app\"", "\"container_id\":\"who\"", KATA_E_CORRUPT, "no container 'who'");
	assert_bad("\"owner_start_time\":123456", "\"owner_start_time\":0", KATA_E_CORRUPT, "record.owner_pid");
	assert_bad("\"boot_id\":\"" BOOT_ID "\"", "\"boot_id\":null", KATA_E_CORRUPT, "boot id");
}

Test(record, with_more_than_it_may_hold_is_corrupt)
{
	struct kata__buffer b;
	kata_error *err = NULL;
	char *json = good_json(), *at = strstr(json, "\"nics\":["), *end = strstr(at, "],\"owner_pid\"");

	cr_assert_not_null(end);
	kata__buffer_init(&b, 1 << 20);
	kata__buffer_append(&b, json, (size_t)(at - json) + 8);
	for (int i = 0; i < 1025; i++)
		kata__buffer_printf(&b, "%s{}", i ? "," : "");
	kata__buffer_append(&b, end, strlen(end));
	fixture_assert_fails(parse((const char *)b.data, b.len, &err), KATA_E_CORRUPT, err);
	assert_message_has(err, "1025 items, at most 1024");
	error_clear(&err);
	kata__buffer_deinit(&b);
	free(json);
}

Test(record, longer_than_a_mebibyte_is_not_even_parsed)
{
	size_t len = 1024 * 1024 + 1;
	char *text = malloc(len);
	kata_error *err = NULL;

	memset(text, '[', len);
	fixture_assert_fails(parse(text, len, &err), KATA_E_CORRUPT, err);
	assert_message_has(err, "at most");
	error_clear(&err);
	cr_assert_eq(parse(text, len - 1, NULL), KATA_E_CORRUPT, "a million brackets");
	cr_assert_eq(parse("[]", 2, NULL), KATA_E_CORRUPT);
	cr_assert_eq(parse("7", 1, NULL), KATA_E_CORRUPT);
	free(text);
}

Test(text, is_clean_when_it_is_utf8_without_nul)
{
	static const char *const clean[] = {"",
					    "a",
					    "plain ascii of more than eight bytes",
					    "d\xc3\xbcsk",
					    "\xe2\x82\xac",
					    "\xf0\x9f\x98\x80",
					    "\xed\x9f\xbf",
					    "\xee\x80\x80",
					    "\xf4\x8f\xbf\xbf"};
	static const char *const dirty[] = {"\x80",
					    "\xc3",
					    "\xc0\xaf",
					    "\xc1\xbf",
					    "\xe0\x80\x80",
					    "\xed\xa0\x80",
					    "\xf0\x80\x80\x80",
					    "\xf4\x90\x80\x80",
					    "\xf5\x80\x80\x80",
					    "\xff",
					    "abcdefgh\xe2\x82",
					    "\xc3("};

	for (size_t i = 0; i < kata__array_size(clean); i++)
		cr_assert(kata__text_is_clean(clean[i], strlen(clean[i])), "%zu", i);
	for (size_t i = 0; i < kata__array_size(dirty); i++)
		cr_assert_not(kata__text_is_clean(dirty[i], strlen(dirty[i])), "%zu", i);
	cr_assert_not(kata__text_is_clean("a\0b", 3));
	cr_assert_not(kata__text_is_clean("abcdefgh\0", 9));
}
