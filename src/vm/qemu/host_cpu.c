/* SPDX-License-Identifier: Apache-2.0 */
/* host_cpu.c - see host_cpu.h. From the first processor of /proc/cpuinfo. */
#include "vm/qemu/host_cpu.h"

#include <stdio.h>
#include <string.h>

#define LINE_BYTES 8192

/* What makes two hosts differ for a guest: who made it, which one, what it can do. */
static const char *const members[] = {"vendor_id", "cpu family", "model", "model name", "stepping", "flags"};

static bool is_member(const char *line)
{
	size_t len = strcspn(line, "\t:");

	for (size_t i = 0; i < kata__array_size(members); i++)
		if (strlen(members[i]) == len && strncmp(members[i], line, len) == 0)
			return true;
	return false;
}

static void take_name(const char *line, char *ret_model, size_t size)
{
	const char *value = strstr(line, ": ");

	if (strncmp(line, "model name", 10) == 0 && value)
		snprintf(ret_model, size, "host: %.*s", (int)strcspn(value + 2, "\n"), value + 2);
}

static void read_host(char *ret_model, size_t size, char ret_digest[KATA__DIGEST_MAX])
{
	static char empty[1];
	char line[LINE_BYTES], *text = NULL;
	FILE *f = fopen("/proc/cpuinfo", "re"), *out;
	size_t len = 0;

	snprintf(ret_model, size, "host: unknown");
	out = open_memstream(&text, &len);
	while (f && out && fgets(line, sizeof(line), f) && line[0] != '\n') {
		if (!is_member(line))
			continue;
		fputs(line, out);
		take_name(line, ret_model, size);
	}
	if (f)
		fclose(f);
	if (out)
		fclose(out);
	kata__digest_bytes(text ? text : empty, text ? len : 0, ret_digest);
	free(text);
}

json_t *kata__qemu_host_cpu_describe(bool kvm, char *ret_model, size_t size)
{
	char digest[KATA__DIGEST_MAX];

	if (!kvm) {
		snprintf(ret_model, size, "max");
		return json_pack("{s:n}", "host_cpu_sha256");
	}
	read_host(ret_model, size, digest);
	return json_pack("{s:s}", "host_cpu_sha256", digest);
}

int kata__qemu_host_cpu_check(const struct kata__manifest *m, bool kvm, kata_error **err)
{
	static const char *const names[] = {"host_cpu_sha256", NULL};
	char model[sizeof(m->cpu_model)];
	KATA_AUTO_JSON json_t *mine = kata__qemu_host_cpu_describe(kvm, model, sizeof(model));
	int rc;

	if (!mine)
		return kata__fail_no_memory(err);
	rc = kata__json_check_members(m->vmm, "manifest.vmm", names, NULL, err);
	if (rc)
		return rc;
	if (strcmp(m->cpu_model, model) == 0 && json_equal(m->vmm, mine))
		return 0;
	return kata__fail(err, KATA_E_UNSUPPORTED, CALLER,
			  "snapshot: the guest runs on the CPU '%s', here it would find '%s'%s", m->cpu_model, model,
			  strcmp(m->cpu_model, model) == 0 ? " with other features" : "");
}
