/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vm_victim - a program that drives a VM and is killed while it does.
 *
 *     vm_victim STATE_DIR BINARY KERNEL INITRD DISK OPERATION POINT [tap]
 *
 * Brings a VM to where OPERATION can begin, arms the fail-point POINT so that it kills this process there, and begins.
 * POINT "-" arms nothing: the steps of the operation are printed, a line "operation/step" each, and the VM is
 * destroyed. Exits 0 when all went well, 1 with the error on stderr. OPERATION "probe" ends before there is a VM: the
 * builder asks BINARY what it can do, and this process is killed when BINARY runs.
 */
#include <kata/kata.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "victim.h"

struct victim {
	kata_context *context;
	kata_vm_builder *builder;
	kata_vm *vm;
	kata_storage *disk;
	kata_nic *nic;
	char *record;
	char *snapshot; /* its path */
	char *memory;   /* shared RAM, or NULL */
	const char *point;
};

/* STATE_DIR is a directory in that of the test. */
static char *in_state_parent(const char *state_dir, const char *name)
{
	char *path = NULL;

	if (asprintf(&path, "%.*s/%s", (int)(strrchr(state_dir, '/') - state_dir), state_dir, name) < 0)
		exit(1);
	return path;
}

static void set_up(struct victim *v, char **argv)
{
	kata_context_options context = KATA_CONTEXT_OPTIONS_INIT;
	kata_qemu_options qemu = KATA_QEMU_OPTIONS_INIT;
	kata_vm_config config = KATA_VM_CONFIG_INIT;
	kata_storage_config storage = KATA_STORAGE_CONFIG_INIT;
	kata_nic_config nic = KATA_NIC_CONFIG_INIT;
	kata_error *err = NULL;

	context.state_dir = argv[1];
	qemu.binary = argv[2];
	qemu.accelerator = KATA_ACCELERATOR_TCG;
	config.id = "victim";
	config.kernel = argv[3];
	config.initrd = argv[4];
	config.memory_mib = 128;
	config.device_slots = 2;
	storage.id = "disk";
	storage.path = argv[5];
	/* A disk that needs no guest to let go of it. */
	storage.driver = strcmp(argv[6], "unplug-disk") == 0 ? KATA_STORAGE_VIRTIO_SCSI : KATA_STORAGE_VIRTIO_BLK;
	nic.id = "nic";
	nic.type = argv[8] ? KATA_NIC_TAP : KATA_NIC_USER;
	v->point = argv[7];
	v->snapshot = in_state_parent(argv[1], "saved/one");
	if (strcmp(argv[6], "save-shared") == 0) {
		v->memory = in_state_parent(argv[1], "ram");
		config.memory_path = v->memory;
		config.memory_shared = true;
		config.memory_mib = 16;
	}
	MUST(kata_context_new(&context, &v->context, &err));
	MUST(kata_vm_builder_new_qemu(v->context, &qemu, &v->builder, &err));
	MUST(kata_vm_builder_build(v->builder, &config, NULL, NULL, &v->vm, &err));
	MUST(kata_storage_new(&storage, &v->disk, &err));
	MUST(kata_nic_new(&nic, &v->nic, &err));
}

/* ---- before the operation: the machine is paused, nobody needs its guest */

static void start(struct victim *v)
{
	kata_error *err = NULL;

	MUST(kata_vm_start(v->vm, NULL, &err));
	MUST(kata_vm_pause(v->vm, NULL, &err));
}

static void nothing(struct victim *v)
{
}

static void cold(struct victim *v)
{
	kata_error *err = NULL;

	MUST(kata_vm_add_storage(v->vm, v->disk, NULL, &err));
	MUST(kata_vm_add_nic(v->vm, v->nic, NULL, &err));
}

static void with_devices(struct victim *v)
{
	start(v);
	cold(v);
}

/* A guest that runs lets go of what is unplugged. */
static void with_devices_running(struct victim *v)
{
	kata_error *err = NULL;

	with_devices(v);
	MUST(kata_vm_resume(v->vm, NULL, &err));
}

static void released(struct victim *v)
{
	kata_error *err = NULL;

	with_devices(v);
	MUST(kata_vm_release(v->vm, NULL, &v->record, &err));
	kata_vm_unref(v->vm);
	v->vm = NULL;
}

/* Nothing says that the machine is as it was released: all of it is compared. */
static void released_without_a_copy(struct victim *v)
{
	char path[256];

	released(v);
	snprintf(path, sizeof(path), "%s/vm/victim/released.json", kata_context_get_state_dir(v->context));
	if (unlink(path) < 0) {
		perror(path);
		exit(1);
	}
}

