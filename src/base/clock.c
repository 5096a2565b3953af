/* SPDX-License-Identifier: Apache-2.0 */
/* CLOCK_MONOTONIC and deadlines. */
#include "base/clock.h"

#include <limits.h>
#include <time.h>

uint64_t kata__now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t kata__deadline_in_ms(uint64_t ms)
{
	uint64_t now = kata__now_ns();

	if (ms > (KATA__NEVER - 1 - now) / 1000000u)
		return KATA__NEVER;
	return now + ms * 1000000u;
}

int kata__deadline_left_ms(uint64_t deadline_ns)
{
	uint64_t now, left;

	if (deadline_ns == KATA__NEVER)
		return -1;
	now = kata__now_ns();
	if (deadline_ns <= now)
		return 0;
	left = (deadline_ns - now + 999999u) / 1000000u;
	return left > INT_MAX ? INT_MAX : (int)left;
}
