/* SPDX-License-Identifier: Apache-2.0 */
/* The manifest of a snapshot: what is read can be written, and reads as the same again. */
#include "fuzz.h"
#include "net/nic.h"
#include "storage/storage.h"
#include "vm/manifest.h"
#include "vm/vm.h"

/* Written are devices as they were plugged, read are those that are to be. */
static void plug(struct kata__manifest *m)
{
	char address[16];

	for (size_t i = 0; i < m->disk_count; i++) {
		const struct kata__manifest_disk *d = &m->disks[i];

		if (kata_storage_get_driver(d->storage) == KATA_STORAGE_VIRTIO_SCSI)
			kata__vm_lun_address((int)d->slot, address);
		else
			kata__vm_port_address((int)d->slot, address);
		kata__storage_set_plugged(d->storage, address, d->size_bytes);
	}
	for (size_t i = 0; i < m->nic_count; i++) {
		kata__vm_port_address((int)m->nics[i].slot, address);
		kata__nic_set_plugged(m->nics[i].nic, address);
	}
}

/* NULL when it was refused. */
static char *read_and_write(const char *text, size_t size)
{
	struct kata__manifest *m = NULL;
	kata_error *err = NULL;
	char *written;
	int rc = kata__manifest_read(text, size, &m, &err);

	must_agree(rc, err);
	must((rc == 0) == (m != NULL));
	must(rc == 0 || rc == KATA_E_CORRUPT || rc == KATA_E_VERSION);
	kata_error_free(err);
	if (rc < 0)
		return NULL;
	plug(m);
	written = kata__manifest_write(m);
	must(written);
	kata__manifest_free(m);
	return written;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	must_read_again(data, size, read_and_write);
	return 0;
}