/* Running, and its record is in a file, as an owner would store it. */
static void recorded(struct victim *v)
{
	kata_error *err = NULL;
	char *path = NULL;
	FILE *out;

	with_devices(v);
	MUST(kata_vm_resume(v->vm, NULL, &err));
	MUST(kata_vm_dump(v->vm, &v->record, &err));
	if (asprintf(&path, "%s-record", v->snapshot) < 0 || !(out = fopen(path, "we")))
		exit(1);
	fputs(v->record, out);
	fclose(out);
	free(path);
}

/* What is restored has its disk at a place of the caller's. */
static void saved(struct victim *v)
{
	kata_restore_options options = KATA_RESTORE_OPTIONS_INIT;
	kata_restore_storage disk = {"disk", KATA_RESTORE_DISK_COPY, NULL};
	kata_vm_config config = KATA_VM_CONFIG_INIT;
	kata_snapshot *snapshot = NULL;
	kata_error *err = NULL;
	char *copy = NULL;

	if (access(v->snapshot, F_OK) < 0) {
		with_devices(v);
		MUST(kata_vm_snapshot(v->vm, v->snapshot, NULL, NULL, NULL, &err));
	}
	MUST(kata_vm_destroy(v->vm, NULL, &err));
	kata_vm_unref(v->vm);
	v->vm = NULL;
	if (asprintf(&copy, "%s-disk", v->snapshot) < 0)
		exit(1);
	disk.path = copy;
	options.storages = &disk;
	options.storage_count = 1;
	config.id = "victim";
	MUST(kata_snapshot_open(v->context, v->snapshot, 0, &snapshot, &err));
	MUST(kata_vm_builder_build_from_snapshot(v->builder, snapshot, &config, NULL, NULL, &options, &v->vm, &err));
	kata_snapshot_free(snapshot);
	free(copy);
}

/* ---- the operations */

static int begin_start(struct victim *v, kata_op **op, kata_error **err)
{
	return kata_vm_start_begin(v->vm, NULL, op, err);
}
static int begin_plug_disk(struct victim *v, kata_op **op, kata_error **err)
{
	return kata_vm_add_storage_begin(v->vm, v->disk, NULL, op, err);
}
static int begin_unplug_disk(struct victim *v, kata_op **op, kata_error **err)
{
	return kata_vm_remove_storage_begin(v->vm, "disk", NULL, op, err);
}
static int begin_plug_nic(struct victim *v, kata_op **op, kata_error **err)
{
	return kata_vm_add_nic_begin(v->vm, v->nic, NULL, op, err);
}
static int begin_unplug_nic(struct victim *v, kata_op **op, kata_error **err)
{
	return kata_vm_remove_nic_begin(v->vm, "nic", NULL, op, err);
}
static int begin_resume(struct victim *v, kata_op **op, kata_error **err)
{
	return kata_vm_resume_begin(v->vm, NULL, op, err);
}
static int begin_release(struct victim *v, kata_op **op, kata_error **err)
{
	return kata_vm_release_begin(v->vm, NULL, op, err);
}
static int begin_rebuild(struct victim *v, kata_op **op, kata_error **err)
{
	return kata_vm_builder_build_from_released_begin(v->builder, v->record, strlen(v->record), NULL, &v->vm, op,
							 err);
}
static int begin_save(struct victim *v, kata_op **op, kata_error **err)
{
	return kata_vm_snapshot_begin(v->vm, v->snapshot, NULL, NULL, op, err);
}
static int begin_save_shared(struct victim *v, kata_op **op, kata_error **err)
{
	kata_snapshot_options options = KATA_SNAPSHOT_OPTIONS_INIT;

	options.memory = KATA_SNAPSHOT_SHARED;
	return kata_vm_snapshot_begin(v->vm, v->snapshot, &options, NULL, op, err);
}
static int begin_destroy(struct victim *v, kata_op **op, kata_error **err)
{
	return kata_vm_destroy_begin(v->vm, NULL, op, err);
}

