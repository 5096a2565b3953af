/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The main job of libkata, for real, through its public headers alone:
 *
 *     tour first  GUEST_DIR WORK_DIR [--json] [--state-dir DIR]
 *     tour second GUEST_DIR WORK_DIR [--json] [--state-dir DIR]
 *     tour sweep  GUEST_DIR WORK_DIR [--json] [--state-dir DIR]
 *
 * `first` builds a VM, plugs disks and NICs while it boots and side by side, runs containers, commits its own row and
 * the sandbox in one SQLite transaction, lets go and ends. `second` is another process: it takes the sandbox over from
 * the database, goes on where the first stopped, and takes everything down. `sweep` removes what an
 * interrupted tour left behind. ./demo runs all three.
 */
#include <kata/kata.h>

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "parts.h"
#include "show.h"

#define DISKS 4
#define NICS 2
#define DEVICES (DISKS + NICS)
#define SANDBOX_ID "demo"

/* The tour ends at the first thing that fails: TRY names it. Written out at each use, no macro returns. */
struct tour {
	const char *guest_dir, *work_dir, *state_dir;
	char kernel[512], initrd[512], paths[DISKS][512], db_path[512];
	kata_context *ctx;
	kata_vm_builder *builder;
	kata_vm *vm;
	kata_agent *agent;
	kata_sandbox *sandbox;
	kata_storage *disks[DISKS];
	kata_nic *nics[NICS];
	sqlite3 *db;
	kata_persistence *persistence;
	kata_error *err;
	const char *what; /* the call under way, for the error */
};

static const struct {
	const char *id;
	kata_storage_format format;
	kata_storage_driver driver;
} disk_plan[DISKS] = {
	{"web-root", KATA_STORAGE_RAW, KATA_STORAGE_VIRTIO_BLK},
	{"job-root", KATA_STORAGE_RAW, KATA_STORAGE_VIRTIO_SCSI},
	{"data-blk", KATA_STORAGE_QCOW2, KATA_STORAGE_VIRTIO_BLK},
	{"data-scsi", KATA_STORAGE_QCOW2, KATA_STORAGE_VIRTIO_SCSI},
};

static int ok(struct tour *t, const char *what, int rc)
{
	if (rc)
		t->what = what;
	return rc;
}

/* ---- 1: accelerator ---- */

static int choose(struct tour *t)
{
	kata_context_options o = KATA_CONTEXT_OPTIONS_INIT;
	kata_capabilities caps = {.size = sizeof(caps)};

	o.state_dir = t->state_dir;
	if (ok(t, "making a context", kata_context_new(&o, &t->ctx, &t->err)) ||
	    ok(t, "finding QEMU", kata_vm_builder_new_qemu(t->ctx, NULL, &t->builder, &t->err)) ||
	    ok(t, "probing QEMU", kata_vm_builder_get_capabilities(t->builder, &caps, &t->err)))
		return -1;
	show_line("QEMU %s, accelerator %s: %s", caps.vmm_version, caps.accelerator, caps.accelerator_reason);
	show_line("isolation of a hostile guest: %s; up to %u device slots, %u CPUs",
		  caps.isolation ? "yes" : "not promised by QEMU here", caps.device_slots_max, caps.cpus_max);
	show_event("accelerator",
		   json_pack("{s:s,s:s,s:s,s:b}", "vmm_version", caps.vmm_version, "accelerator", caps.accelerator,
			     "reason", caps.accelerator_reason, "isolation", (int)caps.isolation));
	return 0;
}

/* ---- 2: boot, and make disks meanwhile ---- */

static int make_disks(struct tour *t)
{
	for (int i = 0; i < DISKS; i++) {
		snprintf(t->paths[i], sizeof(t->paths[i]), "%s/%s.%s", t->work_dir, disk_plan[i].id,
			 disk_plan[i].format == KATA_STORAGE_RAW ? "raw" : "qcow2");
		if (disk_plan[i].format == KATA_STORAGE_RAW ? make_rootfs(t->work_dir, t->paths[i])
							    : make_qcow2(t->paths[i]))
			return -1;
	}
	return 0;
}

