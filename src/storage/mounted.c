/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the host has mounted, from /proc/self/mountinfo and /sys.
 *
 * Model: the devices through which the disk could be mounted are collected first (itself, its partitions, its whole
 * disk; of a file the loop devices it backs, and their partitions), then every mount is compared by device number: that
 * of its file system, and that of the device node it names as its source (some file systems, btrfs for one, have a
 * number of their own). A mount in another mount namespace is not seen here; the O_EXCL open of a block device
 * (image.c) is, since the kernel claims what it mounts.
 */
#include "storage/mounted.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/fd.h"

#define DEVICES_MAX 512u

struct devices {
	dev_t list[DEVICES_MAX];
	size_t count;
	bool overflow; /* there were more: nobody can tell then */
};

static void add_device(struct devices *d, dev_t dev)
{
	for (size_t i = 0; i < d->count; i++)
		if (d->list[i] == dev)
			return;
	if (d->count < DEVICES_MAX)
		d->list[d->count++] = dev;
	else
		d->overflow = true;
}

static bool has_device(const struct devices *d, dev_t dev)
{
	for (size_t i = 0; i < d->count; i++)
		if (d->list[i] == dev)
			return true;
	return false;
}

/* A small file of sysfs, without its newline. False when it is not there: then it is no such device. Allocates nothing,
 * so it cannot say no for want of memory. */
static bool read_sys(const char *path, char *out, size_t size)
{
	KATA_AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, out, size - 1);

	if (n <= 0)
		return false;
	out[n] = '\0';
	out[strcspn(out, "\n")] = '\0';
	return true;
}

/* "MAJOR:MINOR" of dir/name/dev or dir/dev. */
static bool read_dev(const char *dir, const char *name, dev_t *ret)
{
	char path[512], text[32];
	unsigned maj, min;
	int n;

	n = snprintf(path, sizeof(path), "%s/%s%sdev", dir, name, name[0] ? "/" : "");
	if (n < 0 || (size_t)n >= sizeof(path) || !read_sys(path, text, sizeof(text)))
		return false;
	if (sscanf(text, "%u:%u", &maj, &min) != 2)
		return false;
	*ret = makedev(maj, min);
	return true;
}

/* Calls fn for each name in a directory. One that is not there has none; one that cannot be read is an error, since
 * then nobody can tell what is mounted. */
static int for_each_name(const char *dir,
			 void (*fn)(struct devices *d, const char *dir, const char *name, const struct stat *st),
			 struct devices *d, const struct stat *st, kata_error **err)
{
	DIR *stream = opendir(dir);
	struct dirent *e;
	int rc = 0;

	if (!stream)
		return errno == ENOENT ? 0
				       : kata__fail_errno(err, errno, "cannot read %s, to see what is mounted", dir);
	do {
		errno = 0;
		e = readdir(stream);
		if (e)
			fn(d, dir, e->d_name, st);
		else if (errno)
			rc = kata__fail_errno(err, errno, "cannot read %s, to see what is mounted", dir);
	} while (e);
	closedir(stream);
	return rc;
}

/* The subdirectories of a disk in sysfs that have a number are its partitions. */
static void add_partition(struct devices *d, const char *dir, const char *name, const struct stat *st)
{
	char path[512];
	dev_t dev;
	int n = snprintf(path, sizeof(path), "%s/%s/partition", dir, name);

	if (n > 0 && (size_t)n < sizeof(path) && access(path, F_OK) == 0 && read_dev(dir, name, &dev))
		add_device(d, dev);
}

static int add_block_device(struct devices *d, const struct stat *st, kata_error **err)
{
	char dir[64], path[96];
	dev_t whole;

	add_device(d, st->st_rdev);
	snprintf(dir, sizeof(dir), "/sys/dev/block/%u:%u", major(st->st_rdev), minor(st->st_rdev));
	snprintf(path, sizeof(path), "%s/partition", dir);
	if (access(path, F_OK) < 0)
		return for_each_name(dir, add_partition, d, st, err);
	snprintf(path, sizeof(path), "%s/..", dir);
	if (read_dev(path, "", &whole))
		add_device(d, whole);
	return 0;
}

/* Is the loop device `name` backed by the file of `st`? The path in sysfs says " (deleted)" when it is gone. */
static bool is_backed_by(const char *name, const struct stat *st)
{
	char path[512], backing[4200];
	struct stat other;

	snprintf(path, sizeof(path), "/sys/block/%.64s/loop/backing_file", name);
	return read_sys(path, backing, sizeof(backing)) && stat(backing, &other) == 0 && other.st_dev == st->st_dev &&
	       other.st_ino == st->st_ino;
}

