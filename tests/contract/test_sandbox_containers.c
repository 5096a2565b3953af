/* SPDX-License-Identifier: Apache-2.0 */
/* Containers and processes: add, start, exec, wait, signal, resize, stats, list, remove. */
#include "sandbox_kit.h"

#include <pthread.h>

static kata_container_info info_at(struct kit *k, size_t index)
{
	kata_container_info info = {.size = sizeof(info)};
	kata_error *err = NULL;

	fixture_assert_ok(kata_sandbox_get_container(k->s, index, &info, &err), err);
	return info;
}

Test(sandbox_containers, two_containers_run_and_each_has_its_own_exit_status)
{
	struct kit k;

	kit_init(&k);
	kit_run(&k, "good", "\"exit\",\"0\"");
	kit_run(&k, "bad", "\"exit\",\"3\"");
	cr_assert_eq(kit_wait(&k, "bad", NULL), 3);
	cr_assert_eq(kit_wait(&k, "good", "good"), 0);
	kit_deinit(&k);
}

Test(sandbox_containers, the_list_follows_every_change)
{
	kata_container_info info = {.size = sizeof(info)};
	struct kit k;
	kata_error *err = NULL;

	kit_init(&k);
	cr_assert_eq(kata_sandbox_get_container_count(k.s), 0);
	kit_add(&k, "c1", "\"sleep\"");
	cr_assert_eq(kata_sandbox_get_container_count(k.s), 1);
	cr_assert_str_eq(info_at(&k, 0).id, "c1");
	cr_assert_eq(info_at(&k, 0).state, KATA_PROCESS_CREATED);
	fixture_assert_ok(kata_sandbox_start_container(k.s, "c1", NULL, &err), err);
	cr_assert_eq(info_at(&k, 0).state, KATA_PROCESS_RUNNING);
	fixture_assert_ok(kata_sandbox_pause_container(k.s, "c1", NULL, &err), err);
	cr_assert_eq(info_at(&k, 0).state, KATA_PROCESS_PAUSED);
	fixture_assert_ok(kata_sandbox_resume_container(k.s, "c1", NULL, &err), err);
	cr_assert_eq(info_at(&k, 0).state, KATA_PROCESS_RUNNING);
	kit_exec(&k, "c1", "e1", "\"sleep\"");
	cr_assert_eq(info_at(&k, 0).exec_count, 1);
	fixture_assert_ok(kata_sandbox_signal_process(k.s, "c1", NULL, 9, NULL, &err), err);
	cr_assert_eq(kit_wait(&k, "c1", NULL), 137);
	cr_assert_eq(info_at(&k, 0).state, KATA_PROCESS_EXITED);
	cr_assert_eq(info_at(&k, 0).exit_status, 137);
	fixture_assert_ok(kata_sandbox_remove_container(k.s, "c1", NULL, &err), err);
	cr_assert_eq(kata_sandbox_get_container_count(k.s), 0);
	fixture_assert_fails(kata_sandbox_get_container(k.s, 0, &info, &err), KATA_E_NOT_FOUND, err);
	error_clear(&err);
	kit_deinit(&k);
}

Test(sandbox_containers, an_id_that_is_taken_is_refused_and_the_first_keeps_running)
{
	struct kit k;
	kata_error *err = NULL;

	kit_init(&k);
	kit_run(&k, "c1", "\"sleep\"");
	fixture_assert_fails(kit_try_add(&k, "c1", "\"echo\"", false, &err), KATA_E_EXISTS, err);
	error_clear(&err);
	kit_exec(&k, "c1", "e1", "\"sleep\"");
	fixture_assert_fails(kit_try_exec(&k, "c1", "e1", "\"echo\"", false, &err), KATA_E_EXISTS, err);
	error_clear(&err);
	fixture_assert_fails(kit_try_exec(&k, "c1", "c1", "\"echo\"", false, &err), KATA_E_EXISTS, err);
	error_clear(&err);
	cr_assert_eq(info_at(&k, 0).exec_count, 1);
	kit_deinit(&k);
}

Test(sandbox_containers, ids_are_checked_at_the_door)
{
	static const char *const bad[] = {
		"", "-a", "a/b", "..", "a b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
	struct kit k;
	kata_error *err = NULL;

	kit_init(&k);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		fixture_assert_fails(kit_try_add(&k, bad[i], "\"echo\"", false, &err), KATA_E_INVALID, err);
		error_clear(&err);
	}
	fixture_assert_fails(kit_try_add(&k, "a", "\"echo\"", false, &err), KATA_E_INVALID, err);
	cr_assert(strstr(kata_error_get_message(err), "2 bytes"));
	error_clear(&err);
	kit_deinit(&k);
}