static int boot(struct tour *t)
{
	kata_vm_config config = KATA_VM_CONFIG_INIT;
	kata_agent_builder *agents = NULL;
	kata_op *connecting = NULL;
	uint64_t begin = show_now();
	double disks_ms, boot_ms;
	int rc;

	config.id = SANDBOX_ID;
	config.cpus = 1;
	config.memory_mib = 384;
	config.device_slots = 8;
	config.kernel = t->kernel;
	config.initrd = t->initrd;
	if (ok(t, "building the VM", kata_vm_builder_build(t->builder, &config, NULL, NULL, &t->vm, &t->err)) ||
	    ok(t, "starting the VM", kata_vm_start(t->vm, NULL, &t->err)))
		return -1;
	show_line("VM '%s' started in %.0f ms (pid %lld); its guest is booting now", kata_vm_get_id(t->vm),
		  show_ms_since(begin), (long long)kata_vm_get_pid(t->vm));
	if (ok(t, "making an agent builder", kata_agent_builder_new_direct(t->ctx, &agents, &t->err)))
		return -1;
	rc = ok(t, "connecting the agent",
		kata_agent_builder_build_begin(agents, t->vm, NULL, NULL, &t->agent, &connecting, &t->err));
	if (!rc && make_disks(t)) {
		kata_op_cancel(connecting);
		fprintf(stderr, "tour: the disks could not be made in '%s'\n", t->work_dir);
		rc = -1;
	}
	disks_ms = show_ms_since(begin);
	if (connecting && kata_op_wait(connecting, rc ? NULL : &t->err) && !rc)
		rc = ok(t, "waiting for the guest's agent", -1);
	kata_op_unref(connecting);
	kata_agent_builder_free(agents);
	boot_ms = show_ms_since(begin);
	if (rc)
		return rc;
	show_line("meanwhile: 4 disks made (2 ext4 root file systems by mke2fs -d, 2 qcow2), ready after %.0f ms",
		  disks_ms);
	show_line("the agent (%s) answered after %.0f ms", kata_agent_get_version(t->agent), boot_ms);
	show_event("booted", json_pack("{s:f,s:f,s:s}", "disks_ms", disks_ms, "boot_ms", boot_ms, "agent",
				       kata_agent_get_version(t->agent)));
	return 0;
}

/* ---- 3: plug, side by side and one by one ---- */

static int make_devices(struct tour *t)
{
	for (int i = 0; i < DISKS; i++) {
		kata_storage_config c = KATA_STORAGE_CONFIG_INIT;

		c.id = disk_plan[i].id;
		c.path = t->paths[i];
		c.format = disk_plan[i].format;
		c.driver = disk_plan[i].driver;
		if (ok(t, "describing a disk", kata_storage_new(&c, &t->disks[i], &t->err)))
			return -1;
	}
	for (int i = 0; i < NICS; i++) {
		kata_nic_config c = KATA_NIC_CONFIG_INIT;

		c.id = i == 0 ? "net0" : "net1";
		c.type = i == 1 && geteuid() == 0 ? KATA_NIC_TAP : KATA_NIC_USER;
		if (ok(t, "describing a NIC", kata_nic_new(&c, &t->nics[i], &t->err)))
			return -1;
	}
	return 0;
}

/* Until the guest's kernel has the device: the same for both ways of plugging, so that the times compare. */
static int await_in_guest(struct tour *t, int i)
{
	kata_agent_request r = {.size = sizeof(r), .method = KATA_AGENT_AWAIT_DEVICE};
	char address[32];
	kata_op *op;
	int rc;

	if (!kata_agent_has_guest_service(t->agent))
		return 0;
	if (i < DISKS)
		kata_storage_get_address(t->disks[i], address, sizeof(address));
	else
		snprintf(address, sizeof(address), "%s", kata_nic_get_mac(t->nics[i - DISKS]));
	r.device_kind = i >= DISKS ? "net" : disk_plan[i].driver == KATA_STORAGE_VIRTIO_BLK ? "blk" : "scsi";
	r.device_address = address;
	rc = kata_agent_call_begin(t->agent, &r, NULL, &op, &t->err);
	if (!rc) {
		rc = kata_op_wait(op, &t->err);
		kata_op_unref(op);
	}
	return ok(t, "waiting for a device in the guest", rc);
}

