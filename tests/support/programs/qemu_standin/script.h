/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_TESTS_STANDIN_SCRIPT_H
#define KATA_TESTS_STANDIN_SCRIPT_H
/*
 * How the stand-in misbehaves: the file "script" beside its executable, read once at its start. A line is
 *
 *     on NAME[#N] ACTION [NUMBER] ["TEXT"]
 *
 * NAME is a QMP command ("device_add"), an agent's method ("CreateSandbox"), or one of: start (before anything else),
 * greeting (QMP). #N: only the N-th of that name, from 1, over the life of the process; without it every one. The first
 * line that fits counts. Empty lines and lines that start with '#' are passed over; any other line ends the stand-in
 * with an error.
 *
 * Actions for QMP commands and greeting:
 *     error "TEXT"      refused with GenericError, not executed
 *     half-line         executed; half of the reply is sent, nothing ever after
 *     garbage           executed; a line that is no JSON comes instead of the reply
 *     line N            executed; a line of N bytes comes before the reply
 *     silence           not executed, no reply
 *     lost              executed, no reply
 *     hang-up           executed; the connection is closed instead of the reply
 *     flood N           executed; N events come before the reply
 *     event-first       executed; its event comes before the reply (device_add: that of a device of that
 *                       name which was there before)
 *     no-event          executed; its event never comes (the guest does not let go)
 *     reply-twice       executed; the reply comes twice
 *     unasked           executed; a reply to an id nobody used comes first
 *     wrong-type        executed; the reply is a return of another type (a number)
 * With migrate and migrate-incoming, no-event means that nothing is transferred until another command comes. The
 * transfer itself has the name "state": error "TEXT" makes it fail with that text. With the name "blocked",
 * error "TEXT" is a device that cannot be saved, and why.
 *     delay N           executed after N ms; what follows on this connection waits too
 * Actions for the agent's methods: error N "TEXT" (gRPC code), silence, lost, hang-up, delay N, reply-twice, and
 *     bad-frame         a frame whose first byte is not 0
 *     wrong-stream      the answer goes to a stream that was never opened
 *     truncated         half of the answer's frame, then the connection is closed
 *     half-line         half of the answer's frame, nothing ever after
 *     oversize          a frame's header that announces 4 MiB + 1
 *     no-message        the answer's payload is no protobuf message
 *     flood N           N answers to streams that were never opened come first
 * Actions for all, start included:
 *     exit N "TEXT"     TEXT goes to stderr, the process ends with N
 *     stop              SIGSTOP, at once      kill   SIGKILL, at once
 * For start also silence: nothing is ever answered on any socket; and lost: it does not call listen() itself on its
 * sockets, so that the kernel names its starter, and not it, as who is at the other end.
 */
#include <stdbool.h>
#include <stdint.h>

enum action {
	ACT_NONE,
	ACT_ERROR,
	ACT_HALF_LINE,
	ACT_GARBAGE,
	ACT_LINE,
	ACT_SILENCE,
	ACT_LOST,
	ACT_HANG_UP,
	ACT_FLOOD,
	ACT_EVENT_FIRST,
	ACT_NO_EVENT,
	ACT_REPLY_TWICE,
	ACT_UNASKED,
	ACT_WRONG_TYPE,
	ACT_DELAY,
	ACT_BAD_FRAME,
	ACT_WRONG_STREAM,
	ACT_TRUNCATED,
	ACT_OVERSIZE,
	ACT_NO_MESSAGE,
	ACT_EXIT,
	ACT_STOP,
	ACT_KILL,
};

struct rule {
	struct rule *next;
	char name[64];
	uint32_t nth; /* 0: every one */
	uint32_t seen;
	enum action action;
	uint64_t number;
	char text[256];
};

/* The rules of the script beside /proc/self/exe; exits with a message for a line it does not understand. */
struct rule *script_load(void);
/*
 * Counts one more `name` and returns the rule that fits, or NULL. exit, stop and kill are done here.
 */
const struct rule *script_next(struct rule *rules, const char *name);
#endif
