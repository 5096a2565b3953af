/* SPDX-License-Identifier: Apache-2.0 */
/* The order and the checks of ResetIdentity. */
#include "guest/identity.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <kata/agent.h>

#include "guest/device.h"

typedef int (*part_fn)(const struct identity_ops *ops, const Grpc__ResetIdentityRequest *q);

struct part {
	uint32_t bit;
	const char *name;
	part_fn reset;
};

/* ---- checks */

static bool is_machine_id(const char *text)
{
	return strlen(text) == 32 && strspn(text, "0123456789abcdef") == 32;
}

static int check_macs(const Grpc__ResetIdentityRequest *q, kata_error **err)
{
	uint8_t mac[6];

	if (q->n_macs > IDENTITY_MACS_MAX)
		return kata__fail(err, KATA_E_INVALID, CALLER, "macs: %zu, at most %d are taken", q->n_macs,
				  IDENTITY_MACS_MAX);
	for (size_t i = 0; i < q->n_macs; i++) {
		if (!device_is_pci_path(q->macs[i]->address))
			return kata__fail(err, KATA_E_INVALID, CALLER,
					  "macs[%zu].address: '%.64s' is not a PCI path (\"05/00\")", i,
					  q->macs[i]->address);
		if (!device_parse_mac(q->macs[i]->mac, mac) || mac[0] & 1)
			return kata__fail(err, KATA_E_INVALID, CALLER,
					  "macs[%zu].mac: '%.32s' is not six hexadecimal bytes of one station "
					  "(\"02:00:00:00:00:01\")",
					  i, q->macs[i]->mac);
	}
	return 0;
}

static int check(const Grpc__ResetIdentityRequest *q, kata_error **err)
{
	size_t len = q->entropy.len;

	if (len && (len < IDENTITY_ENTROPY_MIN || len > IDENTITY_ENTROPY_MAX))
		return kata__fail(err, KATA_E_INVALID, CALLER, "entropy: %zu bytes, %d to %d are needed", len,
				  IDENTITY_ENTROPY_MIN, IDENTITY_ENTROPY_MAX);
	if (q->seconds < 0 || q->microseconds < 0 || q->microseconds >= 1000000)
		return kata__fail(err, KATA_E_INVALID, CALLER, "seconds: %lld s, %lld us are no time since 1970",
				  (long long)q->seconds, (long long)q->microseconds);
	if (strlen(q->hostname) > 64)
		return kata__fail(err, KATA_E_INVALID, CALLER, "hostname: more than 64 bytes");
	if (q->machine_id[0] && !is_machine_id(q->machine_id))
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "machine_id: '%.64s' is not 32 lower-case hexadecimal digits", q->machine_id);
	if (q->sample_length > IDENTITY_SAMPLE_MAX)
		return kata__fail(err, KATA_E_INVALID, CALLER, "sample_length: %u, at most %d", q->sample_length,
				  IDENTITY_SAMPLE_MAX);
	return check_macs(q, err);
}

/* ---- parts: 1 where the request does not ask for it */

static int reset_entropy(const struct identity_ops *ops, const Grpc__ResetIdentityRequest *q)
{
	return q->entropy.len ? ops->add_entropy(q->entropy.data, q->entropy.len) : 1;
}

static int reset_clock(const struct identity_ops *ops, const Grpc__ResetIdentityRequest *q)
{
	return q->seconds ? ops->set_clock(q->seconds, q->microseconds) : 1;
}

static int reset_hostname(const struct identity_ops *ops, const Grpc__ResetIdentityRequest *q)
{
	return q->hostname[0] ? ops->set_hostname(q->hostname) : 1;
}

static int reset_machine_id(const struct identity_ops *ops, const Grpc__ResetIdentityRequest *q)
{
	return q->machine_id[0] ? ops->set_machine_id(q->machine_id) : 1;
}

static int reset_macs(const struct identity_ops *ops, const Grpc__ResetIdentityRequest *q)
{
	uint8_t mac[6];

	for (size_t i = 0; i < q->n_macs; i++) {
		int rc;

		device_parse_mac(q->macs[i]->mac, mac);
		rc = ops->set_mac(q->macs[i]->address, mac);
		if (rc)
			return rc;
	}
	return q->n_macs ? 0 : 1;
}

static const struct part parts[] = {
	{KATA_RESET_ENTROPY, "entropy", reset_entropy},
	{KATA_RESET_CLOCK, "clock", reset_clock},
	{KATA_RESET_HOSTNAME, "hostname", reset_hostname},
	{KATA_RESET_MACHINE_ID, "machine_id", reset_machine_id},
	{KATA_RESET_MACS, "macs", reset_macs},
};

static int failed(const struct part *part, int rc, uint32_t done, kata_error **err)
{
	char before[64] = "";
	size_t n = 0;

	for (size_t i = 0; i < kata__array_size(parts); i++)
		if (done & parts[i].bit)
			n += (size_t)snprintf(before + n, sizeof(before) - n, " %s", parts[i].name);
	if (rc == -ENODEV)
		return kata__fail(err, KATA_E_NOT_FOUND, CALLER, "%s: there is no NIC at that address (done before:%s)",
				  part->name, n ? before : " nothing");
	return kata__fail_errno(err, -rc, "%s: cannot be reset (done before:%s)", part->name, n ? before : " nothing");
}

int identity_reset(const struct identity_ops *ops, const Grpc__ResetIdentityRequest *q, uint32_t *ret_done,
		   kata_error **err)
{
	int rc;

	*ret_done = 0;
	rc = check(q, err);
	if (rc)
		return rc;
	for (size_t i = 0; i < kata__array_size(parts); i++) {
		rc = parts[i].reset(ops, q);
		if (rc < 0)
			return failed(&parts[i], rc, *ret_done, err);
		if (rc == 0)
			*ret_done |= parts[i].bit;
	}
	return 0;
}
