/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every allocation of what a sandbox does fails in turn: an error comes or the thing succeeds all the same, nothing
 * leaks (counted here), and the same thing succeeds afterwards. The mock and its agent run in this process and lack
 * memory too, so the error may be theirs. Sanitizers bring their own malloc, so there these tests are skipped.
 */
#include <criterion/criterion.h>
#include <jansson.h>
#include <kata/mock.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "sandbox/spec.h"
#include "support/counting_malloc.h"
#include "support/fixture.h"

#if CAN_FAIL
/* jansson 2.14 aborts when its scanner lacks memory ("assert(0)" in lex_scan_string): its own allocations do not fail
 * here. */
static void *json_malloc(size_t size)
{
	void *p = __libc_malloc(size);

	live += p != NULL;
	return p;
}
#endif

static struct fixture f;
static kata_vm_builder *builder;
static kata_sandbox *s;
static kata_op_options soon = {sizeof(kata_op_options), 500};

struct scenario {
	void (*prepare)(void);
	int (*run)(kata_error **err);
	void (*clean)(void);
};

static int run_once(const struct scenario *sc, long n, kata_error **err)
{
	int rc;

	sc->prepare();
	hit = false;
	countdown = n;
	rc = sc->run(err);
	countdown = -1;
	sc->clean();
	return rc;
}

static void fail_each(const struct scenario *sc, long at_least)
{
	kata_error *err = NULL;
	long n = 0;

	if (!CAN_FAIL)
		cr_skip_test("the sanitizer brings its own malloc");
#if CAN_FAIL
	json_set_alloc_funcs(json_malloc, free);
#endif
	for (int i = 0; i < 2; i++) /* what grows once and stays */
		fixture_assert_ok(run_once(sc, -1, &err), err);
	do {
		long before = live;
		int rc = run_once(sc, n, &err);

		cr_assert(rc == 0 || hit, "without a failed allocation: %s", error_text(err));
		cr_assert_eq(rc == 0, err == NULL);
		error_clear(&err);
		cr_assert_eq(live, before, "allocation %ld leaks %ld pieces (%d)", n, live - before, rc);
		n++;
	} while (hit);
	fixture_assert_ok(run_once(sc, -1, &err), err);
	cr_assert_geq(n, at_least, "only %ld allocations", n);
}

/* ---- specs */

static struct kata__spec spec;

static void nothing(void)
{
}

static int parse(kata_error **err)
{
	static const char text[] = "{\"process\":{\"args\":[\"a\"]},\"root\":{\"path\":\"storage:r\"},"
				   "\"mounts\":[{\"source\":\"storage:d/x\"},{\"source\":\"storage:e\"}]}";

	return kata__spec_parse("spec", text, 0, &spec, err);
}

static void forget_spec(void)
{
	kata__spec_deinit(&spec);
}

Test(sandbox_out_of_memory, a_spec)
{
	static const struct scenario sc = {nothing, parse, forget_spec};

	fail_each(&sc, 10);
}

/* ---- sandboxes, on a loop of this thread, so that allocations come in one order */

static void open_fixture(void)
{
	kata_error *err = NULL;

	if (!CAN_FAIL)
		cr_skip_test("the sanitizer brings its own malloc");
	signal(SIGPIPE, SIG_IGN); /* a pump that failed has closed its end */
	fixture_init(&f, true, KATA_CONTEXT_EXTERNAL_LOOP);
	fixture_assert_ok(kata_vm_builder_new_mock(f.context, &builder, &err), err);
}

static void close_fixture(void)
{
	kata_vm_builder_free(builder);
	fixture_deinit(&f);
}

static int create(kata_error **err)
{
	kata_vm_config config = KATA_VM_CONFIG_INIT;

	config.id = "sb";
	return kata_sandbox_create(f.context, NULL, builder, &config, NULL, NULL, &s, err);
}

static int create_and_start(kata_error **err)
{
	int rc = create(err);

	return rc < 0 ? rc : kata_sandbox_start(s, &soon, err);
}

static void prepare_started(void)
{
	kata_error *err = NULL;

	fixture_assert_ok(create_and_start(&err), err);
}

/* Lets the loop do what is left. */
static void settle(void)
{
	for (int i = 0; i < 20; i++)
		kata_context_dispatch(f.context, 0, NULL);
}

static void destroy(void)
{
	kata_error *err = NULL;

	if (s)
		fixture_assert_ok(kata_sandbox_destroy(s, NULL, &err), err);
	kata_sandbox_unref(s);
	s = NULL;
	settle();
}

static void in_fixture(const struct scenario *sc, long at_least)
{
	open_fixture();
	fail_each(sc, at_least);
	close_fixture();
}

Test(sandbox_out_of_memory, create_and_start, .timeout = 120)
{
	static const struct scenario sc = {nothing, create_and_start, destroy};

	in_fixture(&sc, 40);
}

static int run_container(kata_error **err)
{
	kata_container_config config = KATA_CONTAINER_CONFIG_INIT;
	int32_t status;
	int rc;

	config.id = "c1";
	config.oci_spec =
		"{\"ociVersion\":\"1.0.2\",\"process\":{\"args\":[\"exit\",\"3\"],\"cwd\":\"/\",\"user\":{\"uid\":0,"
		"\"gid\":0}},\"root\":{\"path\":\"storage:d\"}}";
	rc = kata_sandbox_add_container(s, &config, &soon, err);
	if (rc == 0)
		rc = kata_sandbox_start_container(s, "c1", &soon, err);
	if (rc == 0)
		rc = kata_sandbox_wait_process(s, "c1", NULL, &soon, &status, err);
	if (rc == 0)
		rc = kata_sandbox_remove_container(s, "c1", &soon, err);
	return rc;
}

