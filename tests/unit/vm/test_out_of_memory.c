/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every allocation of what makes, plugs, releases and rebuilds fails in turn, once alone and once with all that follow
 * until the call returns: the status is NO_MEMORY or the call did without, states are as before, nothing leaks (counted
 * here). Sanitizers bring their own malloc, so there these tests are skipped.
 */
#include "fake_driver.h"

#include "support/counting_malloc.h"

static struct fixture f;
static kata_vm *vm;
static kata_storage *disk;
static kata_nic *nic;
static kata_batch *batch;
static char *path, *base, *json;

/* One run of what is tested: returns its status and leaves nothing that `clean` does not know of. */
struct scenario {
	void (*prepare)(void);
	int (*run)(kata_error **err);
	void (*clean)(void); /* with memory again */
	bool reads_json; /* jansson loses a byte where its lexer cannot grow: then the text seems broken, or another */
};

/* An external loop and one worker: all but the blocking steps run in this thread, and no thread is made on the way, so
 * that the order of allocations is the same each time. */
static void setup(void)
{
	kata_context_options o = KATA_CONTEXT_OPTIONS_INIT;

	if (!CAN_FAIL)
		return; /* every test is skipped, and after a skip there is no teardown */
	fixture_init(&f, false, 0);
	o.state_dir = f.state_dir;
	o.flags = KATA_CONTEXT_EXTERNAL_LOOP;
	o.max_workers = 1;
	cr_assert_eq(kata_context_new(&o, &f.context, NULL), 0);
	base = fixture_make_raw(&f, "base", 1 << 20);
	path = fixture_make_qcow2(&f, "top", 1 << 20, base);
}

static void teardown(void)
{
	free(path);
	free(base);
	fixture_deinit(&f);
}

TestSuite(out_of_memory, .init = setup, .fini = teardown, .timeout = 120);

static void settle(void)
{
	for (int i = 0; i < 4; i++)
		cr_assert_eq(kata_context_dispatch(f.context, 0, NULL), 0);
}

static int run_once(const struct scenario *s, long n, kata_error **err)
{
	int rc;

	s->prepare();
	hit = false;
	countdown = n;
	rc = s->run(err);
	countdown = -1;
	s->clean();
	settle();
	return rc;
}

static long points(const struct scenario *s, bool all_that_follow)
{
	kata_error *err = NULL;

	sticky = all_that_follow;
	for (int i = 0; i < 2; i++) /* what grows once and stays */
		fixture_assert_ok(run_once(s, -1, &err), err);
	for (long n = 0;; n++) {
		long before = live;
		int rc = run_once(s, n, &err);
		bool was_hit = hit;

		if (rc)
			cr_assert(was_hit && (rc == KATA_E_NO_MEMORY ||
					      (s->reads_json && (rc == KATA_E_CORRUPT || rc == KATA_E_IDENTITY))),
				  "allocation %ld: %s", n, error_text(err));
		cr_assert_eq(rc != 0, err != NULL, "allocation %ld", n);
		error_clear(&err);
		cr_assert_eq(live, before, "allocation %ld leaks %ld pieces (%d)", n, live - before, rc);
		if (!was_hit)
			return n;
	}
}

static void fail_each(const struct scenario *s, long at_least)
{
	if (!CAN_FAIL)
		cr_skip_test("the sanitizer brings its own malloc");
	cr_assert_geq(points(s, false), at_least);
	cr_assert_geq(points(s, true), at_least);
}

static void nothing(void)
{
}

/* ---- devices ---- */

static kata_storage_config chain_config(void)
{
	kata_storage_config c = KATA_STORAGE_CONFIG_INIT;

	c.id = "disk";
	c.path = path;
	c.format = KATA_STORAGE_QCOW2;
	c.backing_path = base;
	return c;
}

static int make_storage(kata_error **err)
{
	static const char *const options[] = {"ro", "noatime", NULL};
	kata_storage_config c = chain_config();
	int rc;

	c.id = NULL;
	c.mount_options = options;
	rc = kata_storage_new(&c, &disk, err);
	cr_assert_eq(disk != NULL, rc == 0);
	return rc;
}

static void drop_devices(void)
{
	kata_storage_unref(disk);
	kata_nic_unref(nic);
	disk = NULL;
	nic = NULL;
}

