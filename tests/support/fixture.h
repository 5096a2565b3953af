/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_TESTS_SUPPORT_FIXTURE_H
#define KATA_TESTS_SUPPORT_FIXTURE_H
/*
 * What most tests need: a directory of their own below /tmp, a context in it, images, a stand-in for QEMU with a
 * script, and programs that are run with a timeout. Functions assert (Criterion) when the host refuses; they return no
 * errors.
 */
#include <kata/kata.h>

#include "support/census.h"

struct fixture {
	char dir[32];       /* "/tmp/kata-XXXXXX", mode 0755: a VMM with other ids may have to reach files in it */
	char state_dir[48]; /* in it, made by the context */
	kata_context *context;
	unsigned made; /* names of what is made in the directory */
};

/*
 * Moves the calling thread (and threads it makes later) into a network namespace of its own, so that links can be made
 * and counted. Call it before fixture_init. False where that is not permitted: skip the test then.
 */
bool fixture_enter_netns(void);

/* Makes the directory; the context when `with_context`, with these flags. */
void fixture_init(struct fixture *f, bool with_context, uint64_t context_flags);
/* Frees the context, which must be free of objects, and removes the directory. */
void fixture_deinit(struct fixture *f);
/* Another context in the same state directory, as another process would have; free it with kata_context_free. */
kata_context *fixture_new_context(struct fixture *f, uint64_t flags);

/* Files in the directory: full paths, the caller frees. A raw image is a sparse file of size_bytes. */
char *fixture_path(struct fixture *f, const char *name);
char *fixture_write_file(struct fixture *f, const char *name, const void *data, size_t length);
char *fixture_make_raw(struct fixture *f, const char *name, uint64_t size_bytes);
/* An empty qcow2 image (version 3, at most 512 MiB), optionally with a raw backing file named in its header. */
char *fixture_make_qcow2(struct fixture *f, const char *name, uint64_t size_bytes, const char *backing_path);
/* A kernel that passes for one where nobody boots it: the stand-in and the mock. */
char *fixture_make_kernel(struct fixture *f);

/* A directory of its own with a copy of the stand-in as "qemu-system-x86_64" and this script beside it (NULL: none);
 * its full path, the caller frees. docs: tests/support/programs/qemu_standin/script.h */
char *fixture_make_standin(struct fixture *f, const char *script);
/* Replaces the script beside such a binary: holds for stand-ins started from then on. */
void fixture_set_script(const char *standin, const char *script);

/* Speaks to the monitor of a VMM that nobody drives (its VM's directory): capabilities, then `commands`; reads up to a
 * line that has `until` in it. */
void fixture_speak_qmp(const char *vm_dir, const char *commands, const char *until);

/* New device objects with an id; asserted. */
kata_storage *fixture_storage(const char *id, const char *path, kata_storage_driver driver);
kata_nic *fixture_nic(const char *id, const char *mac);

/* Census of all the fixture can see: fds, children, marked processes, files in its state directory, and links after
 * fixture_enter_netns (else other programs make and remove some meanwhile). Threads are left out (workers start when
 * first needed). */
struct census *fixture_census(struct fixture *f);
/* Fails the test with the difference when the fixture's census is not as `before`. Consumes before. */
void fixture_assert_census(struct fixture *f, struct census *take_before, const char *when);

/* Releases the machine, and lets go of it (*vm is NULL then): its record, the caller frees. */
char *fixture_release(kata_vm **vm);
/* kata_recover with these flags alone; asserts nothing. */
int fixture_recover(kata_context *context, kata_persistence *persistence, uint64_t flags,
		    kata_recover_report **ret_report, kata_error **err);
/* The entry was ended or removed. */
bool fixture_was_undone(const kata_recover_report *report, size_t index);

/*
 * Runs a program (argv[0] is its full path) until it ends; killed after timeout_ms. Returns its exit status, 128 +
 * signal when one ended it, -1 on timeout. Its stdout and stderr go to *ret_output when that is not NULL (caller
 * frees).
 */
int fixture_run(const char *const *argv, uint64_t timeout_ms, char **ret_output);

/* err's text for assertions: "(status) message <- cause <- cause"; static buffer of the calling thread. */
const char *error_text(const kata_error *err);
/* Frees *err and clears it; for loops. */
void error_clear(kata_error **err);

#define fixture_assert_ok(call, err)                                                                                   \
	do {                                                                                                           \
		int rc_ = (call);                                                                                      \
		cr_assert_eq(rc_, 0, "%s: %s", #call, error_text(err));                                                \
	} while (0)
#define fixture_assert_fails(call, status_, err)                                                                       \
	do {                                                                                                           \
		int rc_ = (call);                                                                                      \
		cr_assert_eq(rc_, (status_), "%s: expected %s, got %s: %s", #call, kata_status_get_name(status_),      \
			     kata_status_get_name(rc_), error_text(err));                                              \
		cr_assert_not_null((err), "%s: no error set", #call);                                                  \
		cr_assert_eq(kata_error_get_status(err), (status_));                                                   \
	} while (0)
#endif
