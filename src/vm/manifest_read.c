/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading a manifest, which anybody may have written: each member for type and range, then one against the other (a
 * slot or an id twice, a part that no disk has, a disk without its part, an address that is not its slot's).
 */
#include "vm/manifest.h"

#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "net/nic.h"
#include "storage/storage.h"
#include "vm/vm.h"

#define DISKS_MAX (KATA__VM_DEVICE_SLOTS_MAX + KATA__VM_LUNS_MAX)
#define NICS_MAX KATA__VM_DEVICE_SLOTS_MAX

static int corrupt(kata_error **err, int rc, kata_error *take_cause)
{
	if (rc != KATA_E_INVALID && rc != KATA_E_EXISTS) {
		kata__error_move(err, &take_cause);
		return rc;
	}
	rc = kata__fail(err, KATA_E_CORRUPT, CALLER, "manifest: %s", kata_error_get_message(take_cause));
	kata_error_free(take_cause);
	return rc;
}

/* ---- texts and files ---- */

static int read_text(const json_t *o, const char *what, const char *key, char *out, size_t size, kata_error **err)
{
	const char *text = NULL;
	int rc = kata__json_get_string(o, what, key, &text, err);

	if (rc < 0)
		return rc;
	if (!text[0] || strlen(text) >= size)
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s.%s: must have 1 to %zu bytes", what, key, size - 1);
	snprintf(out, size, "%s", text);
	return 0;
}

static int read_digest(const json_t *o, const char *what, char out[KATA__DIGEST_MAX], kata_error **err)
{
	int rc = read_text(o, what, "sha256", out, KATA__DIGEST_MAX, err);

	if (rc == 0 && !kata__digest_is_valid(out))
		rc = kata__fail(err, KATA_E_CORRUPT, CALLER, "%s.sha256: is no sha256 in lower case hex", what);
	return rc;
}

static int read_identity(const json_t *o, const char *what, bool with_ctime, struct kata__file_identity *ret,
			 kata_error **err)
{
	int rc = kata__json_get_uint(o, what, "ino", INT64_MAX, &ret->ino, err);

	if (rc == 0)
		rc = kata__json_get_uint(o, what, "size_bytes", INT64_MAX, &ret->size_bytes, err);
	if (rc == 0)
		rc = kata__json_get_uint(o, what, "mtime_ns", INT64_MAX, &ret->mtime_ns, err);
	if (rc == 0 && with_ctime)
		rc = kata__json_get_uint(o, what, "ctime_ns", INT64_MAX, &ret->ctime_ns, err);
	return rc;
}

static int read_file_identity(const json_t *o, const char *what, struct kata__file_identity *ret, kata_error **err)
{
	static const char *const members[] = {"ino", "size_bytes", "mtime_ns", "ctime_ns", NULL};
	int rc = kata__json_check_members(o, what, members, NULL, err);

	return rc < 0 ? rc : read_identity(o, what, true, ret, err);
}

/* `path` is what the config says: the manifest must have such a file exactly when the config has. */
static int read_file(const json_t *o, const char *key, const char *path, struct kata__manifest_file *ret,
		     kata_error **err)
{
	static const char *const members[] = {"path", "sha256", "file", NULL};
	const json_t *f = json_object_get(o, key);
	const char *text = NULL;
	json_t *identity = NULL;
	char what[48];
	int rc;

	snprintf(what, sizeof(what), "manifest.%s", key);
	if (json_is_null(f) && !path)
		return 0;
	if (!json_is_object(f) || !path)
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s: the config has %s, this has %s", what,
				  path ? "one" : "none", json_is_object(f) ? "one" : "none");
	if ((rc = kata__json_check_members(f, what, members, NULL, err)) ||
	    (rc = kata__json_get_string(f, what, "path", &text, err)) ||
	    (rc = read_digest(f, what, ret->sha256, err)) ||
	    (rc = kata__json_get_object(f, what, "file", &identity, err)) ||
	    (rc = read_file_identity(identity, what, &ret->file, err)))
		return rc;
	if (strcmp(text, path) != 0)
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s.path: is not that of the config", what);
	ret->path = kata__strdup(text);
	return ret->path ? 0 : kata__fail_no_memory(err);
}

/* ---- parts ---- */

static bool name_is_valid(const char *name)
{
	return name[0] >= 'a' && name[0] <= 'z' &&
	       strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == strlen(name);
}

