/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kata_nic: what the caller wants plugged, and the mirror of what the guest sees. The config never changes; state and
 * address are its mirror's (base/mirror.h).
 * Does not touch the host, but to see whether a generated tap name is free: see tap.c.
 */
#include "net/nic.h"

#include <net/if.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/mirror.h"
#include "base/options.h"
#include "base/text.h"

#define NIC_MAGIC 0x4b4e4943u
#define MTU_MIN 68u
#define MTU_MAX 65535u
#define MTU_DEFAULT 1500u
#define MAC_BYTES 6
#define TAP_NAME_TRIES 16

struct kata_nic {
	uint32_t magic;
	atomic_uint refs;
	char *id;
	kata_nic_type type;
	char tap_name[IFNAMSIZ]; /* "" for USER */
	char mac[3 * MAC_BYTES];
	uint32_t mtu;

	struct kata__mirror mirror;
};

static const char *const type_names[] = {"user", "tap"};

const char *kata_nic_type_get_name(kata_nic_type type)
{
	return (unsigned)type < kata__array_size(type_names) ? type_names[type] : "unknown";
}

/* ---- checks ---- */

/* What the kernel's dev_valid_name refuses, and '%', which it would take for a template, and what is no name in our own
 * texts. */
static int check_tap_name(const char *name, kata_error **err)
{
	size_t n = strnlen(name, IFNAMSIZ);
	char *clean;

	if (n == 0 || n >= IFNAMSIZ)
		return kata__fail(err, KATA_E_INVALID, CALLER, "nic.tap_name: %s, must have 1 to %d bytes",
				  n ? "is too long" : "is empty", IFNAMSIZ - 1);
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)name[i];

		if (c > ' ' && c < 0x7f && !strchr("/%:\\\"'", c))
			continue;
		clean = kata__sanitize(name, n, false);
		kata__fail(err, KATA_E_INVALID, CALLER,
			   "nic.tap_name: '%s' has a byte that may not be in it: no '/', ' ', '%%', ':', quotes, "
			   "backslash, control or non-ASCII",
			   clean ? clean : "");
		free(clean);
		return KATA_E_INVALID;
	}
	if (strcmp(name, "all") == 0 || strcmp(name, "default") == 0)
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "nic.tap_name: '%s' is reserved: the kernel's sysctls have it for all links", name);
	if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return kata__fail(err, KATA_E_INVALID, CALLER, "nic.tap_name: '%s' is no name of a link", name);
	return 0;
}

static int hex_value(char c)
{
	return c >= '0' && c <= '9'   ? c - '0'
	       : c >= 'a' && c <= 'f' ? c - 'a' + 10
	       : c >= 'A' && c <= 'F' ? c - 'A' + 10
				      : -1;
}

static bool parse_mac(const char *text, uint8_t out[MAC_BYTES])
{
	for (size_t i = 0; i < MAC_BYTES; i++) {
		int hi = hex_value(text[0]), lo = hi < 0 ? -1 : hex_value(text[1]);

		if (lo < 0 || text[2] != (i + 1 < MAC_BYTES ? ':' : '\0'))
			return false;
		out[i] = (uint8_t)(hi << 4 | lo);
		text += 3;
	}
	return true;
}

static void format_mac(const uint8_t mac[MAC_BYTES], char out[3 * MAC_BYTES])
{
	snprintf(out, 3 * MAC_BYTES, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
}

static int check_mac(const char *text, char out[3 * MAC_BYTES], kata_error **err)
{
	uint8_t mac[MAC_BYTES];

	if (!parse_mac(text, mac)) {
		char *clean = kata__sanitize(text, strnlen(text, 32), false);

		kata__fail(err, KATA_E_INVALID, CALLER, "nic.mac: '%s' is not six hex bytes with ':' between",
			   clean ? clean : "");
		free(clean);
		return KATA_E_INVALID;
	}
	if (mac[0] & 1)
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "nic.mac: '%s' is a multicast address: the first byte must be even", text);
	if (!(mac[0] | mac[1] | mac[2] | mac[3] | mac[4] | mac[5]))
		return kata__fail(err, KATA_E_INVALID, CALLER, "nic.mac: all zero is no address");
	format_mac(mac, out);
	return 0;
}

/* ---- what is generated ---- */

static int random_bytes(void *out, size_t len, kata_error **err)
{
	return getrandom(out, len, 0) == (ssize_t)len
		       ? 0
		       : kata__fail(err, KATA_E_IO, HOST, "getrandom gave fewer than %zu bytes", len);
}

