/* SPDX-License-Identifier: Apache-2.0 */
/* Stdio of processes: data, ends, back-pressure, and callers who go away. */
#include "sandbox_kit.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>

#define BIG (5u * 1024u * 1024u)

Test(sandbox_stdio, stdout_and_stderr_are_read_to_their_ends)
{
	struct kit k;
	int out, err_fd;

	kit_init(&k);
	kit_add(&k, "c1", "\"echo\",\"hello\",\"world\"");
	kit_open(&k, "c1", NULL, NULL, &out, &err_fd);
	cr_assert_eq(kata_sandbox_start_container(k.s, "c1", NULL, NULL), 0);
	kit_assert_reads(out, "hello world\n");
	kit_assert_reads(err_fd, "");
	cr_assert_eq(kit_wait(&k, "c1", NULL), 0);
	kit_add(&k, "c2", "\"err\",\"alas\"");
	kit_open(&k, "c2", NULL, NULL, &out, &err_fd);
	cr_assert_eq(kata_sandbox_start_container(k.s, "c2", NULL, NULL), 0);
	kit_assert_reads(err_fd, "alas\n");
	kit_assert_reads(out, "");
	kit_deinit(&k);
}

Test(sandbox_stdio, stdin_reaches_the_process_and_its_close_is_the_end_of_file)
{
	struct kit k;
	int in, out;

	kit_init(&k);
	kit_run(&k, "c1", "\"cat\"");
	kit_open(&k, "c1", NULL, &in, &out, NULL);
	cr_assert_eq(write(in, "one\ntwo\n", 8), 8);
	close(in);
	kit_assert_reads(out, "one\ntwo\n");
	cr_assert_eq(kit_wait(&k, "c1", NULL), 0);
	kit_deinit(&k);
}

Test(sandbox_stdio, an_exec_has_stdio_of_its_own)
{
	struct kit k;
	int in, out;

	kit_init(&k);
	kit_run(&k, "c1", "\"sleep\"");
	kit_exec(&k, "c1", "e1", "\"cat\"");
	kit_open(&k, "c1", "e1", &in, &out, NULL);
	cr_assert_eq(write(in, "x", 1), 1);
	close(in);
	kit_assert_reads(out, "x");
	cr_assert_eq(kit_wait(&k, "c1", "e1"), 0);
	kit_deinit(&k);
}

Test(sandbox_stdio, output_that_came_before_anybody_asked_is_not_lost)
{
	struct kit k;
	int out;

	kit_init(&k);
	kit_run(&k, "c1", "\"echo\",\"early\"");
	kit_open(&k, "c1", NULL, NULL, &out, NULL);
	kit_assert_reads(out, "early\n");
	kit_deinit(&k);
}

Test(sandbox_stdio, a_wait_does_not_lose_output_that_is_read_afterwards)
{
	struct kit k;
	int out;

	kit_init(&k);
	kit_add(&k, "c1", "\"echo\",\"kept\"");
	kit_open(&k, "c1", NULL, NULL, &out, NULL);
	cr_assert_eq(kata_sandbox_start_container(k.s, "c1", NULL, NULL), 0);
	cr_assert_eq(kit_wait(&k, "c1", NULL), 0);
	kit_assert_reads(out, "kept\n");
	kit_deinit(&k);
}

Test(sandbox_stdio, five_megabytes_arrive_whole_through_a_slow_reader)
{
	char args[64];
	struct kit k;
	size_t total = 0;
	char buf[3001];
	int out;

	kit_init(&k);
	snprintf(args, sizeof(args), "\"flood\",\"%u\"", BIG);
	kit_run(&k, "c1", args);
	kit_open(&k, "c1", NULL, NULL, &out, NULL);
	for (;;) {
		ssize_t n = read(out, buf, sizeof(buf));

		cr_assert_geq(n, 0);
		if (n == 0)
			break;
		total += (size_t)n;
	}
	close(out);
	cr_assert_eq(total, BIG);
	cr_assert_eq(kit_wait(&k, "c1", NULL), 0);
	kit_deinit(&k);
}