Test(out_of_memory, making_a_storage)
{
	fail_each(&(struct scenario){nothing, make_storage, drop_devices, false}, 5);
}

static int make_nic(kata_error **err)
{
	kata_nic_config c = KATA_NIC_CONFIG_INIT;
	int rc;

	c.type = KATA_NIC_TAP;
	rc = kata_nic_new(&c, &nic, err);
	cr_assert_eq(nic != NULL, rc == 0);
	return rc;
}

Test(out_of_memory, making_a_nic)
{
	fail_each(&(struct scenario){nothing, make_nic, drop_devices, false}, 2);
}

static void prepare_devices(void)
{
	kata_storage_config c = chain_config();
	kata_error *err = NULL;

	fixture_assert_ok(kata_storage_new(&c, &disk, &err), err);
	nic = fixture_nic("nic", NULL);
}

static int open_image(kata_error **err)
{
	struct kata__image image = {.fd = -1, .backing_fd = -1};
	int rc = kata__image_open(disk, &image, err);

	cr_assert_eq(image.fd >= 0, rc == 0);
	cr_assert_eq(image.backing_fd >= 0, rc == 0);
	kata__image_close(&image);
	return rc;
}

Test(out_of_memory, opening_an_image_and_its_backing_file)
{
	fail_each(&(struct scenario){prepare_devices, open_image, drop_devices, false}, 6);
}

/* ---- the VM ---- */

static int make_vm(kata_error **err)
{
	const char *params[] = {"quiet", NULL};
	kata_vm_config c = KATA_VM_CONFIG_INIT;
	int rc;

	c.id = "vm";
	c.kernel = "/boot/kernel";
	c.initrd = "/boot/initrd";
	c.kernel_params = params;
	rc = kata__vm_new(f.context, &fake_driver, &c, NULL, NULL, &vm, err);
	cr_assert_eq(vm != NULL, rc == 0);
	return rc;
}

static void drop_vm(void)
{
	kata_vm_unref(vm);
	vm = NULL;
	drop_devices();
}

Test(out_of_memory, making_a_vm)
{
	fail_each(&(struct scenario){nothing, make_vm, drop_vm, false}, 10);
}

static void prepare_vm(void)
{
	vm = fake_new_vm(&f, "vm", 4);
	prepare_devices();
}

static int start(kata_error **err)
{
	int rc = kata_vm_start(vm, NULL, err);

	cr_assert_eq(kata_vm_get_state(vm), rc == 0 ? KATA_VM_RUNNING : KATA_VM_CREATED);
	return rc;
}

Test(out_of_memory, starting)
{
	fail_each(&(struct scenario){prepare_vm, start, drop_vm, false}, 5);
}

static void prepare_started(void)
{
	vm = fake_started_vm(&f, "vm", 4);
	prepare_devices();
}

static int plug(kata_error **err)
{
	int rc = kata_vm_add_storage(vm, disk, NULL, err);

	cr_assert_eq(kata_storage_get_state(disk), rc == 0 ? KATA_DEVICE_PLUGGED : KATA_DEVICE_NEW);
	cr_assert_eq(kata_vm_get_storage_count(vm), rc == 0);
	cr_assert_eq(kata__vm_device_slots_used(vm, false), rc == 0);
	return rc;
}

Test(out_of_memory, plugging)
{
	fail_each(&(struct scenario){prepare_started, plug, drop_vm, false}, 10);
}

static void prepare_plugged(void)
{
	kata_error *err = NULL;

	prepare_started();
	fixture_assert_ok(kata_vm_add_storage(vm, disk, NULL, &err), err);
	fixture_assert_ok(kata_vm_add_nic(vm, nic, NULL, &err), err);
}

static int unplug(kata_error **err)
{
	int rc = kata_vm_remove_storage(vm, "disk", NULL, err);

	cr_assert_eq(kata_storage_get_state(disk), rc == 0 ? KATA_DEVICE_NEW : KATA_DEVICE_PLUGGED);
	return rc;
}

Test(out_of_memory, unplugging)
{
	fail_each(&(struct scenario){prepare_plugged, unplug, drop_vm, false}, 3);
}

static int destroy(kata_error **err)
{
	int rc = kata_vm_destroy(vm, NULL, err);

	cr_assert(rc == 0 || kata_vm_get_state(vm) != KATA_VM_DESTROYED);
	return rc;
}

