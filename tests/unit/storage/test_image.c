/* SPDX-License-Identifier: Apache-2.0 */
/* Opening images: what is refused and why, by real files, fifos, devices, mounts and qemu-img's images. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <linux/blkpg.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/text.h"
#include "storage/storage.h"
#include "support/fixture.h"

static struct fixture f;
static kata_storage_config c;
static struct kata__image image;
static kata_error *err;

static void setup(void)
{
	fixture_init(&f, false, 0);
	c = (kata_storage_config)KATA_STORAGE_CONFIG_INIT;
	c.id = "disk";
	image = (struct kata__image){.fd = -1, .backing_fd = -1};
}

static char loop[32]; /* a loop device on loop_file, mounted on mount_point: whatever there is of them */
static char *loop_file, *mount_point;

static void remove_loop(void)
{
	const char *argv[] = {"/usr/sbin/losetup", "-d", loop, NULL};

	if (mount_point)
		umount2(mount_point, MNT_DETACH);
	if (loop[0])
		fixture_run(argv, 20000, NULL);
	loop[0] = '\0';
	free(loop_file);
	free(mount_point);
	loop_file = NULL;
	mount_point = NULL;
}

static void teardown(void)
{
	kata__image_close(&image);
	remove_loop();
	error_clear(&err);
	fixture_deinit(&f);
}

/* After a skip there is no teardown: it is done here. */
#define skip(reason)                                                                                                   \
	do {                                                                                                           \
		teardown();                                                                                            \
		cr_skip_test(reason);                                                                                  \
	} while (0)

TestSuite(image, .init = setup, .fini = teardown, .timeout = 60);

static int open_it(const char *path)
{
	kata_storage *s = NULL;
	int rc;

	c.path = path;
	fixture_assert_ok(kata_storage_new(&c, &s, &err), err);
	kata__image_close(&image);
	rc = kata__image_open(s, &image, &err);
	kata_storage_unref(s);
	return rc;
}

/* Fails so, opens nothing, and does not hang. */
static void refused(const char *path, int status, const char *part)
{
	struct census_scope scope = {.what = CENSUS_FDS};
	struct census *before = census_take(&scope), *after;
	char *diff;

	fixture_assert_fails(open_it(path), status, err);
	cr_assert(strstr(error_text(err), part), "'%s' is not in: %s", part, error_text(err));
	after = census_take(&scope);
	diff = census_diff(before, after);
	cr_assert_null(diff, "%s", diff);
	census_free(before);
	census_free(after);
	error_clear(&err);
}

static int run(const char *const *argv)
{
	return fixture_run(argv, 20000, NULL);
}

/* ---- files ---- */

Test(image, a_raw_file_is_opened_for_writing)
{
	char *path = fixture_make_raw(&f, "raw", 1 << 20);
	struct stat st;

	fixture_assert_ok(open_it(path), err);
	cr_assert_eq(image.size_bytes, 1u << 20);
	cr_assert_eq(fcntl(image.fd, F_GETFL) & O_ACCMODE, O_RDWR);
	cr_assert_eq(fcntl(image.fd, F_GETFL) & O_NONBLOCK, 0);
	cr_assert_eq(fcntl(image.fd, F_GETFD), FD_CLOEXEC);
	cr_assert_eq(image.backing_fd, -1);
	cr_assert_eq(stat(path, &st), 0);
	cr_assert_eq(image.files.file.dev, st.st_dev);
	cr_assert_eq(image.files.file.ino, st.st_ino);
	free(path);
}

Test(image, a_read_only_one_is_opened_for_reading)
{
	char *path = fixture_make_raw(&f, "raw", 4096);

	c.flags = KATA_STORAGE_READ_ONLY;
	fixture_assert_ok(open_it(path), err);
	cr_assert_eq(fcntl(image.fd, F_GETFL) & O_ACCMODE, O_RDONLY);
	free(path);
}

Test(image, a_missing_file_is_not_found)
{
	refused("/nonexistent/image", KATA_E_NOT_FOUND, "storage 'disk': /nonexistent/image");
}

Test(image, a_directory_is_refused)
{
	refused(f.dir, KATA_E_INVALID, "is a directory");
}

Test(image, a_fifo_is_refused_and_does_not_block)
{
	char *path = fixture_path(&f, "fifo");

	cr_assert_eq(mkfifo(path, 0600), 0);
	refused(path, KATA_E_INVALID, "is a fifo");
	free(path);
}