static void add_loop_device(struct devices *d, const char *dir, const char *name, const struct stat *st)
{
	dev_t dev;

	if (strncmp(name, "loop", 4) == 0 && is_backed_by(name, st) && read_dev(dir, name, &dev))
		add_device(d, dev);
}

/* The loop devices of the file, then their partitions. */
static int add_loop_devices(struct devices *d, const struct stat *st, kata_error **err)
{
	char dir[64];
	size_t loops;
	int rc = for_each_name("/sys/block", add_loop_device, d, st, err);

	loops = d->count;
	for (size_t i = 0; rc == 0 && i < loops; i++) {
		snprintf(dir, sizeof(dir), "/sys/dev/block/%u:%u", major(d->list[i]), minor(d->list[i]));
		rc = for_each_name(dir, add_partition, d, st, err);
	}
	return rc;
}

/* mountinfo writes space, tab, newline and backslash as \ooo. */
static void unescape(char *text)
{
	char *out = text;

	for (char *in = text; *in; out++) {
		if (in[0] == '\\' && in[1] >= '0' && in[1] <= '3' && in[2] >= '0' && in[2] <= '7' && in[3] >= '0' &&
		    in[3] <= '7') {
			*out = (char)((in[1] - '0') * 64 + (in[2] - '0') * 8 + (in[3] - '0'));
			in += 4;
		} else {
			*out = *in++;
		}
	}
	*out = '\0';
}

/* "36 35 98:0 /root /mount/point options [tags] - fstype source superoptions" */
struct mount {
	dev_t dev;
	char *point, *source;
};

static bool parse_mount(char *line, struct mount *m)
{
	char *fields = line, *field, *dash = strstr(line, " - ");
	unsigned maj, min;

	if (!dash)
		return false;
	*dash = '\0';
	strsep(&fields, " ");
	strsep(&fields, " ");
	field = strsep(&fields, " ");
	if (!field || sscanf(field, "%u:%u", &maj, &min) != 2)
		return false;
	strsep(&fields, " ");
	m->point = strsep(&fields, " ");
	fields = dash + 3;
	strsep(&fields, " ");
	m->source = strsep(&fields, " ");
	if (!m->point || !m->source)
		return false;
	m->dev = makedev(maj, min);
	unescape(m->point);
	unescape(m->source);
	return true;
}

static bool is_of(const struct mount *m, const struct devices *d)
{
	struct stat st;

	if (has_device(d, m->dev))
		return true;
	return m->source[0] == '/' && stat(m->source, &st) == 0 && S_ISBLK(st.st_mode) && has_device(d, st.st_rdev);
}

static int check_mounts(const struct devices *d, const char *what, kata_error **err)
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	struct mount m;
	char *line = NULL;
	size_t size = 0;
	int rc = 0;

	if (!f)
		return kata__fail_errno(err, errno, "%s: cannot tell whether it is mounted: /proc/self/mountinfo",
					what);
	for (;;) {
		errno = 0;
		if (getline(&line, &size, f) <= 0)
			break;
		line[strcspn(line, "\n")] = '\0';
		if (!parse_mount(line, &m) || !is_of(&m, d))
			continue;
		rc = kata__fail(err, KATA_E_BUSY, HOST, "%s: is mounted on the host, at %s: unmount it first", what,
				m.point);
		break;
	}
	if (rc == 0 && errno)
		rc = kata__fail_errno(err, errno, "%s: cannot tell whether it is mounted: /proc/self/mountinfo", what);
	free(line);
	fclose(f);
	return rc;
}

int kata__check_not_mounted(const struct stat *st, const char *what, kata_error **err)
{
	struct devices *d = calloc(1, sizeof(*d));
	int rc;

	if (!d)
		return kata__fail_no_memory(err);
	rc = S_ISBLK(st->st_mode) ? add_block_device(d, st, err) : add_loop_devices(d, st, err);
	if (rc == 0 && d->overflow)
		rc = kata__fail(err, KATA_E_EXHAUSTED, HOST, "%s: has more than %u partitions and loop devices", what,
				DEVICES_MAX);
	if (rc == 0 && d->count)
		rc = check_mounts(d, what, err);
	free(d);
	return rc;
}
