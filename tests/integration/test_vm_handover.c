/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Release and rebuild on the real QEMU. The other process is a fork made before this one has a context or a thread, so
 * that both sides are whole: a test needs two processes that are the library's users, and none of them may exec the
 * other.
 */
#include <sys/wait.h>

#include "integration/vm_test.h"
#include "support/record_edit.h"

TestSuite(vm_handover, .timeout = 180);

static char *release(struct machine *m)
{
	kata_error *err = NULL;
	char *json = NULL;

	fixture_assert_ok(kata_vm_release(m->vm, NULL, &json, &err), err);
	cr_assert_eq(kata_vm_get_state(m->vm), KATA_VM_RELEASED);
	kata_vm_unref(m->vm);
	m->vm = NULL;
	return json;
}

static void rebuild(struct machine *m, const char *json)
{
	kata_error *err = NULL;

	fixture_assert_ok(kata_vm_builder_build_from_released(m->builder, json, strlen(json), NULL, &m->vm, &err), err);
}

static void assert_rebuild_fails(struct machine *m, const char *json, int status)
{
	kata_error *err = NULL;
	kata_vm *vm = NULL;

	fixture_assert_fails(kata_vm_builder_build_from_released(m->builder, json, strlen(json), NULL, &vm, &err),
			     status, err);
	cr_assert_null(vm);
	kata_error_free(err);
}

Test(vm_handover, a_released_machine_runs_on_and_is_rebuilt_with_its_devices)
{
	kata_storage *disk, *found = NULL;
	struct census *before;
	kata_error *err = NULL;
	struct machine m;
	int64_t pid;
	char *json;

	machine_init(&m, 0);
	machine_warm_up(&m);
	before = fixture_census(&m.f);
	machine_build(&m, "a");
	disk = machine_disk(&m, "d0", KATA_STORAGE_VIRTIO_BLK);
	fixture_assert_ok(kata_vm_add_storage(m.vm, disk, NULL, &err), err);
	machine_start_paused(&m);
	pid = kata_vm_get_pid(m.vm);
	json = release(&m);
	cr_assert_eq(kill((pid_t)pid, 0), 0);
	rebuild(&m, json);
	cr_assert_eq(kata_vm_get_state(m.vm), KATA_VM_PAUSED);
	cr_assert_eq(kata_vm_get_pid(m.vm), pid);
	fixture_assert_ok(kata_vm_find_storage(m.vm, "d0", &found, &err), err);
	assert_address(found, "08/00");
	kata_storage_unref(found);
	kata_storage_unref(disk);
	disk = machine_disk(&m, "d1", KATA_STORAGE_VIRTIO_BLK);
	fixture_assert_ok(kata_vm_add_storage(m.vm, disk, NULL, &err), err);
	assert_address(disk, "09/00");
	kata_storage_unref(disk);
	machine_destroy(&m);
	free(json);
	fixture_assert_census(&m.f, before, "after destroy");
	machine_deinit(&m);
}

Test(vm_handover, a_disk_of_the_former_owner_can_be_unplugged_by_the_next)
{
	kata_error *err = NULL;
	kata_storage *disk;
	struct machine m;
	char *json;

	machine_init(&m, 0);
	machine_build(&m, "a");
	machine_start(&m);
	disk = machine_disk(&m, "d0", KATA_STORAGE_VIRTIO_BLK);
	fixture_assert_ok(kata_vm_add_storage(m.vm, disk, NULL, &err), err);
	kata_storage_unref(disk);
	json = release(&m);
	rebuild(&m, json);
	cr_assert_eq(kata_vm_get_state(m.vm), KATA_VM_RUNNING);
	fixture_assert_ok(kata_vm_remove_storage(m.vm, "d0", NULL, &err), err);
	cr_assert_eq(kata_vm_get_storage_count(m.vm), 0u);
	machine_destroy(&m);
	free(json);
	machine_deinit(&m);
}