static int add_to_batch(struct tour *t, kata_batch *batch)
{
	for (int i = 0; i < DISKS; i++)
		if (ok(t, "batch", kata_batch_add_storage(batch, t->disks[i], &t->err)))
			return -1;
	for (int i = 0; i < NICS; i++)
		if (ok(t, "batch", kata_batch_add_nic(batch, t->nics[i], &t->err)))
			return -1;
	return 0;
}

static int plug_together(struct tour *t, bool show, double *ret_ms)
{
	const char *names[DEVICES];
	kata_op *ops[DEVICES];
	kata_batch *batch = NULL;
	uint64_t begin = show_now();
	int rc = ok(t, "batch", kata_batch_new(t->vm, KATA_BATCH_ALL_OR_NOTHING, &batch, &t->err));

	if (!rc)
		rc = add_to_batch(t, batch);
	if (!rc)
		rc = ok(t, "plugging 4 disks and 2 NICs together", kata_batch_run(batch, NULL, &t->err));
	for (int i = 0; !rc && i < DEVICES; i++)
		rc = await_in_guest(t, i);
	*ret_ms = show_ms_since(begin);
	for (size_t i = 0; !rc && i < DEVICES; i++) {
		names[i] = kata_batch_get_item_id(batch, i);
		ops[i] = kata_batch_get_item_op(batch, i);
	}
	if (!rc && show) {
		show_line("every step of every device, on one axis:");
		show_timeline(ops, names, DEVICES);
	}
	kata_batch_free(batch);
	return rc;
}

static int unplug_all(struct tour *t)
{
	kata_batch *batch = NULL;
	uint64_t begin = show_now();
	int rc = ok(t, "batch", kata_batch_new(t->vm, 0, &batch, &t->err));

	for (int i = 0; !rc && i < DISKS; i++)
		rc = ok(t, "batch", kata_batch_remove_storage(batch, kata_storage_get_id(t->disks[i]), &t->err));
	for (int i = 0; !rc && i < NICS; i++)
		rc = ok(t, "batch", kata_batch_remove_nic(batch, kata_nic_get_id(t->nics[i]), &t->err));
	if (!rc)
		rc = ok(t, "unplugging all six together", kata_batch_run(batch, NULL, &t->err));
	if (!rc) {
		show_line("unplugged all six together in %.0f ms", show_ms_since(begin));
		show_event("unplugged", json_pack("{s:i,s:f}", "devices", DEVICES, "ms", show_ms_since(begin)));
	}
	kata_batch_free(batch);
	return rc;
}

static int plug_one_by_one(struct tour *t, double *ret_ms)
{
	uint64_t begin = show_now();

	for (int i = 0; i < DEVICES; i++) {
		int rc = i < DISKS ? kata_vm_add_storage(t->vm, t->disks[i], NULL, &t->err)
				   : kata_vm_add_nic(t->vm, t->nics[i - DISKS], NULL, &t->err);

		if (ok(t, "plugging one by one", rc) || await_in_guest(t, i))
			return -1;
	}
	*ret_ms = show_ms_since(begin);
	return 0;
}

static int plug(struct tour *t)
{
	double first_time, together, one_by_one;
	char address[32];

	/* The guest's first plug of its life is slower, together or not: so the times that compare are the later ones.
	 */
	if (make_devices(t) || plug_together(t, true, &first_time) || unplug_all(t) ||
	    plug_together(t, false, &together) || unplug_all(t) || plug_one_by_one(t, &one_by_one))
		return -1;
	show_line("until the guest had all six: together %.0f ms (the first time %.0f ms), one by one %.0f ms",
		  together, first_time, one_by_one);
	show_event("plugged", json_pack("{s:f,s:f,s:f}", "together_ms", together, "one_by_one_ms", one_by_one,
					"first_time_ms", first_time));
	for (int i = 0; i < DISKS; i++) {
		kata_storage_get_address(t->disks[i], address, sizeof(address));
		show_line("%-9s is %s %s in the guest", kata_storage_get_id(t->disks[i]),
			  disk_plan[i].driver == KATA_STORAGE_VIRTIO_BLK ? "PCI path" : "SCSI address", address);
	}
	return 0;
}

