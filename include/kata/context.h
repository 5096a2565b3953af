/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_CONTEXT_H
#define KATA_CONTEXT_H
/*
 * kata_context: where state lives on this host, how much may be used, who logs, and the event loop of everything made
 * from it. A process may have several; they share nothing.
 *
 * Threads: every function of the library may be called from any thread unless its comment says otherwise. By default a
 * context has one I/O thread. With KATA_CONTEXT_EXTERNAL_LOOP it has none: the caller polls kata_context_get_fd() and
 * calls kata_context_dispatch(), and a blocking call drives the loop itself while it waits. Never call a blocking
 * function from inside a callback of the library (it returns KATA_E_STATE). The library installs no signal handler,
 * reaps no child it did not start, writes to neither stdout nor stderr.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <kata/error.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kata_context kata_context;

#define KATA_CONTEXT_EXTERNAL_LOOP UINT64_C(1)

typedef enum kata_log_level {
	KATA_LOG_ERROR = 0,
	KATA_LOG_WARNING = 1,
	KATA_LOG_INFO = 2,
	KATA_LOG_DEBUG = 3
} kata_log_level;

/* `subsystem` is the room's name ("vm", "agent", ...), `line` one line without newline; both valid during the call
 * only. Called from any thread of the library, possibly concurrently; must not call the library. */
typedef void (*kata_log_fn)(void *user, kata_log_level level, const char *subsystem, const char *line);

typedef struct kata_context_options {
	size_t size;    /* sizeof(kata_context_options) */
	uint64_t flags; /* KATA_CONTEXT_* */
	const char
		*state_dir;    /* sockets, journals, identities of running VMs; NULL: /run/kata as root, else
				* $XDG_RUNTIME_DIR/kata, else INVALID. Made with mode 0700; must be owned by the caller's
				* uid and not writable by others. Keep it short: unix socket paths end at 107 bytes. */
	const char *cache_dir; /* what was probed of VMM binaries; NULL: <state_dir>/cache */
	kata_log_fn log;       /* NULL: no log */
	void *log_user;
	kata_log_level log_level; /* most detailed level handed to `log`; 0 is errors only */
	uint32_t max_workers;     /* threads for blocking steps, started when first needed; 0: 4. One that waits for
				   * another operation does not count meanwhile */
	uint32_t max_objects;     /* most VMs, agents and sandboxes alive at once; 0: 4096 */
} kata_context_options;

/* {.size = sizeof} with everything else default; C11 and C++20. */
#define KATA_CONTEXT_OPTIONS_INIT                                                                                      \
	{                                                                                                              \
		sizeof(kata_context_options), 0, NULL, NULL, NULL, NULL, KATA_LOG_ERROR, 0, 0                          \
	}

/*
 * Makes a context. `options` may be NULL (all defaults) and is copied.
 * Returns INVALID (state_dir too long, relative, writable by others), PERMISSION, IO.
 */
KATA_API int kata_context_new(const kata_context_options *options, kata_context **ret_context, kata_error **err);

/*
 * Stops the I/O thread and frees the context. Accepts NULL.
 * Returns BUSY, and frees nothing, while objects made from it live; the message counts them by kind.
 * STATE when called from a callback of the library.
 */
KATA_API int kata_context_free(kata_context *context, kata_error **err);

/*
 * External loop: the fd to poll for reading (stays the same, owned by the context), and one round of work. `timeout_ms`
 * is the longest wait for something to do: 0 does not wait, -1 waits for the first event. Timers are part of the fd.
 * kata_context_dispatch returns STATE without KATA_CONTEXT_EXTERNAL_LOOP or when called from a callback.
 */
KATA_API int kata_context_get_fd(const kata_context *context);
KATA_API int kata_context_dispatch(kata_context *context, int timeout_ms, kata_error **err);

/* Borrowed; the state directory in use. */
KATA_API const char *kata_context_get_state_dir(const kata_context *context);

/* "0.1.0": the version of the library at run time. */
KATA_API const char *kata_get_version(void);

#ifdef __cplusplus
}
#endif
#endif