/* QEMU listens itself on the socket that it was given: the kernel names it. */
Test(vm_handover, of_a_machine_that_is_as_it_was_released_only_its_status_is_asked)
{
	kata_error *err = NULL;
	kata_storage *disk;
	kata_op *op = NULL;
	struct machine m;
	char *json, dir[80];

	machine_init(&m, 0);
	machine_build(&m, "a");
	machine_start_paused(&m);
	disk = machine_disk(&m, "d0", KATA_STORAGE_VIRTIO_SCSI);
	fixture_assert_ok(kata_vm_add_storage(m.vm, disk, NULL, &err), err);
	json = release(&m);
	snprintf(dir, sizeof(dir), "%s/vm/a", m.f.state_dir);
	fixture_speak_qmp(dir, "{\"execute\":\"device_del\",\"arguments\":{\"id\":\"s-d0\"}}", "DEVICE_DELETED");
	fixture_assert_ok(
		kata_vm_builder_build_from_released_begin(m.builder, json, strlen(json), NULL, &m.vm, &op, &err), err);
	fixture_assert_ok(kata_op_wait(op, &err), err);
	for (size_t i = 0; i < kata_op_get_timeline_length(op); i++) {
		kata_timeline_entry e = {.size = sizeof(e)};

		fixture_assert_ok(kata_op_get_timeline_entry(op, i, &e, &err), err);
		cr_assert(strcmp(e.step, "query-uuid") != 0 && strcmp(e.step, "compare-devices") != 0, "%s", e.step);
	}
	kata_op_unref(op);
	kata_storage_unref(disk);
	fixture_assert_ok(kata_vm_remove_storage(m.vm, "d0", NULL, &err), err); /* the guest has let go of it before */
	disk = machine_disk(&m, "d1", KATA_STORAGE_VIRTIO_SCSI);
	fixture_assert_ok(kata_vm_add_storage(m.vm, disk, NULL, &err), err);
	assert_address(disk, "0:0");
	kata_storage_unref(disk);
	machine_destroy(&m);
	free(json);
	machine_deinit(&m);
}

Test(vm_handover, the_same_record_is_taken_only_once)
{
	struct machine m;
	char *json;

	machine_init(&m, 0);
	machine_build(&m, "a");
	machine_start_paused(&m);
	json = release(&m);
	rebuild(&m, json);
	assert_rebuild_fails(&m, json, KATA_E_EXISTS);
	machine_destroy(&m);
	assert_rebuild_fails(&m, json, KATA_E_GONE);
	free(json);
	machine_deinit(&m);
}

Test(vm_handover, a_released_machine_that_has_died_is_gone)
{
	struct machine m;
	int64_t pid;
	char *json;

	machine_init(&m, 0);
	machine_build(&m, "a");
	machine_start_paused(&m);
	pid = kata_vm_get_pid(m.vm);
	json = release(&m);
	kill((pid_t)pid, SIGKILL);
	for (int i = 0; i < 500 && kill((pid_t)pid, 0) == 0; i++) /* until it is reaped, which the library does */
		usleep(10000);
	cr_assert_eq(kill((pid_t)pid, 0), -1, "a released child is a zombie");
	assert_rebuild_fails(&m, json, KATA_E_GONE);
	free(json);
	machine_deinit(&m);
}

/* "key":OLD -> "key":NEW in the record. */
static char *with_number(const char *json, const char *key, long long value)
{
	char *out = malloc(strlen(json) + 64), pattern[64];
	const char *at, *end;

	snprintf(pattern, sizeof(pattern), "\"%s\":", key);
	at = strstr(json, pattern);
	cr_assert_not_null(at);
	at += strlen(pattern);
	end = at + strspn(at, "0123456789");
	sprintf(out, "%.*s%lld%s", (int)(at - json), json, value, end);
	return out;
}

Test(vm_handover, a_recycled_pid_is_told_by_its_start_time_and_never_signalled)
{
	struct machine m;
	char *json, *forged;

	machine_init(&m, 0);
	machine_build(&m, "a");
	machine_start_paused(&m);
	json = release(&m);
	forged = with_number(json, "pid", getpid());
	assert_rebuild_fails(&m, forged, KATA_E_IDENTITY);
	free(forged);
	rebuild(&m, json); /* the failed one has taken nothing */
	machine_destroy(&m);
	free(json);
	machine_deinit(&m);
}

