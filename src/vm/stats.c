/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What can be read of a VM without asking the VMM: counters of its process from /proc, its console as the driver has
 * seen it, and the agent's channel, of which there is one.
 */
#include "vm/core.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/options.h"

#define CONSOLE_MAX 8192u

/* Fields of /proc/PID/stat behind the name, which may hold anything: utime 14, stime 15, start time 22, rss 24. */
struct proc_stat {
	unsigned long long utime, stime, start_time;
	long long rss_pages;
};

static bool read_proc_stat(pid_t pid, struct proc_stat *ret)
{
	char path[48], text[1024];
	const char *p;
	FILE *f;
	size_t n;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	f = fopen(path, "re");
	if (!f)
		return false;
	n = fread(text, 1, sizeof(text) - 1, f);
	fclose(f);
	text[n] = '\0';
	p = strrchr(text, ')');
	return p &&
	       sscanf(p + 1,
		      " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu %*d %*d %*d %*d %*d %*d %llu %*u %lld",
		      &ret->utime, &ret->stime, &ret->start_time, &ret->rss_pages) == 4;
}

static void fill_process(const struct kata__process_identity *process, kata_vm_stats *out)
{
	struct proc_stat st;
	uint64_t tick_ns = UINT64_C(1000000000) / (uint64_t)sysconf(_SC_CLK_TCK);

	if (process->pid <= 0 || !read_proc_stat(process->pid, &st) || st.start_time != process->start_time)
		return;
	out->cpu_time_ns = (st.utime + st.stime) * tick_ns;
	out->resident_bytes = (uint64_t)st.rss_pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

int kata_vm_get_stats(kata_vm *vm, kata_vm_stats *ret_stats, kata_error **err)
{
	kata_vm_stats out = {.size = sizeof(out)};
	struct kata__process_identity process;
	kata_vm_state state;
	uint64_t started;
	int rc = kata__vm_check(vm, err);

	if (rc == 0)
		rc = kata__options_check_ret(ret_stats, "ret_stats", err);
	if (rc < 0)
		return rc;
	kata__vm_lock(vm);
	state = vm->shared->state;
	process = vm->shared->process;
	started = vm->shared->started_ns;
	kata__vm_unlock(vm);

	out.memory_mib = vm->config->v.memory_mib;
	out.cpus = vm->config->v.cpus;
	out.storage_count = (uint32_t)kata_vm_get_storage_count(vm);
	out.nic_count = (uint32_t)kata_vm_get_nic_count(vm);
	out.slots_total = vm->config->v.device_slots;
	out.slots_free = out.slots_total - (uint32_t)kata__vm_device_slots_used(vm, false);
	if (state == KATA_VM_RUNNING || state == KATA_VM_PAUSED || state == KATA_VM_SAVING) {
		fill_process(&process, &out);
		out.uptime_ms = started ? (kata__now_ns() - started) / 1000000u : 0;
	}
	kata__options_write(ret_stats, &out, sizeof(out));
	return 0;
}

/* The tail, with whatever could drive a terminal replaced. Returns the new length; text is not terminated. */
static size_t clean(char *text, size_t len)
{
	size_t start = len > CONSOLE_MAX ? len - CONSOLE_MAX : 0, n = 0;

	for (size_t i = start; i < len; i++) {
		unsigned char c = (unsigned char)text[i];

		if (c == '\r')
			continue;
		text[n++] = c == '\n' || c == '\t' || (c >= ' ' && c < 0x7f) ? (char)c : '?';
	}
	return n;
}

int kata_vm_get_console(kata_vm *vm, char **ret_text, size_t *ret_length, kata_error **err)
{
	KATA_AUTO(free) char *raw = NULL;
	size_t len = 0;
	char *text;
	int rc = kata__vm_check(vm, err);

	if (rc == 0 && !ret_text)
		rc = kata__fail(err, KATA_E_INVALID, CALLER, "ret_text: is NULL");
	if (rc < 0)
		return rc;
	raw = vm->driver->get_console ? vm->driver->get_console(vm, &len) : NULL;
	if (raw)
		len = clean(raw, len);
	text = calloc(1, raw ? len + 1 : 1);
	if (!text)
		return kata__fail_no_memory(err);
	if (raw)
		memcpy(text, raw, len);
	*ret_text = text;
	if (ret_length)
		*ret_length = raw ? len : 0;
	return 0;
}

/* ---- the agent's channel ---- */

static bool set_connected(kata_vm *vm, bool connected)
{
	bool before;

	kata__vm_lock(vm);
	before = vm->agent_connected;
	vm->agent_connected = connected;
	kata__vm_unlock(vm);
	return before;
}

bool kata__vm_is_being_prepared(const kata_vm *vm)
{
	bool preparing;

	kata__vm_lock(vm);
	preparing = vm->shared->preparing && vm->shared->state == KATA_VM_STARTING;
	kata__vm_unlock(vm);
	return preparing;
}

static int check_reachable(kata_vm *vm, kata_error **err)
{
	bool preparing, frozen;

	kata__vm_lock(vm);
	preparing = vm->shared->preparing;
	frozen = vm->shared->frozen;
	kata__vm_unlock(vm);
	if (frozen)
		return kata__fail(err, KATA_E_STATE, CALLER,
				  "vm '%s' was saved with its memory shared: it can only be destroyed", vm->id);
	return kata__vm_check_state(vm, KATA__VM_LIVE | (preparing ? KATA__VM_IN(STARTING) : 0),
				    "connecting to the agent", err);
}

int kata__vm_connect_agent(kata_vm *vm, int *ret_fd, kata_error **err)
{
	int rc = check_reachable(vm, err);

	if (rc < 0)
		return rc;
	if (set_connected(vm, true))
		return kata__fail(err, KATA_E_BUSY, CALLER,
				  "vm '%s' has an agent connection already: release that first", vm->id);
	rc = vm->driver->connect_agent(vm, ret_fd, err);
	if (rc < 0)
		set_connected(vm, false);
	return rc;
}

void kata__vm_disconnect_agent(kata_vm *vm)
{
	set_connected(vm, false);
}
