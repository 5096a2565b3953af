/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The manifest: its memory, and its writing. manifest_read.c reads it back.
 */
#include "vm/manifest.h"

#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "net/nic.h"
#include "storage/storage.h"

/* ---- memory ---- */

struct kata__manifest *kata__manifest_new(void)
{
	return calloc(1, sizeof(struct kata__manifest));
}

void kata__manifest_free(struct kata__manifest *m)
{
	if (!m)
		return;
	for (size_t i = 0; i < m->disk_count; i++)
		kata_storage_unref(m->disks[i].storage);
	for (size_t i = 0; i < m->nic_count; i++)
		kata_nic_unref(m->nics[i].nic);
	free(m->kernel.path);
	free(m->initrd.path);
	free(m->image.path);
	kata__vm_config_copy_free(m->config);
	json_decref(m->vmm);
	free(m->parts);
	free(m->disks);
	free(m->nics);
	free(m);
}

struct kata__manifest_part *kata__manifest_add_part(struct kata__manifest *m, const char *name)
{
	struct kata__manifest_part *grown = realloc(m->parts, (m->part_count + 1) * sizeof(*grown));

	if (!grown)
		return NULL;
	m->parts = grown;
	grown += m->part_count++;
	memset(grown, 0, sizeof(*grown));
	snprintf(grown->name, sizeof(grown->name), "%s", name);
	return grown;
}

const struct kata__manifest_part *kata__manifest_find_part(const struct kata__manifest *m, const char *name)
{
	for (size_t i = 0; i < m->part_count; i++)
		if (strcmp(m->parts[i].name, name) == 0)
			return &m->parts[i];
	return NULL;
}

void kata__manifest_disk_part(size_t index, char out[32])
{
	snprintf(out, 32, "disk-%zu", index);
}

/* ---- writing: NULL is out of memory ---- */

static json_t *identity_to_json(const struct kata__file_identity *f)
{
	return json_pack("{s:I, s:I, s:I, s:I}", "ino", (json_int_t)f->ino, "size_bytes", (json_int_t)f->size_bytes,
			 "mtime_ns", (json_int_t)f->mtime_ns, "ctime_ns", (json_int_t)f->ctime_ns);
}

static json_t *file_to_json(const struct kata__manifest_file *f)
{
	if (!f->path)
		return json_null();
	return json_pack("{s:s, s:s, s:o}", "path", f->path, "sha256", f->sha256, "file", identity_to_json(&f->file));
}

static json_t *source_to_json(const struct kata__manifest_source *s)
{
	return s->is_block_device ? json_string("block-device") : identity_to_json(&s->file);
}

static json_t *part_to_json(const struct kata__manifest_part *p)
{
	return json_pack("{s:s, s:s, s:I, s:I, s:I}", "name", p->name, "sha256", p->sha256, "size_bytes",
			 (json_int_t)p->file.size_bytes, "ino", (json_int_t)p->file.ino, "mtime_ns",
			 (json_int_t)p->file.mtime_ns);
}

static json_t *disk_to_json(const struct kata__manifest_disk *d)
{
	bool backed = kata__storage_backing_path(d->storage) != NULL;

	return json_pack("{s:I, s:o, s:I, s:s, s:o, s:o}", "slot", (json_int_t)d->slot, "device",
			 kata__storage_to_json(d->storage), "size_bytes", (json_int_t)d->size_bytes, "content",
			 d->copied ? "part" : "referred", "source",
			 d->copied ? json_null() : source_to_json(&d->source), "backing",
			 backed ? source_to_json(&d->backing) : json_null());
}

static json_t *nic_to_json(const struct kata__manifest_nic *n)
{
	return json_pack("{s:I, s:o}", "slot", (json_int_t)n->slot, "device", kata__nic_to_json(n->nic));
}

/* Takes item; false when out of memory. */
static bool append(json_t *list, json_t *item)
{
	return list && json_array_append_new(list, item) == 0;
}

static json_t *lists_to_json(const struct kata__manifest *m)
{
	json_t *parts = json_array(), *disks = json_array(), *nics = json_array();
	bool ok = parts && disks && nics;

	for (size_t i = 0; ok && i < m->part_count; i++)
		ok = append(parts, part_to_json(&m->parts[i]));
	for (size_t i = 0; ok && i < m->disk_count; i++)
		ok = append(disks, disk_to_json(&m->disks[i]));
	for (size_t i = 0; ok && i < m->nic_count; i++)
		ok = append(nics, nic_to_json(&m->nics[i]));
	if (!ok) {
		json_decref(parts);
		json_decref(disks);
		json_decref(nics);
		return NULL;
	}
	return json_pack("{s:o, s:o, s:o}", "parts", parts, "disks", disks, "nics", nics);
}

char *kata__manifest_write(const struct kata__manifest *m)
{
	json_t *lists = lists_to_json(m), *o;
	char *text = NULL;

	if (!lists)
		return NULL;
	o = json_pack("{s:s, s:i, s:s, s:s, s:I, s:s, s:s, s:i, s:o, s:o, s:o, s:o, s:s, s:s, s:s, s:O}", "format",
		      "kata-snapshot", "version", KATA__MANIFEST_VERSION, "driver", m->driver, "uuid", m->uuid,
		      "created_ns", (json_int_t)m->created_ns, "memory", kata_snapshot_memory_get_name(m->memory),
		      "accelerator", m->accelerator, "agent_transport", (int)m->agent_transport, "config",
		      kata__vm_config_to_json(m->config), "kernel", file_to_json(&m->kernel), "initrd",
		      file_to_json(&m->initrd), "image", file_to_json(&m->image), "vmm_version", m->vmm_version,
		      "machine", m->machine, "cpu_model", m->cpu_model, "vmm", m->vmm);
	if (o && json_object_update(o, lists) == 0)
		text = kata__json_dump(o);
	json_decref(lists);
	json_decref(o);
	return text;
}
