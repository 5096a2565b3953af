/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_VM_MOCK_H
#define KATA_VM_MOCK_H
/*
 * The mock VMM's inside: controls (what the caller set on the builder), the machine (what would be the VMM process),
 * its agent channel, and the driver.
 *
 * A machine belongs to one VM handle, or, released, to the context's registry; it ends with the destroy or with the
 * context. [leader] everywhere but the controls, which have their own lock.
 */
#include <kata/mock.h>

#include "vm/mock/mock_agent.h"
#include "vm/vm.h"

/* Disks have no file behind them: each is as large as this. */
#define KATA__MOCK_DISK_BYTES (UINT64_C(64) << 20)

/* ---- controls [any thread], shared by a builder and its VMs */

struct kata__mock_controls;
struct kata__mock_controls *kata__mock_controls_new(void); /* NULL when out of memory */
struct kata__mock_controls *kata__mock_controls_ref(struct kata__mock_controls *c);
void kata__mock_controls_unref(struct kata__mock_controls *c); /* NULL is fine */
void kata__mock_controls_set_delay(struct kata__mock_controls *c, kata_mock_operation operation, uint64_t delay_ms);
void kata__mock_controls_set_failure(struct kata__mock_controls *c, kata_mock_operation operation, int status,
				     uint32_t count);
uint64_t kata__mock_controls_delay(struct kata__mock_controls *c, kata_mock_operation operation);
/* Counts one operation: 0, or the status it is to fail with. */
int kata__mock_controls_take_failure(struct kata__mock_controls *c, kata_mock_operation operation);

/* ---- channel: the agent behind a socket pair */

struct kata__mock_machine;
struct kata__mock_channel;
/* A new connection; one that was there before is dropped, as a port has one host end. *ret_fd is the caller's. */
int kata__mock_channel_connect(struct kata__mock_machine *m, int *ret_fd, kata_error **err);
void kata__mock_channel_free(struct kata__mock_channel *c); /* NULL is fine; with the agent and all it holds */
/* A paused guest reads and writes nothing. */
void kata__mock_channel_set_paused(struct kata__mock_channel *c, bool paused);
/* A device came or went. */
void kata__mock_channel_devices_changed(struct kata__mock_channel *c);

/* ---- machine */

struct kata__mock_device {
	struct kata__mock_device *next;
	char id[65];
	char kind[5];          /* "blk", "scsi", "net" */
	char address[16];      /* as the guest sees it */
	char mac[18];          /* net */
	char name[16];         /* in the guest */
	kata_storage *storage; /* disks; referenced */
};

struct kata__mock_machine {
	struct kata__mock_machine *next; /* in the registry */
	kata_context *ctx;
	kata_vm *vm; /* the handle; NULL while released */
	char uuid[37];
	struct kata__mock_controls *controls;
	struct kata__mock_device *devices;
	struct kata__mock_channel *channel; /* made at the first connect */
	bool running, paused, ended;
};

struct kata__mock_machine *kata__mock_machine_new(kata_vm *vm); /* NULL when out of memory */
void kata__mock_machine_free(struct kata__mock_machine *m);     /* NULL is fine */
/* Copies the device. GONE when it has ended, EXISTS for a path that another disk has and one of the two may write to,
 * VMM for a duplicate id or an address that is taken. */
int kata__mock_machine_attach(struct kata__mock_machine *m, const struct kata__mock_device *device, kata_error **err);
void kata__mock_machine_detach(struct kata__mock_machine *m, const char *id);
const struct kata__mock_device *kata__mock_machine_find(const struct kata__mock_machine *m, const char *id);
bool kata__mock_machine_find_device(const struct kata__mock_machine *m, const char *kind, const char *address,
				    char ret_name[32], uint64_t *ret_size_bytes);
void kata__mock_machine_set_paused(struct kata__mock_machine *m, bool paused);
/* The VMM is gone: no agent, no devices. */
void kata__mock_machine_end(struct kata__mock_machine *m);
/* The registry of released machines in the context. */
int kata__mock_registry_put(struct kata__mock_machine *take_m, kata_error **err);
struct kata__mock_machine *kata__mock_registry_take(kata_context *ctx, const char *uuid); /* NULL: not there */

static inline struct kata__mock_machine *kata__mock_machine_of(const kata_vm *vm)
{
	return (struct kata__mock_machine *)vm->impl;
}

/* ---- driver */

extern const struct kata__vm_driver kata__mock_driver;
#endif
