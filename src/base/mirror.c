/* SPDX-License-Identifier: Apache-2.0 */
/* mirror.c - see mirror.h. */
#include "base/mirror.h"

#include <stdio.h>
#include <string.h>

#include "base/text.h"

static const char *const state_names[] = {"new", "plugging", "plugged", "unplugging", "diverged"};

const char *kata_device_state_get_name(kata_device_state state)
{
	return (unsigned)state < kata__array_size(state_names) ? state_names[state] : "unknown";
}

void kata__mirror_init(struct kata__mirror *m, bool has_size)
{
	m->has_size = has_size;
	pthread_mutex_init(&m->mutex, NULL);
}

void kata__mirror_deinit(struct kata__mirror *m)
{
	pthread_mutex_destroy(&m->mutex);
}

static void lock(const struct kata__mirror *m)
{
	pthread_mutex_lock(&((struct kata__mirror *)m)->mutex);
}

static void unlock(const struct kata__mirror *m)
{
	pthread_mutex_unlock(&((struct kata__mirror *)m)->mutex);
}

kata_device_state kata__mirror_get_state(const struct kata__mirror *m)
{
	kata_device_state state;

	lock(m);
	state = m->state;
	unlock(m);
	return state;
}

size_t kata__mirror_get_address(const struct kata__mirror *m, char *buf, size_t buf_size)
{
	size_t n;

	lock(m);
	n = kata__copy_text(buf, buf ? buf_size : 0, m->address);
	unlock(m);
	return n;
}

uint64_t kata__mirror_get_size_bytes(const struct kata__mirror *m)
{
	uint64_t size;

	lock(m);
	size = m->size_bytes;
	unlock(m);
	return size;
}

int kata__mirror_begin_plug(struct kata__mirror *m, const char *noun, const char *id, kata_error **err)
{
	kata_device_state state;

	lock(m);
	state = m->state;
	if (state == KATA_DEVICE_NEW)
		m->state = KATA_DEVICE_PLUGGING;
	unlock(m);
	if (state == KATA_DEVICE_NEW)
		return 0;
	return kata__fail(err, KATA_E_BUSY, CALLER, "%s '%s' is %s: a %s is in one VM at a time, remove it there first",
			  noun, id, kata_device_state_get_name(state), noun);
}

void kata__mirror_set_state(struct kata__mirror *m, kata_device_state state)
{
	lock(m);
	m->state = state;
	if (state == KATA_DEVICE_NEW) {
		m->address[0] = '\0';
		m->size_bytes = 0;
	}
	unlock(m);
}

void kata__mirror_set_plugged(struct kata__mirror *m, const char *address, uint64_t size_bytes)
{
	lock(m);
	snprintf(m->address, sizeof(m->address), "%s", address);
	m->size_bytes = size_bytes;
	m->state = KATA_DEVICE_PLUGGED;
	unlock(m);
}

/* ---- JSON ---- */

int kata__mirror_to_json(const struct kata__mirror *m, json_t *o)
{
	int rc;

	lock(m);
	rc = kata__json_set_text(o, "state", state_names[m->state]);
	if (rc == 0)
		rc = kata__json_set_text(o, "address", m->address[0] ? m->address : NULL);
	if (rc == 0 && m->has_size && m->address[0])
		rc = json_object_set_new(o, "size_bytes", json_integer((json_int_t)m->size_bytes));
	unlock(m);
	return rc;
}

static int read_state(const json_t *o, const char *what, kata_device_state *ret, kata_error **err)
{
	const char *name = NULL;
	int rc = kata__json_get_string(o, what, "state", &name, err);

	if (rc < 0)
		return rc;
	for (size_t i = 0; i < kata__array_size(state_names); i++) {
		if (strcmp(state_names[i], name) == 0) {
			*ret = (kata_device_state)i;
			return 0;
		}
	}
	return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s.state: '%.32s' is unknown", what, name);
}

int kata__mirror_from_json(struct kata__mirror *m, const json_t *o, const char *what, kata_error **err)
{
	kata_device_state state = KATA_DEVICE_NEW;
	const char *address = NULL;
	int rc = read_state(o, what, &state, err);

	if (rc == 0)
		rc = kata__json_get_string_opt(o, what, "address", &address, err);
	if (rc < 0)
		return rc;
	if (!address) { /* a plug that ended uncertain may have none */
		m->state = state == KATA_DEVICE_DIVERGED ? KATA_DEVICE_DIVERGED : KATA_DEVICE_NEW;
		return 0;
	}
	if (!address[0] || strlen(address) >= sizeof(m->address))
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s.address: must have 1 to %zu bytes", what,
				  sizeof(m->address) - 1);
	if (m->has_size)
		rc = kata__json_get_uint(o, what, "size_bytes", INT64_MAX, &m->size_bytes, err);
	if (rc < 0)
		return rc;
	memcpy(m->address, address, strlen(address) + 1);
	m->state = state == KATA_DEVICE_DIVERGED ? KATA_DEVICE_DIVERGED : KATA_DEVICE_PLUGGED;
	return 0;
}
