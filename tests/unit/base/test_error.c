/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "base/error.h"

Test(error, carries_status_origin_message_and_birth)
{
	kata_error *err = NULL;

	cr_expect_eq(kata__fail(&err, KATA_E_INVALID, CALLER, "nic.mac: '%s' is short", "02:11"), KATA_E_INVALID);
	cr_expect_eq(kata_error_get_status(err), KATA_E_INVALID);
	cr_expect_eq(kata_error_get_origin(err), KATA_ORIGIN_CALLER);
	cr_expect_str_eq(kata_error_get_message(err), "nic.mac: '02:11' is short");
	cr_expect(strstr(kata_error_get_birth(err), "test_error.c:"));
	kata_error_free(err);
}

Test(error, every_maker_accepts_null)
{
	cr_expect_eq(kata__fail(NULL, KATA_E_GONE, VMM, "x"), KATA_E_GONE);
	cr_expect_eq(kata__fail_errno(NULL, ENOENT, "x"), KATA_E_NOT_FOUND);
	cr_expect_eq(kata__fail_no_memory(NULL), KATA_E_NO_MEMORY);
	cr_expect_eq(kata__error_wrap(NULL, KATA_E_IO, "x"), KATA_E_IO);
	kata__error_set_hint(NULL, "x");
	kata_error_free(NULL);
	cr_expect_eq(kata_error_get_status(NULL), KATA_OK);
	cr_expect_null(kata_error_get_message(NULL));
	cr_expect_null(kata_error_to_text(NULL));
}

Test(error, an_errno_becomes_the_closest_status)
{
	static const struct {
		int errnum, status;
	} cases[] = {{EACCES, KATA_E_PERMISSION}, {EPERM, KATA_E_PERMISSION}, {EROFS, KATA_E_PERMISSION},
		     {ENOENT, KATA_E_NOT_FOUND},  {ENOMEM, KATA_E_NO_MEMORY}, {EIO, KATA_E_IO},
		     {ENOSPC, KATA_E_IO}};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		kata_error *err = NULL;

		cr_expect_eq(kata__fail_errno(&err, cases[i].errnum, "cannot"), cases[i].status);
		cr_expect_eq(kata_error_get_errno(err), cases[i].errnum);
		cr_expect(strstr(kata_error_get_message(err), ": "), "the system's text is appended");
		kata_error_free(err);
	}
}

Test(error, wrapping_keeps_status_and_makes_a_chain)
{
	kata_error *err = NULL;
	char *text;

	kata__fail_errno(&err, ENOSPC, "cannot write");
	cr_expect_eq(kata__error_wrap(&err, KATA_E_IO, "disk 'a'"), KATA_E_IO);
	cr_expect_eq(kata_error_get_status(err), KATA_E_IO);
	cr_expect_eq(kata_error_get_errno(err), ENOSPC);
	cr_expect_str_eq(kata_error_get_message(kata_error_get_cause(err)), "cannot write: No space left on device");
	kata__error_set_step(err, "plug", "open");
	kata__error_set_console(err, "panic\x1b[31m\n", 11);
	kata__error_set_hint(err, "free some");
	text = kata_error_to_text(err);
	cr_expect(strstr(text, "disk 'a' (io, host)"), "%s", text);
	cr_expect(strstr(text, "step: plug/open"));
	cr_expect(strstr(text, "because: cannot write"));
	cr_expect(strstr(text, "| panic?[31m"), "%s", text);
	cr_expect(strstr(text, "hint: free some"));
	free(text);
	kata_error_free(err);
}

Test(error, as_json_is_one_line_with_the_chain)
{
	kata_error *err = NULL;
	char *json;

	kata__fail(&err, KATA_E_VMM, VMM, "a \"quoted\"\nline");
	kata__error_wrap(&err, KATA_E_VMM, "outer");
	json = kata_error_to_json(err);
	cr_expect(strstr(json, "\"status\":\"vmm\""), "%s", json);
	cr_expect(strstr(json, "\"cause\":{"), "%s", json);
	cr_expect(strstr(json, "a \\\"quoted\\\" line"), "%s", json);
	cr_expect_null(strchr(json, '\n'));
	free(json);
	kata_error_free(err);
}

Test(error, out_of_memory_is_static_and_survives_everything)
{
	kata_error *err = NULL, *copy;

	kata__fail_no_memory(&err);
	kata__error_set_step(err, "a", "b");
	kata__error_set_hint(err, "x");
	cr_expect_null(kata_error_get_step(err));
	copy = kata__error_dup(err);
	cr_expect_eq(copy, err);
	kata_error_free(err);
	cr_expect_str_eq(kata_error_get_message(copy), "out of memory");
}

Test(error, a_copy_is_deep)
{
	kata_error *err = NULL, *copy;

	kata__fail(&err, KATA_E_GUEST, GUEST, "inner");
	kata__error_wrap(&err, KATA_E_GUEST, "outer");
	kata__error_set_uncertain(err);
	copy = kata__error_dup(err);
	kata_error_free(err);
	cr_expect_str_eq(kata_error_get_message(copy), "outer");
	cr_expect_str_eq(kata_error_get_message(kata_error_get_cause(copy)), "inner");
	cr_expect(kata_error_is_uncertain(copy));
	kata_error_free(copy);
}

Test(error, problems_are_counted_and_listed)
{
	struct kata__problems p = {0};
	kata_error *err = NULL;

	cr_expect_eq(kata__problems_finish(&p, "vm_config", &err), 0);
	cr_expect_null(err);
	kata__problems_add(&p, "cpus: %d", 0);
	kata__problems_add(&p, "kernel: missing");
	cr_expect_eq(kata__problems_finish(&p, "vm_config", &err), KATA_E_INVALID);
	cr_expect_str_eq(kata_error_get_message(err), "2 problems in vm_config: cpus: 0; kernel: missing");
	cr_expect_eq(kata_error_get_problem_count(err), 2);
	cr_expect_str_eq(kata_error_get_problem(err, 1), "kernel: missing");
	cr_expect_null(kata_error_get_problem(err, 2));
	kata_error_free(err);
}

Test(error, foreign_text_is_cleaned_and_cut)
{
	char big[10000];
	char *s = kata__sanitize("a\x1b[2J\tb\r\nc\xc3\xa4\xff\xc0\x80\x7f", 16, true);

	cr_expect_str_eq(s, "a?[2J\tb\nc\xc3\xa4????", "%s", s);
	free(s);
	s = kata__sanitize("one\ntwo\0x", 9, false);
	cr_expect_str_eq(s, "one two?x");
	free(s);
	memset(big, 'x', sizeof(big));
	s = kata__sanitize(big, sizeof(big), true);
	cr_expect_eq(strlen(s), KATA__ERROR_TEXT_MAX);
	free(s);
}

Test(error, every_status_has_a_name_of_its_own)
{
	for (int i = 0; i >= KATA_E_DIVERGED; i--)
		for (int j = i - 1; j >= KATA_E_DIVERGED; j--)
			cr_expect_str_neq(kata_status_get_name(i), kata_status_get_name(j));
	cr_expect_str_eq(kata_status_get_name(KATA_E_DIVERGED - 1), "unknown");
	cr_expect_str_eq(kata_status_get_name(1), "unknown");
}
