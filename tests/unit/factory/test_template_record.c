/* SPDX-License-Identifier: Apache-2.0 */
/* The part "x-template": what is written is read back, and nothing else is taken for it. */
#include <criterion/criterion.h>
#include <string.h>

#include "base/text.h"
#include "factory/template_record.h"
#include "support/fixture.h"

#define DIGEST "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static struct kata__template_record sample(void)
{
	struct kata__template_record r = {.library = "0.1.0", .agent = "libkata-0.1.0"};

	r.vmm = (struct kata__manifest_file){.path = kata__strdup("/usr/bin/vmm"),
					     .sha256 = DIGEST,
					     .file = {.ino = 7, .size_bytes = 8, .mtime_ns = 9, .ctime_ns = 10}};
	return r;
}

Test(template_record, what_is_written_is_read_back)
{
	struct kata__template_record r = sample(), back = {0};
	kata_error *err = NULL;
	char *text = kata__template_record_write(&r);

	fixture_assert_ok(kata__template_record_read(text, strlen(text), &back, &err), err);
	cr_assert_str_eq(back.library, "0.1.0");
	cr_assert_str_eq(back.agent, "libkata-0.1.0");
	cr_assert_str_eq(back.vmm.path, "/usr/bin/vmm");
	cr_assert_str_eq(back.vmm.sha256, DIGEST);
	cr_assert(kata__file_identity_equal(&back.vmm.file, &r.vmm.file));
	kata__template_record_deinit(&r);
	kata__template_record_deinit(&back);
	free(text);
}

Test(template_record, a_vmm_without_a_binary_has_none_there)
{
	struct kata__template_record r = {.library = "0.1.0"}, back = {0};
	kata_error *err = NULL;
	char *text = kata__template_record_write(&r);

	fixture_assert_ok(kata__template_record_read(text, strlen(text), &back, &err), err);
	cr_assert_null(back.vmm.path);
	cr_assert_str_eq(back.agent, "");
	free(text);
}

static void refused(const char *text, int status, const char *word)
{
	struct kata__template_record r = {0};
	kata_error *err = NULL;

	fixture_assert_fails(kata__template_record_read(text, strlen(text), &r, &err), status, err);
	cr_assert(strstr(error_text(err), word), "%s: %s", text, error_text(err));
	error_clear(&err);
	kata__template_record_deinit(&r);
}

#define HEAD "\"format\":\"kata-template\",\"version\":1,"
#define VMM(path, sha)                                                                                                 \
	"{\"path\":\"" path "\",\"sha256\":\"" sha "\",\"ino\":1,\"size_bytes\":1,\"mtime_ns\":1,\"ctime_ns\":1}"

Test(template_record, what_is_none_is_refused_by_name)
{
	refused("", KATA_E_CORRUPT, "template");
	refused("[]", KATA_E_CORRUPT, "template");
	refused("{\"format\":\"kata-snapshot\",\"version\":1}", KATA_E_CORRUPT, "template.format");
	refused("{\"format\":\"kata-template\",\"version\":2}", KATA_E_VERSION, "template.version");
	refused("{" HEAD "\"library\":\"1\",\"agent\":\"\"}", KATA_E_CORRUPT, "vmm");
	refused("{" HEAD "\"library\":\"1\",\"agent\":\"\",\"vmm\":null,\"more\":1}", KATA_E_CORRUPT, "more");
	refused("{" HEAD "\"library\":\"\",\"agent\":\"\",\"vmm\":null}", KATA_E_CORRUPT, "template.library");
	refused("{" HEAD "\"library\":\"1234567890123456789012345678901234567890\",\"agent\":\"\",\"vmm\":null}",
		KATA_E_CORRUPT, "template.library");
	refused("{" HEAD "\"library\":\"1\",\"agent\":1,\"vmm\":null}", KATA_E_CORRUPT, "template.agent");
	refused("{" HEAD "\"library\":\"1\",\"agent\":\"\",\"vmm\":1}", KATA_E_CORRUPT, "template.vmm");
	refused("{" HEAD "\"library\":\"1\",\"agent\":\"\",\"vmm\":" VMM("usr/vmm", DIGEST) "}", KATA_E_CORRUPT,
		"template.vmm.path");
	refused("{" HEAD "\"library\":\"1\",\"agent\":\"\",\"vmm\":" VMM("/usr/vmm", "ab") "}", KATA_E_CORRUPT,
		"template.vmm.sha256");
}

Test(template_record, a_cut_text_is_refused_at_every_byte)
{
	struct kata__template_record r = sample();
	char *text = kata__template_record_write(&r);

	for (size_t n = 0; n < strlen(text); n++) {
		struct kata__template_record back = {0};
		kata_error *err = NULL;

		fixture_assert_fails(kata__template_record_read(text, n, &back, &err), KATA_E_CORRUPT, err);
		error_clear(&err);
		kata__template_record_deinit(&back);
	}
	kata__template_record_deinit(&r);
	free(text);
}
