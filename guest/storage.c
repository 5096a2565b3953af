/* SPDX-License-Identifier: Apache-2.0 */
/*
 * storage.c - mounting and unmounting sets of storages.
 *
 * A storage in the table is
 *     MOUNTING --> MOUNTED --> UNMOUNTING --> (gone)
 *         \__ failed: gone
 * and only MOUNTED ones are shared. A set walks through its storages one at a time; one that is in transition because
 * of another set makes it wait in `blocked` until any transition ends.
 *
 * Invariants: 1. a set holds the first `held` of its storages, each counted once for it. 2. mount(2) and umount(2) run
 * on a worker, which touches only its storage's own texts.
 */
#include "guest/storage.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/text.h"
#include "guest/kmsg.h"
#include "guest/mount_options.h"

enum driver { DRIVER_BLK, DRIVER_SCSI, DRIVER_EPHEMERAL, DRIVER_LOCAL, DRIVER_OVERLAY, DRIVER_VIRTIO_FS, DRIVER_COUNT };

static const char *const driver_names[DRIVER_COUNT] = {"blk", "scsi", "ephemeral", "local", "overlayfs", "virtio-fs"};

enum storage_state { STORAGE_MOUNTING, STORAGE_MOUNTED, STORAGE_UNMOUNTING };

struct storage {
	struct storage *next;
	enum storage_state state;
	unsigned holders;
	char *mount_point;
	char *address; /* as the host gave it */
};

struct item {
	enum driver driver;
	char *address;
	char *fstype;
	char *mount_point;
	struct mount_options options;
	struct storage *storage; /* once held */
};

struct storage_set {
	struct storage_set *next_blocked;
	struct storages *storages;
	struct item *items;
	size_t count, held;
	kata_error *err;
	storage_set_mounted_fn mounted;
	void (*released)(void *user);
	void *user;
	struct device_wait *wait;
	char source[PATH_MAX]; /* of the mount under way */
	int rc;                /* of the worker, -errno */
	bool detach;
	struct kata__work work;
	struct kata__task task;
};

struct storages {
	struct kata__loop *loop;
	struct device_waits *waits;
	struct runtime *runtime;
	uint32_t timeout_ms;
	struct storage *list;
	size_t count;
	struct storage_set *blocked;
};

static void mount_next(struct storage_set *set);
static void release_next(struct storage_set *set);

int storages_new(struct kata__loop *loop, struct device_waits *waits, struct runtime *runtime, uint32_t timeout_ms,
		 struct storages **ret, kata_error **err)
{
	struct storages *s = calloc(1, sizeof(*s));

	if (!s)
		return kata__fail_no_memory(err);
	*s = (struct storages){.loop = loop, .waits = waits, .runtime = runtime, .timeout_ms = timeout_ms};
	*ret = s;
	return 0;
}

/* ---- the table */

static struct storage *find(const struct storages *storages, const char *mount_point)
{
	struct storage *s = storages->list;

	while (s && strcmp(s->mount_point, mount_point) != 0)
		s = s->next;
	return s;
}

static void storage_free(struct storage *s)
{
	free(s->mount_point);
	free(s->address);
	free(s);
}

static struct storage *storage_new(struct storages *storages, const struct item *item)
{
	struct storage *s = storages->count < STORAGES_MAX ? calloc(1, sizeof(*s)) : NULL;

	if (!s)
		return NULL;
	s->mount_point = kata__strdup(item->mount_point);
	s->address = kata__strdup(item->address);
	if (!s->mount_point || !s->address) {
		storage_free(s);
		return NULL;
	}
	s->next = storages->list;
	storages->list = s;
	storages->count++;
	return s;
}

static void storage_remove(struct storages *storages, struct storage *s)
{
	struct storage **p = &storages->list;

	while (*p != s)
		p = &(*p)->next;
	*p = s->next;
	storages->count--;
	storage_free(s);
}