Test(image, a_socket_is_refused)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	char *path = fixture_path(&f, "socket");
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	cr_assert_eq(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	refused(path, KATA_E_INVALID, "is a socket");
	close(fd);
	free(path);
}

Test(image, dev_null_is_refused)
{
	refused("/dev/null", KATA_E_INVALID, "is a character device");
}

Test(image, a_symlink_to_a_file_is_followed)
{
	char *path = fixture_make_raw(&f, "raw", 4096), *link = fixture_path(&f, "link");

	cr_assert_eq(symlink(path, link), 0);
	fixture_assert_ok(open_it(link), err);
	free(path);
	free(link);
}

Test(image, a_symlink_to_dev_zero_is_refused_for_what_it_leads_to)
{
	char *link = fixture_path(&f, "link");

	cr_assert_eq(symlink("/dev/zero", link), 0);
	refused(link, KATA_E_INVALID, "is a character device");
	free(link);
}

Test(image, a_loop_of_symlinks_is_refused)
{
	char *link = fixture_path(&f, "link");

	cr_assert_eq(symlink(link, link), 0);
	refused(link, KATA_E_INVALID, "loop of symlinks");
	free(link);
}

Test(image, a_magic_link_is_not_followed)
{
	char *path = fixture_make_raw(&f, "raw", 4096), link[64];
	int fd = open(path, O_RDWR | O_CLOEXEC);

	snprintf(link, sizeof(link), "/proc/%d/fd/%d", (int)getpid(), fd);
	refused(link, KATA_E_INVALID, "/proc/PID/fd");
	close(fd);
	free(path);
}

Test(image, a_file_that_may_not_be_written_is_refused)
{
	char *path = fixture_make_raw(&f, "raw", 4096);

	if (geteuid() == 0) {
		cr_assert_eq(chmod(path, 0444), 0);
		cr_assert_eq(seteuid(65534), 0); /* root may write anything */
	} else {
		cr_assert_eq(chmod(path, 0444), 0);
	}
	refused(path, KATA_E_PERMISSION, "cannot be opened for reading and writing");
	if (getuid() == 0)
		cr_assert_eq(seteuid(0), 0);
	c.flags = KATA_STORAGE_READ_ONLY;
	fixture_assert_ok(open_it(path), err);
	free(path);
}

Test(image, an_empty_raw_file_is_refused)
{
	char *path = fixture_make_raw(&f, "raw", 0);

	refused(path, KATA_E_INVALID, "is empty");
	free(path);
}

Test(image, a_raw_file_of_half_a_sector_is_refused)
{
	char *path = fixture_make_raw(&f, "raw", 4096 + 256);

	refused(path, KATA_E_INVALID, "has 4352 bytes, a raw disk has a multiple of 512");
	free(path);
}

/* ---- qcow2 ---- */

static bool has_qemu_img(void)
{
	return access("/usr/bin/qemu-img", X_OK) == 0;
}

#define NEED_QEMU_IMG()                                                                                                \
	do {                                                                                                           \
		if (!has_qemu_img())                                                                                   \
			skip("qemu-img is not installed");                                                             \
	} while (0)

static char *qemu_img(const char *name, const char *options, const char *backing, const char *size)
{
	char *path = fixture_path(&f, name);
	const char *argv[16] = {"/usr/bin/qemu-img", "create", "-q", "-f", "qcow2"};
	size_t n = 5;

	if (options) {
		argv[n++] = "-o";
		argv[n++] = options;
	}
	if (backing) {
		argv[n++] = "-u";
		argv[n++] = "-b";
		argv[n++] = backing;
		argv[n++] = "-F";
		argv[n++] = "raw";
	}
	argv[n++] = path;
	argv[n++] = size;
	cr_assert_eq(run(argv), 0, "qemu-img create %s", name);
	return path;
}

static void accepted_by_us(const char *options, uint64_t size)
{
	char *path = qemu_img("image", options, NULL, "64M");

	c.format = KATA_STORAGE_QCOW2;
	fixture_assert_ok(open_it(path), err);
	cr_assert_eq(image.size_bytes, size);
	unlink(path);
	free(path);
}

