/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every allocation of what makes a command line, reads a cache and talks QMP fails in turn: the call says NO_MEMORY (or
 * did without), and nothing leaks (counted here). Sanitizers bring their own malloc, so there these tests are skipped.
 */
#include <criterion/criterion.h>

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/loop.h"
#include "support/counting_malloc.h"
#include "vm/qemu/caps.h"
#include "vm/qemu/cmdline.h"
#include "vm/qemu/console.h"
#include "vm/qemu/qmp_client.h"

#define FAILURES_MAX 2000

/* Runs it with the n-th allocation failing, for every n it has; `run` frees what it made. `other`: a status that is as
 * good, where jansson does not tell a lack of memory from bad input; 0: it may do without. */
static void fail_each(int (*run)(kata_error **err), int other, int another)
{
	if (!CAN_FAIL)
		cr_skip_test("the sanitizer brings its own malloc");
	cr_assert_eq(run(NULL), 0); /* what libraries allocate once is there now */
	for (long n = 0; n < FAILURES_MAX; n++) {
		kata_error *err = NULL;
		long before = live;
		int rc;

		hit = false;
		countdown = n;
		rc = run(&err);
		countdown = -1;
		if (!hit) {
			cr_assert_eq(rc, 0);
			cr_assert_gt(n, 3, "the loop has tested something");
			return;
		}
		cr_assert(rc == KATA_E_NO_MEMORY || rc == other || rc == another, "allocation %ld: %d", n, rc);
		kata_error_free(err);
		cr_assert_eq(live, before, "allocation %ld: %ld pieces leaked", n, live - before);
	}
	cr_assert_fail("more allocations than were ever expected");
}

/* ---- the command line */

static struct kata__qemu_boot boot;
static kata_vm_config config;
static struct kata__qemu_cold disk, nic;

static void describe_machine(void)
{
	static const char *const params[] = {"a=1", NULL};
	kata_storage_config s = KATA_STORAGE_CONFIG_INIT;
	kata_nic_config n = KATA_NIC_CONFIG_INIT;

	config = (kata_vm_config)KATA_VM_CONFIG_INIT;
	config.cpus = config.cpus_max = 1;
	config.memory_mib = config.memory_max_mib = 128;
	config.device_slots = 2;
	config.kernel_params = params;
	s.id = "s";
	s.path = "/disk";
	s.format = KATA_STORAGE_QCOW2;
	s.backing_path = "/base";
	cr_assert_eq(kata_storage_new(&s, &disk.storage, NULL), 0);
	n.id = "n";
	n.mtu = 9000;
	cr_assert_eq(kata_nic_new(&n, &nic.nic, NULL), 0);
	disk.next = &nic;
	nic.slot = 1;
	nic.fd = nic.backing_fd = -1;
	disk.fd = 70;
	disk.backing_fd = 71;
	boot = (struct kata__qemu_boot){.binary = "/q",
					.id = "a",
					.uuid = "u",
					.machine = "q35",
					.config = &config,
					.devices = &disk,
					.kernel_fd = 50,
					.initrd_fd = 51,
					.image_fd = 56,
					.memory_fd = 57,
					.vsock_fd = -1,
					.qmp_fd = 52,
					.console_fd = 53,
					.agent_fd = 54,
					.log_fd = 55};
}

static char whole[16384];

static int make_command_line(kata_error **err)
{
	struct kata__qemu_launch l = {0};
	int rc = kata__qemu_launch_make(&boot, &l, err);
	char text[16384] = "";
	size_t len = 0;

	for (size_t i = 0; i < l.argc; i++)
		len += (size_t)snprintf(text + len, sizeof(text) - len, "%s\n", l.argv[i]);
	cr_assert_lt(len, sizeof(text));
	if (!whole[0])
		memcpy(whole, text, len + 1);
	if (!rc)
		cr_assert_str_eq(text, whole);
	kata__qemu_launch_deinit(&l);
	return rc;
}

Test(out_of_memory, a_command_line_is_whole_or_refused)
{
	describe_machine();
	fail_each(make_command_line, 0, 0); /* vasprintf can do without its last realloc */
}

/* ---- the cache */

static const char cache[] =
	"{\"format\":1,\"key\":\"k\",\"machines\":[{\"alias\":\"q35\",\"cpus_max\":288,\"name\":\"pc-q35-7.2\"}],"
	"\"types\":511,\"version\":[7,2,22]}";