/* Memory is back: it succeeds, and nothing is left. */
static void destroy_again(void)
{
	kata_error *err = NULL;

	fixture_assert_ok(kata_vm_destroy(vm, NULL, &err), err);
	cr_assert_eq(kata_storage_get_state(disk), KATA_DEVICE_NEW);
	cr_assert(access(vm->dir, F_OK) < 0);
	drop_vm();
}

Test(out_of_memory, destroying)
{
	fail_each(&(struct scenario){prepare_plugged, destroy, destroy_again, false}, 3);
}

/* ---- batches ---- */

static int run_batch(kata_error **err)
{
	int rc = kata_batch_new(vm, KATA_BATCH_ALL_OR_NOTHING, &batch, err);

	if (rc == 0)
		rc = kata_batch_add_storage(batch, disk, err);
	if (rc == 0)
		rc = kata_batch_add_nic(batch, nic, err);
	return rc < 0 ? rc : kata_batch_run(batch, NULL, err);
}

/* All or nothing; what no memory was left to take back can be removed now. */
static void check_batch(void)
{
	size_t plugged = kata_vm_get_storage_count(vm) + kata_vm_get_nic_count(vm);
	kata_error *err = NULL;

	cr_assert(sticky || plugged == 0 || plugged == 2);
	if (kata_vm_get_storage_count(vm))
		fixture_assert_ok(kata_vm_remove_storage(vm, "disk", NULL, &err), err);
	if (kata_vm_get_nic_count(vm))
		fixture_assert_ok(kata_vm_remove_nic(vm, "nic", NULL, &err), err);
	cr_assert_eq(kata__vm_device_slots_used(vm, false), 0u);
	kata_batch_free(batch);
	batch = NULL;
	drop_vm();
}

Test(out_of_memory, batches)
{
	fail_each(&(struct scenario){prepare_started, run_batch, check_batch, false}, 20);
}

/* ---- records ---- */

static int release(kata_error **err)
{
	int rc = kata_vm_release(vm, NULL, &json, err);

	cr_assert(kata_vm_get_state(vm) == KATA_VM_RUNNING || kata_vm_get_state(vm) == KATA_VM_RELEASED);
	return rc;
}

static void take_back(void)
{
	kata_error *err = NULL;

	if (kata_vm_get_state(vm) == KATA_VM_RELEASED) {
		if (!json)
			fixture_assert_ok(kata_vm_dump(vm, &json, &err), err);
		kata_vm_unref(vm);
		vm = NULL;
		fixture_assert_ok(fake_rebuild_wait(&f, json, &vm, &err), err);
	}
	free(json);
	json = NULL;
	drop_vm();
}

Test(out_of_memory, releasing)
{
	fail_each(&(struct scenario){prepare_plugged, release, take_back, false}, 20);
}

static void prepare_released(void)
{
	kata_error *err = NULL;

	prepare_plugged();
	fixture_assert_ok(kata_vm_release(vm, NULL, &json, &err), err);
	kata_vm_unref(vm);
	vm = NULL;
}

static int rebuild(kata_error **err)
{
	int rc = fake_rebuild_wait(&f, json, &vm, err);

	cr_assert_eq(vm != NULL, rc == 0);
	return rc;
}

static void set_free(void)
{
	char *dir = kata__format("%s/vm/vm", f.state_dir), *file = kata__format("%s/released.json", dir);
	struct kata__owner owner;
	kata_error *err = NULL;

	fixture_assert_ok(kata__owner_read(dir, &owner, &err), err);
	owner.process.pid = 0;
	owner.epoch = 1;
	fixture_assert_ok(kata__owner_write(dir, &owner, &err), err);
	fixture_assert_ok(kata__write_file_atomic(file, json, strlen(json), &err), err);
	free(file);
	free(dir);
}

static void rebuild_again(void)
{
	kata_error *err = NULL;

	settle();
	if (!vm && sticky)
		set_free(); /* without memory not even that could be taken back; the error said so */
	if (!vm)
		fixture_assert_ok(fake_rebuild_wait(&f, json, &vm, &err), err);
	free(json);
	json = NULL;
	drop_vm();
}

Test(out_of_memory, rebuilding)
{
	fail_each(&(struct scenario){prepare_released, rebuild, rebuild_again, true}, 50);
}