Test(image, what_qemu_img_makes_is_accepted)
{
	static const char *const options[] = {"compat=1.1",      "compat=0.10",           "cluster_size=512",
					      "cluster_size=2M", "extended_l2=on",        "lazy_refcounts=on",
					      "refcount_bits=1", "compression_type=zstd", "preallocation=full"};

	NEED_QEMU_IMG();
	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
		accepted_by_us(options[i], UINT64_C(64) << 20);
}

Test(image, the_smallest_and_the_largest_that_qemu_img_makes_are_accepted)
{
	char *small, *large;

	NEED_QEMU_IMG();
	c.format = KATA_STORAGE_QCOW2;
	small = qemu_img("small", NULL, NULL, "512");
	large = qemu_img("large", NULL, NULL, "60T");
	fixture_assert_ok(open_it(small), err);
	cr_assert_eq(image.size_bytes, 512u);
	fixture_assert_ok(open_it(large), err);
	cr_assert_eq(image.size_bytes, UINT64_C(60) << 40);
	free(small);
	free(large);
}

Test(image, an_external_data_file_of_qemu_img_is_refused)
{
	char *data = fixture_path(&f, "data"), options[128], *path;

	NEED_QEMU_IMG();
	snprintf(options, sizeof(options), "data_file=%s", data);
	path = qemu_img("image", options, NULL, "1M");
	c.format = KATA_STORAGE_QCOW2;
	refused(path, KATA_E_INVALID, "external data file");
	free(path);
	free(data);
}

Test(image, qcow2_given_as_raw_is_refused_with_the_reason)
{
	char *path = fixture_make_qcow2(&f, "image", 1 << 20, NULL);

	cr_assert_eq(truncate(path, 1 << 20), 0); /* a multiple of a sector */
	refused(path, KATA_E_INVALID, "the guest could write a header that makes it point to other files of the host");
	free(path);
}

Test(image, raw_given_as_qcow2_is_refused)
{
	char *path = fixture_make_raw(&f, "raw", 1 << 20);

	c.format = KATA_STORAGE_QCOW2;
	refused(path, KATA_E_INVALID, "is no qcow2 image");
	free(path);
}

Test(image, a_cut_qcow2_is_corrupt)
{
	char *path = fixture_make_qcow2(&f, "image", 1 << 20, NULL);

	cr_assert_eq(truncate(path, 600), 0);
	c.format = KATA_STORAGE_QCOW2;
	refused(path, KATA_E_CORRUPT, "the image is cut");
	free(path);
}

/* ---- backing files ---- */

static char *base, *top;

static void make_chain(const char *named)
{
	base = fixture_make_raw(&f, "base", 1 << 20);
	top = fixture_make_qcow2(&f, "top", 1 << 20, named ? named : base);
	c.format = KATA_STORAGE_QCOW2;
	c.backing_format = KATA_STORAGE_RAW;
}

static void free_chain(void)
{
	free(base);
	free(top);
}

Test(image, the_allowed_backing_file_is_opened_read_only)
{
	make_chain(NULL);
	c.backing_path = base;
	fixture_assert_ok(open_it(top), err);
	cr_assert_geq(image.backing_fd, 0);
	cr_assert_eq(fcntl(image.backing_fd, F_GETFL) & O_ACCMODE, O_RDONLY);
	free_chain();
}

Test(image, a_backing_file_named_relatively_is_found_beside_the_image)
{
	make_chain("base");
	c.backing_path = base;
	fixture_assert_ok(open_it(top), err);
	free_chain();
}

Test(image, a_backing_file_that_is_not_allowed_is_refused)
{
	make_chain(NULL);
	refused(top, KATA_E_INVALID, "which is not allowed");
	free_chain();
}

Test(image, another_backing_file_than_the_allowed_is_refused)
{
	char *other = fixture_make_raw(&f, "other", 4096);

	make_chain("/etc/shadow");
	c.backing_path = other;
	refused(top, KATA_E_INVALID, "its backing file is '/etc/shadow', but backing_path allows only");
	free(other);
	free_chain();
}

Test(image, a_backing_file_that_is_a_protocol_is_refused)
{
	make_chain("nbd:localhost:10809");
	c.backing_path = base;
	refused(top, KATA_E_INVALID, "names a protocol");
	free_chain();
}

Test(image, a_json_backing_file_is_refused)
{
	make_chain("json:{\"driver\":\"file\"}");
	c.backing_path = base;
	refused(top, KATA_E_INVALID, "names a protocol");
	free_chain();
}

