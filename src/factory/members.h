/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_FACTORY_MEMBERS_H
#define KATA_FACTORY_MEMBERS_H
/* The ready machines of a size, oldest first, and how one is ended. [leader] */
#include "factory/pool.h"

/* In, by its age; from then on its end is noticed. NO_MEMORY: it is not in. */
int kata__members_add(struct kata__pool *pool, struct kata__pool_member *take_member);
/* Out; NULL where there is none. */
struct kata__pool_member *kata__members_take_first(struct kata__pool_size *size);
struct kata__pool_member *kata__members_take_dead(struct kata__pool_size *size);
/* Marks those that have reached the age; returns how many have since the last time. */
uint32_t kata__members_age(struct kata__pool_size *size, uint64_t now, uint64_t age_max_ms);
/* When the next one will; KATA__NEVER. */
uint64_t kata__members_next_age(const struct kata__pool_size *size, uint64_t age_max_ms);
uint32_t kata__members_count_fresh(const struct kata__pool_size *size);
/* Ends one that is in no list, in the background. */
void kata__members_end(struct kata__pool *pool, struct kata__pool_member *take_member);
#endif
