/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_BASE_CLOCK_H
#define KATA_BASE_CLOCK_H
/* CLOCK_MONOTONIC in nanoseconds; deadlines are absolute, KATA__NEVER is none. */
#include <stdint.h>

#define KATA__NEVER UINT64_MAX

uint64_t kata__now_ns(void);
uint64_t kata__deadline_in_ms(uint64_t ms);
/* Milliseconds until the deadline for poll(): 0 when passed, -1 for never, rounded up, capped to INT_MAX. */
int kata__deadline_left_ms(uint64_t deadline_ns);
#endif