/* ---- 4: a sandbox from the parts, containers ---- */

static int start_container(struct tour *t, const char *id, const char *root, const char *script)
{
	kata_container_config c = KATA_CONTAINER_CONFIG_INIT;
	char spec[2048];

	container_spec(spec, sizeof(spec), root, script);
	c.id = id;
	c.oci_spec = spec;
	return ok(t, "creating a container", kata_sandbox_add_container(t->sandbox, &c, NULL, &t->err));
}

/* Container `web`: greets, answers one line of stdin, then counts for ever. */
static int run_web(struct tour *t)
{
	char text[256];
	int in = -1, out = -1, rc;

	rc = start_container(t, "web", "storage:web-root",
			     "echo hello from $(uname -r); read x; echo you said: $x; i=0; "
			     "while true; do i=$((i+1)); echo $i >/count; sleep 0.2; done");
	if (!rc)
		rc = ok(t, "opening stdio",
			kata_sandbox_open_stdio(t->sandbox, "web", "web", &in, &out, NULL, &t->err));
	if (!rc)
		rc = ok(t, "starting a container", kata_sandbox_start_container(t->sandbox, "web", NULL, &t->err));
	if (!rc && read_line(out, text, sizeof(text)) == 0) {
		show_line("container web: \"%s\"", text);
		show_event("output", json_pack("{s:s,s:s}", "container", "web", "text", text));
	}
	if (!rc && write(in, "thank you\n", 10) == 10 && read_line(out, text, sizeof(text)) == 0) {
		show_line("container web, given \"thank you\" on stdin: \"%s\"; it runs on", text);
		show_event("output", json_pack("{s:s,s:s}", "container", "web", "text", text));
	}
	if (in >= 0)
		close(in);
	if (out >= 0)
		close(out);
	return rc;
}

/* Container `job` fails with 3. */
static int run_job(struct tour *t)
{
	char text[256] = "";
	int32_t status = -1;
	int errfd = -1, rc;

	rc = start_container(t, "job", "storage:job-root", "echo fails on purpose >&2; exit 3");
	if (!rc)
		rc = ok(t, "opening stdio",
			kata_sandbox_open_stdio(t->sandbox, "job", "job", NULL, NULL, &errfd, &t->err));
	if (!rc)
		rc = ok(t, "starting a container", kata_sandbox_start_container(t->sandbox, "job", NULL, &t->err));
	if (!rc)
		read_line(errfd, text, sizeof(text));
	if (!rc)
		rc = ok(t, "waiting for a container",
			kata_sandbox_wait_process(t->sandbox, "job", "job", NULL, &status, &t->err));
	if (errfd >= 0)
		close(errfd);
	if (rc)
		return rc;
	show_line("container job: stderr \"%s\", exit code %d", text, (int)status);
	show_event("exited", json_pack("{s:s,s:s,s:i}", "container", "job", "stderr", text, "exit_code", (int)status));
	return status == 3 ? 0 : unexpected("container job did not exit with 3");
}

/* Starts an exec in `web`, with its stdio open. */
static int exec_web(struct tour *t, const char *exec_id, const char *script, bool terminal, int *in, int *out)
{
	kata_process_config c = KATA_PROCESS_CONFIG_INIT;
	char process[1024];
	int rc;

	process_spec(process, sizeof(process), script, terminal);
	c.exec_id = exec_id;
	c.oci_process = process;
	rc = ok(t, "exec", kata_sandbox_add_process(t->sandbox, "web", &c, NULL, &t->err));
	if (!rc)
		rc = ok(t, "opening stdio",
			kata_sandbox_open_stdio(t->sandbox, "web", exec_id, in, out, NULL, &t->err));
	return rc;
}

