/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_TESTS_CONTRACT_STANDIN_KIT_H
#define KATA_TESTS_CONTRACT_STANDIN_KIT_H
/* Sandboxes on the stand-in for QEMU, which is a process that a record can name, and their records in a persistence. */
#include <criterion/criterion.h>
#include <kata/persistence.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "support/fixture.h"

#define STANDIN_FN __attribute__((unused)) static

struct standin_kit {
	struct fixture f;
	char *kernel, *binary, *disk;
	kata_vm_builder *builder;
	kata_sandbox *s; /* "sb" */
};

STANDIN_FN kata_vm_builder *standin_builder(struct standin_kit *k, kata_context *context)
{
	kata_qemu_options options = KATA_QEMU_OPTIONS_INIT;
	kata_vm_builder *builder = NULL;
	kata_error *err = NULL;

	options.binary = k->binary;
	options.accelerator = KATA_ACCELERATOR_TCG;
	fixture_assert_ok(kata_vm_builder_new_qemu(context, &options, &builder, &err), err);
	return builder;
}

STANDIN_FN int standin_try_start(struct standin_kit *k, kata_context *context, kata_vm_builder *builder, const char *id,
				 kata_sandbox **ret, kata_error **err)
{
	kata_sandbox_options options = KATA_SANDBOX_OPTIONS_INIT;
	kata_vm_config config = KATA_VM_CONFIG_INIT;
	int rc;

	options.id = config.id = id;
	config.kernel = config.initrd = k->kernel;
	config.memory_mib = 64;
	config.device_slots = 4;
	rc = kata_sandbox_create(context, &options, builder, &config, NULL, NULL, ret, err);
	if (rc == 0)
		rc = kata_sandbox_start(*ret, NULL, err);
	return rc;
}

/* The files alone: what a test needs before it forks. */
STANDIN_FN void standin_kit_prepare(struct standin_kit *k)
{
	memset(k, 0, sizeof(*k));
	fixture_init(&k->f, false, 0);
	k->kernel = fixture_make_kernel(&k->f);
	k->binary = fixture_make_standin(&k->f, NULL);
	k->disk = fixture_make_raw(&k->f, "disk", 1 << 20);
}

/* With a disk, a NIC and a container, running. */
STANDIN_FN void standin_kit_furnish(struct standin_kit *k)
{
	kata_container_config config = KATA_CONTAINER_CONFIG_INIT;
	kata_storage *storage = fixture_storage("d1", k->disk, KATA_STORAGE_VIRTIO_BLK);
	kata_nic *nic = fixture_nic("n1", "02:00:00:00:00:01");
	kata_error *err = NULL;

	fixture_assert_ok(standin_try_start(k, k->f.context, k->builder, "sb", &k->s, &err), err);
	fixture_assert_ok(kata_sandbox_add_storage(k->s, storage, NULL, &err), err);
	fixture_assert_ok(kata_sandbox_add_nic(k->s, nic, NULL, NULL, &err), err);
	config.id = "c1";
	config.oci_spec =
		"{\"ociVersion\":\"1.0.2\",\"process\":{\"args\":[\"sleep\"],\"cwd\":\"/\",\"user\":{\"uid\":0,"
		"\"gid\":0}},\"root\":{\"path\":\"/r\"}}";
	fixture_assert_ok(kata_sandbox_add_container(k->s, &config, NULL, &err), err);
	fixture_assert_ok(kata_sandbox_start_container(k->s, "c1", NULL, &err), err);
	kata_storage_unref(storage);
	kata_nic_unref(nic);
}

STANDIN_FN void standin_kit_init(struct standin_kit *k)
{
	standin_kit_prepare(k);
	k->f.context = fixture_new_context(&k->f, 0);
	k->builder = standin_builder(k, k->f.context);
	standin_kit_furnish(k);
}

STANDIN_FN void standin_kit_deinit(struct standin_kit *k)
{
	kata_error *err = NULL;

	if (k->s)
		fixture_assert_ok(kata_sandbox_destroy(k->s, NULL, &err), err);
	kata_sandbox_unref(k->s);
	kata_vm_builder_free(k->builder);
	free(k->kernel);
	free(k->binary);
	free(k->disk);
	fixture_deinit(&k->f);
}

STANDIN_FN pid_t standin_pid(kata_sandbox *s)
{
	kata_vm *vm = kata_sandbox_get_vm(s);
	pid_t pid = (pid_t)kata_vm_get_pid(vm);

	kata_vm_unref(vm);
	return pid;
}

/* Machine and guest are asked and answer. */
STANDIN_FN void standin_assert_answers(kata_sandbox *s, const char *when)
{
	kata_container_stats stats = {.size = sizeof(stats)};
	kata_error *err = NULL;

	cr_assert_eq(kata_sandbox_pause(s, NULL, &err), 0, "%s: %s", when, error_text(err));
	cr_assert_eq(kata_sandbox_resume(s, NULL, &err), 0, "%s: %s", when, error_text(err));
	cr_assert_eq(kata_sandbox_get_container_stats(s, "c1", NULL, &stats, &err), 0, "%s: %s", when, error_text(err));
}
#endif
