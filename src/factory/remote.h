/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_FACTORY_REMOTE_H
#define KATA_FACTORY_REMOTE_H
/* The tables of steps of what a factory's server and a remote builder do, for who tests each of them. */
#include <kata/factory_server.h>

#include "op/op.h"

extern const struct kata__op_table kata__remote_take_table, kata__serve_table, kata__serve_other_table;
#endif