static int end_exec(struct tour *t, const char *exec_id, int *in, int *out, int32_t *ret_status)
{
	if (in && *in >= 0)
		close(*in);
	if (*out >= 0)
		close(*out);
	return ok(t, "waiting for an exec",
		  kata_sandbox_wait_process(t->sandbox, "web", exec_id, NULL, ret_status, &t->err));
}

static int run_tty(struct tour *t)
{
	char before[64] = "", after[64] = "";
	int in = -1, out = -1, rc;
	int32_t status = -1;

	rc = exec_web(t, "tty", "stty -echo; tty -s || exit 9; echo ready; read x; stty size", true, &in, &out);
	if (!rc)
		read_line(out, before, sizeof(before));
	if (!rc)
		rc = ok(t, "resizing", kata_sandbox_resize_terminal(t->sandbox, "web", "tty", 40, 120, NULL, &t->err));
	if (!rc && write(in, "\n", 1) == 1)
		read_line(out, after, sizeof(after));
	if (rc || end_exec(t, "tty", &in, &out, &status))
		return -1;
	show_line("exec with a tty: \"%s\"; resized to 40x120, stty says \"%s\"", before, after);
	show_event("tty", json_pack("{s:s,s:i}", "size", after, "exit_code", (int)status));
	return strcmp(after, "40 120") == 0 ? 0 : unexpected("the tty has not the size it was given");
}

static int run_signal(struct tour *t)
{
	int32_t status = -1;
	int out = -1;

	if (exec_web(t, "sleeper", "exec sleep 1000", false, NULL, &out) ||
	    ok(t, "signalling", kata_sandbox_signal_process(t->sandbox, "web", "sleeper", SIGTERM, NULL, &t->err)) ||
	    end_exec(t, "sleeper", NULL, &out, &status))
		return -1;
	show_line("exec 'sleep 1000' got SIGTERM: exit status %d (128 + 15)", (int)status);
	show_event("signalled", json_pack("{s:i}", "exit_status", (int)status));
	return status == 128 + SIGTERM ? 0 : unexpected("the signalled process did not end by SIGTERM");
}

static int show_stats(struct tour *t)
{
	kata_container_stats stats = {.size = sizeof(stats)};
	kata_vm_stats vm = {.size = sizeof(vm)};

	if (ok(t, "stats", kata_sandbox_get_container_stats(t->sandbox, "web", NULL, &stats, &t->err)) ||
	    ok(t, "stats", kata_vm_get_stats(t->vm, &vm, &t->err)))
		return -1;
	show_line("stats: web uses %.1f MiB and %.0f ms of CPU in %llu processes; QEMU %.0f MiB resident, %u of %u "
		  "slots free",
		  (double)stats.memory_usage_bytes / 1048576, (double)stats.cpu_usage_ns / 1e6,
		  (unsigned long long)stats.pids_current, (double)vm.resident_bytes / 1048576, vm.slots_free,
		  vm.slots_total);
	show_event("stats", json_pack("{s:I,s:I,s:I,s:I}", "memory_bytes", (json_int_t)stats.memory_usage_bytes,
				      "cpu_ns", (json_int_t)stats.cpu_usage_ns, "pids", (json_int_t)stats.pids_current,
				      "vmm_resident_bytes", (json_int_t)vm.resident_bytes));
	return 0;
}

