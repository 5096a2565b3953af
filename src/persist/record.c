/* SPDX-License-Identifier: Apache-2.0 */
/* kata_record: making, freeing, and what an implementation of kata_persistence_ops may read of it. */
#include "persist/record.h"

#include <stdlib.h>
#include <string.h>

#include "persist/fields.h"

struct kata_record *kata__record_new(void)
{
	return calloc(1, sizeof(struct kata_record));
}

#define BLOCK_SIZE 8000u /* a usual record fits */

struct kata__record_block {
	struct kata__record_block *next;
	size_t used, size;
	char bytes[];
};

static struct kata__record_block *add_block(struct kata_record *record, size_t size)
{
	struct kata__record_block *b = malloc(sizeof(*b) + size);

	if (!b)
		return NULL;
	b->next = record->blocks;
	b->used = 0;
	b->size = size;
	record->blocks = b;
	return b;
}

struct kata_record *kata__record_new_kept(void)
{
	struct kata_record *record = kata__record_new();

	if (!record || add_block(record, BLOCK_SIZE))
		return record;
	free(record);
	return NULL;
}

char *kata__record_keep(struct kata_record *record, const char *text)
{
	size_t size = strlen(text) + 1;
	struct kata__record_block *b = record->blocks;

	if (b->size - b->used < size)
		b = add_block(record, size > BLOCK_SIZE ? size : BLOCK_SIZE);
	if (!b)
		return NULL;
	b->used += size;
	return memcpy(b->bytes + b->used - size, text, size);
}

static void free_texts(struct kata_record *record)
{
	for (size_t i = 0; i < KATA__NOUNS; i++) {
		const struct kata__noun *n = &kata__nouns[i];

		for (size_t k = 0; kata__noun_row(n, record, 0) && k < kata__noun_count(n, record); k++)
			kata__noun_free_texts(n, kata__noun_row(n, record, k));
	}
	kata__noun_free_texts(&kata__sandbox_noun, record);
}

void kata__record_free(struct kata_record *record)
{
	if (!record)
		return;
	if (!record->blocks)
		free_texts(record);
	for (struct kata__record_block *b = record->blocks, *next; b; b = next) {
		next = b->next;
		free(b);
	}
	free(record->storages);
	free(record->nics);
	free(record->containers);
	free(record->processes);
	free(record->undone);
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

uint64_t kata_record_get_generation(const kata_record *record)
{
	return record ? record->generation : 0;
}

int64_t kata_record_get_base_generation(const kata_record *record)
{
	return record ? record->base : -1;
}

size_t kata_record_get_container_count(const kata_record *record)
{
	return record ? record->container_count : 0;
}

const char *kata_record_get_container_id(const kata_record *record, size_t index)
{
	return record && index < record->container_count ? record->containers[index].id : NULL;
}

static bool has_storage(const kata_record *record, const char *id)
{
	for (size_t i = 0; i < record->storage_count; i++)
		if (strcmp(record->storages[i].id, id) == 0)
			return strcmp(record->storages[i].state, "plugged") == 0;
	return false;
}

static bool has_nic(const kata_record *record, const char *id)
{
	for (size_t i = 0; i < record->nic_count; i++)
		if (strcmp(record->nics[i].id, id) == 0)
			return strcmp(record->nics[i].state, "plugged") == 0;
	return false;
}

bool kata_record_has_device(const kata_record *record, uint32_t kind, const char *id)
{
	if (!record || !id)
		return false;
	switch (kind) {
	case KATA_RESERVE_VM:
		return strcmp(record->vm_id, id) == 0;
	case KATA_RESERVE_STORAGE:
		return has_storage(record, id);
	case KATA_RESERVE_NIC:
		return has_nic(record, id);
	default:
		return false;
	}
}

size_t kata_record_get_undone_count(const kata_record *record)
{
	return record ? record->undone_count : 0;
}

const char *kata_record_get_undone(const kata_record *record, size_t index, uint32_t *ret_kind)
{
	if (!record || index >= record->undone_count)
		return NULL;
	if (ret_kind)
		*ret_kind = record->undone[index].kind;
	return record->undone[index].id;
}