static void assert_spec_fails(struct kit *k, const char *spec, int status, const char *says)
{
	kata_container_config config = KATA_CONTAINER_CONFIG_INIT;
	kata_error *err = NULL;

	config.id = "c1";
	config.oci_spec = spec;
	fixture_assert_fails(kata_sandbox_add_container(k->s, &config, NULL, &err), status, err);
	cr_assert(strstr(kata_error_get_message(err), says), "'%s' does not say '%s'", kata_error_get_message(err),
		  says);
	error_clear(&err);
	cr_assert_eq(kata_sandbox_get_container_count(k->s), 0);
}

Test(sandbox_containers, a_bad_spec_is_refused_with_the_name_of_the_field)
{
	struct kit k;

	kit_init(&k);
	assert_spec_fails(&k, NULL, KATA_E_INVALID, "NULL");
	assert_spec_fails(&k, "{", KATA_E_INVALID, "not JSON");
	assert_spec_fails(&k, "[]", KATA_E_INVALID, "object");
	assert_spec_fails(&k, "{\"root\":{\"path\":\"/\"}}", KATA_E_INVALID, "process");
	assert_spec_fails(&k, "{\"process\":{},\"root\":{\"path\":\"/\"}}", KATA_E_INVALID, "process.args");
	assert_spec_fails(&k, "{\"process\":{\"args\":[]},\"root\":{\"path\":\"/\"}}", KATA_E_INVALID, "process.args");
	assert_spec_fails(&k, "{\"process\":{\"args\":[1]},\"root\":{\"path\":\"/\"}}", KATA_E_INVALID,
			  "process.args[0]");
	assert_spec_fails(&k, "{\"process\":{\"args\":[\"a\"]}}", KATA_E_INVALID, "root.path");
	assert_spec_fails(&k, "{\"process\":{\"args\":[\"a\"]},\"root\":{\"path\":\"storage:\"}}", KATA_E_INVALID,
			  "root.path");
	assert_spec_fails(&k, "{\"process\":{\"args\":[\"a\"]},\"root\":{\"path\":\"storage:d/../x\"}}", KATA_E_INVALID,
			  "..");
	kit_deinit(&k);
}

Test(sandbox_containers, a_bad_id_is_refused_by_the_name_of_the_argument)
{
	static const char *const bad[] = {NULL, "", "../x", "a/b", "-x", "x"};
	kata_container_config config = KATA_CONTAINER_CONFIG_INIT;
	kata_error *err = NULL;
	struct kit k;

	kit_init(&k);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		config.id = bad[i];
		fixture_assert_fails(kata_sandbox_add_container(k.s, &config, NULL, &err), KATA_E_INVALID, err);
		cr_assert_eq(strncmp(kata_error_get_message(err), "config.id: ", 11), 0, "%s", error_text(err));
		error_clear(&err);
	}
	kit_deinit(&k);
}

Test(sandbox_containers, a_spec_that_names_an_unplugged_storage_is_refused_with_its_name)
{
	struct kit k;

	kit_init(&k);
	assert_spec_fails(&k, "{\"process\":{\"args\":[\"echo\"]},\"root\":{\"path\":\"storage:rootfs\"}}",
			  KATA_E_NOT_FOUND, "'rootfs'");
	assert_spec_fails(&k,
			  "{\"process\":{\"args\":[\"echo\"]},\"root\":{\"path\":\"/"
			  "r\"},\"mounts\":[{\"destination\":\"/d\",\"source\":"
			  "\"storage:data/sub\",\"type\":\"bind\"}]}",
			  KATA_E_NOT_FOUND, "'data'");
	kit_deinit(&k);
}

Test(sandbox_containers, what_the_guest_refuses_is_a_guest_error_and_leaves_no_container)
{
	struct kit k;
	kata_error *err = NULL;

	kit_init(&k);
	fixture_assert_ok(kata_mock_set_failure(k.builder, KATA_MOCK_AGENT_CALL, KATA_E_EXHAUSTED, 1, &err), err);
	fixture_assert_fails(kit_try_add(&k, "c1", "\"echo\"", false, &err), KATA_E_GUEST, err);
	cr_assert_str_eq(kata_error_get_step(err), "agent-create-container/call");
	error_clear(&err);
	cr_assert_eq(kata_sandbox_get_container_count(k.s), 0);
	kit_run(&k, "c1", "\"exit\",\"0\"");
	kit_deinit(&k);
}

