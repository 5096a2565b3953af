/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_FACTORY_MESSAGE_H
#define KATA_FACTORY_MESSAGE_H
/*
 * What a factory's server and the builders in other processes say to each other, as JSON. Pure functions; what comes in
 *is checked as hostile input although its sender's uid was.
 *
 *	builder: {"kata_factory":1, "take":{"config":{...}, "keep_id":b, "transport":n}}
 *	server:  {"kata_factory":1, "vm":"<released record>", "origin":n, "reset":n}     with the fd of the VM's
 *directory
 *	         {"kata_factory":1, "none":"why"}
 *	         {"kata_factory":1, "error":{"status":n, "message":"..."}}
 *	builder: {"kata_factory":1, "taken":b}                                          false: it could not; end it
 *
 * A member that is not known is passed over; another number is another protocol.
 */
#include <kata/agent.h>
#include <kata/vm.h>

#include "base/json.h"
#include "vm/config.h"

#define KATA__FACTORY_VERSION 1
#define KATA__FACTORY_REQUEST_MAX 65536u
#define KATA__FACTORY_REPLY_MAX (2u * KATA__JSON_RECORD_MAX) /* a record inside a string */

struct kata__take_request {
	struct kata__vm_config_copy *config; /* the id in it is the wanted one, or, with keep_id, nobody's */
	bool keep_id;
	kata_agent_transport transport;
};
void kata__take_request_deinit(struct kata__take_request *r);

struct kata__take_reply {
	char *record; /* or NULL, and then the next, or the error */
	kata_vm_origin origin;
	uint64_t reset; /* KATA_RESET_* */
	char *none;
	int status; /* < 0: an error */
	char *message;
};
void kata__take_reply_deinit(struct kata__take_reply *r);

/* Malloc'ed text; NULL when out of memory. */
char *kata__take_request_encode(const struct kata__take_request *r);
char *kata__take_reply_encode(const struct kata__take_reply *r);
char *kata__taken_encode(bool taken);
/* CORRUPT, VERSION; then *ret is untouched. */
int kata__take_request_decode(const char *text, size_t len, struct kata__take_request *ret, kata_error **err);
int kata__take_reply_decode(const char *text, size_t len, struct kata__take_reply *ret, kata_error **err);
int kata__taken_decode(const char *text, size_t len, bool *ret, kata_error **err);
#endif