/* A transition ended: sets that waited for one look again. */
static void unblock(struct storages *storages)
{
	struct storage_set *list = storages->blocked;

	storages->blocked = NULL;
	while (list) {
		struct storage_set *next = list->next_blocked;

		mount_next(list);
		list = next;
	}
}

/* ---- reading what the host asks for */

static int parse_driver(const char *name, enum driver *ret, size_t i, kata_error **err)
{
	for (size_t d = 0; d < DRIVER_COUNT; d++) {
		if (strcmp(name, driver_names[d]) == 0) {
			*ret = (enum driver)d;
			return 0;
		}
	}
	return kata__fail(
		err, KATA_E_INVALID, CALLER,
		"storages[%zu].driver: '%.32s' is not one of blk, scsi, ephemeral, local, overlayfs, virtio-fs", i,
		name);
}

static bool is_clean_path(const char *path)
{
	size_t len = strlen(path);

	return path[0] == '/' && len > 1 && len < 1024 && !strstr(path, "/../") &&
	       !(len >= 3 && strcmp(path + len - 3, "/..") == 0);
}

static int check_address(const struct item *item, size_t i, kata_error **err)
{
	const char *a = item->address;

	if (item->driver == DRIVER_BLK && strncmp(a, "/dev/", 5) != 0 && !device_is_pci_path(a))
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "storages[%zu].source: '%.64s' is neither a PCI path (\"05/00\") nor below /dev", i,
				  a);
	if (item->driver == DRIVER_SCSI && !device_is_scsi_address(a))
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "storages[%zu].source: '%.64s' is not a SCSI address (decimal \"ID:LUN\")", i, a);
	return 0;
}

static int read_item(const Grpc__Storage *from, size_t i, struct item *item, kata_error **err)
{
	static const char *const default_types[DRIVER_COUNT] = {
		[DRIVER_EPHEMERAL] = "tmpfs", [DRIVER_OVERLAY] = "overlay", [DRIVER_VIRTIO_FS] = "virtiofs"};
	const char *type = from->fstype;
	int rc = parse_driver(from->driver, &item->driver, i, err);

	if (rc != 0)
		return rc;
	if (from->n_driver_options > 0 || from->fs_group)
		return kata__fail(err, KATA_E_UNSUPPORTED, CALLER, "storages[%zu].%s: this agent does not do that", i,
				  from->fs_group ? "fs_group" : "driver_options");
	if (!is_clean_path(from->mount_point))
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "storages[%zu].mount_point: '%.64s' is not an absolute path without '..'", i,
				  from->mount_point);
	if (type[0] == '\0' && default_types[item->driver])
		type = default_types[item->driver];
	if (type[0] == '\0' && item->driver != DRIVER_LOCAL)
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "storages[%zu].fstype: empty; a file system type is needed", i);
	item->address = kata__strdup(from->source);
	item->fstype = kata__strdup(type);
	item->mount_point = kata__strdup(from->mount_point);
	if (!item->address || !item->fstype || !item->mount_point)
		return kata__fail_no_memory(err);
	rc = check_address(item, i, err);
	return rc ? rc : mount_options_parse(from->options, from->n_options, &item->options, err);
}

static void set_free(struct storage_set *set)
{
	for (size_t i = 0; i < set->count; i++) {
		free(set->items[i].address);
		free(set->items[i].fstype);
		free(set->items[i].mount_point);
	}
	free(set->items);
	free(set);
}

/* ---- mounting */

static void begin_next(struct kata__task *task)
{
	mount_next(kata__container_of(task, struct storage_set, task));
}