Test(sandbox_containers, a_guest_that_stays_silent_leaves_the_caller_told_that_it_is_uncertain)
{
	kata_op_options options = KATA_OP_OPTIONS_INIT;
	kata_container_config config = KATA_CONTAINER_CONFIG_INIT;
	struct kit k;
	kata_error *err = NULL;

	kit_init(&k);
	fixture_assert_ok(kata_mock_set_delay(k.builder, KATA_MOCK_AGENT_CALL, 60000, &err), err);
	config.id = "c1";
	config.oci_spec =
		"{\"ociVersion\":\"1.0.2\",\"process\":{\"args\":[\"sleep\"],\"cwd\":\"/\",\"user\":{\"uid\":0,"
		"\"gid\":0}},\"root\":{\"path\":\"/r\"}}";
	options.timeout_ms = 100;
	fixture_assert_fails(kata_sandbox_add_container(k.s, &config, &options, &err), KATA_E_TIMEOUT, err);
	cr_assert(kata_error_is_uncertain(err));
	error_clear(&err);
	cr_assert_eq(kata_sandbox_get_container_count(k.s), 0);
	kit_deinit(&k);
}

Test(sandbox_containers, what_is_not_there_is_not_found)
{
	kata_container_stats stats = {.size = sizeof(stats)};
	struct kit k;
	int32_t status;
	kata_error *err = NULL;
	int fd;

	kit_init(&k);
#define NOT_FOUND(call)                                                                                                \
	do {                                                                                                           \
		fixture_assert_fails((call), KATA_E_NOT_FOUND, err);                                                   \
		error_clear(&err);                                                                                     \
	} while (0)
	NOT_FOUND(kata_sandbox_start_container(k.s, "nope", NULL, &err));
	NOT_FOUND(kata_sandbox_remove_container(k.s, "nope", NULL, &err));
	NOT_FOUND(kata_sandbox_pause_container(k.s, "nope", NULL, &err));
	NOT_FOUND(kata_sandbox_resume_container(k.s, "nope", NULL, &err));
	NOT_FOUND(kata_sandbox_get_container_stats(k.s, "nope", NULL, &stats, &err));
	NOT_FOUND(kit_try_exec(&k, "nope", "e1", "\"echo\"", false, &err));
	NOT_FOUND(kata_sandbox_wait_process(k.s, "nope", NULL, NULL, &status, &err));
	NOT_FOUND(kata_sandbox_signal_process(k.s, "nope", NULL, 9, NULL, &err));
	NOT_FOUND(kata_sandbox_resize_terminal(k.s, "nope", NULL, 24, 80, NULL, &err));
	NOT_FOUND(kata_sandbox_open_stdio(k.s, "nope", NULL, NULL, &fd, NULL, &err));
	kit_run(&k, "c1", "\"sleep\"");
	NOT_FOUND(kata_sandbox_wait_process(k.s, "c1", "nope", NULL, &status, &err));
	NOT_FOUND(kata_sandbox_signal_process(k.s, "c1", "nope", 9, NULL, &err));
#undef NOT_FOUND
	kit_deinit(&k);
}

Test(sandbox_containers, a_wait_gives_up_at_its_deadline_and_the_answer_is_there_for_the_next)
{
	kata_op_options options = KATA_OP_OPTIONS_INIT;
	int32_t status = -1;
	struct kit k;
	kata_error *err = NULL;

	kit_init(&k);
	kit_run(&k, "c1", "\"sleep\"");
	options.timeout_ms = 50;
	fixture_assert_fails(kata_sandbox_wait_process(k.s, "c1", NULL, &options, &status, &err), KATA_E_TIMEOUT, err);
	error_clear(&err);
	cr_assert_eq(status, -1);
	fixture_assert_ok(kata_sandbox_signal_process(k.s, "c1", NULL, 9, NULL, &err), err);
	cr_assert_eq(kit_wait(&k, "c1", NULL), 137);
	cr_assert_eq(kit_wait(&k, "c1", NULL), 137, "the answer is kept");
	kit_deinit(&k);
}

struct waiter {
	struct kit *k;
	pthread_t thread;
	int32_t status;
	int rc;
};

static void *wait_in_thread(void *user)
{
	struct waiter *w = user;

	w->rc = kata_sandbox_wait_process(w->k->s, "c1", NULL, NULL, &w->status, NULL);
	return NULL;
}