Test(vm_handover, a_record_cut_or_of_another_version_is_refused)
{
	struct machine m;
	char *json, *other;

	machine_init(&m, 0);
	machine_build(&m, "a");
	machine_start_paused(&m);
	json = release(&m);
	other = with_number(json, "version", 99);
	assert_rebuild_fails(&m, other, KATA_E_VERSION);
	free(other);
	for (size_t len = 0; len < strlen(json); len += 7) {
		char *cut = strndup(json, len);

		assert_rebuild_fails(&m, cut, KATA_E_CORRUPT);
		free(cut);
	}
	rebuild(&m, json);
	machine_destroy(&m);
	free(json);
	machine_deinit(&m);
}

Test(vm_handover, a_record_older_than_a_plug_or_an_unplug_is_refused_by_name)
{
	kata_error *err = NULL;
	char *without = NULL, *with = NULL, *now;
	kata_storage *disk;
	struct machine m;

	machine_init(&m, 0);
	machine_build(&m, "a");
	machine_start_paused(&m);
	fixture_assert_ok(kata_vm_dump(m.vm, &without, &err), err);
	disk = machine_disk(&m, "sc", KATA_STORAGE_VIRTIO_SCSI);
	fixture_assert_ok(kata_vm_add_storage(m.vm, disk, NULL, &err), err);
	fixture_assert_ok(kata_vm_dump(m.vm, &with, &err), err);
	now = release(&m);
	assert_rebuild_fails(&m, without, KATA_E_CORRUPT);
	rebuild(&m, now);
	fixture_assert_ok(kata_vm_remove_storage(m.vm, "sc", NULL, &err), err);
	free(now);
	now = release(&m);
	assert_rebuild_fails(&m, with, KATA_E_FENCED); /* the epoch has moved on */
	rebuild(&m, now);
	machine_destroy(&m);
	kata_storage_unref(disk);
	free(without);
	free(with);
	free(now);
	machine_deinit(&m);
}

/* Without the copy in the directory, as after an owner's death: QEMU's own answers and open files decide. */
static void assert_edit_refused(struct machine *m, const char *json, const char *path, const char *value,
				const char *word)
{
	char *changed = record_with(json, path, value);
	kata_error *err = NULL;

	fixture_assert_fails(
		kata_vm_builder_build_from_released(m->builder, changed, strlen(changed), NULL, &m->vm, &err),
		KATA_E_CORRUPT, err);
	cr_assert(strstr(kata_error_get_message(err), word), "'%s' is not in: %s", word, kata_error_get_message(err));
	kata_error_free(err);
	free(changed);
}

static void plug_one_of_each(struct machine *m, bool with_tap)
{
	kata_nic_config nc = KATA_NIC_CONFIG_INIT;
	kata_storage_config sc = KATA_STORAGE_CONFIG_INIT;
	char *base = fixture_make_raw(&m->f, "base.raw", 1 << 20);
	char *overlay = fixture_make_qcow2(&m->f, "overlay.qcow2", 1 << 20, base);
	kata_storage *blk = machine_disk(m, "blk", KATA_STORAGE_VIRTIO_BLK), *lun = NULL;
	kata_error *err = NULL;
	kata_nic *nic = NULL;

	sc.id = "lun";
	sc.path = overlay;
	sc.backing_path = base;
	sc.format = KATA_STORAGE_QCOW2;
	sc.driver = KATA_STORAGE_VIRTIO_SCSI;
	fixture_assert_ok(kata_storage_new(&sc, &lun, &err), err);
	nc.id = "nic";
	nc.mac = "02:00:00:00:00:01";
	nc.type = with_tap ? KATA_NIC_TAP : KATA_NIC_USER;
	nc.tap_name = with_tap ? "kt-one" : NULL;
	fixture_assert_ok(kata_nic_new(&nc, &nic, &err), err);
	fixture_assert_ok(kata_vm_add_storage(m->vm, blk, NULL, &err), err);
	fixture_assert_ok(kata_vm_add_storage(m->vm, lun, NULL, &err), err);
	fixture_assert_ok(kata_vm_add_nic(m->vm, nic, NULL, &err), err);
	kata_storage_unref(blk);
	kata_storage_unref(lun);
	kata_nic_unref(nic);
	free(base);
	free(overlay);
}

