/* SPDX-License-Identifier: Apache-2.0 */
/* Reservations: the public functions, which complete and check what the caller gives. */
#include <string.h>
#include <time.h>

#include "base/options.h"
#include "base/text.h"
#include "persist/persistence.h"
#include "persist/rows.h"

#define TAP_MAX 15
#define DIRECTORY_MAX 255
#define SLOT_MAX 65535
#define CID_MIN 3 /* vsock(7): 1 is the local host, 2 the host */

static const char *const kinds[] = {"vm", "storage", "nic"};
static const char *const states[] = {"intent", "done", "undone"};

const char *kata_reservation_kind_get_name(kata_reservation_kind kind)
{
	return (size_t)kind < kata__array_size(kinds) ? kinds[kind] : "unknown";
}

const char *kata_reservation_state_get_name(kata_reservation_state state)
{
	return (size_t)state < kata__array_size(states) ? states[state] : "unknown";
}

static int find_word(const char *const *words, size_t count, const char *word)
{
	for (size_t i = 0; i < count; i++)
		if (strcmp(words[i], word) == 0)
			return (int)i;
	return -1;
}

int kata__reservation_kind_parse(const char *word)
{
	return find_word(kinds, kata__array_size(kinds), word);
}

int kata__reservation_state_parse(const char *word)
{
	return find_word(states, kata__array_size(states), word);
}

int kata__reservation_taken(const char *what, const kata_reservation *by, kata_error **err)
{
	char since[32];

	kata__format_time(by->reserved_at, since, sizeof(since));
	return kata__fail(err, KATA_E_EXISTS, CALLER,
			  "%s: %s '%s' of sandbox '%s' has it (%s), reserved by pid %lld (start time %llu) on %s", what,
			  kata_reservation_kind_get_name(by->kind), by->id, by->sandbox_id,
			  kata_reservation_state_get_name(by->state), (long long)by->owner_pid,
			  (unsigned long long)by->owner_start_time, since);
}

/* ---- forms */

static bool is_mac(const char *s)
{
	for (int i = 0; i < 17; i++)
		if (i % 3 == 2 ? s[i] != ':' : !s[i] || !strchr("0123456789abcdef", s[i]))
			return false;
	return s[17] == '\0';
}

/* NULL, or what is wrong. */
static const char *wrong_form(const kata_reservation *r)
{
	if (!kata__id_is_valid(r->sandbox_id))
		return "sandbox_id: is no id";
	if (!kata__id_is_valid(r->id))
		return "id: is no id";
	if (r->kind >= kata__array_size(kinds))
		return "kind: is none of vm, storage, nic";
	if (r->state >= kata__array_size(states))
		return "state: is none of intent, done, undone";
	if (r->mac[0] && !is_mac(r->mac))
		return "mac: is no MAC address in lower case";
	if (r->tap_name[0] && (strchr(r->tap_name, '/') || !kata__text_is_clean(r->tap_name, strlen(r->tap_name))))
		return "tap_name: is no name of a link";
	if (r->cid && (r->cid < CID_MIN || r->cid == UINT32_MAX))
		return "cid: is one of vsock's own: a guest's is from 3 to 4294967294";
	if (r->directory[0] && r->directory[0] != '/')
		return "directory: is no absolute path";
	if (!kata__text_is_clean(r->directory, strlen(r->directory)))
		return "directory: is not UTF-8";
	if (r->slot < -1 || r->slot > SLOT_MAX)
		return "slot: must be from 0 to 65535, or -1";
	return NULL;
}

int kata__reservation_check(const kata_reservation *r, kata_error **err)
{
	const char *wrong = wrong_form(r);

	if (!wrong && r->owner_pid < 0)
		wrong = "owner_pid: is negative";
	if (!wrong && !kata__uuid_is_valid(r->boot_id))
		wrong = "boot_id: is no UUID";
	return wrong ? kata__fail(err, KATA_E_CORRUPT, CALLER, "reservation.%s", wrong) : 0;
}

static int copy(char *to, size_t size, const char *from, const char *name, kata_error **err)
{
	if (from && strlen(from) >= size)
		return kata__fail(err, KATA_E_INVALID, CALLER, "reservation.%s: has %zu bytes, at most %zu fit", name,
				  strlen(from), size - 1);
	snprintf(to, size, "%s", from ? from : "");
	return 0;
}

static int complete_directory(kata_persistence *p, const kata_reservation_config *config, kata_reservation *r,
			      kata_error **err)
{
	KATA_AUTO(free) char *own = NULL;

	if (config->directory || r->kind != KATA_RESERVE_VM)
		return copy(r->directory, sizeof(r->directory), config->directory, "directory", err);
	own = kata__format("%s/vm/%s", kata_context_get_state_dir(p->ctx), r->id);
	return own ? copy(r->directory, sizeof(r->directory), own, "directory", err) : kata__fail_no_memory(err);
}