static int run_network(struct tour *t)
{
	static const char *const net0[] = {"10.0.2.15/24", NULL}, *const net1[] = {"192.168.77.2/24", NULL};
	kata_agent_route route = {.gateway = "10.0.2.2", .device = "eth0"};
	kata_interface_config c = KATA_INTERFACE_CONFIG_INIT;
	char text[256] = "";
	int32_t status = -1;
	int out = -1;

	c.name = "eth0";
	c.addresses = net0;
	if (ok(t, "configuring a NIC", kata_sandbox_update_nic(t->sandbox, "net0", &c, NULL, &t->err)))
		return -1;
	c.name = "eth1";
	c.addresses = net1;
	if (ok(t, "configuring a NIC", kata_sandbox_update_nic(t->sandbox, "net1", &c, NULL, &t->err)) ||
	    ok(t, "setting routes", kata_sandbox_update_routes(t->sandbox, &route, 1, NULL, &t->err)) ||
	    exec_web(t, "ping", "ping -c 1 -W 5 10.0.2.2 | grep 'bytes from'", false, NULL, &out))
		return -1;
	read_line(out, text, sizeof(text));
	if (end_exec(t, "ping", NULL, &out, &status))
		return -1;
	show_line("eth0 10.0.2.15/24, eth1 192.168.77.2/24, default route; ping: \"%s\"", text);
	show_event("ping", json_pack("{s:s,s:i}", "text", text, "exit_code", (int)status));
	return status == 0 ? 0 : unexpected("the ping got no answer");
}

static int run_sandbox(struct tour *t)
{
	static const char *const dns[] = {"nameserver 10.0.2.3", NULL};
	kata_sandbox_options o = KATA_SANDBOX_OPTIONS_INIT;

	o.id = SANDBOX_ID;
	o.dns = dns;
	if (ok(t, "assembling the sandbox", kata_sandbox_new(t->ctx, &o, t->vm, t->agent, &t->sandbox, &t->err)) ||
	    ok(t, "starting the sandbox", kata_sandbox_start(t->sandbox, NULL, &t->err)))
		return -1;
	return run_web(t) || run_job(t) || run_tty(t) || run_signal(t) || run_network(t) || show_stats(t) ? -1 : 0;
}

/* ---- 5: one transaction ---- */

static int sql(struct tour *t, const char *statement)
{
	char *message = NULL;

	if (sqlite3_exec(t->db, statement, NULL, NULL, &message) == SQLITE_OK)
		return 0;
	fprintf(stderr, "tour: %s: %s\n", statement, message ? message : "?");
	sqlite3_free(message);
	return -1;
}

static int open_database(struct tour *t)
{
	if (sqlite3_open(t->db_path, &t->db) != SQLITE_OK)
		return unexpected("the database cannot be opened");
	if (sql(t, "PRAGMA journal_mode=WAL"))
		return -1;
	if (ok(t, "attaching the persistence",
	       kata_persistence_new_sqlite_attached(t->ctx, t->db, NULL, &t->persistence, &t->err)) ||
	    ok(t, "making the tables", kata_persistence_create_schema(t->persistence, &t->err)))
		return -1;
	return sql(t, "CREATE TABLE IF NOT EXISTS orders(id INTEGER PRIMARY KEY, customer TEXT, sandbox TEXT)");
}

static const char count_sql[] =
	"SELECT (SELECT count(*) FROM orders) AS orders, (SELECT count(*) FROM kata_sandboxes) AS "
	"kata_sandboxes, (SELECT count(*) FROM kata_containers) AS kata_containers";

/* What was rolled back is stored again on purpose only: a plain store would answer DIVERGED. */
static int store(struct tour *t, bool again)
{
	return again ? kata_sandbox_reconcile(t->sandbox, t->persistence, KATA_RECONCILE_STORE, NULL, NULL, &t->err)
		     : kata_persistence_store_sandbox(t->persistence, t->sandbox, &t->err);
}

static int commit(struct tour *t)
{
	for (int round = 0; round < 2; round++) {
		if (sql(t, "BEGIN") ||
		    sql(t, "INSERT INTO orders(customer, sandbox) VALUES('alice', '" SANDBOX_ID "')") ||
		    ok(t, "storing the sandbox", store(t, round == 1)) || sql(t, round == 0 ? "ROLLBACK" : "COMMIT"))
			return -1;
		if (show_query(t->db,
			       round == 0 ? "BEGIN; our row; store; ROLLBACK leaves:"
					  : "BEGIN; our row; store; COMMIT leaves:",
			       count_sql) < 0)
			return -1;
	}
	return show_query(t->db, "by SQL, our table joined with the library's:",
			  "SELECT o.customer, s.id AS sandbox, s.state, c.id AS container, c.state AS container_state "
			  "FROM orders o "
			  "JOIN kata_sandboxes s ON s.id = o.sandbox JOIN kata_containers c ON c.sandbox_id = s.id "
			  "ORDER BY c.id") < 0 ||
			       show_query(t->db, "and its devices:",
					  "SELECT id, driver, format, address FROM kata_storages ORDER BY id") < 0
		       ? -1
		       : 0;
}

