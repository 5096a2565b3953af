/* SPDX-License-Identifier: Apache-2.0 */
#include "factory/message.h"

#include <string.h>

#include "base/text.h"

#define WHAT "factory message"
#define RESET_MAX (UINT64_C(1) << 16)

void kata__take_request_deinit(struct kata__take_request *r)
{
	kata__vm_config_copy_free(r->config);
	*r = (struct kata__take_request){0};
}

void kata__take_reply_deinit(struct kata__take_reply *r)
{
	free(r->record);
	free(r->none);
	free(r->message);
	*r = (struct kata__take_reply){0};
}

/* ---- out ---- */

static char *dump(json_t *take_o)
{
	char *text = take_o ? kata__json_dump(take_o) : NULL;

	json_decref(take_o);
	return text;
}

char *kata__take_request_encode(const struct kata__take_request *r)
{
	return dump(json_pack("{s:i, s:{s:o, s:b, s:i}}", "kata_factory", KATA__FACTORY_VERSION, "take", "config",
			      kata__vm_config_to_json(r->config), "keep_id", (int)r->keep_id, "transport",
			      (int)r->transport));
}

char *kata__take_reply_encode(const struct kata__take_reply *r)
{
	if (r->status < 0)
		return dump(json_pack("{s:i, s:{s:i, s:s}}", "kata_factory", KATA__FACTORY_VERSION, "error", "status",
				      -r->status, "message", r->message ? r->message : ""));
	if (r->record)
		return dump(json_pack("{s:i, s:s, s:i, s:I}", "kata_factory", KATA__FACTORY_VERSION, "vm", r->record,
				      "origin", (int)r->origin, "reset", (json_int_t)r->reset));
	return dump(json_pack("{s:i, s:s}", "kata_factory", KATA__FACTORY_VERSION, "none", r->none ? r->none : ""));
}

char *kata__taken_encode(bool taken)
{
	return dump(json_pack("{s:i, s:b}", "kata_factory", KATA__FACTORY_VERSION, "taken", (int)taken));
}

/* ---- in ---- */

static int open_message(const char *text, size_t len, size_t max, json_t **ret, kata_error **err)
{
	uint64_t version = 0;
	json_t *o = NULL;
	int rc = kata__json_parse(WHAT, text, len, max, &o, err);

	if (rc == 0)
		rc = kata__json_get_uint(o, WHAT, "kata_factory", UINT32_MAX, &version, err);
	if (rc == 0 && version != KATA__FACTORY_VERSION)
		rc = kata__fail(err, KATA_E_VERSION, CALLER, WHAT ": of protocol %llu, this library speaks %d",
				(unsigned long long)version, KATA__FACTORY_VERSION);
	if (rc < 0)
		json_decref(o);
	else
		*ret = o;
	return rc;
}

int kata__take_request_decode(const char *text, size_t len, struct kata__take_request *ret, kata_error **err)
{
	KATA_AUTO_JSON json_t *o = NULL;
	json_t *take = NULL, *config = NULL;
	struct kata__take_request r = {0};
	uint64_t transport = 0;
	int rc = open_message(text, len, KATA__FACTORY_REQUEST_MAX, &o, err);

	if (rc == 0)
		rc = kata__json_get_object(o, WHAT, "take", &take, err);
	if (rc == 0)
		rc = kata__json_get_bool(take, WHAT ".take", "keep_id", &r.keep_id, err);
	if (rc == 0)
		rc = kata__json_get_uint(take, WHAT ".take", "transport", KATA_AGENT_VSOCK, &transport, err);
	if (rc == 0)
		rc = kata__json_get_object(take, WHAT ".take", "config", &config, err);
	if (rc == 0)
		rc = kata__vm_config_from_json(config, WHAT ".take.config", &r.config, err);
	if (rc < 0)
		return rc;
	r.transport = (kata_agent_transport)transport;
	*ret = r;
	return 0;
}

static int dup_text(const json_t *o, const char *key, char **ret, kata_error **err)
{
	const char *text = NULL;
	int rc = kata__json_get_string(o, WHAT, key, &text, err);

	if (rc < 0)
		return rc;
	*ret = kata__strdup(text);
	return *ret ? 0 : kata__fail_no_memory(err);
}

static int read_error(const json_t *o, struct kata__take_reply *r, kata_error **err)
{
	uint64_t status = 0;
	json_t *e = NULL;
	int rc = kata__json_get_object(o, WHAT, "error", &e, err);

	if (rc == 0)
		rc = kata__json_get_uint(e, WHAT ".error", "status", (uint64_t)-KATA_E_INJECTED, &status, err);
	if (rc == 0 && status == 0)
		rc = kata__fail(err, KATA_E_CORRUPT, CALLER, WHAT ".error.status: is 0, which is no error");
	if (rc == 0)
		rc = dup_text(e, "message", &r->message, err);
	r->status = -(int)status;
	return rc;
}

static int read_vm(const json_t *o, struct kata__take_reply *r, kata_error **err)
{
	uint64_t origin = 0;
	int rc = kata__json_get_uint(o, WHAT, "origin", KATA_VM_PRESTARTED, &origin, err);

	if (rc == 0)
		rc = kata__json_get_uint(o, WHAT, "reset", RESET_MAX, &r->reset, err);
	if (rc == 0)
		rc = dup_text(o, "vm", &r->record, err);
	r->origin = (kata_vm_origin)origin;
	return rc;
}

int kata__take_reply_decode(const char *text, size_t len, struct kata__take_reply *ret, kata_error **err)
{
	KATA_AUTO_JSON json_t *o = NULL;
	struct kata__take_reply r = {0};
	int rc = open_message(text, len, KATA__FACTORY_REPLY_MAX, &o, err);

	if (rc < 0)
		return rc;
	if (json_object_get(o, "error"))
		rc = read_error(o, &r, err);
	else if (json_object_get(o, "vm"))
		rc = read_vm(o, &r, err);
	else
		rc = dup_text(o, "none", &r.none, err);
	if (rc < 0)
		kata__take_reply_deinit(&r);
	else
		*ret = r;
	return rc;
}

int kata__taken_decode(const char *text, size_t len, bool *ret, kata_error **err)
{
	KATA_AUTO_JSON json_t *o = NULL;
	int rc = open_message(text, len, KATA__FACTORY_REQUEST_MAX, &o, err);

	return rc < 0 ? rc : kata__json_get_bool(o, WHAT, "taken", ret, err);
}
