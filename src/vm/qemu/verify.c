/* SPDX-License-Identifier: Apache-2.0 */
/*
 * verify.c - what a record says of its devices, against the machine that is taken over.
 *
 *     slot                       the block node or netdev that QEMU's device is on is named after it
 *     MAC                        as QEMU's device has it
 *     format, read_only          as QEMU's block node has them
 *     path, backing_path         the file that QEMU has open in the fd set of that slot
 *     tap_name                   a tap that QEMU holds
 *
 * What contradicts the record makes it CORRUPT (slots and MACs do so after an orderly release only: see reconcile.c);
 * what cannot be looked at (another user's process) proves nothing. A file that was moved or replaced while it was open
 * is still the recorded one if the kernel names it so, or if the path leads to it.
 */
#include "vm/qemu/machine.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/text.h"
#include "vm/core.h"

#define FDS_MAX 65536 /* of QEMU's that are looked at */
#define TAPS_TEXT_MAX 256

static int contradicted(const char *noun, const char *id, const char *member, const char *is, const char *was,
			kata_error **err)
{
	return kata__fail(err, KATA_E_CORRUPT, CALLER, "record: %s '%s': %s is '%.200s', but QEMU has '%.200s'", noun,
			  id, member, is, was);
}

/* ---- slots and MACs */

static void expect_storage(kata_vm *vm, const kata_storage *s, struct kata__qemu_question *out)
{
	bool committed;

	out->property = "drive";
	kata__qemu_storage_name(s, out->device);
	kata__qemu_node_name(s, kata__vm_device_slot(vm, s, &committed), out->expected);
}

static void expect_nic(kata_vm *vm, const kata_nic *n, struct kata__qemu_question out[2])
{
	bool committed;

	out[0].property = "netdev";
	kata__qemu_nic_name(n, out[0].device);
	kata__qemu_netdev_name(kata__vm_device_slot(vm, n, &committed), out[0].expected);
	out[1].property = "mac";
	kata__qemu_nic_name(n, out[1].device);
	snprintf(out[1].expected, sizeof(out[1].expected), "%s", kata_nic_get_mac(n));
}

static int on_property(kata_op *op, const struct kata__qemu_question *q, const char *text, kata_error **err)
{
	bool is_mac = strcmp(q->property, "mac") == 0;

	if (!text || strcmp(text, q->expected) == 0)
		return 0;
	if (kata__qemu_owner_died(op))
		return kata__qemu_plugged_anew(op, q->device, err);
	return contradicted(q->device[0] == 'n' ? "NIC" : "storage", q->device + 2, is_mac ? "mac" : "slot",
			    is_mac ? q->expected : q->expected + 1, is_mac || !text[0] ? text : text + 1, err);
}

int kata__qemu_step_verify_slots(kata_op *op, kata_error **err)
{
	kata_vm *vm = kata__vm_op_data(op)->vm;
	size_t storages = kata_vm_get_storage_count(vm), nics = kata_vm_get_nic_count(vm), n = 0;
	KATA_AUTO(free) struct kata__qemu_question *questions = calloc(storages + 2 * nics + 1, sizeof(*questions));
	kata_storage *s = NULL;
	kata_nic *nic = NULL;

	if (!questions)
		return kata__fail_no_memory(err);
	for (size_t i = 0; i < storages && kata_vm_get_storage(vm, i, &s, NULL) == 0; i++, n++) {
		expect_storage(vm, s, &questions[n]);
		kata_storage_unref(kata__take_ptr(s));
	}
	for (size_t i = 0; i < nics && kata_vm_get_nic(vm, i, &nic, NULL) == 0; i++, n += 2) {
		expect_nic(vm, nic, &questions[n]);
		kata_nic_unref(kata__take_ptr(nic));
	}
	return kata__qemu_inquire(op, questions, n, on_property, err);
}

/* ---- block nodes */

static const json_t *find_node(const json_t *nodes, const char *name)
{
	const json_t *node;
	size_t i;

	json_array_foreach(nodes, i, node)
	{
		const char *found = json_string_value(json_object_get(node, "node-name"));

		if (found && strcmp(found, name) == 0)
			return node;
	}
	return NULL;
}