static int generate_mac(char out[3 * MAC_BYTES], kata_error **err)
{
	uint8_t mac[MAC_BYTES];
	int rc = random_bytes(mac, sizeof(mac), err);

	mac[0] = (uint8_t)((mac[0] & ~1u) | 2u); /* unicast, locally administered */
	if (rc == 0)
		format_mac(mac, out);
	return rc;
}

/* Random, not derived from the id: ids like "eth0" are the same in every VM, and two VMs share one namespace. */
static int generate_tap_name(char out[IFNAMSIZ], kata_error **err)
{
	uint32_t bits;
	int rc;

	for (int i = 0; i < TAP_NAME_TRIES; i++) {
		rc = random_bytes(&bits, sizeof(bits), err);
		if (rc < 0)
			return rc;
		snprintf(out, IFNAMSIZ, "kata%08x", bits);
		if (if_nametoindex(out) == 0)
			return 0;
	}
	return kata__fail(err, KATA_E_EXHAUSTED, HOST, "nic.tap_name: %d generated names are all taken: name one",
			  TAP_NAME_TRIES);
}

/* ---- the object ---- */

static int check_config(const kata_nic_config *c, kata_error **err)
{
	int rc = c->id ? kata__id_check("nic.id", c->id, err) : 0;

	if (rc < 0)
		return rc;
	if ((unsigned)c->type >= kata__array_size(type_names))
		return kata__fail(err, KATA_E_INVALID, CALLER, "nic.type: %d is neither KATA_NIC_USER nor KATA_NIC_TAP",
				  (int)c->type);
	if (c->tap_name && c->type != KATA_NIC_TAP)
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "nic.tap_name: is given, but the type is not KATA_NIC_TAP");
	if (c->mtu && (c->mtu < MTU_MIN || c->mtu > MTU_MAX))
		return kata__fail(err, KATA_E_INVALID, CALLER, "nic.mtu: %u, must be %u to %u", c->mtu, MTU_MIN,
				  MTU_MAX);
	return c->tap_name ? check_tap_name(c->tap_name, err) : 0;
}

static void nic_free(kata_nic *n)
{
	free(n->id);
	kata__mirror_deinit(&n->mirror);
	n->magic = 0;
	free(n);
}

static int fill(kata_nic *n, const kata_nic_config *c, kata_error **err)
{
	char uuid[37];
	int rc;

	kata__uuid_generate(uuid);
	n->id = kata__strdup(c->id ? c->id : uuid);
	if (!n->id)
		return kata__fail_no_memory(err);
	n->type = c->type;
	n->mtu = c->mtu ? c->mtu : MTU_DEFAULT;
	rc = c->mac ? check_mac(c->mac, n->mac, err) : generate_mac(n->mac, err);
	if (rc < 0 || c->type != KATA_NIC_TAP)
		return rc;
	if (!c->tap_name)
		return generate_tap_name(n->tap_name, err);
	snprintf(n->tap_name, sizeof(n->tap_name), "%s", c->tap_name);
	return 0;
}

int kata_nic_new(const kata_nic_config *config, kata_nic **ret_nic, kata_error **err)
{
	kata_nic_config c = KATA_NIC_CONFIG_INIT;
	kata_nic *n;
	int rc;

	if (!config || !ret_nic)
		return kata__fail(err, KATA_E_INVALID, CALLER, "%s: is NULL", config ? "ret_nic" : "nic");
	rc = kata__options_read(&c, sizeof(c), config, "nic", err);
	if (rc == 0)
		rc = check_config(&c, err);
	if (rc < 0)
		return rc;

	n = calloc(1, sizeof(*n));
	if (!n)
		return kata__fail_no_memory(err);
	n->magic = NIC_MAGIC;
	atomic_init(&n->refs, 1);
	kata__mirror_init(&n->mirror, false);
	rc = fill(n, &c, err);
	if (rc < 0) {
		nic_free(n);
		return rc;
	}
	*ret_nic = n;
	return 0;
}

kata_nic *kata_nic_ref(kata_nic *nic)
{
	if (nic)
		atomic_fetch_add_explicit(&nic->refs, 1, memory_order_relaxed);
	return nic;
}

void kata_nic_unref(kata_nic *nic)
{
	if (nic && atomic_fetch_sub_explicit(&nic->refs, 1, memory_order_acq_rel) == 1)
		nic_free(nic);
}