Test(image, a_backing_path_for_an_image_without_one_is_refused)
{
	char *path = fixture_make_qcow2(&f, "image", 1 << 20, NULL);

	base = fixture_make_raw(&f, "base", 4096);
	c.format = KATA_STORAGE_QCOW2;
	c.backing_path = base;
	refused(path, KATA_E_INVALID, "has no backing file");
	free(path);
	free(base);
}

Test(image, a_backing_file_of_a_backing_file_is_refused)
{
	char *middle;

	make_chain(NULL);
	middle = fixture_make_qcow2(&f, "middle", 1 << 20, base);
	free(top);
	top = fixture_make_qcow2(&f, "top2", 1 << 20, middle);
	c.backing_path = middle;
	c.backing_format = KATA_STORAGE_QCOW2;
	fixture_assert_fails(open_it(top), KATA_E_INVALID, err);
	free(middle);
	free_chain();
}

Test(image, a_backing_file_that_is_a_directory_is_refused)
{
	make_chain(f.dir);
	c.backing_path = f.dir;
	refused(top, KATA_E_INVALID, "is a directory");
	free_chain();
}

Test(image, a_qcow2_backing_file_given_as_raw_is_refused)
{
	char *middle = fixture_make_qcow2(&f, "middle", 1 << 20, NULL);

	cr_assert_eq(truncate(middle, 1 << 20), 0);
	make_chain(middle);
	c.backing_path = middle;
	fixture_assert_fails(open_it(top), KATA_E_INVALID, err);
	free(middle);
	free_chain();
}

Test(image, a_backing_format_that_contradicts_the_header_is_refused)
{
	char *path;

	NEED_QEMU_IMG();
	base = fixture_make_qcow2(&f, "base", 1 << 20, NULL);
	path = qemu_img("image", NULL, base, "1M"); /* says raw */
	c.format = KATA_STORAGE_QCOW2;
	c.backing_path = base;
	c.backing_format = KATA_STORAGE_QCOW2;
	refused(path, KATA_E_INVALID, "says its backing file is 'raw', but backing_format says 'qcow2'");
	free(path);
	free(base);
}

/* ---- block devices ---- */

/* Two partitions of 2 MiB, told to the kernel: it may know no table of partitions. */
static bool add_partitions(const char *device)
{
	int fd = open(device, O_RDWR | O_CLOEXEC), failed = fd < 0;

	for (int i = 0; i < 2 && !failed; i++) {
		struct blkpg_partition part = {.start = (1 + 3 * i) << 20, .length = 2 << 20, .pno = i + 1};
		struct blkpg_ioctl_arg arg = {.op = BLKPG_ADD_PARTITION, .datalen = sizeof(part), .data = &part};

		failed = ioctl(fd, BLKPG, &arg) < 0;
	}
	close(fd);
	return !failed;
}

/* A loop device on a file of the fixture, partitioned in two when asked. False: skip. */
static bool make_loop(bool partitions)
{
	const char *argv[] = {"/usr/sbin/losetup", "-f", "--show", partitions ? "-P" : "-b512", NULL, NULL};
	char *output = NULL;
	int rc;

	if (geteuid() != 0 || access("/dev/loop-control", W_OK) < 0 || access(argv[0], X_OK) < 0)
		return false;
	loop_file = fixture_make_raw(&f, "loopfile", 8 << 20);
	argv[4] = loop_file;
	rc = fixture_run(argv, 20000, &output);
	if (rc == 0 && output)
		snprintf(loop, sizeof(loop), "%.*s", (int)strcspn(output, "\n"), output);
	free(output);
	return rc == 0 && (!partitions || add_partitions(loop));
}

static bool make_fs(const char *device)
{
	const char *argv[] = {"/usr/sbin/mkfs.ext4", "-q", "-F", device, NULL};

	return access(argv[0], X_OK) == 0 && run(argv) == 0;
}

static bool wait_for(const char *path)
{
	for (int i = 0; i < 200 && access(path, F_OK) < 0; i++)
		usleep(10000); /* devtmpfs makes the node of a partition soon after the scan */
	return access(path, F_OK) == 0;
}

#define NEED_LOOP(partitions)                                                                                          \
	do {                                                                                                           \
		if (!make_loop(partitions)) {                                                                          \
			skip("needs root and loop devices");                                                           \
		}                                                                                                      \
	} while (0)