/* The next owner knows by which files: those that QEMU has open. */
static void assert_files_are_held(struct machine *m)
{
	char *paths[2] = {fixture_path(&m->f, "base.raw"), NULL};
	kata_storage *blk = NULL;
	kata_error *err = NULL;

	fixture_assert_ok(kata_vm_find_storage(m->vm, "blk", &blk, &err), err);
	cr_assert(asprintf(&paths[1], "%s", kata_storage_get_path(blk)) > 0);
	for (int i = 0; i < 2; i++) {
		kata_storage *again = fixture_storage("again", paths[i], KATA_STORAGE_VIRTIO_SCSI);

		fixture_assert_fails(kata_vm_add_storage(m->vm, again, NULL, &err), KATA_E_EXISTS, err);
		cr_assert(strstr(error_text(err), i ? "already, as 'blk'" : "the backing file of 'lun'"), "%s",
			  error_text(err));
		error_clear(&err);
		kata_storage_unref(again);
		free(paths[i]);
	}
	kata_storage_unref(blk);
}

Test(vm_handover, a_record_that_contradicts_qemus_devices_and_open_files_is_refused)
{
	bool with_tap = fixture_enter_netns();
	char *json, *half, path[96];
	struct machine m;

	machine_init(&m, 0);
	for (int hot = 0; hot < 2; hot++) { /* fds of the command line, and those that came later */
		machine_build(&m, "a");
		if (hot)
			machine_start_paused(&m);
		plug_one_of_each(&m, with_tap);
		if (!hot)
			machine_start_paused(&m);
		json = release(&m);
		snprintf(path, sizeof(path), "%s/vm/a/released.json", m.f.state_dir);
		cr_assert_eq(unlink(path), 0);
		assert_edit_refused(&m, json, "storages.0.device.path", "\"/dev/null\"", "storage 'blk': path is '");
		assert_edit_refused(&m, json, "storages.1.device.backing_path", "\"/dev/null\"",
				    "storage 'lun': backing_path is '");
		assert_edit_refused(&m, json, "storages.0.device.read_only", "true", "storage 'blk': read_only is ");
		assert_edit_refused(&m, json, "storages.0.device.format", "\"qcow2\"", "storage 'blk': format is ");
		assert_edit_refused(&m, json, "nics.0.device.mac", "\"02:00:00:00:00:02\"", "NIC 'nic': mac is ");
		if (with_tap)
			assert_edit_refused(&m, json, "nics.0.device.tap_name", "\"kt-two\"",
					    "NIC 'nic': tap_name is 'kt-two', but QEMU has 'kt-one'");
		half = record_with(json, "storages.0.slot", "3");
		assert_edit_refused(&m, half, "storages.0.device.address", "\"0b/00\"",
				    "storage 'blk': slot is '3', but QEMU has '0'");
		free(half);
		half = record_with(json, "nics.0.slot", "3");
		assert_edit_refused(&m, half, "nics.0.device.address", "\"0b/00\"",
				    "NIC 'nic': slot is '3', but QEMU has '1'");
		free(half);
		rebuild(&m, json);
		assert_files_are_held(&m);
		machine_destroy(&m);
		free(json);
	}
	machine_deinit(&m);
}

/* ---- two processes */

struct other {
	pid_t pid;
	int from_fd, to_fd;
};

/* In the child: starts machine "a" in this directory, writes its record (released, or only dumped) and waits to be
 * told. */
static void run_other(const char *state_dir, const struct machine *files, bool let_go, int out_fd, int in_fd)
{
	kata_context_options o = KATA_CONTEXT_OPTIONS_INIT;
	kata_vm_config c = machine_config(files);
	kata_vm_builder *builder = NULL;
	kata_context *ctx = NULL;
	kata_vm *vm = NULL;
	char *json = NULL, byte;

	o.state_dir = state_dir;
	c.id = "a";
	if (kata_context_new(&o, &ctx, NULL) || kata_vm_builder_new_qemu(ctx, NULL, &builder, NULL) ||
	    kata_vm_builder_build(builder, &c, NULL, NULL, &vm, NULL) || kata_vm_start(vm, NULL, NULL) ||
	    kata_vm_pause(vm, NULL, NULL) ||
	    (let_go ? kata_vm_release(vm, NULL, &json, NULL) : kata_vm_dump(vm, &json, NULL)))
		_exit(1);
	if (write(out_fd, json, strlen(json) + 1) < 0 || read(in_fd, &byte, 1) < 0)
		_exit(2);
	_exit(0);
}