static int verify_node(const kata_storage *s, const json_t *node, kata_error **err)
{
	const char *format = kata__storage_format_name(kata_storage_get_format(s));
	const char *driver = json_string_value(json_object_get(node, "drv"));
	const json_t *ro = json_object_get(node, "ro");
	bool is_qcow2 = driver && strcmp(driver, "qcow2") == 0;

	if (driver && is_qcow2 != (kata_storage_get_format(s) == KATA_STORAGE_QCOW2))
		return contradicted("storage", kata_storage_get_id(s), "format", format, is_qcow2 ? "qcow2" : "raw",
				    err);
	if (json_is_boolean(ro) && json_is_true(ro) != kata_storage_is_read_only(s))
		return contradicted("storage", kata_storage_get_id(s), "read_only",
				    kata_storage_is_read_only(s) ? "true" : "false",
				    json_is_true(ro) ? "true" : "false", err);
	return 0;
}

int kata__qemu_verify_nodes(kata_op *op, const json_t *nodes, kata_error **err)
{
	kata_vm *vm = kata__vm_op_data(op)->vm;
	size_t count = kata_vm_get_storage_count(vm);
	kata_storage *s = NULL;
	int rc = 0;

	for (size_t i = 0; i < count && !rc && kata_vm_get_storage(vm, i, &s, NULL) == 0; i++) {
		const json_t *node;
		bool committed;
		char name[16];

		kata__qemu_node_name(s, kata__vm_device_slot(vm, s, &committed), name);
		node = find_node(nodes, name);
		if (node)
			rc = verify_node(s, node, err);
		kata_storage_unref(kata__take_ptr(s));
	}
	return rc;
}

/* ---- files */

/* Where the op has gone on already (deadline) nobody would free it. */
static int keep_fd_sets(kata_op *op, const json_t *value, kata_error **err)
{
	struct kata__qemu_takeover *t = kata__vm_op_data(op)->scratch;

	if (*err)
		return (int)kata_error_get_status(*err);
	if (kata__op_is_undoing(op) || kata_op_is_done(op))
		return 0;
	json_decref(t->fd_sets);
	t->fd_sets = json_incref((json_t *)(uintptr_t)value);
	return 0;
}

int kata__qemu_step_query_fd_sets(kata_op *op, kata_error **err)
{
	return kata__qemu_plain_command(op, "query-fdsets", keep_fd_sets, err);
}

/* The number of the fd in that set, in QEMU; -1: none. The last one: while the machine is paused QEMU keeps those that
 * were removed, of disks that were in the slot before, and lists them first. */
static int fd_in_set(const json_t *sets, unsigned id)
{
	const json_t *set;
	size_t i;

	json_array_foreach(sets, i, set)
	{
		const json_t *fds = json_object_get(set, "fds");
		const json_t *fd = json_array_size(fds)
					   ? json_object_get(json_array_get(fds, json_array_size(fds) - 1), "fd")
					   : NULL;

		if (json_integer_value(json_object_get(set, "fdset-id")) == (json_int_t)id && json_is_integer(fd) &&
		    json_integer_value(fd) >= 0 && json_integer_value(fd) <= INT_MAX)
			return (int)json_integer_value(fd);
	}
	return -1;
}

static bool is_same_file(const struct stat *a, const struct stat *b)
{
	struct kata__file_id x = kata__file_id_of(a), y = kata__file_id_of(b);

	return x.dev == y.dev && x.ino == y.ino;
}

/* False where it cannot be looked at. */
static bool look_at_fd(pid_t pid, int fd, struct stat *ret)
{
	char link[48];

	snprintf(link, sizeof(link), "/proc/%d/fd/%d", (int)pid, fd);
	return fd >= 0 && stat(link, ret) == 0;
}

/* The kernel's name for the file of this fd, "" where it cannot be asked; "/dir/disk (deleted)" is "/dir/disk". */
static void read_name(pid_t pid, int fd, char out[PATH_MAX])
{
	static const char deleted[] = " (deleted)";
	char link[48];
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/%d/fd/%d", (int)pid, fd);
	n = readlink(link, out, PATH_MAX - 1);
	out[n > 0 ? n : 0] = '\0';
	if (n > (ssize_t)sizeof(deleted) && strcmp(out + n - (ssize_t)(sizeof(deleted) - 1), deleted) == 0)
		out[n - (ssize_t)(sizeof(deleted) - 1)] = '\0';
}

static bool leads_to(const char *path, pid_t pid, int fd, const char *name)
{
	KATA_AUTO(free) char *real = realpath(path, NULL);
	struct stat recorded, open_one;

	if (strcmp(path, name) == 0 || (real && strcmp(real, name) == 0))
		return true;
	return !look_at_fd(pid, fd, &open_one) || (stat(path, &recorded) == 0 && is_same_file(&recorded, &open_one));
}

