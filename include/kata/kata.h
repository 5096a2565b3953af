/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_KATA_H
#define KATA_KATA_H
/*
 * Everything a user of libkata includes. Implementers of drivers add <kata/driver/...>.
 *
 * Objects. A call that returns a status refuses NULL, and what is not (or no longer) such an object where it can tell,
 * with INVALID. A getter (kata_x_get_y without an error) has no way to say so: it needs an object that is valid, which
 * NULL is not; where NULL is permitted, its comment says so. Every _unref and _free takes NULL and does nothing.
 */
#include <kata/agent.h>
#include <kata/batch.h>
#include <kata/context.h>
#include <kata/error.h>
#include <kata/factory.h>
#include <kata/factory_server.h>
#include <kata/fail_point.h>
#include <kata/mock.h>
#include <kata/nic.h>
#include <kata/op.h>
#include <kata/persistence.h>
#include <kata/reconcile.h>
#include <kata/recover.h>
#include <kata/rows.h>
#include <kata/sandbox.h>
#include <kata/snapshot.h>
#include <kata/storage.h>
#include <kata/template.h>
#include <kata/vm.h>
#include <kata/vm_builder.h>
#endif
