/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_PERSIST_RECORD_H
#define KATA_PERSIST_RECORD_H
/*
 * The record of a sandbox: plain data between the sandbox (which fills it) and a persistence (which writes it as rows,
 * or as JSON). Strings are owned by the record. As JSON it is also what kata_sandbox_release and _dump give; reading it
 * back treats it as hostile.
 */
#include <kata/driver/persistence.h>

#include "base/json.h"

#define KATA__RECORD_VERSION 2 /* 1: without `generation` */

struct kata__record_storage {
	char *id, *path, *format, *driver, *fstype, *address, *state;
	bool read_only;
	uint64_t size_bytes;
};
struct kata__record_nic {
	char *id, *type, *tap_name, *mac, *address, *state;
	uint32_t mtu;
	char *interface_json; /* what was configured in the guest, or NULL */
};
struct kata__record_process {
	char *container_id, *exec_id, *state;
	bool terminal;
	int32_t exit_status; /* -1 unknown */
};
struct kata__record_container {
	char *id, *state;
	char *storages_json; /* ids of the storages it names: JSON array */
};
/* A device that was to be plugged and is not. */
struct kata__record_undone {
	uint32_t kind; /* kata_reservation_kind */
	char *id;
};
struct kata__record_block;
struct kata_record {
	/* Where its texts lie, if it was made by kata__record_new_kept; else each is freed by itself. */
	struct kata__record_block *blocks;
	char *id;            /* sandbox id */
	char *state;         /* kata_sandbox_state_get_name */
	uint64_t epoch;      /* of the owner that writes */
	uint64_t generation; /* grows with each store: tells a record that was rolled back from the one that was stored
			      */
	/* Of a store, not kept: the generation that must stand there now (0: none was stored), or -1: whatever does. */
	int64_t base;
	char *hostname;
	char *dns_json; /* JSON array of lines */
	/* owner: the process that drives it; pid 0 once released */
	int64_t owner_pid;
	uint64_t owner_start_time;
	char *boot_id;
	/* the VM */
	char *vm_id, *vm_uuid, *vm_driver, *vm_accelerator;
	int64_t vm_pid;
	uint64_t vm_start_time;
	uint32_t vm_cpus;
	uint64_t vm_memory_mib;
	char *vm_json;     /* kata_vm_dump: what the rebuild needs; opaque here */
	char *agent_json;  /* kata_agent_release, or what continues the agent; NULL before a release */
	char *routes_json; /* JSON array or NULL */
	struct kata__record_storage *storages;
	size_t storage_count;
	struct kata__record_nic *nics;
	size_t nic_count;
	struct kata__record_container *containers;
	size_t container_count;
	struct kata__record_process *processes; /* execs and init processes */
	size_t process_count;
	/* Of a store, not kept: devices whose plug was undone; their reservations are. */
	struct kata__record_undone *undone;
	size_t undone_count;
};

/*
 * Who fills one: ids are unique in each list, each process is of a container in the list, a pid that is not 0 comes
 * with its start time and boot_id, state is "running", "paused" or "released", numbers fit 63 bits. What breaks this is
 * refused when it is read back.
 */
struct kata_record *kata__record_new(void);
void kata__record_free(struct kata_record *record); /* accepts NULL and half-filled ones */
/* For a record that is filled on each store: its sixty or so texts lie in a block or two, or are the library's own
 * words, which outlive it. kata__record_keep: a copy that is freed with the record; NULL: no memory. */
struct kata_record *kata__record_new_kept(void);
char *kata__record_keep(struct kata_record *record, const char *text);
/* INVALID: a text that is not UTF-8 or not the JSON it should be, a number past 63 bits. */
int kata__record_to_json_object(const struct kata_record *record, json_t **ret, kata_error **err);
/* The same as text (compact, keys sorted; caller frees). EXHAUSTED: longer than KATA__JSON_RECORD_MAX, which nobody
 * would read back. */
int kata__record_to_json_text(const struct kata_record *record, char **ret, kata_error **err);
/* Strict: version (this one or an older), every field, counts (1024 devices, 4096 containers, 16384 processes), ids.
 * CORRUPT, VERSION. */
int kata__record_from_json(const char *text, size_t len, struct kata_record **ret, kata_error **err);
#endif