Test(image, an_unmounted_block_device_is_opened_and_held)
{
	struct kata__image first;

	NEED_LOOP(false);
	fixture_assert_ok(open_it(loop), err);
	cr_assert_eq(image.size_bytes, 8u << 20);
	cr_assert_eq(image.files.file.dev, 0u);
	first = image;
	image = (struct kata__image){.fd = -1, .backing_fd = -1};
	cr_assert_eq(open(loop, O_RDONLY | O_EXCL | O_CLOEXEC), -1, "the device is not held");
	refused(loop, KATA_E_BUSY, "is in use on the host");
	kata__image_close(&first);
	remove_loop();
}

Test(image, a_read_only_block_device_may_be_opened_twice)
{
	struct kata__image first;

	NEED_LOOP(false);
	c.flags = KATA_STORAGE_READ_ONLY;
	fixture_assert_ok(open_it(loop), err);
	first = image;
	image = (struct kata__image){.fd = -1, .backing_fd = -1};
	fixture_assert_ok(open_it(loop), err);
	kata__image_close(&first);
	kata__image_close(&image);
	remove_loop();
}

/* Mounts `device` on a directory of the fixture while `path` is tried. */
static void refused_while_mounted(const char *device, const char *path)
{
	free(mount_point);
	mount_point = fixture_path(&f, "mnt");
	cr_assert(mkdir(mount_point, 0700) == 0 || access(mount_point, F_OK) == 0);
	cr_assert_eq(mount(device, mount_point, "ext4", MS_RDONLY, NULL), 0, "cannot mount %s", device);
	refused(path, KATA_E_BUSY, "is mounted on the host, at");
	c.flags = KATA_STORAGE_READ_ONLY;
	refused(path, KATA_E_BUSY, "is mounted on the host, at");
	c.flags = 0;
	cr_assert_eq(umount(mount_point), 0);
}

Test(image, a_mounted_block_device_is_busy)
{
	NEED_LOOP(false);
	cr_assert(make_fs(loop));
	refused_while_mounted(loop, loop);
	fixture_assert_ok(open_it(loop), err);
	kata__image_close(&image);
	remove_loop();
}

Test(image, the_file_behind_a_mounted_loop_device_is_busy)
{
	char *path;

	NEED_LOOP(false);
	cr_assert(make_fs(loop));
	path = strdup(loop_file);
	refused_while_mounted(loop, path);
	fixture_assert_ok(open_it(path), err);
	kata__image_close(&image);
	free(path);
	remove_loop();
}

Test(image, a_disk_with_a_mounted_partition_is_busy_and_the_other_partition_is_not)
{
	char first[40], second[40];

	NEED_LOOP(true);
	snprintf(first, sizeof(first), "%sp1", loop);
	snprintf(second, sizeof(second), "%sp2", loop);
	if (!wait_for(first) || !wait_for(second) || !make_fs(first)) {
		skip("this kernel makes no partitions of loop devices");
	}
	refused_while_mounted(first, loop);
	refused_while_mounted(first, first);
	refused_while_mounted(first, loop_file);
	fixture_assert_ok(open_it(second), err);
	kata__image_close(&image);
	remove_loop();
}

Test(image, a_partition_of_a_mounted_disk_is_busy)
{
	char first[40];

	NEED_LOOP(true);
	snprintf(first, sizeof(first), "%sp1", loop);
	if (!wait_for(first)) {
		skip("this kernel makes no partitions of loop devices");
	}
	/* A file system over the whole disk; the table of partitions is still in the kernel. */
	if (!make_fs(loop) || access(first, F_OK) < 0) {
		skip("the partitions went when a file system was made");
	}
	refused_while_mounted(loop, first);
	remove_loop();
}

Test(image, the_hosts_root_device_is_busy)
{
	char path[64], real[64];
	struct stat st;
	ssize_t n;

	if (stat("/", &st) < 0 || major(st.st_dev) == 0)
		skip("the root file system is on no block device");
	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u", major(st.st_dev), minor(st.st_dev));
	n = readlink(path, real, sizeof(real) - 1);
	if (n <= 0 || (size_t)n >= sizeof(real) - 1)
		skip("sysfs does not name the root device");
	real[n] = '\0';
	snprintf(path, sizeof(path), "/dev/%.40s", strrchr(real, '/') + 1);
	if (access(path, F_OK) < 0)
		skip("the root device has no node");
	refused(path, KATA_E_BUSY, "is mounted on the host, at /");
}
