/* SPDX-License-Identifier: Apache-2.0 */
#include "factory/template_record.h"

#include <stdio.h>
#include <string.h>

#include "base/text.h"

void kata__template_record_deinit(struct kata__template_record *r)
{
	free(r->vmm.path);
	*r = (struct kata__template_record){0};
}

/* ---- writing ---- */

static json_t *vmm_to_json(const struct kata__manifest_file *f)
{
	if (!f->path)
		return json_null();
	return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I}", "path", f->path, "sha256", f->sha256, "ino",
			 (json_int_t)f->file.ino, "size_bytes", (json_int_t)f->file.size_bytes, "mtime_ns",
			 (json_int_t)f->file.mtime_ns, "ctime_ns", (json_int_t)f->file.ctime_ns);
}

char *kata__template_record_write(const struct kata__template_record *r)
{
	KATA_AUTO_JSON json_t *o = json_pack("{s:s, s:i, s:s, s:s, s:o}", "format", "kata-template", "version",
					     KATA__TEMPLATE_RECORD_VERSION, "library", r->library, "agent", r->agent,
					     "vmm", vmm_to_json(&r->vmm));

	return o ? kata__json_dump(o) : NULL;
}

/* ---- reading ---- */

static int read_text(const json_t *o, const char *what, const char *key, size_t min, char *out, size_t size,
		     kata_error **err)
{
	const char *text = NULL;
	int rc = kata__json_get_string(o, what, key, &text, err);

	if (rc < 0)
		return rc;
	if (strlen(text) < min || strlen(text) >= size)
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s.%s: must have %zu to %zu bytes", what, key, min,
				  size - 1);
	snprintf(out, size, "%s", text);
	return 0;
}

static int read_vmm(const json_t *o, struct kata__manifest_file *ret, kata_error **err)
{
	static const char *const members[] = {"path", "sha256", "ino", "size_bytes", "mtime_ns", "ctime_ns", NULL};
	static const char what[] = "template.vmm";
	const char *path = NULL;
	int rc;

	if ((rc = kata__json_check_members(o, what, members, NULL, err)) ||
	    (rc = kata__json_get_string(o, what, "path", &path, err)) ||
	    (rc = read_text(o, what, "sha256", KATA__DIGEST_MAX - 1, ret->sha256, KATA__DIGEST_MAX, err)) ||
	    (rc = kata__json_get_uint(o, what, "ino", INT64_MAX, &ret->file.ino, err)) ||
	    (rc = kata__json_get_uint(o, what, "size_bytes", INT64_MAX, &ret->file.size_bytes, err)) ||
	    (rc = kata__json_get_uint(o, what, "mtime_ns", INT64_MAX, &ret->file.mtime_ns, err)) ||
	    (rc = kata__json_get_uint(o, what, "ctime_ns", INT64_MAX, &ret->file.ctime_ns, err)))
		return rc;
	if (path[0] != '/' || !kata__digest_is_valid(ret->sha256))
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s.%s", what,
				  path[0] == '/' ? "sha256: is no sha256 in lower case hex" : "path: is not absolute");
	ret->path = kata__strdup(path);
	return ret->path ? 0 : kata__fail_no_memory(err);
}

static int check_head(const json_t *o, kata_error **err)
{
	const char *format = NULL;
	uint64_t version = 0;
	int rc = kata__json_get_string(o, "template", "format", &format, err);

	if (rc == 0 && strcmp(format, "kata-template") != 0)
		rc = kata__fail(err, KATA_E_CORRUPT, CALLER, "template.format: is '%.32s', must be 'kata-template'",
				format);
	if (rc == 0)
		rc = kata__json_get_uint(o, "template", "version", UINT32_MAX, &version, err);
	if (rc == 0 && version != KATA__TEMPLATE_RECORD_VERSION)
		rc = kata__fail(err, KATA_E_VERSION, CALLER, "template.version: is %llu, this library reads %d",
				(unsigned long long)version, KATA__TEMPLATE_RECORD_VERSION);
	return rc;
}

int kata__template_record_read(const char *text, size_t len, struct kata__template_record *ret, kata_error **err)
{
	static const char *const members[] = {"format", "version", "library", "agent", "vmm", NULL};
	KATA_AUTO_JSON json_t *o = NULL;
	int rc;

	if ((rc = kata__json_parse("template", text, len, KATA__TEMPLATE_RECORD_MAX, &o, err)) ||
	    (rc = check_head(o, err)) || (rc = kata__json_check_members(o, "template", members, NULL, err)) ||
	    (rc = read_text(o, "template", "library", 1, ret->library, sizeof(ret->library), err)) ||
	    (rc = read_text(o, "template", "agent", 0, ret->agent, sizeof(ret->agent), err)))
		return rc;
	return json_is_null(json_object_get(o, "vmm")) ? 0 : read_vmm(json_object_get(o, "vmm"), &ret->vmm, err);
}