static void prepare_with_disk(void)
{
	kata_storage *storage;
	kata_error *err = NULL;

	prepare_started();
	storage = fixture_storage("d", "/d", KATA_STORAGE_VIRTIO_BLK);
	fixture_assert_ok(kata_sandbox_add_storage(s, storage, NULL, &err), err);
	kata_storage_unref(storage);
}

Test(sandbox_out_of_memory, a_container, .timeout = 120)
{
	static const struct scenario sc = {prepare_with_disk, run_container, destroy};

	in_fixture(&sc, 40);
}

static int read_to_end(int fd, kata_error **err)
{
	char buf[256];

	for (int i = 0; i < 200; i++) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		int rc = kata_context_dispatch(f.context, 1, err);

		if (rc < 0)
			return rc;
		if (poll(&p, 1, 0) == 1 && read(fd, buf, sizeof(buf)) <= 0)
			return 0;
	}
	return 0; /* a read whose allocation failed in the mock may never be answered */
}

static int exec_and_read(kata_error **err)
{
	kata_process_config config = KATA_PROCESS_CONFIG_INIT;
	int out = -1, in = -1;
	int rc;

	config.exec_id = "e1";
	config.oci_process = "{\"args\":[\"cat\"],\"cwd\":\"/\",\"user\":{\"uid\":0,\"gid\":0}}";
	rc = kata_sandbox_add_process(s, "c1", &config, &soon, err);
	if (rc == 0)
		rc = kata_sandbox_open_stdio(s, "c1", "e1", &in, &out, NULL, err);
	if (rc == 0) {
		if (write(in, "x", 1) != 1)
			countdown = -1;
		close(in);
		rc = read_to_end(out, err);
		close(out);
	}
	return rc;
}

static void prepare_with_container(void)
{
	kata_container_config config = KATA_CONTAINER_CONFIG_INIT;
	kata_error *err = NULL;

	prepare_started();
	config.id = "c1";
	config.oci_spec =
		"{\"ociVersion\":\"1.0.2\",\"process\":{\"args\":[\"sleep\"],\"cwd\":\"/\",\"user\":{\"uid\":0,"
		"\"gid\":0}},\"root\":{\"path\":\"/r\"}}";
	fixture_assert_ok(kata_sandbox_add_container(s, &config, NULL, &err), err);
	fixture_assert_ok(kata_sandbox_start_container(s, "c1", NULL, &err), err);
}

Test(sandbox_out_of_memory, an_exec_with_stdio, .timeout = 240)
{
	static const struct scenario sc = {prepare_with_container, exec_and_read, destroy};

	in_fixture(&sc, 40);
}

static kata_storage *storage;
static kata_nic *nic;

static void prepare_devices(void)
{
	prepare_started();
	storage = fixture_storage("d", "/d", KATA_STORAGE_VIRTIO_SCSI);
	nic = fixture_nic("n", "02:00:00:00:00:01");
}

static int plug_and_unplug(kata_error **err)
{
	static const char *const addresses[] = {"10.0.0.2/24", NULL};
	kata_interface_config config = KATA_INTERFACE_CONFIG_INIT;
	kata_agent_route route = {.destination = "10.1.0.0/16", .device = "eth0"};
	int rc = kata_sandbox_add_storage(s, storage, &soon, err);

	config.name = "eth0";
	config.addresses = addresses;
	if (rc == 0)
		rc = kata_sandbox_add_nic(s, nic, &config, &soon, err);
	if (rc == 0)
		rc = kata_sandbox_update_routes(s, &route, 1, &soon, err);
	if (rc == 0)
		rc = kata_sandbox_remove_nic(s, "n", &soon, err);
	if (rc == 0)
		rc = kata_sandbox_remove_storage(s, "d", &soon, err);
	return rc;
}

static void drop_devices(void)
{
	destroy();
	kata_storage_unref(storage);
	kata_nic_unref(nic);
	settle();
}

Test(sandbox_out_of_memory, devices_and_routes, .timeout = 120)
{
	static const struct scenario sc = {prepare_devices, plug_and_unplug, drop_devices};

	in_fixture(&sc, 40);
}

static int hand_over(kata_error **err)
{
	kata_sandbox *next = NULL;
	char *json = NULL;
	int rc = kata_sandbox_release(s, &soon, &json, err);

	if (rc == 0)
		rc = kata_sandbox_build_from_released(f.context, json, strlen(json), builder, NULL, &soon, &next, err);
	free(json);
	if (rc == 0) {
		kata_sandbox_unref(s);
		s = next;
	}
	return rc;
}

/* A release that was complete is taken back first. */
static void take_back_and_destroy(void)
{
	kata_sandbox *next = NULL;
	kata_error *err = NULL;
	char *json = NULL;

	if (kata_sandbox_get_state(s) == KATA_SANDBOX_RELEASED) {
		fixture_assert_ok(kata_sandbox_dump(s, &json, &err), err);
		fixture_assert_ok(kata_sandbox_build_from_released(f.context, json, strlen(json), builder, NULL, NULL,
								   &next, &err),
				  err);
		free(json);
		kata_sandbox_unref(s);
		s = next;
	}
	destroy();
}

Test(sandbox_out_of_memory, a_handover, .timeout = 240)
{
	static const struct scenario sc = {prepare_with_container, hand_over, take_back_and_destroy};

	in_fixture(&sc, 40);
}