Test(sandbox_stdio, a_reader_that_does_not_read_stops_the_process)
{
	kata_op_options options = KATA_OP_OPTIONS_INIT;
	char args[64];
	struct kit k;
	int32_t status;
	size_t length;
	kata_error *err = NULL;
	int out;

	kit_init(&k);
	snprintf(args, sizeof(args), "\"flood\",\"%u\"", BIG);
	kit_run(&k, "c1", args);
	kit_open(&k, "c1", NULL, NULL, &out, NULL);
	options.timeout_ms = 200;
	fixture_assert_fails(kata_sandbox_wait_process(k.s, "c1", NULL, &options, &status, &err), KATA_E_TIMEOUT, err);
	error_clear(&err);
	free(kit_read(out, 0, &length));
	close(out);
	cr_assert_eq(length, BIG);
	cr_assert_eq(kit_wait(&k, "c1", NULL), 0);
	kit_deinit(&k);
}

Test(sandbox_stdio, a_reader_that_goes_away_raises_no_signal_and_frees_the_stream)
{
	struct kit k;
	kata_error *err = NULL;
	int out = -1, tries = 0, rc;

	signal(SIGPIPE, SIG_DFL); /* one would end this test */
	kit_init(&k);
	kit_run(&k, "c1", "\"flood\",\"100000000\"");
	kit_open(&k, "c1", NULL, NULL, &out, NULL);
	free(kit_read(out, 1000, NULL));
	close(out);
	/* The stream is free again once the library has noticed: a moment, but not this thread's. */
	while ((rc = kata_sandbox_open_stdio(k.s, "c1", NULL, NULL, &out, NULL, &err)) == KATA_E_BUSY &&
	       tries++ < 1000) {
		error_clear(&err);
		usleep(1000);
	}
	cr_assert_eq(rc, 0, "%s", error_text(err));
	free(kit_read(out, 1000, NULL));
	close(out);
	kit_deinit(&k);
}

Test(sandbox_stdio, a_large_input_waits_for_a_process_that_does_not_read)
{
	static char block[65536];
	struct kit k;
	size_t written = 0;
	int in;

	kit_init(&k);
	kit_run(&k, "c1", "\"sleep\"");
	kit_open(&k, "c1", NULL, &in, NULL, NULL);
	cr_assert_eq(fcntl(in, F_SETFL, O_NONBLOCK), 0);
	for (;;) {
		struct pollfd p = {.fd = in, .events = POLLOUT};
		ssize_t n;

		if (poll(&p, 1, 300) == 0)
			break;
		n = write(in, block, sizeof(block));
		if (n > 0)
			written += (size_t)n;
		cr_assert_lt(written, 4u << 20, "nobody holds back the input");
	}
	close(in);
	kit_deinit(&k);
}

Test(sandbox_stdio, megabytes_go_in_and_come_out)
{
	enum { TOTAL = 2 << 20 };
	static char block[32768];
	struct kit k;
	size_t sent = 0, got = 0;
	int in, out;

	kit_init(&k);
	kit_run(&k, "c1", "\"cat\"");
	kit_open(&k, "c1", NULL, &in, &out, NULL);
	cr_assert_eq(fcntl(in, F_SETFL, O_NONBLOCK), 0);
	for (;;) {
		struct pollfd p[2] = {{.fd = sent < TOTAL ? in : -1, .events = POLLOUT}, {.fd = out, .events = POLLIN}};
		ssize_t n;

		cr_assert_gt(poll(p, 2, 20000), 0);
		if (p[0].revents) {
			n = write(in, block, sizeof(block));
			sent += n > 0 ? (size_t)n : 0;
			if (sent >= TOTAL)
				close(in);
		}
		if (p[1].revents) {
			n = read(out, block, sizeof(block));
			if (n <= 0)
				break;
			got += (size_t)n;
		}
	}
	close(out);
	cr_assert_eq(got, sent);
	cr_assert_eq(kit_wait(&k, "c1", NULL), 0);
	kit_deinit(&k);
}