static int complete(kata_persistence *p, const kata_reservation_config *config, kata_reservation *r, kata_error **err)
{
	const struct kata__process_identity *self = kata__context_self(p->ctx);
	const char *id = config->id || config->kind != KATA_RESERVE_VM ? config->id : config->sandbox_id;
	int rc = kata__id_check("reservation.sandbox_id", config->sandbox_id, err);

	if (rc == 0)
		rc = kata__id_check("reservation.id", id, err);
	if (rc < 0)
		return rc;
	snprintf(r->sandbox_id, sizeof(r->sandbox_id), "%s", config->sandbox_id);
	snprintf(r->id, sizeof(r->id), "%s", id);
	r->kind = config->kind;
	r->cid = config->cid;
	r->slot = config->slot;
	r->owner_pid = self->pid;
	r->owner_start_time = self->start_time;
	snprintf(r->boot_id, sizeof(r->boot_id), "%s", self->boot_id);
	r->reserved_at = time(NULL);
	rc = copy(r->tap_name, sizeof(r->tap_name), config->tap_name, "tap_name", err);
	if (rc == 0)
		rc = copy(r->mac, sizeof(r->mac), config->mac, "mac", err);
	return rc < 0 ? rc : complete_directory(p, config, r, err);
}

/* ---- public */

static int supported(const kata_persistence *p, bool has, kata_error **err)
{
	return has ? 0
		   : kata__fail(err, KATA_E_UNSUPPORTED, CALLER, "persistence '%s': it keeps no reservations",
				p->ops.name);
}

int kata_persistence_reserve(kata_persistence *persistence, const kata_reservation_config *config, kata_error **err)
{
	kata_reservation_config c = KATA_RESERVATION_CONFIG_INIT;
	kata_reservation r = {0};
	const char *wrong;
	int rc = kata__persistence_check(persistence, err);

	if (rc == 0 && !config)
		rc = kata__fail(err, KATA_E_INVALID, CALLER, "config: is NULL");
	if (rc == 0)
		rc = kata__options_read(&c, sizeof(c), config, "config", err);
	if (rc == 0)
		rc = supported(persistence, persistence->ops.reserve, err);
	if (rc == 0)
		rc = complete(persistence, &c, &r, err);
	if (rc < 0)
		return rc;
	wrong = c.flags & ~KATA_RESERVE_SHARED ? "flags: has unknown bits" : wrong_form(&r);
	if (wrong)
		return kata__fail(err, KATA_E_INVALID, CALLER, "reservation.%s", wrong);
	return kata__persistence_answer(persistence, "reserve", r.sandbox_id,
					persistence->ops.reserve(persistence->self, &r, c.flags, err), err);
}

int kata_persistence_settle(kata_persistence *persistence, const char *sandbox_id, kata_reservation_kind kind,
			    const char *id, kata_reservation_state state, kata_error **err)
{
	int rc = kata__persistence_check(persistence, err);

	if (rc == 0)
		rc = kata__id_check("sandbox_id", sandbox_id, err);
	if (rc == 0)
		rc = kata__id_check("id", id, err);
	if (rc == 0 && (unsigned)kind >= kata__array_size(kinds))
		rc = kata__fail(err, KATA_E_INVALID, CALLER, "kind: is %d, must be a kata_reservation_kind", (int)kind);
	if (rc == 0 && state != KATA_RESERVATION_DONE && state != KATA_RESERVATION_UNDONE)
		rc = kata__fail(err, KATA_E_INVALID, CALLER, "state: must be DONE or UNDONE");
	if (rc == 0)
		rc = supported(persistence, persistence->ops.settle, err);
	if (rc < 0)
		return rc;
	return kata__persistence_answer(persistence, "settle", sandbox_id,
					persistence->ops.settle(persistence->self, sandbox_id, kind, id, state, err),
					err);
}

int kata_persistence_list_reservations(kata_persistence *persistence, const char *sandbox_id,
				       kata_reservation **ret_reservations, size_t *ret_count, kata_error **err)
{
	int rc = kata__persistence_check(persistence, err);

	if (rc == 0 && sandbox_id)
		rc = kata__id_check("sandbox_id", sandbox_id, err);
	if (rc == 0 && (!ret_reservations || !ret_count))
		rc = kata__fail(err, KATA_E_INVALID, CALLER, "%s: is NULL",
				ret_reservations ? "ret_count" : "ret_reservations");
	if (rc == 0)
		rc = supported(persistence, persistence->ops.list_reservations, err);
	if (rc < 0)
		return rc;
	return kata__persistence_answer(
		persistence, "list_reservations", sandbox_id,
		persistence->ops.list_reservations(persistence->self, sandbox_id, ret_reservations, ret_count, err),
		err);
}