static struct other start_other(struct machine *m, const char *state_dir, bool let_go)
{
	int out[2], in[2];
	struct other o;

	find_image(m);
	cr_assert_eq(pipe(out) | pipe(in), 0);
	o.pid = fork(); /* see the head of this file */
	cr_assert_geq(o.pid, 0);
	if (o.pid == 0) {
		close(in[1]);
		run_other(state_dir, m, let_go, out[1], in[0]);
	}
	close(out[1]);
	close(in[0]);
	o.from_fd = out[0];
	o.to_fd = in[1];
	return o;
}

static char *hear(const struct other *o)
{
	char *json = calloc(1, 65536);
	size_t len = 0;
	ssize_t n;

	do {
		n = read(o->from_fd, json + len, 65535 - len);
		len += n > 0 ? (size_t)n : 0;
	} while (n > 0 && json[len - 1] != '\0');
	cr_assert_gt(len, 1u, "the other process did not start its machine");
	return json;
}

static int end_other(struct other *o, bool kill_it)
{
	int status = 0;

	if (kill_it)
		kill(o->pid, SIGKILL);
	close(o->to_fd);
	close(o->from_fd);
	waitpid(o->pid, &status, 0);
	return status;
}

static void enter(struct machine *m, const char *state_dir)
{
	kata_context_options o = KATA_CONTEXT_OPTIONS_INIT;
	kata_error *err = NULL;

	o.state_dir = state_dir;
	fixture_assert_ok(kata_context_new(&o, &m->f.context, &err), err);
	fixture_assert_ok(kata_vm_builder_new_qemu(m->f.context, NULL, &m->builder, &err), err);
}

static void set_up_two(struct machine *m, struct other *o, bool let_go)
{
	memset(m, 0, sizeof(*m));
	fixture_init(&m->f, false, 0);
	*o = start_other(m, m->f.state_dir, let_go);
}

Test(vm_handover, another_process_takes_a_released_machine_over)
{
	struct machine m;
	struct other o;
	char *json;

	set_up_two(&m, &o, true);
	json = hear(&o);
	cr_assert_eq(end_other(&o, false), 0);
	enter(&m, m.f.state_dir);
	rebuild(&m, json);
	cr_assert_eq(kata_vm_get_state(m.vm), KATA_VM_PAUSED);
	machine_destroy(&m);
	free(json);
	machine_deinit(&m);
}

Test(vm_handover, a_machine_whose_owner_lives_is_fenced)
{
	struct machine m;
	struct other o;
	char *json;

	set_up_two(&m, &o, false);
	json = hear(&o);
	enter(&m, m.f.state_dir);
	assert_rebuild_fails(&m, json, KATA_E_FENCED);
	end_other(&o, true);
	rebuild(&m, json); /* now it is nobody's */
	machine_destroy(&m);
	free(json);
	machine_deinit(&m);
}