static int read_part(struct kata__manifest *m, const json_t *o, size_t index, kata_error **err)
{
	static const char *const members[] = {"name", "sha256", "size_bytes", "ino", "mtime_ns", NULL};
	struct kata__manifest_part part = {0}, *at;
	char what[48];
	int rc;

	snprintf(what, sizeof(what), "manifest.parts[%zu]", index);
	if (!json_is_object(o))
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s: is no object", what);
	if ((rc = kata__json_check_members(o, what, members, NULL, err)) ||
	    (rc = read_text(o, what, "name", part.name, sizeof(part.name), err)) ||
	    (rc = read_digest(o, what, part.sha256, err)) || (rc = read_identity(o, what, false, &part.file, err)))
		return rc;
	if (!name_is_valid(part.name))
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s.name: must be of lower case letters, digits and '-'",
				  what);
	if (kata__manifest_find_part(m, part.name))
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s.name: '%s' is there twice", what, part.name);
	at = kata__manifest_add_part(m, part.name);
	if (!at)
		return kata__fail_no_memory(err);
	*at = part;
	return 0;
}

static int read_parts(struct kata__manifest *m, const json_t *o, kata_error **err)
{
	json_t *list = NULL;
	int rc = kata__json_get_array(o, "manifest", "parts", KATA__MANIFEST_PARTS_MAX, &list, err);

	for (size_t i = 0; rc == 0 && i < json_array_size(list); i++)
		rc = read_part(m, json_array_get(list, i), i, err);
	return rc;
}

/* ---- devices ---- */

static const char *const storage_members[] = {"id",     "path",          "format", "driver",  "read_only",
					      "fstype", "mount_options", "state",  "address", "size_bytes",
					      NULL};
static const char *const storage_options[] = {"backing_path", "backing_format", NULL};
static const char *const nic_members[] = {"id", "type", "mac", "mtu", "state", "address", NULL};
static const char *const nic_options[] = {"tap_name", NULL};

/* The slot and the object of a device. */
static int read_place(const json_t *o, const char *what, uint32_t *ret_slot, json_t **ret_device, kata_error **err)
{
	uint64_t slot = 0;
	int rc = kata__json_get_uint(o, what, "slot", DISKS_MAX, &slot, err);

	if (rc == 0)
		rc = kata__json_get_object(o, what, "device", ret_device, err);
	*ret_slot = (uint32_t)slot;
	return rc;
}

static int check_plugged(const char *what, kata_device_state state, const char *address, bool on_lun, uint32_t slot,
			 const struct kata__manifest *m, kata_error **err)
{
	uint32_t slots = on_lun ? KATA__VM_LUNS_MAX : m->config->v.device_slots;
	char expected[16];

	if (slot >= slots)
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s.slot: is %u, the machine has %u", what, slot, slots);
	if (on_lun)
		kata__vm_lun_address((int)slot, expected);
	else
		kata__vm_port_address((int)slot, expected);
	if (state != KATA_DEVICE_PLUGGED || strcmp(address, expected) != 0)
		return kata__fail(err, KATA_E_CORRUPT, CALLER,
				  "%s.device: must be plugged at '%s', as its slot says, not %s at '%s'", what,
				  expected, kata_device_state_get_name(state), address);
	return 0;
}

static int read_source(const json_t *o, const char *what, const char *key, bool wanted,
		       struct kata__manifest_source *ret, kata_error **err)
{
	const json_t *s = json_object_get(o, key);
	char where[64];

	snprintf(where, sizeof(where), "%s.%s", what, key);
	if (!wanted)
		return json_is_null(s) ? 0 : kata__fail(err, KATA_E_CORRUPT, CALLER, "%s: must be null here", where);
	if (json_is_string(s) && strcmp(json_string_value(s), "block-device") == 0) {
		ret->is_block_device = true;
		return 0;
	}
	if (!json_is_object(s))
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s: must be 'block-device' or what the file was like",
				  where);
	return read_file_identity(s, where, &ret->file, err);
}

static int read_content(const json_t *o, const char *what, struct kata__manifest_disk *d, kata_error **err)
{
	char content[16] = "";
	int rc = read_text(o, what, "content", content, sizeof(content), err);

	if (rc < 0)
		return rc;
	d->copied = strcmp(content, "part") == 0;
	if (!d->copied && strcmp(content, "referred") != 0)
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s.content: is '%s', must be 'part' or 'referred'",
				  what, content);
	rc = read_source(o, what, "source", !d->copied, &d->source, err);
	return rc < 0 ? rc
		      : read_source(o, what, "backing", kata__storage_backing_path(d->storage) != NULL, &d->backing,
				    err);
}