int storages_mount(struct storages *storages, Grpc__Storage *const *list, size_t count, storage_set_mounted_fn mounted,
		   void *user, kata_error **err)
{
	struct storage_set *set;
	int rc = 0;

	if (count > STORAGE_SET_MAX)
		return kata__fail(err, KATA_E_INVALID, CALLER, "storages: %zu, at most %d", count, STORAGE_SET_MAX);
	set = calloc(1, sizeof(*set));
	if (!set)
		return kata__fail_no_memory(err);
	*set = (struct storage_set){.storages = storages, .mounted = mounted, .user = user, .count = count};
	set->items = calloc(count + 1, sizeof(*set->items));
	if (!set->items) {
		set->count = 0;
		rc = kata__fail_no_memory(err);
	}
	for (size_t i = 0; i < set->count && rc == 0; i++)
		rc = read_item(list[i], i, &set->items[i], err);
	if (rc != 0) {
		set_free(set);
		return rc;
	}
	set->task.fn = begin_next;
	kata__loop_post(storages->loop, &set->task);
	return 0;
}

static void set_fail(struct storage_set *set, kata_error *err)
{
	set->err = err;
	release_next(set);
}

static int mount_local(const struct item *item)
{
	mode_t mode = 0755;
	char *at = strstr(item->options.data, "mode=");

	if (at)
		mode = (mode_t)strtoul(at + 5, NULL, 8);
	return chmod(item->mount_point, mode & 07777) == 0 ? 0 : -errno;
}

static void mount_work(struct kata__work *work)
{
	struct storage_set *set = kata__container_of(work, struct storage_set, work);
	const struct item *item = &set->items[set->held];
	unsigned long flags = item->options.flags;
	const char *data = item->options.data[0] ? item->options.data : NULL;

	set->rc = kata__mkdirs(item->mount_point, 0755, NULL) == 0 ? 0 : -errno;
	if (set->rc == 0 && item->driver == DRIVER_LOCAL)
		set->rc = mount_local(item);
	else if (set->rc == 0 && mount(set->source, item->mount_point, item->fstype, flags, data) != 0)
		set->rc = -errno;
}

static void mount_done(struct kata__work *work)
{
	struct storage_set *set = kata__container_of(work, struct storage_set, work);
	struct storages *storages = set->storages;
	struct item *item = &set->items[set->held];
	kata_error *err = NULL;

	if (set->rc == 0) {
		item->storage->state = STORAGE_MOUNTED;
		item->storage->holders = 1;
		set->held++;
		mount_next(set);
	} else {
		kata__fail_errno(&err, -set->rc, "storages[%zu]: cannot mount '%s' (%s) as %s at %s", set->held,
				 item->address, set->source, item->fstype, item->mount_point);
		storage_remove(storages, item->storage);
		item->storage = NULL;
		set_fail(set, err);
	}
	unblock(storages);
}

static void begin_mount(struct storage_set *set, const char *source)
{
	kata_error *err = NULL;

	snprintf(set->source, sizeof(set->source), "%s", source);
	set->work = (struct kata__work){.work = mount_work, .done = mount_done};
	if (kata__loop_work(set->storages->loop, &set->work, &err) == 0)
		return;
	storage_remove(set->storages, set->items[set->held].storage);
	set_fail(set, err);
}

static void on_device(void *user, const char *name, kata_error *take_err)
{
	struct storage_set *set = user;
	struct storages *storages = set->storages;
	char path[DEVICE_NAME_MAX + 8];

	if (take_err) {
		storage_remove(storages, set->items[set->held].storage);
		set_fail(set, take_err);
		unblock(storages);
		return;
	}
	snprintf(path, sizeof(path), "/dev/%s", name);
	begin_mount(set, path);
}

static void mount_item(struct storage_set *set, struct item *item)
{
	struct storages *storages = set->storages;
	kata_error *err = NULL;
	bool is_disk = item->driver == DRIVER_SCSI || (item->driver == DRIVER_BLK && item->address[0] != '/');

	item->storage = storage_new(storages, item);
	if (!item->storage) {
		kata__fail(&err, KATA_E_EXHAUSTED, GUEST, "storages[%zu]: no memory, or %d storages are mounted",
			   set->held, STORAGES_MAX);
		set_fail(set, err);
		return;
	}
	if (!is_disk) {
		begin_mount(set, item->address[0] ? item->address : item->fstype);
		return;
	}
	if (device_wait_begin(storages->waits, item->driver == DRIVER_SCSI ? DEVICE_SCSI : DEVICE_BLK, item->address,
			      storages->timeout_ms, on_device, set, &set->wait, &err) != 0)
		on_device(set, NULL, err);
}

