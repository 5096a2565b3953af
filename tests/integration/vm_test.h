/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_TESTS_INTEGRATION_VM_TEST_H
#define KATA_TESTS_INTEGRATION_VM_TEST_H
/*
 * What the tests of VMs on the real QEMU share: the guest image, a builder, a VM. Where QEMU or the image is missing a
 * test is skipped with the reason.
 *
 * A guest that nobody needs to run is paused at once: on a small machine an emulated boot is what costs.
 */
#include <criterion/criterion.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <kata/kata.h>

#include "support/fixture.h"

struct machine {
	struct fixture f;
	kata_vm_builder *builder;
	kata_vm *vm;
	char kernel[256], initrd[256];
};

static inline void find_image(struct machine *m)
{
	const char *cache = getenv("KATA_IMAGE_CACHE"), *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
	const char *named = getenv("KATA_TEST_GUEST");
	char dir[200];

	if (named)
		snprintf(dir, sizeof(dir), "%s", named);
	else if (cache)
		snprintf(dir, sizeof(dir), "%s/current", cache);
	else if (xdg)
		snprintf(dir, sizeof(dir), "%s/libkata/guest/current", xdg);
	else
		snprintf(dir, sizeof(dir), "%s/.cache/libkata/guest/current", home ? home : "");
	snprintf(m->kernel, sizeof(m->kernel), "%s/vmlinux", dir);
	snprintf(m->initrd, sizeof(m->initrd), "%s/initrd", dir);
	if (access(m->kernel, R_OK) == 0 && access(m->initrd, R_OK) == 0)
		return;
	cr_assert_null(named, "KATA_TEST_GUEST: there is no guest image in %s", dir);
	cr_skip_test("no guest image in %s: make it with tools/guest-image, or name one in KATA_TEST_GUEST", dir);
}

static inline void machine_init(struct machine *m, uint64_t context_flags)
{
	kata_error *err = NULL;

	memset(m, 0, sizeof(*m));
	if (access("/usr/bin/qemu-system-x86_64", X_OK))
		cr_skip_test("no /usr/bin/qemu-system-x86_64: install qemu-system-x86");
	find_image(m);
	fixture_init(&m->f, true, context_flags);
	fixture_assert_ok(kata_vm_builder_new_qemu(m->f.context, NULL, &m->builder, &err), err);
}

static inline kata_vm_config machine_config(const struct machine *m)
{
	kata_vm_config c = KATA_VM_CONFIG_INIT;

	c.kernel = m->kernel;
	c.initrd = m->initrd;
	c.memory_mib = 128;
	c.device_slots = 8;
	return c;
}

static inline void machine_build(struct machine *m, const char *id)
{
	kata_vm_config c = machine_config(m);
	kata_error *err = NULL;

	c.id = id;
	fixture_assert_ok(kata_vm_builder_build(m->builder, &c, NULL, NULL, &m->vm, &err), err);
}

static inline void machine_start(struct machine *m)
{
	kata_error *err = NULL;

	fixture_assert_ok(kata_vm_start(m->vm, NULL, &err), err);
}

static inline void machine_start_paused(struct machine *m)
{
	kata_error *err = NULL;

	machine_start(m);
	fixture_assert_ok(kata_vm_pause(m->vm, NULL, &err), err);
}

static inline void machine_destroy(struct machine *m)
{
	kata_error *err = NULL;

	fixture_assert_ok(kata_vm_destroy(m->vm, NULL, &err), err);
	cr_assert_eq(kata_vm_get_state(m->vm), KATA_VM_DESTROYED);
	kata_vm_unref(m->vm);
	m->vm = NULL;
}

static inline void machine_deinit(struct machine *m)
{
	kata_vm_unref(m->vm);
	kata_vm_builder_free(m->builder);
	fixture_deinit(&m->f);
}

/* The probe's caches and the parent directory of VMs come with the first machine: have them before a census. */
static inline void machine_warm_up(struct machine *m)
{
	machine_build(m, "warm-up");
	machine_start_paused(m);
	machine_destroy(m);
}

static inline kata_storage *machine_disk(struct machine *m, const char *id, kata_storage_driver driver)
{
	char name[80], *path;
	kata_storage *s;

	snprintf(name, sizeof(name), "%s.raw", id);
	path = fixture_make_raw(&m->f, name, 1 << 20);
	s = fixture_storage(id, path, driver);
	free(path);
	return s;
}

static inline void assert_address(const kata_storage *s, const char *expected)
{
	char address[32];

	kata_storage_get_address(s, address, sizeof(address));
	cr_assert_str_eq(address, expected);
}
#endif