static bool on_lun(const kata_storage *s)
{
	return kata_storage_get_driver(s) == KATA_STORAGE_VIRTIO_SCSI;
}

static int fill_disk(struct kata__manifest *m, const json_t *o, const char *what, struct kata__manifest_disk *d,
		     kata_error **err)
{
	char address[16] = "";
	json_t *device = NULL;
	int rc = read_place(o, what, &d->slot, &device, err);

	if (rc == 0)
		rc = kata__json_check_members(device, what, storage_members, storage_options, err);
	if (rc == 0)
		rc = kata__storage_from_json(device, what, &d->storage, err);
	if (rc < 0)
		return rc;
	kata_storage_get_address(d->storage, address, sizeof(address));
	rc = check_plugged(what, kata_storage_get_state(d->storage), address, on_lun(d->storage), d->slot, m, err);
	if (rc == 0)
		rc = kata__json_get_uint(o, what, "size_bytes", INT64_MAX, &d->size_bytes, err);
	if (rc == 0 && d->size_bytes != kata_storage_get_size_bytes(d->storage))
		rc = kata__fail(err, KATA_E_CORRUPT, CALLER, "%s.size_bytes: is not that of the device", what);
	if (rc == 0)
		rc = read_content(o, what, d, err);
	kata__storage_set_state(d->storage, KATA_DEVICE_NEW);
	return rc;
}

static int read_disk(struct kata__manifest *m, const json_t *o, kata_error **err)
{
	static const char *const members[] = {"slot", "device", "size_bytes", "content", "source", "backing", NULL};
	struct kata__manifest_disk *d = &m->disks[m->disk_count];
	char what[48];
	int rc;

	snprintf(what, sizeof(what), "manifest.disks[%zu]", m->disk_count);
	if (!json_is_object(o))
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s: is no object", what);
	rc = kata__json_check_members(o, what, members, NULL, err);
	if (rc == 0)
		rc = fill_disk(m, o, what, d, err);
	m->disk_count++; /* what there is of it is freed with the manifest */
	return rc;
}

static int fill_nic(struct kata__manifest *m, const json_t *o, const char *what, struct kata__manifest_nic *n,
		    kata_error **err)
{
	char address[16] = "";
	json_t *device = NULL;
	int rc = read_place(o, what, &n->slot, &device, err);

	if (rc == 0)
		rc = kata__json_check_members(device, what, nic_members, nic_options, err);
	if (rc == 0)
		rc = kata__nic_from_json(device, what, &n->nic, err);
	if (rc < 0)
		return rc;
	kata_nic_get_address(n->nic, address, sizeof(address));
	rc = check_plugged(what, kata_nic_get_state(n->nic), address, false, n->slot, m, err);
	kata__nic_set_state(n->nic, KATA_DEVICE_NEW);
	return rc;
}

static int read_nic(struct kata__manifest *m, const json_t *o, kata_error **err)
{
	static const char *const members[] = {"slot", "device", NULL};
	struct kata__manifest_nic *n = &m->nics[m->nic_count];
	char what[48];
	int rc;

	snprintf(what, sizeof(what), "manifest.nics[%zu]", m->nic_count);
	if (!json_is_object(o))
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s: is no object", what);
	rc = kata__json_check_members(o, what, members, NULL, err);
	if (rc == 0)
		rc = fill_nic(m, o, what, n, err);
	m->nic_count++;
	return rc;
}

static int read_devices(struct kata__manifest *m, const json_t *o, kata_error **err)
{
	json_t *disks = NULL, *nics = NULL;
	int rc = kata__json_get_array(o, "manifest", "disks", DISKS_MAX, &disks, err);

	if (rc == 0)
		rc = kata__json_get_array(o, "manifest", "nics", NICS_MAX, &nics, err);
	if (rc < 0)
		return rc;
	m->disks = calloc(json_array_size(disks) + 1, sizeof(*m->disks));
	m->nics = calloc(json_array_size(nics) + 1, sizeof(*m->nics));
	if (!m->disks || !m->nics)
		return kata__fail_no_memory(err);
	for (size_t i = 0; rc == 0 && i < json_array_size(disks); i++)
		rc = read_disk(m, json_array_get(disks, i), err);
	for (size_t i = 0; rc == 0 && i < json_array_size(nics); i++)
		rc = read_nic(m, json_array_get(nics, i), err);
	return rc;
}

/* ---- one against the other ---- */

/* A device by index over disks and NICs. */
struct place {
	const char *id;
	bool lun;
	uint32_t slot;
};

static struct place place_of(const struct kata__manifest *m, size_t i)
{
	const struct kata__manifest_nic *n;

