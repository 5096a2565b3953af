/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tables, indexes and views of each version, as the texts that must stand in sqlite_master. docs/persistence.md
 * describes them for people. What ALTER TABLE ADD COLUMN makes of an older text is the newer one: new columns are
 * appended.
 */
#include "persist/schema.h"

#define TABLE(since, name, rest) TABLE_FROM(since, 0, name, rest)
#define TABLE_UNTIL(until, name, rest) TABLE_FROM(1, until, name, rest)
#define TABLE_FROM(since, until, name, rest)                                                                           \
	{                                                                                                              \
		"table", "CREATE TABLE ", name, rest, since, until                                                     \
	}
#define INDEX(since, name, rest) INDEX_FROM(since, 0, name, rest)
#define INDEX_UNTIL(until, name, rest) INDEX_FROM(1, until, name, rest)
#define INDEX_FROM(since, until, name, rest)                                                                           \
	{                                                                                                              \
		"index", "CREATE INDEX ", name, rest, since, until                                                     \
	}
#define UNIQUE(since, name, rest)                                                                                      \
	{                                                                                                              \
		"index", "CREATE UNIQUE INDEX ", name, rest, since, 0                                                  \
	}
#define VIEW(since, name, rest) VIEW_FROM(since, 0, name, rest)
#define VIEW_UNTIL(until, name, rest) VIEW_FROM(1, until, name, rest)
#define VIEW_FROM(since, until, name, rest)                                                                            \
	{                                                                                                              \
		"view", "CREATE VIEW ", name, rest, since, until                                                       \
	}

#define OF_SANDBOX "sandbox_id TEXT NOT NULL REFERENCES kata_sandboxes (id) ON DELETE CASCADE"
#define OWNER "owner_pid INTEGER NOT NULL, owner_start_time INTEGER NOT NULL, boot_id TEXT NOT NULL"
/* What is kept beside the sandboxes. */
#define NAMED "id TEXT NOT NULL PRIMARY KEY, state TEXT NOT NULL, updated_at INTEGER NOT NULL, " OWNER
#define SANDBOX_COLUMNS                                                                                                \
	"id TEXT NOT NULL PRIMARY KEY, "                                                                               \
	"state TEXT NOT NULL, "                                                                                        \
	"epoch INTEGER NOT NULL DEFAULT 0, "                                                                           \
	"taken_pid INTEGER NOT NULL DEFAULT 0, "                                                                       \
	"taken_at INTEGER NOT NULL DEFAULT 0, "                                                                        \
	"updated_at INTEGER NOT NULL DEFAULT 0, "                                                                      \
	"storage_count INTEGER NOT NULL DEFAULT 0, "                                                                   \
	"nic_count INTEGER NOT NULL DEFAULT 0, "                                                                       \
	"container_count INTEGER NOT NULL DEFAULT 0, "                                                                 \
	"process_count INTEGER NOT NULL DEFAULT 0, "                                                                   \
	"hostname TEXT, "                                                                                              \
	"dns TEXT, "                                                                                                   \
	"owner_pid INTEGER NOT NULL DEFAULT 0, "                                                                       \
	"owner_start_time INTEGER NOT NULL DEFAULT 0, "                                                                \
	"boot_id TEXT, "                                                                                               \
	"vm_id TEXT, "                                                                                                 \
	"vm_uuid TEXT, "                                                                                               \
	"vm_driver TEXT, "                                                                                             \
	"vm_accelerator TEXT, "                                                                                        \
	"vm_pid INTEGER NOT NULL DEFAULT 0, "                                                                          \
	"vm_start_time INTEGER NOT NULL DEFAULT 0, "                                                                   \
	"vm_cpus INTEGER NOT NULL DEFAULT 0, "                                                                         \
	"vm_memory_mib INTEGER NOT NULL DEFAULT 0, "                                                                   \
	"vm TEXT, "                                                                                                    \
	"agent TEXT, "                                                                                                 \
	"routes TEXT"