const char *kata_nic_get_id(const kata_nic *nic)
{
	return nic ? nic->id : NULL;
}

kata_nic_type kata_nic_get_type(const kata_nic *nic)
{
	return nic ? nic->type : KATA_NIC_USER;
}

const char *kata_nic_get_tap_name(const kata_nic *nic)
{
	return nic && nic->type == KATA_NIC_TAP ? nic->tap_name : NULL;
}

const char *kata_nic_get_mac(const kata_nic *nic)
{
	return nic ? nic->mac : NULL;
}

uint32_t kata_nic_get_mtu(const kata_nic *nic)
{
	return nic ? nic->mtu : 0;
}

/* ---- the mirror ---- */

kata_device_state kata_nic_get_state(const kata_nic *nic)
{
	return nic ? kata__mirror_get_state(&nic->mirror) : KATA_DEVICE_NEW;
}

size_t kata_nic_get_address(const kata_nic *nic, char *buf, size_t buf_size)
{
	return nic ? kata__mirror_get_address(&nic->mirror, buf, buf_size)
		   : kata__copy_text(buf, buf ? buf_size : 0, "");
}

int kata__nic_begin_plug(kata_nic *n, kata_error **err)
{
	return kata__mirror_begin_plug(&n->mirror, "NIC", n->id, err);
}

void kata__nic_set_state(kata_nic *n, kata_device_state state)
{
	kata__mirror_set_state(&n->mirror, state);
}

void kata__nic_set_plugged(kata_nic *n, const char *address)
{
	kata__mirror_set_plugged(&n->mirror, address, 0);
}

/* ---- JSON ---- */

json_t *kata__nic_to_json(const kata_nic *n)
{
	json_t *o = json_pack("{s:s, s:s, s:s, s:I}", "id", n->id, "type", type_names[n->type], "mac", n->mac, "mtu",
			      (json_int_t)n->mtu);

	if (!o || kata__json_set_text(o, "tap_name", kata_nic_get_tap_name(n)) < 0 ||
	    kata__mirror_to_json(&n->mirror, o) < 0) {
		json_decref(o);
		return NULL;
	}
	return o;
}

static int read_config(const json_t *o, const char *what, kata_nic_config *c, kata_error **err)
{
	const char *type = NULL;
	uint64_t mtu = 0;
	int rc = kata__json_get_string(o, what, "id", &c->id, err);

	if (rc == 0)
		rc = kata__json_get_string(o, what, "type", &type, err);
	if (rc == 0)
		rc = kata__json_get_string(o, what, "mac", &c->mac, err);
	if (rc == 0)
		rc = kata__json_get_string_opt(o, what, "tap_name", &c->tap_name, err);
	if (rc == 0)
		rc = kata__json_get_uint(o, what, "mtu", MTU_MAX, &mtu, err);
	if (rc < 0)
		return rc;
	if (mtu < MTU_MIN)
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s.mtu: is below %u", what, MTU_MIN);
	c->mtu = (uint32_t)mtu;
	for (size_t i = 0; i < kata__array_size(type_names); i++) {
		if (strcmp(type_names[i], type) == 0) {
			c->type = (kata_nic_type)i;
			return c->type == KATA_NIC_TAP && !c->tap_name
				       ? kata__fail(err, KATA_E_CORRUPT, CALLER, "%s.tap_name: is missing", what)
				       : 0;
		}
	}
	return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s.type: '%.16s' is unknown", what, type);
}

int kata__nic_from_json(const json_t *o, const char *what, kata_nic **ret, kata_error **err)
{
	kata_nic_config c = KATA_NIC_CONFIG_INIT;
	kata_error *cause = NULL;
	kata_nic *n = NULL;
	int rc = read_config(o, what, &c, err);

	if (rc < 0)
		return rc;
	rc = kata_nic_new(&c, &n, &cause);
	if (rc == KATA_E_INVALID) { /* the text is wrong, not the caller's argument */
		rc = kata__fail(err, KATA_E_CORRUPT, CALLER, "%s: %s", what, kata_error_get_message(cause));
		kata_error_free(cause);
		return rc;
	}
	if (rc < 0)
		return kata__error_move(err, &cause);
	rc = kata__mirror_from_json(&n->mirror, o, what, err);
	if (rc < 0) {
		kata_nic_unref(n);
		return rc;
	}
	*ret = n;
	return 0;
}