	if (i < m->disk_count)
		return (struct place){kata_storage_get_id(m->disks[i].storage), on_lun(m->disks[i].storage),
				      m->disks[i].slot};
	n = &m->nics[i - m->disk_count];
	return (struct place){kata_nic_get_id(n->nic), false, n->slot};
}

static int check_twice(const struct kata__manifest *m, kata_error **err)
{
	size_t count = m->disk_count + m->nic_count;

	for (size_t i = 1; i < count; i++) {
		struct place a = place_of(m, i);

		for (size_t j = 0; j < i; j++) {
			struct place b = place_of(m, j);

			if (strcmp(a.id, b.id) == 0 || (a.lun == b.lun && a.slot == b.slot))
				return kata__fail(err, KATA_E_CORRUPT, CALLER,
						  "manifest: devices '%s' and '%s' have one %s", b.id, a.id,
						  strcmp(a.id, b.id) == 0 ? "id" : "slot");
		}
	}
	for (size_t i = 1; i < m->nic_count; i++)
		for (size_t j = 0; j < i; j++)
			if (strcmp(kata_nic_get_mac(m->nics[i].nic), kata_nic_get_mac(m->nics[j].nic)) == 0)
				return kata__fail(err, KATA_E_CORRUPT, CALLER, "manifest: two NICs have the MAC %s",
						  kata_nic_get_mac(m->nics[i].nic));
	return 0;
}

/* Each part is one that something needs, and what is needed is there. */
static int check_parts(const struct kata__manifest *m, kata_error **err)
{
	bool shared = m->memory == KATA_SNAPSHOT_SHARED;
	size_t expected = 1 + shared, extra = 0;
	const struct kata__manifest_part *memory = kata__manifest_find_part(m, KATA__MANIFEST_MEMORY);
	char name[32];

	if (!kata__manifest_find_part(m, KATA__MANIFEST_STATE) || !memory != !shared)
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "manifest.parts: memory is '%s', but there is %s",
				  kata_snapshot_memory_get_name(m->memory),
				  memory   ? "a part 'memory'"
				  : shared ? "no part 'memory'"
					   : "no part 'state'");
	if (memory && memory->file.size_bytes != m->config->v.memory_mib << 20)
		return kata__fail(err, KATA_E_CORRUPT, CALLER,
				  "manifest.parts: 'memory' has %llu bytes, the machine has %llu MiB",
				  (unsigned long long)memory->file.size_bytes,
				  (unsigned long long)m->config->v.memory_mib);
	for (size_t i = 0; i < m->disk_count; i++) {
		kata__manifest_disk_part(i, name);
		if (m->disks[i].copied && !kata__manifest_find_part(m, name))
			return kata__fail(err, KATA_E_CORRUPT, CALLER, "manifest.parts: '%s' is missing", name);
		expected += m->disks[i].copied;
	}
	for (size_t i = 0; i < m->part_count; i++)
		extra += strncmp(m->parts[i].name, KATA__MANIFEST_EXTRA, strlen(KATA__MANIFEST_EXTRA)) == 0;
	if (m->part_count != expected + extra)
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "manifest.parts: %zu of them, %zu have a use",
				  m->part_count, expected + extra);
	return 0;
}

/* ---- the whole ---- */

static int check_head(const json_t *o, kata_error **err)
{
	const char *format = NULL;
	uint64_t version = 0;
	int rc = kata__json_get_string(o, "manifest", "format", &format, err);

	if (rc == 0 && strcmp(format, "kata-snapshot") != 0)
		rc = kata__fail(err, KATA_E_CORRUPT, CALLER, "manifest.format: is '%.32s', must be 'kata-snapshot'",
				format);
	if (rc == 0)
		rc = kata__json_get_uint(o, "manifest", "version", UINT32_MAX, &version, err);
	if (rc == 0 && version != KATA__MANIFEST_VERSION)
		rc = kata__fail(err, KATA_E_VERSION, CALLER, "manifest.version: is %llu, this library reads %d",
				(unsigned long long)version, KATA__MANIFEST_VERSION);
	return rc;
}

static int read_memory(const json_t *o, kata_snapshot_memory *ret, kata_error **err)
{
	char name[16] = "";
	int rc = read_text(o, "manifest", "memory", name, sizeof(name), err);

	if (rc < 0)
		return rc;
	for (int i = KATA_SNAPSHOT_FULL; i <= KATA_SNAPSHOT_SHARED; i++) {
		if (strcmp(name, kata_snapshot_memory_get_name((kata_snapshot_memory)i)) == 0) {
			*ret = (kata_snapshot_memory)i;
			return 0;
		}
	}
	return kata__fail(err, KATA_E_CORRUPT, CALLER, "manifest.memory: '%s' is unknown", name);
}