static const struct operation {
	const char *name;
	void (*prepare)(struct victim *v);
	int (*begin)(struct victim *v, kata_op **op, kata_error **err);
} operations[] = {
	{"start", cold, begin_start},
	{"cold-plug-disk", nothing, begin_plug_disk},
	{"plug-disk", start, begin_plug_disk},
	{"unplug-disk", with_devices, begin_unplug_disk},
	{"plug-nic", start, begin_plug_nic},
	{"unplug-nic", with_devices_running, begin_unplug_nic},
	{"resume", start, begin_resume},
	{"release", with_devices, begin_release},
	{"rebuild", released, begin_rebuild},
	{"rebuild-compared", released_without_a_copy, begin_rebuild},
	{"destroy", with_devices, begin_destroy},
	{"save", with_devices, begin_save},
	{"save-recorded", recorded, begin_save},
	{"save-shared", with_devices, begin_save_shared},
	{"restore", saved, begin_start},
};

/* ---- the probe: no VM, no step, no fail-point */

/* The stand-in reads the script beside it when it begins to run. */
static int watch_script(const char *binary)
{
	char script[256];
	int fd = inotify_init1(IN_CLOEXEC);

	snprintf(script, sizeof(script), "%.*s/script", (int)(strrchr(binary, '/') - binary), binary);
	if (fd < 0 || inotify_add_watch(fd, script, IN_CLOSE_NOWRITE) < 0) {
		perror(script);
		exit(1);
	}
	return fd;
}

static void *kill_when_it_runs(void *fd)
{
	struct inotify_event event;

	if (read(*(int *)fd, &event, sizeof(event)) > 0)
		kill(getpid(), SIGKILL);
	return NULL;
}

static void probe(char **argv)
{
	kata_context_options context = KATA_CONTEXT_OPTIONS_INIT;
	kata_qemu_options qemu = KATA_QEMU_OPTIONS_INIT;
	kata_capabilities caps = {.size = sizeof(caps)};
	kata_vm_builder *builder = NULL;
	kata_context *ctx = NULL;
	kata_error *err = NULL;
	pthread_t killer;
	int fd = watch_script(argv[2]);

	context.state_dir = argv[1];
	qemu.binary = argv[2];
	qemu.accelerator = KATA_ACCELERATOR_TCG;
	MUST(kata_context_new(&context, &ctx, &err));
	MUST(kata_vm_builder_new_qemu(ctx, &qemu, &builder, &err));
	must(pthread_create(&killer, NULL, kill_when_it_runs, &fd), NULL, "pthread_create");
	MUST(kata_vm_builder_get_capabilities(builder, &caps, &err));
}

static void print_steps(const kata_op *op)
{
	kata_timeline_entry entry = {.size = sizeof(entry)};

	for (size_t i = 0; i < kata_op_get_timeline_length(op); i++)
		if (kata_op_get_timeline_entry(op, i, &entry, NULL) == 0)
			printf("%s/%s\n", kata_op_get_name(op), entry.step);
}

static void run(struct victim *v, const struct operation *o)
{
	kata_error *err = NULL;
	kata_op *op = NULL;

	o->prepare(v);
	if (strcmp(v->point, "-") != 0)
		MUST(kata_context_set_fail_point(v->context, v->point, KATA_FAIL_KILL, 0, 0, 1, &err));
	MUST(o->begin(v, &op, &err));
	MUST(kata_op_wait(op, &err));
	print_steps(op);
	kata_op_unref(op);
}

static void tear_down(struct victim *v)
{
	kata_error *err = NULL;

	if (kata_vm_get_state(v->vm) == KATA_VM_RELEASED) {
		MUST(kata_vm_dump(v->vm, &v->record, &err));
		kata_vm_unref(v->vm);
		v->vm = NULL;
		MUST(kata_vm_builder_build_from_released(v->builder, v->record, strlen(v->record), NULL, &v->vm, &err));
	}
	MUST(kata_vm_destroy(v->vm, NULL, &err));
	kata_vm_unref(v->vm);
	kata_storage_unref(v->disk);
	kata_nic_unref(v->nic);
	free(v->record);
	free(v->snapshot);
	free(v->memory);
	kata_vm_builder_free(v->builder);
	MUST(kata_context_free(v->context, &err));
}

int main(int argc, char **argv)
{
	struct victim v = {0};

	if (argc != 8 && argc != 9)
		return 2;
	if (strcmp(argv[6], "probe") == 0) {
		probe(argv);
		return 0;
	}
	for (size_t i = 0; i < sizeof(operations) / sizeof(operations[0]); i++) {
		if (strcmp(operations[i].name, argv[6]) != 0)
			continue;
		set_up(&v, argv);
		run(&v, &operations[i]);
		tear_down(&v);
		return 0;
	}
	return 2;
}