/* ---- 6: let go; another process takes over ---- */

static int let_go(struct tour *t)
{
	if (sql(t, "BEGIN") ||
	    ok(t, "releasing", kata_persistence_release_sandbox(t->persistence, t->sandbox, NULL, NULL, &t->err)) ||
	    sql(t, "COMMIT"))
		return -1;
	show_line("released: QEMU and container web run on, this process (pid %ld) ends", (long)getpid());
	show_event("released", json_pack("{s:i}", "pid", (int)getpid()));
	return 0;
}

static int take_over(struct tour *t)
{
	uint64_t begin = show_now();
	char text[64] = "", again[64] = "";
	int32_t status = -1;
	int out = -1;

	if (ok(t, "obtaining the sandbox",
	       kata_persistence_obtain_sandbox(t->persistence, SANDBOX_ID, t->builder, NULL, NULL, &t->sandbox,
					       &t->err)))
		return -1;
	t->vm = kata_sandbox_get_vm(t->sandbox);
	show_line("this process (pid %ld) has the sandbox, VM and agent back from the database after %.0f ms",
		  (long)getpid(), show_ms_since(begin));
	show_event("obtained", json_pack("{s:i,s:f}", "pid", (int)getpid(), "ms", show_ms_since(begin)));
	if (exec_web(t, "look", "cat /count; sleep 1; cat /count", false, NULL, &out))
		return -1;
	read_line(out, text, sizeof(text));
	read_line(out, again, sizeof(again));
	if (end_exec(t, "look", NULL, &out, &status))
		return -1;
	show_line("exec in web: its counter stands at %s, a second later at %s: it never stopped", text, again);
	show_event("counter", json_pack("{s:s,s:s}", "first", text, "second", again));
	return atoi(again) > atoi(text) ? 0 : unexpected("the counter does not count");
}

static int take_down(struct tour *t)
{
	if (ok(t, "unplugging a disk", kata_sandbox_remove_storage(t->sandbox, "data-blk", NULL, &t->err)) ||
	    ok(t, "unplugging a NIC", kata_sandbox_remove_nic(t->sandbox, "net1", NULL, &t->err)))
		return -1;
	show_line("unplugged disk data-blk and NIC net1");
	if (ok(t, "destroying", kata_sandbox_destroy(t->sandbox, NULL, &t->err)) ||
	    ok(t, "deleting the record", kata_persistence_delete_sandbox(t->persistence, SANDBOX_ID, &t->err)))
		return -1;
	return show_query(t->db, "destroyed; the library's tables now:", count_sql) < 0 ? -1 : 0;
}

static int show_nothing_left(struct tour *t, int64_t pid)
{
	kata_recover_report *report = NULL;
	size_t left;

	if (ok(t, "looking for leftovers", kata_recover(t->ctx, t->persistence, NULL, &report, &t->err)))
		return -1;
	left = kata_recover_report_get_count(report);
	kata_recover_report_free(report);
	show_line("on the host: %zu VM directories, process %lld %s", left, (long long)pid,
		  is_running(pid) ? "IS STILL THERE" : "is gone");
	show_event("left", json_pack("{s:I,s:b}", "vm_directories", (json_int_t)left, "process", (int)is_running(pid)));
	return left == 0 && !is_running(pid) ? 0 : unexpected("something is left");
}

/* ---- the two processes ---- */

static int first(struct tour *t)
{
	show_part(1, "which accelerator");
	if (choose(t))
		return -1;
	show_part(2, "a VM from a config; disks are made while it boots");
	if (boot(t))
		return -1;
	show_part(3, "4 disks and 2 NICs, together and one by one");
	if (plug(t))
		return -1;
	show_part(4, "a sandbox from the parts, two containers");
	if (run_sandbox(t))
		return -1;
	show_part(5, "one SQLite transaction for our row and the sandbox");
	if (open_database(t) || commit(t))
		return -1;
	show_part(6, "let go, and take over in another process");
	return let_go(t);
}

