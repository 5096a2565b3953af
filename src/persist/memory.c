/* SPDX-License-Identifier: Apache-2.0 */
/* Records in this process's memory: for tests, and for who keeps none over its own end. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "persist/shelf.h"

struct text {
	char *id, *text;
};

/* In order of ids. */
struct drawer {
	struct text *texts;
	size_t count, room;
};

struct memory {
	pthread_mutex_t lock;
	struct drawer drawers[KATA__DRAWERS];
};

static int memory_lock(void *self, bool exclusive, kata_error **err)
{
	pthread_mutex_lock(&((struct memory *)self)->lock);
	return 0;
}

static void memory_unlock(void *self)
{
	pthread_mutex_unlock(&((struct memory *)self)->lock);
}

/* Where the id is, or belongs. */
static size_t place_of(const struct drawer *d, const char *id, bool *ret_found)
{
	size_t low = 0, high = d->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		int c = strcmp(d->texts[middle].id, id);

		if (c == 0) {
			*ret_found = true;
			return middle;
		}
		if (c < 0)
			low = middle + 1;
		else
			high = middle;
	}
	*ret_found = false;
	return low;
}

static int memory_get(void *self, int drawer, const char *id, char **ret, kata_error **err)
{
	const struct drawer *d = &((struct memory *)self)->drawers[drawer];
	bool found;
	size_t at = place_of(d, id, &found);

	*ret = found ? kata__strdup(d->texts[at].text) : NULL;
	return found && !*ret ? kata__fail_no_memory(err) : 0;
}

static int insert(struct drawer *d, size_t at, const char *id, kata_error **err)
{
	struct text *grown = d->texts;
	char *copy = kata__strdup(id);

	if (copy && d->count == d->room) {
		size_t room = d->room ? 2 * d->room : 16;

		grown = reallocarray(d->texts, room, sizeof(*grown));
		if (grown)
			d->room = room;
	}
	if (!copy || !grown) {
		free(copy);
		return kata__fail_no_memory(err);
	}
	d->texts = grown;
	memmove(&grown[at + 1], &grown[at], (d->count - at) * sizeof(*grown));
	grown[at] = (struct text){copy, NULL};
	d->count++;
	return 0;
}

static int memory_put(void *self, int drawer, const char *id, const char *text, kata_error **err)
{
	struct drawer *d = &((struct memory *)self)->drawers[drawer];
	char *copy = kata__strdup(text);
	bool found;
	size_t at = place_of(d, id, &found);
	int rc = copy ? 0 : kata__fail_no_memory(err);

	if (rc == 0 && !found)
		rc = insert(d, at, id, err);
	if (rc < 0) {
		free(copy);
		return rc;
	}
	free(d->texts[at].text);
	d->texts[at].text = copy;
	return 0;
}

static int memory_remove(void *self, int drawer, const char *id, kata_error **err)
{
	struct drawer *d = &((struct memory *)self)->drawers[drawer];
	bool found;
	size_t at = place_of(d, id, &found);

	if (!found)
		return 0;
	free(d->texts[at].id);
	free(d->texts[at].text);
	memmove(&d->texts[at], &d->texts[at + 1], (d->count - at - 1) * sizeof(*d->texts));
	d->count--;
	return 0;
}

static int memory_list(void *self, int drawer, char ***ret, kata_error **err)
{
	const struct drawer *d = &((struct memory *)self)->drawers[drawer];
	struct kata__id_list l = {0};
	int rc = kata__id_list_add(&l, NULL, err);

	for (size_t i = 0; rc == 0 && i < d->count; i++)
		rc = kata__id_list_add(&l, d->texts[i].id, err);
	if (rc < 0)
		kata__strv_free(l.list);
	else
		*ret = l.list;
	return rc;
}

static void memory_free(void *self)
{
	struct memory *m = self;

	for (int i = 0; i < KATA__DRAWERS; i++) {
		for (size_t k = 0; k < m->drawers[i].count; k++) {
			free(m->drawers[i].texts[k].id);
			free(m->drawers[i].texts[k].text);
		}
		free(m->drawers[i].texts);
	}
	pthread_mutex_destroy(&m->lock);
	free(m);
}

static const struct kata__shelf_ops memory_ops = {
	.lock = memory_lock,
	.unlock = memory_unlock,
	.get = memory_get,
	.put = memory_put,
	.remove = memory_remove,
	.list = memory_list,
	.free = memory_free,
};

int kata_persistence_new_memory(kata_context *context, kata_persistence **ret_persistence, kata_error **err)
{
	struct memory *m;

	if (!context || !ret_persistence)
		return kata__fail(err, KATA_E_INVALID, CALLER, "%s: is NULL", !context ? "context" : "ret_persistence");
	m = calloc(1, sizeof(*m));
	if (!m)
		return kata__fail_no_memory(err);
	pthread_mutex_init(&m->lock, NULL);
	return kata__shelf_publish(context, "memory", &memory_ops, m, kata__strdup("memory"), ret_persistence, err);
}
