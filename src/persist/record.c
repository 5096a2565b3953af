/* SPDX-License-Identifier: Apache-2.0 */
/* kata_record: making, freeing, and what an implementation of kata_persistence_ops may read of it. */
#include "persist/record.h"

#include "persist/fields.h"

struct kata_record *kata__record_new(void)
{
	return calloc(1, sizeof(struct kata_record));
}

static void free_texts(const struct kata__noun *n, void *row)
{
	for (size_t i = 0; i < n->field_count; i++)
		if (kata__field_is_text(&n->fields[i]))
			kata__field_set_text(&n->fields[i], row, NULL);
}

void kata__record_free(struct kata_record *record)
{
	if (!record)
		return;
	for (size_t i = 0; i < KATA__NOUNS; i++) {
		const struct kata__noun *n = &kata__nouns[i];
		char *array = kata__noun_row(n, record, 0);

		for (size_t k = 0; array && k < kata__noun_count(n, record); k++)
			free_texts(n, array + k * n->size);
		free(array);
	}
	free_texts(&kata__sandbox_noun, record);
	free(record);
}

const char *kata_record_get_sandbox_id(const kata_record *record)
{
	return record ? record->id : NULL;
}

uint64_t kata_record_get_epoch(const kata_record *record)
{
	return record ? record->epoch : 0;
}

size_t kata_record_get_container_count(const kata_record *record)
{
	return record ? record->container_count : 0;
}

const char *kata_record_get_container_id(const kata_record *record, size_t index)
{
	return record && index < record->container_count ? record->containers[index].id : NULL;
}
