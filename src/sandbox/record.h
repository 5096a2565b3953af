/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_SANDBOX_RECORD_H
#define KATA_SANDBOX_RECORD_H
/* A sandbox as a record, and back. */
#include "sandbox/sandbox.h"

/* The sandbox as it is now. Never waits. [any thread] States: RUNNING, PAUSED, RELEASED. */
int kata__sandbox_to_record(kata_sandbox *s, struct kata_record **ret, kata_error **err);
/* [leader] Containers, interfaces and routes of a checked record, into a new sandbox. */
int kata__sandbox_restore(kata_sandbox *s, const struct kata_record *record, kata_error **err);
/* [leader] Takes back what a restore did. */
void kata__sandbox_unrestore(kata_sandbox *s);
#endif
