/* SPDX-License-Identifier: Apache-2.0 */
/* ResetIdentity: its order, its checks, and what it says when a part fails; the parts themselves are made up. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <kata/agent.h>

#include "guest/identity.h"

static char log_text[512];
static const char *failing;
static int failure;

static int note(const char *name, const char *value)
{
	size_t n = strlen(log_text);

	if (failing && strcmp(failing, name) == 0)
		return failure;
	snprintf(log_text + n, sizeof(log_text) - n, "%s %s;", name, value);
	return 0;
}

static int add_entropy(const void *bytes, size_t len)
{
	char text[32];

	snprintf(text, sizeof(text), "%zu", len);
	return note("entropy", text);
}

static int set_clock(int64_t seconds, int64_t microseconds)
{
	char text[64];

	snprintf(text, sizeof(text), "%lld.%06lld", (long long)seconds, (long long)microseconds);
	return note("clock", text);
}

static int set_hostname(const char *name)
{
	return note("hostname", name);
}

static int set_machine_id(const char *id)
{
	return note("machine-id", id);
}

static int set_mac(const char *pci_path, const uint8_t mac[6])
{
	char text[64];

	snprintf(text, sizeof(text), "%s %02x..%02x", pci_path, mac[0], mac[5]);
	return note("mac", text);
}

static const struct identity_ops ops = {.add_entropy = add_entropy,
					.set_clock = set_clock,
					.set_hostname = set_hostname,
					.set_machine_id = set_machine_id,
					.set_mac = set_mac};

static Grpc__MacChange mac_changes[2], *macs[] = {&mac_changes[0], &mac_changes[1]};
static uint8_t entropy[64];

static Grpc__ResetIdentityRequest whole(void)
{
	Grpc__ResetIdentityRequest q = GRPC__RESET_IDENTITY_REQUEST__INIT;

	for (int i = 0; i < 2; i++)
		grpc__mac_change__init(macs[i]);
	macs[0]->address = (char *)"08/00";
	macs[0]->mac = (char *)"02:00:00:00:00:01";
	macs[1]->address = (char *)"09/00";
	macs[1]->mac = (char *)"02:00:00:00:00:02";
	q.entropy = (ProtobufCBinaryData){.len = sizeof(entropy), .data = entropy};
	q.seconds = 1700000000;
	q.microseconds = 25;
	q.hostname = (char *)"clone";
	q.machine_id = (char *)"0123456789abcdef0123456789abcdef";
	q.macs = macs;
	q.n_macs = 2;
	return q;
}

#define ALL (KATA_RESET_ENTROPY | KATA_RESET_CLOCK | KATA_RESET_HOSTNAME | KATA_RESET_MACHINE_ID | KATA_RESET_MACS)

Test(identity, resets_every_part_in_order)
{
	Grpc__ResetIdentityRequest q = whole();
	uint32_t done = 0;

	cr_assert_eq(identity_reset(&ops, &q, &done, NULL), 0);
	cr_assert_eq(done, ALL);
	cr_assert_str_eq(log_text, "entropy 64;clock 1700000000.000025;hostname clone;"
				   "machine-id 0123456789abcdef0123456789abcdef;mac 08/00 02..01;mac 09/00 02..02;");
}

Test(identity, leaves_alone_what_is_not_given)
{
	Grpc__ResetIdentityRequest q = GRPC__RESET_IDENTITY_REQUEST__INIT;
	uint32_t done = 99;

	cr_assert_eq(identity_reset(&ops, &q, &done, NULL), 0);
	cr_assert_eq(done, 0u);
	cr_assert_str_eq(log_text, "");
	q.hostname = (char *)"only";
	cr_assert_eq(identity_reset(&ops, &q, &done, NULL), 0);
	cr_assert_eq(done, KATA_RESET_HOSTNAME);
	cr_assert_str_eq(log_text, "hostname only;");
}

static void fails(const char *part, int rc, int status, const char *text, uint32_t done_before)
{
	Grpc__ResetIdentityRequest q = whole();
	kata_error *err = NULL;
	uint32_t done = 0;

	log_text[0] = '\0';
	failing = part;
	failure = rc;
	cr_assert_eq((int)identity_reset(&ops, &q, &done, &err), status);
	cr_assert(strstr(kata_error_get_message(err), text), "'%s' is not in: %s", text, kata_error_get_message(err));
	cr_assert_eq(done, done_before);
	kata_error_free(err);
	failing = NULL;
}

Test(identity, names_the_part_that_failed_and_what_was_done_before)
{
	fails("entropy", -EPERM, KATA_E_PERMISSION, "entropy: cannot be reset (done before: nothing)", 0);
	fails("machine-id", -EIO, KATA_E_IO, "machine_id: cannot be reset (done before: entropy clock hostname)",
	      KATA_RESET_ENTROPY | KATA_RESET_CLOCK | KATA_RESET_HOSTNAME);
	fails("mac", -ENODEV, KATA_E_NOT_FOUND,
	      "macs: there is no NIC at that address (done before: entropy clock hostname machine_id)",
	      ALL & ~KATA_RESET_MACS);
}

static void refused(Grpc__ResetIdentityRequest q, const char *field)
{
	kata_error *err = NULL;
	uint32_t done = 99;

	cr_assert_eq(identity_reset(&ops, &q, &done, &err), KATA_E_INVALID, "%s", field);
	cr_assert_eq(strncmp(kata_error_get_message(err), field, strlen(field)), 0, "%s", kata_error_get_message(err));
	cr_assert_eq(done, 0u);
	cr_assert_str_eq(log_text, "", "nothing was touched");
	kata_error_free(err);
}

Test(identity, checks_all_before_it_does_anything)
{
	Grpc__ResetIdentityRequest q;

	q = whole(), q.entropy.len = 31, refused(q, "entropy");
	q = whole(), q.entropy.len = 4097, refused(q, "entropy");
	q = whole(), q.seconds = -1, refused(q, "seconds");
	q = whole(), q.microseconds = 1000000, refused(q, "seconds");
	q = whole(), q.hostname = (char *)"01234567890123456789012345678901234567890123456789012345678901234",
	refused(q, "hostname");
	q = whole(), q.machine_id = (char *)"0123456789abcdef0123456789abcde", refused(q, "machine_id");
	q = whole(), q.machine_id = (char *)"0123456789ABCDEF0123456789abcdef", refused(q, "machine_id");
	q = whole(), q.sample_length = 65, refused(q, "sample_length");
	q = whole(), macs[1]->address = (char *)"eth0", refused(q, "macs[1].address");
	q = whole(), macs[0]->mac = (char *)"02:00:00:00:00", refused(q, "macs[0].mac");
	q = whole(), macs[0]->mac = (char *)"01:00:00:00:00:01", refused(q, "macs[0].mac");
	q = whole(), q.n_macs = 65, refused(q, "macs");
}
