/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_TESTS_CONTRACT_SANDBOX_KIT_H
#define KATA_TESTS_CONTRACT_SANDBOX_KIT_H
/* A running sandbox on the mock, and short ways to containers in it, for the tests of kata_sandbox. */
#include <criterion/criterion.h>
#include <kata/fail_point.h>
#include <kata/mock.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "support/fixture.h"

#define KIT_FN __attribute__((unused)) static

struct kit {
	struct fixture f;
	kata_vm_builder *builder;
	kata_sandbox *s;
};

KIT_FN kata_sandbox *kit_create(struct kit *k, const char *id)
{
	kata_vm_config config = KATA_VM_CONFIG_INIT;
	kata_sandbox *s = NULL;
	kata_error *err = NULL;

	config.id = id;
	config.device_slots = 8;
	fixture_assert_ok(kata_sandbox_create(k->f.context, NULL, k->builder, &config, NULL, NULL, &s, &err), err);
	return s;
}

/* With a sandbox "sb" that is NEW. */
KIT_FN void kit_init_new(struct kit *k)
{
	kata_error *err = NULL;

	memset(k, 0, sizeof(*k));
	fixture_init(&k->f, true, 0);
	fixture_assert_ok(kata_vm_builder_new_mock(k->f.context, &k->builder, &err), err);
	k->s = kit_create(k, "sb");
}

KIT_FN void kit_init(struct kit *k)
{
	kata_error *err = NULL;

	kit_init_new(k);
	fixture_assert_ok(kata_sandbox_start(k->s, NULL, &err), err);
}

KIT_FN void kit_deinit(struct kit *k)
{
	kata_error *err = NULL;

	if (k->s && kata_sandbox_get_state(k->s) != KATA_SANDBOX_RELEASED)
		fixture_assert_ok(kata_sandbox_destroy(k->s, NULL, &err), err);
	kata_sandbox_unref(k->s);
	kata_vm_builder_free(k->builder);
	fixture_deinit(&k->f);
}

/* Args as the inside of a JSON array: "\"echo\",\"hi\"". */
KIT_FN int kit_try_add(struct kit *k, const char *id, const char *args, bool terminal, kata_error **err)
{
	kata_container_config config = KATA_CONTAINER_CONFIG_INIT;
	char spec[512];

	snprintf(spec, sizeof(spec),
		 "{\"ociVersion\":\"1.0.2\",\"process\":{\"terminal\":%s,\"user\":{\"uid\":0,\"gid\":0},\"args\":[%s],"
		 "\"cwd\":\"/\"},\"root\":{\"path\":\"/rootfs\"},\"linux\":{}}",
		 terminal ? "true" : "false", args);
	config.id = id;
	config.oci_spec = spec;
	return kata_sandbox_add_container(k->s, &config, NULL, err);
}

KIT_FN void kit_add(struct kit *k, const char *id, const char *args)
{
	kata_error *err = NULL;

	fixture_assert_ok(kit_try_add(k, id, args, false, &err), err);
}

KIT_FN void kit_run(struct kit *k, const char *id, const char *args)
{
	kata_error *err = NULL;

	kit_add(k, id, args);
	fixture_assert_ok(kata_sandbox_start_container(k->s, id, NULL, &err), err);
}

KIT_FN int kit_try_exec(struct kit *k, const char *id, const char *exec_id, const char *args, bool terminal,
			kata_error **err)
{
	kata_process_config config = KATA_PROCESS_CONFIG_INIT;
	char process[512];

	snprintf(process, sizeof(process),
		 "{\"terminal\":%s,\"user\":{\"uid\":0,\"gid\":0},\"args\":[%s],\"cwd\":\"/\"}",
		 terminal ? "true" : "false", args);
	config.exec_id = exec_id;
	config.oci_process = process;
	return kata_sandbox_add_process(k->s, id, &config, NULL, err);
}

KIT_FN void kit_exec(struct kit *k, const char *id, const char *exec_id, const char *args)
{
	kata_error *err = NULL;

	fixture_assert_ok(kit_try_exec(k, id, exec_id, args, false, &err), err);
}

KIT_FN int32_t kit_wait(struct kit *k, const char *id, const char *exec_id)
{
	kata_op_options options = KATA_OP_OPTIONS_INIT;
	kata_error *err = NULL;
	int32_t status = -77;

	options.timeout_ms = 20000;
	fixture_assert_ok(kata_sandbox_wait_process(k->s, id, exec_id, &options, &status, &err), err);
	return status;
}

KIT_FN void kit_open(struct kit *k, const char *id, const char *exec_id, int *in, int *out, int *err_fd)
{
	kata_error *err = NULL;

	fixture_assert_ok(kata_sandbox_open_stdio(k->s, id, exec_id, in, out, err_fd, &err), err);
}

/* Reads `fd` to its end, or until `want` bytes (0: no limit); closes it at the end. NUL-terminated, caller frees. */
KIT_FN char *kit_read(int fd, size_t want, size_t *ret_length)
{
	size_t length = 0, room = 4096;
	char *data = malloc(room + 1);

	for (;;) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		ssize_t n;

		if (want && length >= want)
			break;
		cr_assert_eq(poll(&p, 1, 20000), 1, "nothing to read after 20 s");
		if (length == room)
			data = realloc(data, (room *= 2) + 1);
		n = read(fd, data + length, room - length);
		cr_assert_geq(n, 0);
		if (n == 0)
			break;
		length += (size_t)n;
	}
	data[length] = 0;
	if (ret_length)
		*ret_length = length;
	return data;
}

KIT_FN void kit_assert_reads(int fd, const char *expected)
{
	char *text = kit_read(fd, 0, NULL);

	cr_assert_str_eq(text, expected);
	free(text);
	close(fd);
}

KIT_FN void kit_add_disk(struct kit *k, const char *id, kata_storage_driver driver)
{
	kata_storage *storage;
	kata_error *err = NULL;
	char path[96];

	snprintf(path, sizeof(path), "/nonexistent/%s", id); /* the mock opens nothing */
	storage = fixture_storage(id, path, driver);
	fixture_assert_ok(kata_sandbox_add_storage(k->s, storage, NULL, &err), err);
	kata_storage_unref(storage);
}

#define KIT_ASSERT_STATE(k, state)                                                                                     \
	cr_assert_eq(kata_sandbox_get_state((k)->s), (state), "state is %s, expected %s",                              \
		     kata_sandbox_state_get_name(kata_sandbox_get_state((k)->s)), kata_sandbox_state_get_name(state))
#endif
