/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_GUEST_STREAM_H
#define KATA_GUEST_STREAM_H
/*
 * One end of a process's stdio, and the calls that wait for it.
 *
 * A reader parks a ReadStdout or ReadStderr until there is data, a writer a WriteStdin until all of it went. Nothing is
 * read ahead: what nobody asks for stays in the pipe, and the process waits. End of file is an empty answer. The fd of
 * a terminal is shared by a reader and a writer: each has its own copy.
 *
 * A pipe may stay open after its process has ended, held by one that it left behind. A reader then gets what is there,
 * and STREAM_LINGER_MS after the end, end of file.
 */
#include <stdbool.h>
#include <stddef.h>

#include "base/loop.h"
#include "guest/rpc.h"

#define STREAM_LINGER_MS 500
#define STREAM_READ_MAX 262144u
#define STREAM_WAITERS_MAX 64

struct stream;

/* take_fd: non-blocking. NULL when out of memory; the fd is then closed. */
struct stream *stream_new(struct kata__loop *loop, int take_fd, bool is_terminal);
/* Parked readers get end of file, parked writers an error. NULL is fine. */
void stream_free(struct stream *s);
/* Answers or parks the call. `len` bytes at most; 0 counts as STREAM_READ_MAX. */
void stream_read(struct stream *s, struct call *call, size_t len);
/* Answers or parks the call; data belongs to the call's request. */
void stream_write(struct stream *s, struct call *call, const void *data, size_t len);
/* End of file for the process, after what is parked has been written. A terminal stays open. */
void stream_close_input(struct stream *s);
/* The process has ended. */
void stream_process_ended(struct stream *s);
/* -1 once closed. */
int stream_fd(const struct stream *s);
#endif