static int read_machine(struct kata__manifest *m, const json_t *o, kata_error **err)
{
	uint64_t transport = 0;
	int rc;

	if ((rc = read_text(o, "manifest", "driver", m->driver, sizeof(m->driver), err)) ||
	    (rc = read_text(o, "manifest", "uuid", m->uuid, sizeof(m->uuid), err)) ||
	    (rc = read_text(o, "manifest", "accelerator", m->accelerator, sizeof(m->accelerator), err)) ||
	    (rc = read_text(o, "manifest", "vmm_version", m->vmm_version, sizeof(m->vmm_version), err)) ||
	    (rc = read_text(o, "manifest", "machine", m->machine, sizeof(m->machine), err)) ||
	    (rc = read_text(o, "manifest", "cpu_model", m->cpu_model, sizeof(m->cpu_model), err)) ||
	    (rc = kata__json_get_uint(o, "manifest", "created_ns", INT64_MAX, &m->created_ns, err)) ||
	    (rc = read_memory(o, &m->memory, err)) ||
	    (rc = kata__json_get_uint(o, "manifest", "agent_transport", KATA_AGENT_VSOCK, &transport, err)))
		return rc;
	m->agent_transport = (kata_agent_transport)transport;
	if (!kata__uuid_is_valid(m->uuid))
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "manifest.uuid: is no UUID");
	if (m->agent_transport == KATA_AGENT_AUTO)
		return kata__fail(err, KATA_E_CORRUPT, CALLER, "manifest.agent_transport: is not resolved");
	return 0;
}

static int read_config(struct kata__manifest *m, const json_t *o, kata_error **err)
{
	static const char *const members[] = {"id",
					      "cpus",
					      "cpus_max",
					      "memory_mib",
					      "memory_max_mib",
					      "memory_slots",
					      "kernel_params",
					      "memory_shared",
					      "device_slots",
					      "kernel",
					      NULL};
	static const char *const options[] = {"initrd", "image", "memory_path", "machine", NULL};
	json_t *config = NULL;
	int rc;

	if ((rc = kata__json_get_object(o, "manifest", "config", &config, err)) ||
	    (rc = kata__json_check_members(config, "manifest.config", members, options, err)) ||
	    (rc = kata__vm_config_from_json(config, "manifest.config", &m->config, err)) ||
	    (rc = read_file(o, "kernel", m->config->v.kernel, &m->kernel, err)) ||
	    (rc = read_file(o, "initrd", m->config->v.initrd, &m->initrd, err)) ||
	    (rc = read_file(o, "image", m->config->v.image, &m->image, err)))
		return rc;
	return 0;
}

static int read_all(struct kata__manifest *m, const json_t *o, kata_error **err)
{
	static const char *const members[] = {
		"format",  "version", "driver",    "uuid",        "created_ns",      "memory", "config",
		"kernel",  "initrd",  "image",     "parts",       "disks",           "nics",   "vmm_version",
		"machine", "vmm",     "cpu_model", "accelerator", "agent_transport", NULL};
	json_t *vmm = NULL;
	int rc;

	if ((rc = check_head(o, err)) || (rc = kata__json_check_members(o, "manifest", members, NULL, err)) ||
	    (rc = read_machine(m, o, err)) || (rc = read_config(m, o, err)) || (rc = read_parts(m, o, err)) ||
	    (rc = read_devices(m, o, err)) || (rc = check_twice(m, err)) || (rc = check_parts(m, err)) ||
	    (rc = kata__json_get_object(o, "manifest", "vmm", &vmm, err)))
		return rc;
	m->vmm = json_incref(vmm);
	return 0;
}

int kata__manifest_read(const char *text, size_t len, struct kata__manifest **ret, kata_error **err)
{
	struct kata__manifest *m = kata__manifest_new();
	KATA_AUTO_JSON json_t *o = NULL;
	kata_error *cause = NULL;
	int rc;

	if (!m)
		return kata__fail_no_memory(err);
	rc = kata__json_parse("manifest", text, len, KATA__JSON_RECORD_MAX, &o, &cause);
	if (rc == 0)
		rc = read_all(m, o, &cause);
	if (rc < 0) {
		kata__manifest_free(m);
		return corrupt(err, rc, cause);
	}
	*ret = m;
	return 0;
}