static int second(struct tour *t)
{
	kata_context_options o = KATA_CONTEXT_OPTIONS_INIT;
	int64_t pid;

	o.state_dir = t->state_dir;
	if (ok(t, "making a context", kata_context_new(&o, &t->ctx, &t->err)) ||
	    ok(t, "finding QEMU", kata_vm_builder_new_qemu(t->ctx, NULL, &t->builder, &t->err)) || open_database(t) ||
	    take_over(t))
		return -1;
	pid = kata_vm_get_pid(t->vm);
	return take_down(t) || show_nothing_left(t, pid) ? -1 : 0;
}

static int sweep(struct tour *t)
{
	kata_context_options o = KATA_CONTEXT_OPTIONS_INIT;
	kata_recover_options all = KATA_RECOVER_OPTIONS_INIT;
	kata_recover_report *report = NULL;

	o.state_dir = t->state_dir;
	all.flags = KATA_RECOVER_APPLY | KATA_RECOVER_ATTACHABLE_TOO;
	if (ok(t, "making a context", kata_context_new(&o, &t->ctx, &t->err)) ||
	    ok(t, "sweeping", kata_recover(t->ctx, NULL, &all, &report, &t->err)))
		return -1;
	for (size_t i = 0; i < kata_recover_report_get_count(report); i++)
		show_line("%s %s: %s: %s", kata_recover_report_get_kind(report, i),
			  kata_recover_report_get_id(report, i),
			  kata_recover_verdict_get_name(kata_recover_report_get_verdict(report, i)),
			  kata_recover_report_get_text(report, i));
	kata_recover_report_free(report);
	return 0;
}

static void clean_up(struct tour *t)
{
	if (t->sandbox && kata_sandbox_get_state(t->sandbox) != KATA_SANDBOX_RELEASED)
		kata_sandbox_destroy(t->sandbox, NULL, NULL);
	kata_persistence_free(t->persistence);
	sqlite3_close(t->db);
	kata_sandbox_unref(t->sandbox);
	kata_agent_unref(t->agent);
	for (int i = 0; i < DISKS; i++)
		kata_storage_unref(t->disks[i]);
	for (int i = 0; i < NICS; i++)
		kata_nic_unref(t->nics[i]);
	kata_vm_unref(t->vm);
	kata_vm_builder_free(t->builder);
}

static int usage(void)
{
	fprintf(stderr, "usage: tour first|second|sweep GUEST_DIR WORK_DIR [--json] [--state-dir DIR]\n");
	return 2;
}

int main(int argc, char **argv)
{
	struct tour t = {0};
	bool json = false;
	int rc;

	if (argc < 4)
		return usage();
	for (int i = 4; i < argc; i++) {
		if (strcmp(argv[i], "--json") == 0)
			json = true;
		else if (strcmp(argv[i], "--state-dir") == 0 && i + 1 < argc)
			t.state_dir = argv[++i];
		else
			return usage();
	}
	show_init(json);
	t.guest_dir = argv[2];
	t.work_dir = argv[3];
	snprintf(t.kernel, sizeof(t.kernel), "%s/vmlinuz", t.guest_dir);
	snprintf(t.initrd, sizeof(t.initrd), "%s/initrd", t.guest_dir);
	snprintf(t.db_path, sizeof(t.db_path), "%s/tour.db", t.work_dir);
	if (strcmp(argv[1], "first") == 0)
		rc = first(&t);
	else if (strcmp(argv[1], "second") == 0)
		rc = second(&t);
	else if (strcmp(argv[1], "sweep") == 0)
		rc = sweep(&t);
	else
		return usage();
	if (rc && t.err)
		show_error(t.what, t.err);
	clean_up(&t);
	if (t.ctx && kata_context_free(t.ctx, NULL))
		rc = unexpected("the context is still in use at the end");
	return rc ? 1 : 0;
}
