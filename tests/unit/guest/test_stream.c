/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/stream.h"

#include "harness.h"

static struct harness h;
static struct reply r;
static struct stream *stream;
static int other = -1; /* the process's end */
static uint32_t id = 1;

static void on_read(void *user, struct call *call, const void *request)
{
	stream_read(stream, call, ((const Grpc__ReadStreamRequest *)request)->len);
}

static void on_write(void *user, struct call *call, const void *request)
{
	const Grpc__WriteStreamRequest *q = request;

	stream_write(stream, call, q->data.data, q->data.len);
}

static void set_up(void)
{
	h.handlers.methods[KATA__AGENT_READ_STDOUT] = on_read;
	h.handlers.methods[KATA__AGENT_WRITE_STDIN] = on_write;
	harness_init(&h, true);
}

TestSuite(stream, .init = set_up, .timeout = 20);

/* Ours is the end that reads (0) or writes (1). */
static void make_stream(int ours)
{
	int fds[2];

	cr_assert_eq(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
	stream = stream_new(h.loop, fds[ours], false);
	cr_assert_not_null(stream);
	other = fds[!ours];
}

static void ask_read(uint32_t len)
{
	Grpc__ReadStreamRequest q = GRPC__READ_STREAM_REQUEST__INIT;

	q.len = len;
	harness_send(&h, id, "grpc.AgentService", "ReadStdout", &q, 0);
	id += 2;
}

static void ask_write(const void *data, size_t len)
{
	Grpc__WriteStreamRequest q = GRPC__WRITE_STREAM_REQUEST__INIT;

	q.data.data = (uint8_t *)data;
	q.data.len = len;
	harness_send(&h, id, "grpc.AgentService", "WriteStdin", &q, 0);
	id += 2;
}

/* The data of the reply that has come; "none" without one. */
static const char *got(void)
{
	static char text[256];
	Grpc__ReadStreamResponse *m;

	if (!harness_reply(&h, &r))
		return "none";
	cr_assert_eq(r.code, 0, "%s", r.text);
	m = grpc__read_stream_response__unpack(NULL, r.payload_len, r.payload);
	cr_assert_not_null(m);
	snprintf(text, sizeof(text), "%.*s", (int)m->data.len, m->data.data ? (char *)m->data.data : "");
	grpc__read_stream_response__free_unpacked(m, NULL);
	return text;
}

static void feed(const char *text)
{
	cr_assert_eq(write(other, text, strlen(text)), (ssize_t)strlen(text));
	harness_turn(&h);
}

Test(stream, gives_what_is_there_at_once)
{
	make_stream(0);
	feed("hello");
	ask_read(100);
	cr_assert_str_eq(got(), "hello");
}

Test(stream, parks_a_reader_until_there_is_data)
{
	make_stream(0);
	ask_read(100);
	cr_assert_str_eq(got(), "none");
	feed("late");
	cr_assert_str_eq(got(), "late");
}

Test(stream, gives_no_more_than_was_asked_for_and_keeps_the_rest)
{
	make_stream(0);
	feed("abcdef");
	ask_read(4);
	cr_assert_str_eq(got(), "abcd");
	ask_read(4);
	cr_assert_str_eq(got(), "ef");
}

Test(stream, serves_parked_readers_in_order)
{
	make_stream(0);
	ask_read(2);
	ask_read(2);
	feed("abcd");
	cr_assert_str_eq(got(), "ab");
	cr_assert_eq(r.stream_id, 1);
	cr_assert_str_eq(got(), "cd");
	cr_assert_eq(r.stream_id, 3);
}

Test(stream, reads_what_was_left_and_then_end_of_file_again_and_again)
{
	make_stream(0);
	feed("last");
	close(other);
	stream_process_ended(stream);
	ask_read(100);
	cr_assert_str_eq(got(), "last");
	ask_read(100);
	cr_assert_str_eq(got(), "");
	ask_read(100);
	cr_assert_str_eq(got(), "");
}

Test(stream, ends_after_a_while_when_somebody_else_holds_the_pipe)
{
	make_stream(0);
	ask_read(100);
	stream_process_ended(stream);
	harness_turn(&h);
	cr_assert_str_eq(got(), "none");
	cr_assert(harness_await(&h, &r, 5000));
	cr_assert_eq(r.payload_len, 0);
	cr_assert_eq(r.code, 0);
}

Test(stream, gives_parked_readers_end_of_file_when_it_is_freed)
{
	make_stream(0);
	ask_read(100);
	stream_free(stream);
	harness_turn(&h);
	cr_assert_str_eq(got(), "");
}

Test(stream, writes_all_before_it_answers)
{
	static char big[200000];
	static char sink[65536];
	size_t seen = 0;
	ssize_t n;

	make_stream(1);
	memset(big, 'x', sizeof(big));
	ask_write(big, sizeof(big));
	cr_assert_not(harness_reply(&h, &r));
	while (seen < sizeof(big) && (n = read(other, sink, sizeof(sink))) > 0) {
		seen += (size_t)n;
		harness_turn(&h);
	}
	cr_assert_eq(seen, sizeof(big));
	cr_assert(harness_reply(&h, &r));
	cr_assert_eq(r.code, 0);
}

Test(stream, closes_input_after_what_is_parked_and_refuses_more)
{
	static char big[100000];
	static char sink[100000];
	size_t seen = 0;
	ssize_t n;

	make_stream(1);
	ask_write(big, sizeof(big));
	stream_close_input(stream);
	ask_write("more", 4);
	cr_assert(harness_reply(&h, &r));
	cr_assert_eq(r.code, KATA__GRPC_FAILED_PRECONDITION);
	while ((n = read(other, sink, sizeof(sink))) > 0) {
		seen += (size_t)n;
		harness_turn(&h);
	}
	cr_assert_eq(seen, sizeof(big));
	cr_assert_eq(n, 0, "end of file for the process");
	cr_assert(harness_reply(&h, &r));
	cr_assert_eq(r.code, 0);
}

Test(stream, says_that_nobody_reads_any_more)
{
	make_stream(1);
	close(other);
	ask_write("x", 1);
	cr_assert(harness_reply(&h, &r));
	cr_assert_eq(r.code, KATA__GRPC_FAILED_PRECONDITION);
}

Test(stream, caps_the_calls_that_wait)
{
	make_stream(0);
	for (int i = 0; i < STREAM_WAITERS_MAX; i++)
		ask_read(1);
	cr_assert_not(harness_reply(&h, &r));
	ask_read(1);
	cr_assert(harness_reply(&h, &r));
	cr_assert_eq(r.code, KATA__GRPC_RESOURCE_EXHAUSTED);
}