static int verify_path(const kata_storage *s, const char *member, const char *path, pid_t pid, int fd, kata_error **err)
{
	char name[PATH_MAX];

	if (fd < 0 || !path)
		return 0;
	read_name(pid, fd, name);
	if (!name[0] || leads_to(path, pid, fd, name))
		return 0;
	return contradicted("storage", kata_storage_get_id(s), member, path, name, err);
}

/* So that what is plugged from now on is held against the files that QEMU has open. */
static void note_files(kata_vm *vm, const kata_storage *s, pid_t pid, int fd, int backing_fd)
{
	struct kata__disk_files files = {.read_only = kata_storage_is_read_only(s)};
	struct stat st;

	if (look_at_fd(pid, fd, &st)) {
		files.has_file = true;
		files.file = kata__file_id_of(&st);
	}
	if (look_at_fd(pid, backing_fd, &st)) {
		files.has_backing = true;
		files.backing = kata__file_id_of(&st);
	}
	kata__vm_device_note_files(vm, s, &files);
}

static int verify_storage(kata_op *op, const kata_storage *s, pid_t pid, kata_error **err)
{
	const json_t *sets = ((struct kata__qemu_takeover *)kata__vm_op_data(op)->scratch)->fd_sets;
	kata_vm *vm = kata__vm_op_data(op)->vm;
	bool committed;
	unsigned set = kata__qemu_fd_set(s, kata__vm_device_slot(vm, s, &committed));
	int fd = fd_in_set(sets, set), backing_fd = fd_in_set(sets, set + 1);
	int rc = verify_path(s, "path", kata_storage_get_path(s), pid, fd, err);

	if (rc == 0)
		rc = verify_path(s, "backing_path", kata__storage_backing_path(s), pid, backing_fd, err);
	if (rc == 0)
		note_files(vm, s, pid, fd, backing_fd);
	return rc;
}

/* ---- taps */

/* The kernel's name of the tap behind this fd; false: it is none. */
static bool read_tap(pid_t pid, const char *fd, char out[32])
{
	char path[PATH_MAX], text[512];
	const char *at;
	ssize_t n;
	int info;

	snprintf(path, sizeof(path), "/proc/%d/fdinfo/%.16s", (int)pid, fd);
	info = open(path, O_RDONLY | O_CLOEXEC);
	n = info < 0 ? -1 : read(info, text, sizeof(text) - 1);
	if (info >= 0)
		close(info);
	if (n <= 0)
		return false;
	text[n] = '\0';
	at = strstr(text, "\niff:\t");
	return at && sscanf(at, "\niff:\t%31s", out) == 1;
}

/* "tap0, tap1"; false where it cannot be looked at. */
static bool list_taps(pid_t pid, const char *wanted, bool *ret_found, char out[TAPS_TEXT_MAX])
{
	char path[48], tap[32];
	struct dirent *e;
	size_t len = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	dir = opendir(path);
	if (!dir)
		return false;
	*ret_found = false;
	out[0] = '\0';
	for (int i = 0; i < FDS_MAX && (e = readdir(dir)); i++) {
		if (e->d_name[0] == '.' || !read_tap(pid, e->d_name, tap))
			continue;
		*ret_found = *ret_found || strcmp(tap, wanted) == 0;
		if (len < TAPS_TEXT_MAX)
			len += (size_t)snprintf(out + len, TAPS_TEXT_MAX - len, "%s%s", len ? ", " : "", tap);
	}
	closedir(dir);
	return true;
}

static int verify_nic(const kata_nic *n, pid_t pid, kata_error **err)
{
	const char *tap = kata_nic_get_tap_name(n);
	char taps[TAPS_TEXT_MAX];
	bool found = false;

	if (!tap || !list_taps(pid, tap, &found, taps) || found)
		return 0;
	return contradicted("NIC", kata_nic_get_id(n), "tap_name", tap, taps[0] ? taps : "none", err);
}

int kata__qemu_step_verify_files(kata_op *op, kata_error **err)
{
	kata_vm *vm = kata__vm_op_data(op)->vm;
	struct kata__process_identity process;
	kata_storage *s = NULL;
	kata_nic *n = NULL;
	int rc = 0;

	kata__vm_get_process(vm, &process);
	for (size_t i = 0; !rc && kata_vm_get_storage(vm, i, &s, NULL) == 0; i++) {
		rc = verify_storage(op, s, process.pid, err);
		kata_storage_unref(kata__take_ptr(s));
	}
	for (size_t i = 0; !rc && kata_vm_get_nic(vm, i, &n, NULL) == 0; i++) {
		rc = verify_nic(n, process.pid, err);
		kata_nic_unref(kata__take_ptr(n));
	}
	return rc;
}