Test(sandbox_containers, several_waiters_get_one_answer)
{
	struct waiter waiters[8] = {0};
	struct kit k;
	kata_error *err = NULL;

	kit_init(&k);
	kit_run(&k, "c1", "\"cat\"");
	for (size_t i = 0; i < 8; i++) {
		waiters[i].k = &k;
		cr_assert_eq(pthread_create(&waiters[i].thread, NULL, wait_in_thread, &waiters[i]), 0);
	}
	fixture_assert_ok(kata_sandbox_signal_process(k.s, "c1", NULL, 2, NULL, &err), err);
	for (size_t i = 0; i < 8; i++) {
		pthread_join(waiters[i].thread, NULL);
		cr_assert_eq(waiters[i].rc, 0);
		cr_assert_eq(waiters[i].status, 130);
	}
	kit_deinit(&k);
}

Test(sandbox_containers, waiters_are_told_when_the_vm_ends)
{
	struct waiter waiter = {0};
	kata_container_info info;
	struct kit k;
	kata_vm *vm;
	kata_error *err = NULL;

	kit_init(&k);
	kit_run(&k, "c1", "\"sleep\"");
	waiter.k = &k;
	cr_assert_eq(pthread_create(&waiter.thread, NULL, wait_in_thread, &waiter), 0);
	vm = kata_sandbox_get_vm(k.s);
	fixture_assert_ok(kata_mock_end(vm, &err), err);
	pthread_join(waiter.thread, NULL);
	cr_assert_eq(waiter.rc, KATA_E_GONE, "%s", kata_status_get_name(waiter.rc));
	info = info_at(&k, 0);
	cr_assert_str_eq(info.id, "c1");
	kata_vm_unref(vm);
	kit_deinit(&k);
}

Test(sandbox_containers, waiters_are_told_when_the_container_is_removed)
{
	struct waiter waiter = {0};
	struct kit k;
	kata_error *err = NULL;

	kit_init(&k);
	kit_run(&k, "c1", "\"sleep\"");
	waiter.k = &k;
	cr_assert_eq(pthread_create(&waiter.thread, NULL, wait_in_thread, &waiter), 0);
	fixture_assert_ok(kata_sandbox_remove_container(k.s, "c1", NULL, &err), err);
	pthread_join(waiter.thread, NULL);
	cr_assert_lt(waiter.rc, 0);
	kit_deinit(&k);
}

Test(sandbox_containers, an_exec_has_its_own_status_and_ends_alone)
{
	struct kit k;

	kit_init(&k);
	kit_run(&k, "c1", "\"sleep\"");
	kit_exec(&k, "c1", "e1", "\"exit\",\"7\"");
	kit_exec(&k, "c1", "e2", "\"exit\",\"8\"");
	cr_assert_eq(kit_wait(&k, "c1", "e2"), 8);
	cr_assert_eq(kit_wait(&k, "c1", "e1"), 7);
	cr_assert_eq(info_at(&k, 0).state, KATA_PROCESS_RUNNING);
	kit_deinit(&k);
}

Test(sandbox_containers, a_signal_goes_to_one_process_and_kill_without_an_exec_id_to_all)
{
	struct kit k;
	kata_error *err = NULL;

	kit_init(&k);
	kit_run(&k, "c1", "\"sleep\"");
	kit_exec(&k, "c1", "e1", "\"sleep\"");
	kit_exec(&k, "c1", "e2", "\"sleep\"");
	fixture_assert_ok(kata_sandbox_signal_process(k.s, "c1", "e1", 15, NULL, &err), err);
	cr_assert_eq(kit_wait(&k, "c1", "e1"), 143);
	fixture_assert_ok(kata_sandbox_signal_process(k.s, "c1", NULL, 9, NULL, &err), err);
	cr_assert_eq(kit_wait(&k, "c1", "e2"), 137);
	cr_assert_eq(kit_wait(&k, "c1", "c1"), 137);
	fixture_assert_fails(kata_sandbox_signal_process(k.s, "c1", NULL, 0, NULL, &err), KATA_E_INVALID, err);
	error_clear(&err);
	fixture_assert_fails(kata_sandbox_signal_process(k.s, "c1", NULL, 65, NULL, &err), KATA_E_INVALID, err);
	error_clear(&err);
	kit_deinit(&k);
}

