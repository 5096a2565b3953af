/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "factory/wire.h"
#include "op/context.h"
#include "support/fixture.h"

struct heard {
	char text[16];
	bool ended;
};

static void on_text(void *user, const char *text, size_t len, int take_fd)
{
	memcpy(((struct heard *)user)->text, text, len);
}

static void on_end(void *user, const kata_error *why)
{
	((struct heard *)user)->ended = true;
}

static const struct kata__wire_handler handler = {.on_text = on_text, .on_end = on_end};

/* As who refuses does: nobody is there to send to any more, but what he said is. */
Test(wire, what_the_peer_said_is_heard_although_it_has_closed)
{
	struct heard heard = {0};
	struct kata__wire *w = NULL;
	struct fixture f;
	kata_error *err = NULL;
	int fds[2];

	fixture_init(&f, true, KATA_CONTEXT_EXTERNAL_LOOP);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
	fixture_assert_ok(kata__wire_new(kata__context_loop(f.context), fds[0], 15, &handler, &heard, &w, &err), err);
	cr_assert_eq(send(fds[1], "\0\0\0\2no", 6, 0), 6);
	close(fds[1]);
	fixture_assert_ok(kata__wire_send(w, "give me one", -1, &err), err);
	while (!heard.ended)
		fixture_assert_ok(kata_context_dispatch(f.context, 1000, &err), err);
	cr_assert_str_eq(heard.text, "no");
	kata__wire_free(w);
	fixture_deinit(&f);
}
