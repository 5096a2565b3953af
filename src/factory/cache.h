/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_FACTORY_CACHE_H
#define KATA_FACTORY_CACHE_H
/* What the server shares with the warm cache: its pool, and what a build asks it for. [any thread] */
#include "factory/pool.h"

/* NULL: it is no cache. */
struct kata__pool *kata__cache_pool(const kata_vm_builder *builder);
/* Fails where no machine of a pool could be what is asked for. [may block] */
int kata__cache_wish(const kata_vm_config *config, const kata_agent_config *agent_config,
		     const kata_qos_config *qos_config, struct kata__pool_wish *ret, kata_error **err);
#endif
