/* SPDX-License-Identifier: Apache-2.0 */
/* mock_controls.c - delays and failures, set from any thread and read by the leader. */
#include <pthread.h>
#include <stdlib.h>

#include "vm/mock/mock.h"

struct kata__mock_controls {
	pthread_mutex_t lock; /* covers everything below */
	unsigned refs;
	struct {
		uint64_t delay_ms;
		int status;
		uint32_t failures;
	} operations[KATA_MOCK_OPERATION_COUNT];
};

struct kata__mock_controls *kata__mock_controls_new(void)
{
	struct kata__mock_controls *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	pthread_mutex_init(&c->lock, NULL);
	c->refs = 1;
	return c;
}

struct kata__mock_controls *kata__mock_controls_ref(struct kata__mock_controls *c)
{
	pthread_mutex_lock(&c->lock);
	c->refs++;
	pthread_mutex_unlock(&c->lock);
	return c;
}

void kata__mock_controls_unref(struct kata__mock_controls *c)
{
	unsigned left;

	if (!c)
		return;
	pthread_mutex_lock(&c->lock);
	left = --c->refs;
	pthread_mutex_unlock(&c->lock);
	if (left)
		return;
	pthread_mutex_destroy(&c->lock);
	free(c);
}

void kata__mock_controls_set_delay(struct kata__mock_controls *c, kata_mock_operation operation, uint64_t delay_ms)
{
	pthread_mutex_lock(&c->lock);
	c->operations[operation].delay_ms = delay_ms;
	pthread_mutex_unlock(&c->lock);
}

void kata__mock_controls_set_failure(struct kata__mock_controls *c, kata_mock_operation operation, int status,
				     uint32_t count)
{
	pthread_mutex_lock(&c->lock);
	c->operations[operation].status = status;
	c->operations[operation].failures = count;
	pthread_mutex_unlock(&c->lock);
}

uint64_t kata__mock_controls_delay(struct kata__mock_controls *c, kata_mock_operation operation)
{
	uint64_t delay_ms;

	pthread_mutex_lock(&c->lock);
	delay_ms = c->operations[operation].delay_ms;
	pthread_mutex_unlock(&c->lock);
	return delay_ms;
}

int kata__mock_controls_take_failure(struct kata__mock_controls *c, kata_mock_operation operation)
{
	int status = 0;

	pthread_mutex_lock(&c->lock);
	if (c->operations[operation].failures) {
		c->operations[operation].failures--;
		status = c->operations[operation].status;
	}
	pthread_mutex_unlock(&c->lock);
	return status;
}
