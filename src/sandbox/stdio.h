/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_SANDBOX_STDIO_H
#define KATA_SANDBOX_STDIO_H
/*
 * Pumps: one for each open stream of a process, between the caller's fd and the agent's calls. Leader only.
 *
 *   output:  ASKING --data--> (sent at once) --> ASKING          input:  LISTENING --bytes--> WRITING --answer-->
 * LISTENING |  \--no room--> BLOCKED --room--> ASKING                    \--end of file--> CLOSING --> over
 *               \--end of file, caller closed, error--> over
 *
 * At most one call of a pump is in flight and at most one chunk is held, so a reader that stops reading stops the
 * guest.
 */
#include "sandbox/container.h"

#define KATA__PUMP_CHUNK (32u * 1024u)

/* A pump of `stream` over our end of the caller's socket pair; the fd is taken, on failure too. BUSY when the stream is
 * open. */
int kata__pump_open(struct kata__process *p, enum kata__stream stream, int take_fd, kata_error **err);
/* Ends it: watch removed, call dropped, fd closed. NULL is fine. */
void kata__pump_close(struct kata__pump *pump);
/* Goes on after a suspension of the sandbox; drop_call before it, where the call in flight is void. */
void kata__pump_drop_call(struct kata__pump *pump);
void kata__pump_resume(struct kata__pump *pump);
#endif