static int read_cache(kata_error **err)
{
	struct kata__qemu_caps *c = NULL;
	int rc = kata__qemu_caps_parse(cache, strlen(cache), "k", &c, err);
	char *text = rc ? NULL : kata__qemu_caps_format(c, "k");

	kata__qemu_caps_free(c);
	if (!rc && !text)
		rc = KATA_E_NO_MEMORY;
	free(text);
	return rc;
}

Test(out_of_memory, a_cache_is_read_and_written_whole_or_not_at_all)
{
	fail_each(read_cache, KATA_E_CORRUPT, KATA_E_CORRUPT);
}

/* ---- QMP */

static struct kata__loop *loop;
static int status;

static void on_event(void *user, const char *name, const json_t *data)
{
}

static void on_broken(void *user, const kata_error *err)
{
}

static const struct kata__qmp_handler handler = {.on_event = on_event, .on_broken = on_broken};

static void on_reply(void *user, const json_t *value, kata_error *take_err)
{
	if (take_err)
		status = (int)kata_error_get_status(take_err);
	kata_error_free(take_err);
}

static int talk(kata_error **err)
{
	static const char words[] =
		"{\"QMP\":{\"version\":{\"qemu\":{\"micro\":0,\"minor\":2,\"major\":7}}}}\n"
		"{\"return\":{},\"id\":1}\n{\"event\":\"RESUME\"}\n{\"return\":{\"a\":[1,2]},\"id\":2}\n";
	struct kata__qmp *q = NULL;
	json_t *args = NULL;
	int pair[2], rc;

	status = 0;
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
	cr_assert(kata__loop_try_lead(loop));
	rc = kata__qmp_open(loop, pair[0], &handler, NULL, on_reply, NULL, &q, err);
	if (!rc)
		args = json_pack("{s:s}", "id", "x");
	if (!rc)
		rc = args ? kata__qmp_execute(q, "device_add", args, pair[1], on_reply, NULL, err) : KATA_E_NO_MEMORY;
	kata__loop_unlead(loop);
	if (!rc) {
		cr_assert_gt(write(pair[1], words, strlen(words)), 0);
		kata__loop_dispatch(loop, 0, NULL);
		rc = status;
	}
	cr_assert(kata__loop_try_lead(loop));
	kata__qmp_close(q, NULL);
	kata__loop_unlead(loop);
	kata__loop_dispatch(loop, 0, NULL); /* what was removed is freed by the next round */
	close(pair[1]);
	return rc;
}

Test(out_of_memory, a_qmp_command_is_answered_or_told_that_there_is_no_memory)
{
	cr_assert_eq(kata__loop_new(true, 1, &loop, NULL), 0);
	fail_each(talk, KATA_E_PROTOCOL, 0);
	kata__loop_free(loop);
}

/* ---- the console */

static int write_console(kata_error **err)
{
	struct kata__console c;
	char text[3000], *copy;
	size_t len = 0;

	memset(text, 'x', sizeof(text));
	kata__console_init(&c);
	for (int i = 0; i < 8; i++)
		kata__console_append(&c, text, sizeof(text));
	copy = kata__console_copy(&c, &len);
	cr_assert_leq(len, KATA__CONSOLE_MAX);
	free(copy);
	kata__console_deinit(&c);
	return 0;
}

Test(out_of_memory, a_console_that_gets_no_memory_forgets_and_goes_on)
{
	for (long n = 0; CAN_FAIL && n < 6; n++) {
		long before = live;

		countdown = n;
		cr_assert_eq(write_console(NULL), 0);
		countdown = -1;
		cr_assert_eq(live, before);
	}
}

Test(console, the_ring_keeps_the_newest_bytes)
{
	struct kata__console c;
	char *copy, line[32];
	size_t len = 0;

	kata__console_init(&c);
	for (int i = 0; i < 3000; i++) {
		snprintf(line, sizeof(line), "line %d\n", i);
		kata__console_append(&c, line, strlen(line));
	}
	copy = kata__console_copy(&c, &len);
	cr_assert_eq(len, KATA__CONSOLE_MAX);
	cr_assert_str_eq(copy + len - 10, "line 2999\n");
	free(copy);
	kata__console_deinit(&c);
}