Test(vm_handover, of_two_that_take_over_at_once_one_wins)
{
	kata_vm_builder *builders[2] = {NULL};
	kata_context *contexts[2];
	kata_op *ops[2] = {NULL};
	kata_vm *vms[2] = {NULL};
	kata_error *err = NULL;
	struct machine m;
	char *json;
	int won = 0, status[2];

	machine_init(&m, 0);
	machine_build(&m, "a");
	machine_start_paused(&m);
	json = release(&m);
	for (int i = 0; i < 2; i++) {
		contexts[i] = fixture_new_context(&m.f, 0);
		fixture_assert_ok(kata_vm_builder_new_qemu(contexts[i], NULL, &builders[i], &err), err);
	}
	for (int i = 0; i < 2; i++)
		fixture_assert_ok(kata_vm_builder_build_from_released_begin(builders[i], json, strlen(json), NULL,
									    &vms[i], &ops[i], &err),
				  err);
	for (int i = 0; i < 2; i++) {
		status[i] = kata_op_wait(ops[i], NULL);
		won += status[i] == 0;
		cr_assert(status[i] == 0 || status[i] == KATA_E_FENCED, "%d", status[i]);
		kata_op_unref(ops[i]);
	}
	cr_assert_eq(won, 1);
	for (int i = 0; i < 2; i++) {
		if (status[i] == 0)
			fixture_assert_ok(kata_vm_destroy(vms[i], NULL, &err), err);
		kata_vm_unref(vms[i]);
		kata_vm_builder_free(builders[i]);
		fixture_assert_ok(kata_context_free(contexts[i], &err), err);
	}
	free(json);
	machine_deinit(&m);
}

/* ---- an owner that died in the middle */

/* In the child: its last record has a disk it unplugged afterwards, and lacks a disk and a NIC it plugged afterwards.
 */
static void run_dying(struct machine *m, int out_fd, int in_fd)
{
	kata_storage *gone, *kept, *added;
	kata_error *err = NULL;
	char *json = NULL, byte;
	kata_nic *nic;

	enter(m, m->f.state_dir);
	machine_build(m, "a");
	machine_start(m);
	gone = machine_disk(m, "gone", KATA_STORAGE_VIRTIO_SCSI);
	kept = machine_disk(m, "kept", KATA_STORAGE_VIRTIO_BLK);
	added = machine_disk(m, "added", KATA_STORAGE_VIRTIO_BLK);
	nic = fixture_nic("added-nic", "02:00:00:00:00:09");
	if (kata_vm_add_storage(m->vm, gone, NULL, &err) || kata_vm_add_storage(m->vm, kept, NULL, &err) ||
	    kata_vm_dump(m->vm, &json, &err) || kata_vm_add_storage(m->vm, added, NULL, &err) ||
	    kata_vm_add_nic(m->vm, nic, NULL, &err) || kata_vm_remove_storage(m->vm, "gone", NULL, &err))
		(fprintf(stderr, "%s\n", error_text(err)), _exit(1));
	if (write(out_fd, json, strlen(json) + 1) < 0 || read(in_fd, &byte, 1) < 0)
		_exit(2);
	_exit(0);
}

Test(vm_handover, what_a_dead_owner_was_doing_is_settled_by_the_next)
{
	kata_storage *added, *gone;
	kata_error *err = NULL;
	int out[2], in[2];
	struct machine m;
	struct other o;
	char *json, *path;

	memset(&m, 0, sizeof(m));
	fixture_init(&m.f, false, 0);
	find_image(&m);
	cr_assert_eq(pipe(out) | pipe(in), 0);
	o = (struct other){.pid = fork(), .from_fd = out[0], .to_fd = in[1]}; /* see the head of this file */
	if (o.pid == 0)
		run_dying(&m, out[1], in[0]);
	close(out[1]);
	close(in[0]);
	json = hear(&o);
	end_other(&o, true);
	enter(&m, m.f.state_dir);
	rebuild(&m, json);
	cr_assert_eq(kata_vm_get_storage_count(m.vm), 1u);
	cr_assert_eq(kata_vm_get_nic_count(m.vm), 0u);
	gone = machine_disk(&m, "gone2", KATA_STORAGE_VIRTIO_SCSI);
	fixture_assert_ok(kata_vm_add_storage(m.vm, gone, NULL, &err), err);
	assert_address(gone, "0:0");
	kata_storage_unref(gone);
	path = fixture_make_raw(&m.f, "other.raw", 1 << 20);
	added = fixture_storage("added", path, KATA_STORAGE_VIRTIO_BLK);
	free(path);
	/* Waits for the guest, which lets go of the stray when it has booted. */
	fixture_assert_ok(kata_vm_add_storage(m.vm, added, NULL, &err), err);
	fixture_assert_ok(kata_vm_remove_storage(m.vm, "kept", NULL, &err), err);
	machine_destroy(&m);
	kata_storage_unref(added);
	free(json);
	machine_deinit(&m);
}