/* Takes one storage after the other; comes back here after each. */
static void mount_next(struct storage_set *set)
{
	struct storages *storages = set->storages;
	kata_error *err = NULL;

	while (set->held < set->count) {
		struct item *item = &set->items[set->held];
		struct storage *s = find(storages, item->mount_point);

		if (!s) {
			mount_item(set, item);
			return;
		}
		if (s->state != STORAGE_MOUNTED) {
			set->next_blocked = storages->blocked;
			storages->blocked = set;
			return;
		}
		if (strcmp(s->address, item->address) != 0) {
			kata__fail(&err, KATA_E_EXISTS, CALLER, "storages[%zu].mount_point: '%s' is in use for '%.64s'",
				   set->held, item->mount_point, s->address);
			set_fail(set, err);
			return;
		}
		item->storage = s;
		s->holders++;
		set->held++;
	}
	set->mounted(set->user, set, NULL);
}

/* ---- letting go */

static void unmount_work(struct kata__work *work)
{
	struct storage_set *set = kata__container_of(work, struct storage_set, work);
	const char *mount_point = set->items[set->held - 1].mount_point;
	int flags = UMOUNT_NOFOLLOW | (set->detach ? MNT_DETACH : 0);

	set->rc = 0;
	if (set->items[set->held - 1].driver != DRIVER_LOCAL && umount2(mount_point, flags) != 0)
		set->rc = -errno;
	else
		rmdir(mount_point);
}

static void begin_unmount(void *user);

static void unmount_done(struct kata__work *work)
{
	struct storage_set *set = kata__container_of(work, struct storage_set, work);
	struct storages *storages = set->storages;
	struct item *item = &set->items[set->held - 1];

	if (set->rc == -EBUSY && !set->detach) {
		/* crun at work on another container holds copies of our mounts: once it is done, for good. */
		set->detach = true;
		if (runtime_when_idle(storages->runtime, begin_unmount, set))
			return;
		begin_unmount(set);
		return;
	}
	if (set->rc != 0)
		kmsg_error("cannot unmount %s: %s", item->mount_point, strerror(-set->rc));
	set->detach = false;
	storage_remove(storages, item->storage);
	set->held--;
	release_next(set);
	unblock(storages);
}

static void begin_unmount(void *user)
{
	struct storage_set *set = user;

	set->work = (struct kata__work){.work = unmount_work, .done = unmount_done};
	if (kata__loop_work(set->storages->loop, &set->work, NULL) != 0) {
		unmount_work(&set->work);
		unmount_done(&set->work);
	}
}

static void release_end(struct storage_set *set)
{
	storage_set_mounted_fn mounted = set->mounted;
	void (*released)(void *user) = set->released;
	kata_error *err = set->err;
	void *user = set->user;

	set_free(set);
	if (err)
		mounted(user, NULL, err);
	else if (released)
		released(user);
}

/* In reverse, so that what is mounted upon another goes first. */
static void release_next(struct storage_set *set)
{
	while (set->held > 0) {
		struct storage *s = set->items[set->held - 1].storage;

		if (--s->holders == 0) {
			s->state = STORAGE_UNMOUNTING;
			begin_unmount(set);
			return;
		}
		set->held--;
	}
	release_end(set);
}

void storage_set_release(struct storages *storages, struct storage_set *set, void (*released)(void *user), void *user)
{
	if (!set) {
		if (released)
			released(user);
		return;
	}
	set->released = released;
	set->user = user;
	release_next(set);
}