/* The order of making. kata_schema is first, and never changes: a file that has it not is not ours. */
const struct kata__schema_object kata__schema_objects[] = {
	TABLE(1, "kata_schema", " (id INTEGER PRIMARY KEY CHECK (id = 1), version INTEGER NOT NULL) STRICT"),
	TABLE_UNTIL(1, "kata_sandboxes", " (" SANDBOX_COLUMNS ") STRICT"),

	TABLE(1, "kata_storages",
	      " (" OF_SANDBOX ", "
	      "position INTEGER NOT NULL, "
	      "id TEXT NOT NULL, "
	      "path TEXT NOT NULL, "
	      "format TEXT NOT NULL, "
	      "driver TEXT NOT NULL, "
	      "fstype TEXT, "
	      "address TEXT, "
	      "state TEXT NOT NULL, "
	      "read_only INTEGER NOT NULL, "
	      "size_bytes INTEGER NOT NULL, "
	      "PRIMARY KEY (sandbox_id, id)) STRICT, WITHOUT ROWID"),
	TABLE(1, "kata_nics",
	      " (" OF_SANDBOX ", "
	      "position INTEGER NOT NULL, "
	      "id TEXT NOT NULL, "
	      "type TEXT NOT NULL, "
	      "tap_name TEXT, "
	      "mac TEXT NOT NULL, "
	      "address TEXT, "
	      "state TEXT NOT NULL, "
	      "mtu INTEGER NOT NULL, "
	      "interface TEXT, "
	      "PRIMARY KEY (sandbox_id, id)) STRICT, WITHOUT ROWID"),
	TABLE(1, "kata_containers",
	      " (" OF_SANDBOX ", "
	      "position INTEGER NOT NULL, "
	      "id TEXT NOT NULL, "
	      "state TEXT NOT NULL, "
	      "storages TEXT, "
	      "PRIMARY KEY (sandbox_id, id)) STRICT, WITHOUT ROWID"),
	TABLE(1, "kata_processes",
	      " (" OF_SANDBOX ", "
	      "position INTEGER NOT NULL, "
	      "container_id TEXT NOT NULL, "
	      "exec_id TEXT NOT NULL, "
	      "state TEXT NOT NULL, "
	      "terminal INTEGER NOT NULL, "
	      "exit_status INTEGER NOT NULL, "
	      "PRIMARY KEY (sandbox_id, container_id, exec_id)) STRICT, WITHOUT ROWID"),
	TABLE_UNTIL(1, "kata_reservations",
		    " ("
		    "kind TEXT NOT NULL, "
		    "value TEXT NOT NULL, " OF_SANDBOX ", "
		    "device_id TEXT, "
		    "PRIMARY KEY (kind, value, sandbox_id)) STRICT, WITHOUT ROWID"),
	INDEX(1, "kata_container_ids", " ON kata_containers (id)"),
	INDEX_UNTIL(1, "kata_reservations_of", " ON kata_reservations (sandbox_id)"),
	VIEW_UNTIL(
		1, "kata_v_sandbox",
		" AS SELECT id, state, epoch, owner_pid, hostname, vm_id, vm_driver, vm_accelerator AS accelerator, "
		"vm_pid, vm_cpus AS cpus, vm_memory_mib AS memory_mib, storage_count AS storages, nic_count AS nics, "
		"container_count AS containers, process_count AS processes, "
		"datetime(updated_at, 'unixepoch') AS updated FROM kata_sandboxes"),
	VIEW(1, "kata_v_device",
	     " AS SELECT sandbox_id, 'storage' AS kind, id, state, address, driver AS model, path AS source "
	     "FROM kata_storages UNION ALL "
	     "SELECT sandbox_id, 'nic', id, state, address, type, coalesce(tap_name, mac) FROM kata_nics"),
	VIEW(1, "kata_v_container",
	     " AS SELECT c.id, c.sandbox_id, c.state, p.exit_status, c.storages, s.state AS sandbox_state, "
	     "s.vm_pid FROM kata_containers AS c JOIN kata_sandboxes AS s ON s.id = c.sandbox_id "
	     "LEFT JOIN kata_processes AS p ON p.sandbox_id = c.sandbox_id AND p.container_id = c.id "
	     "AND p.exec_id = c.id"),
	VIEW(1, "kata_v_process",
	     " AS SELECT sandbox_id, container_id, exec_id, state, "
	     "CASE exit_status WHEN -1 THEN NULL ELSE exit_status END AS exit_status, terminal "
	     "FROM kata_processes"),
	TABLE(2, "kata_sandboxes",
	      " (" SANDBOX_COLUMNS ", "
	      "generation INTEGER NOT NULL DEFAULT 0, "
	      "intent_count INTEGER NOT NULL DEFAULT 0, "
	      "taken_start_time INTEGER NOT NULL DEFAULT 0, "
	      "taken_boot_id TEXT) STRICT"),
	TABLE(2, "kata_reservations",
	      " (" OF_SANDBOX ", "
	      "kind TEXT NOT NULL, "
	      "device_id TEXT NOT NULL, "
	      "state TEXT NOT NULL, "
	      "directory TEXT, "
	      "slot INTEGER, "
	      "cid INTEGER, "
	      "tap_name TEXT, "
	      "mac TEXT, " OWNER ", "
	      "reserved_at INTEGER NOT NULL, "
	      "settled_at INTEGER NOT NULL DEFAULT 0, "
	      "PRIMARY KEY (sandbox_id, kind, device_id)) STRICT, WITHOUT ROWID"),
	TABLE(2, "kata_networks",
	      " (" NAMED ", " OF_SANDBOX ", "
	      "type TEXT NOT NULL, "
	      "name TEXT, "
	      "netns TEXT, "
	      "config TEXT) STRICT, WITHOUT ROWID"),
	TABLE(2, "kata_snapshots",
	      " (" NAMED ", "
	      "sandbox_id TEXT, "
	      "driver TEXT NOT NULL, "
	      "directory TEXT NOT NULL, "
	      "vm_id TEXT, "
	      "vm_uuid TEXT, "
	      "size_bytes INTEGER NOT NULL, "
	      "manifest TEXT) STRICT, WITHOUT ROWID"),
	TABLE(2, "kata_templates",
	      " (" NAMED ", "
	      "snapshot_id TEXT REFERENCES kata_snapshots (id), "
	      "driver TEXT NOT NULL, "
	      "directory TEXT NOT NULL, "
	      "vm_uuid TEXT, "
	      "size_bytes INTEGER NOT NULL, "
	      "config TEXT) STRICT, WITHOUT ROWID"),
	TABLE(2, "kata_pooled_vms",
	      " (" NAMED ", "
	      "template_id TEXT REFERENCES kata_templates (id), "
	      "driver TEXT NOT NULL, "
	      "directory TEXT, "
	      "vm_uuid TEXT NOT NULL, "
	      "vm_pid INTEGER NOT NULL, "
	      "vm_start_time INTEGER NOT NULL, "
	      "vm TEXT) STRICT, WITHOUT ROWID"),
	UNIQUE(2, "kata_reservation_cids", " ON kata_reservations (cid) WHERE cid IS NOT NULL AND state <> 'undone'"),
	UNIQUE(2, "kata_reservation_directories",
	       " ON kata_reservations (directory) WHERE directory IS NOT NULL AND state <> 'undone'"),
	INDEX(2, "kata_reservation_taps", " ON kata_reservations (tap_name) WHERE tap_name IS NOT NULL"),
	INDEX(2, "kata_reservation_macs", " ON kata_reservations (mac) WHERE mac IS NOT NULL"),
	INDEX(2, "kata_nic_taps", " ON kata_nics (tap_name) WHERE tap_name IS NOT NULL"),
	INDEX(2, "kata_nic_macs", " ON kata_nics (mac)"),
	INDEX(2, "kata_networks_of", " ON kata_networks (sandbox_id)"),
	INDEX(2, "kata_templates_of", " ON kata_templates (snapshot_id) WHERE snapshot_id IS NOT NULL"),
	INDEX(2, "kata_pooled_vms_of", " ON kata_pooled_vms (template_id, state)"),
	VIEW(2, "kata_v_sandbox",
	     " AS SELECT id, state, epoch, generation, taken_pid AS holder, "
	     "datetime(nullif(taken_at, 0), 'unixepoch') AS since, owner_pid, hostname, vm_id, vm_driver, "
	     "vm_accelerator AS accelerator, vm_pid, vm_cpus AS cpus, vm_memory_mib AS memory_mib, "
	     "storage_count AS storages, nic_count AS nics, container_count AS containers, process_count AS processes, "
	     "intent_count AS intents, datetime(updated_at, 'unixepoch') AS updated FROM kata_sandboxes"),
	VIEW(2, "kata_v_reservation",
	     " AS SELECT sandbox_id, kind, device_id, state, directory, slot, cid, tap_name, mac, owner_pid, "
	     "datetime(reserved_at, 'unixepoch') AS reserved, datetime(nullif(settled_at, 0), 'unixepoch') AS settled "
	     "FROM kata_reservations"),
	VIEW(2, "kata_v_held",
	     " AS SELECT 'tap' AS kind, tap_name AS value, sandbox_id, id AS device_id, 'nic' AS by "
	     "FROM kata_nics WHERE tap_name IS NOT NULL UNION ALL "
	     "SELECT 'mac', mac, sandbox_id, id, 'nic' FROM kata_nics UNION ALL "
	     "SELECT 'tap', tap_name, sandbox_id, device_id, 'reservation' FROM kata_reservations "
	     "WHERE tap_name IS NOT NULL AND state = 'intent' UNION ALL "
	     "SELECT 'mac', mac, sandbox_id, device_id, 'reservation' FROM kata_reservations "
	     "WHERE mac IS NOT NULL AND state = 'intent' UNION ALL "
	     "SELECT 'cid', cid, sandbox_id, device_id, 'reservation' FROM kata_reservations "
	     "WHERE cid IS NOT NULL AND state <> 'undone' UNION ALL "
	     "SELECT 'directory', directory, sandbox_id, device_id, 'reservation' FROM kata_reservations "
	     "WHERE directory IS NOT NULL AND state <> 'undone'"),
	VIEW(2, "kata_v_network",
	     " AS SELECT id, sandbox_id, state, type, name, netns, owner_pid, "
	     "datetime(updated_at, 'unixepoch') AS updated FROM kata_networks"),
	VIEW(2, "kata_v_snapshot",
	     " AS SELECT id, sandbox_id, state, driver, directory, vm_id, size_bytes, owner_pid, "
	     "datetime(updated_at, 'unixepoch') AS updated FROM kata_snapshots"),
	VIEW(2, "kata_v_template",
	     " AS SELECT t.id, t.snapshot_id, t.state, t.driver, t.directory, t.size_bytes, "
	     "count(p.id) AS pooled, t.owner_pid, datetime(t.updated_at, 'unixepoch') AS updated "
	     "FROM kata_templates AS t LEFT JOIN kata_pooled_vms AS p ON p.template_id = t.id "
	     "GROUP BY t.id"),
	VIEW(2, "kata_v_pooled_vm",
	     " AS SELECT id, template_id, state, driver, directory, vm_pid, owner_pid, "
	     "datetime(updated_at, 'unixepoch') AS updated FROM kata_pooled_vms"),
};

const size_t kata__schema_object_count = kata__array_size(kata__schema_objects);