Test(sandbox_containers, a_terminal_is_resized_and_a_process_without_one_is_not)
{
	struct kit k;
	char *text;
	kata_error *err = NULL;
	int out;

	kit_init(&k);
	fixture_assert_ok(kit_try_add(&k, "c1", "\"winsize\"", true, &err), err);
	kit_open(&k, "c1", NULL, NULL, &out, NULL);
	fixture_assert_ok(kata_sandbox_start_container(k.s, "c1", NULL, &err), err);
	free(kit_read(out, 4, NULL));
	fixture_assert_ok(kata_sandbox_resize_terminal(k.s, "c1", NULL, 33, 101, NULL, &err), err);
	text = kit_read(out, 7, NULL);
	cr_assert_str_eq(text, "33 101\n");
	free(text);
	close(out);
	kit_run(&k, "c2", "\"sleep\"");
	fixture_assert_fails(kata_sandbox_resize_terminal(k.s, "c2", NULL, 24, 80, NULL, &err), KATA_E_INVALID, err);
	cr_assert(strstr(kata_error_get_message(err), "terminal"));
	error_clear(&err);
	fixture_assert_fails(kata_sandbox_resize_terminal(k.s, "c1", NULL, 0, 80, NULL, &err), KATA_E_INVALID, err);
	error_clear(&err);
	kit_deinit(&k);
}

Test(sandbox_containers, stats_come_from_the_guest)
{
	kata_container_stats stats = {.size = sizeof(stats)};
	struct kit k;
	kata_error *err = NULL;

	kit_init(&k);
	kit_run(&k, "c1", "\"sleep\"");
	kit_exec(&k, "c1", "e1", "\"sleep\"");
	fixture_assert_ok(kata_sandbox_get_container_stats(k.s, "c1", NULL, &stats, &err), err);
	cr_assert_eq(stats.pids_current, 2);
	cr_assert_gt(stats.cpu_usage_ns, 0);
	cr_assert_gt(stats.memory_usage_bytes, 0);
	kit_deinit(&k);
}

Test(sandbox_containers, execs_come_and_go_without_end)
{
	struct kit k;
	char id[16];
	kata_error *err = NULL;
	int32_t status;

	kit_init(&k);
	kit_run(&k, "c1", "\"sleep\"");
	for (int i = 0; i < 300; i++) {
		snprintf(id, sizeof(id), "probe-%d", i);
		kit_exec(&k, "c1", id, "\"exit\",\"4\"");
		cr_assert_eq(kit_wait(&k, "c1", id), 4);
	}
	cr_assert_leq(info_at(&k, 0).exec_count, 258, "old ones are forgotten");
	fixture_assert_fails(kata_sandbox_wait_process(k.s, "c1", "probe-0", NULL, &status, &err), KATA_E_NOT_FOUND,
			     err);
	error_clear(&err);
	kit_deinit(&k);
}

static void *use_containers(void *user)
{
	struct waiter *w = user;
	char id[16];
	kata_error *err = NULL;

	snprintf(id, sizeof(id), "t%zu", (size_t)w->status);
	for (int i = 0; i < 10 && w->rc == 0; i++) {
		int32_t status = -1;

		w->rc = kit_try_add(w->k, id, "\"exit\",\"5\"", false, &err);
		if (w->rc == 0)
			w->rc = kata_sandbox_start_container(w->k->s, id, NULL, &err);
		if (w->rc == 0)
			w->rc = kata_sandbox_wait_process(w->k->s, id, NULL, NULL, &status, &err);
		if (w->rc == 0 && status != 5)
			w->rc = -1000;
		if (w->rc == 0)
			w->rc = kata_sandbox_remove_container(w->k->s, id, NULL, &err);
		kata_sandbox_get_container_count(w->k->s);
	}
	error_clear(&err);
	return NULL;
}

Test(sandbox_containers, eight_threads_use_one_sandbox_side_by_side)
{
	struct waiter threads[8] = {0};
	struct kit k;

	kit_init(&k);
	for (size_t i = 0; i < 8; i++) {
		threads[i].k = &k;
		threads[i].status = (int32_t)i;
		cr_assert_eq(pthread_create(&threads[i].thread, NULL, use_containers, &threads[i]), 0);
	}
	for (size_t i = 0; i < 8; i++) {
		pthread_join(threads[i].thread, NULL);
		cr_assert_eq(threads[i].rc, 0, "thread %zu: %s", i, kata_status_get_name(threads[i].rc));
	}
	cr_assert_eq(kata_sandbox_get_container_count(k.s), 0);
	kit_deinit(&k);
}