Test(sandbox_stdio, an_open_stream_is_busy_and_the_others_are_not_touched)
{
	struct kit k;
	kata_error *err = NULL;
	int out, again = -1, err_fd = -1;

	kit_init(&k);
	kit_run(&k, "c1", "\"cat\"");
	kit_open(&k, "c1", NULL, NULL, &out, NULL);
	fixture_assert_fails(kata_sandbox_open_stdio(k.s, "c1", NULL, NULL, &again, &err_fd, &err), KATA_E_BUSY, err);
	error_clear(&err);
	cr_assert_eq(again, -1);
	cr_assert_eq(err_fd, -1);
	kit_open(&k, "c1", NULL, NULL, NULL, &err_fd);
	close(err_fd);
	close(out);
	kit_deinit(&k);
}

Test(sandbox_stdio, a_terminal_has_no_stderr)
{
	struct kit k;
	kata_error *err = NULL;
	int in, out, err_fd = -1;

	kit_init(&k);
	fixture_assert_ok(kit_try_add(&k, "c1", "\"cat\"", true, &err), err);
	fixture_assert_ok(kata_sandbox_start_container(k.s, "c1", NULL, &err), err);
	fixture_assert_fails(kata_sandbox_open_stdio(k.s, "c1", NULL, &in, &out, &err_fd, &err), KATA_E_INVALID, err);
	error_clear(&err);
	kit_open(&k, "c1", NULL, &in, &out, NULL);
	cr_assert_eq(write(in, "typed", 5), 5);
	free(kit_read(out, 5, NULL));
	close(in); /* the end of a terminal's input is not sent: it would take the terminal away */
	fixture_assert_ok(kata_sandbox_signal_process(k.s, "c1", NULL, 9, NULL, &err), err);
	kit_assert_reads(out, "");
	cr_assert_eq(kit_wait(&k, "c1", NULL), 137);
	kit_deinit(&k);
}

Test(sandbox_stdio, destroy_ends_every_stream)
{
	struct kit k;
	char byte;
	kata_error *err = NULL;
	int in, out;

	signal(SIGPIPE, SIG_IGN);
	kit_init(&k);
	kit_run(&k, "c1", "\"cat\"");
	kit_open(&k, "c1", NULL, &in, &out, NULL);
	fixture_assert_ok(kata_sandbox_destroy(k.s, NULL, &err), err);
	cr_assert_eq(read(out, &byte, 1), 0);
	cr_assert_eq(write(in, "x", 1), -1);
	cr_assert_eq(errno, EPIPE);
	close(in);
	close(out);
	kit_deinit(&k);
}

Test(sandbox_stdio, release_ends_every_stream_and_the_next_owner_opens_them_anew)
{
	struct kit k;
	char *json = NULL, byte;
	kata_sandbox *next = NULL;
	kata_error *err = NULL;
	int in, out;

	kit_init(&k);
	kit_run(&k, "c1", "\"cat\"");
	kit_open(&k, "c1", NULL, &in, &out, NULL);
	fixture_assert_ok(kata_sandbox_release(k.s, NULL, &json, &err), err);
	cr_assert_eq(read(out, &byte, 1), 0);
	close(in);
	close(out);
	fixture_assert_ok(
		kata_sandbox_build_from_released(k.f.context, json, strlen(json), k.builder, NULL, NULL, &next, &err),
		err);
	kata_sandbox_unref(k.s);
	k.s = next;
	free(json);
	kit_open(&k, "c1", NULL, &in, &out, NULL);
	cr_assert_eq(write(in, "still here", 10), 10);
	close(in);
	kit_assert_reads(out, "still here");
	cr_assert_eq(kit_wait(&k, "c1", NULL), 0);
	kit_deinit(&k);
}

Test(sandbox_stdio, the_fds_are_close_on_exec_and_one_way)
{
	struct kit k;
	char byte;
	int in, out;

	signal(SIGPIPE, SIG_IGN);
	kit_init(&k);
	kit_run(&k, "c1", "\"cat\"");
	kit_open(&k, "c1", NULL, &in, &out, NULL);
	cr_assert(fcntl(in, F_GETFD) & FD_CLOEXEC);
	cr_assert(fcntl(out, F_GETFD) & FD_CLOEXEC);
	cr_assert_eq(write(out, "x", 1), -1);
	cr_assert_eq(read(in, &byte, 1), 0);
	close(in);
	close(out);
	kit_deinit(&k);
}
