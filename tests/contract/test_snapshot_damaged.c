/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Snapshots that were damaged, or are of something else: each is refused by name, and nothing is started of it. And
 * saves that cannot be: no space, a device that cannot be saved: the machine is as before. On the stand-in for QEMU.
 */
#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <kata/sandbox.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/fixture.h"
#include "support/record_edit.h"

static struct fixture f;
static char *standin, *kernel, *initrd, *disk, *referred, *path;
static char place[64];
static kata_vm_builder *builder;
static kata_vm *vm;
static kata_error *err;
static bool own_mounts;

static void add_disk(const char *id, const char *file, uint64_t flags)
{
	kata_storage_config config = KATA_STORAGE_CONFIG_INIT;
	kata_storage *s = NULL;

	config.id = id;
	config.path = file;
	config.driver = KATA_STORAGE_VIRTIO_BLK;
	config.flags = flags;
	fixture_assert_ok(kata_storage_new(&config, &s, &err), err);
	fixture_assert_ok(kata_vm_add_storage(vm, s, NULL, &err), err);
	kata_storage_unref(s);
}

static char *make_full(const char *name, size_t bytes)
{
	char *data = malloc(bytes), *file;

	memset(data, 'x', bytes);
	file = fixture_write_file(&f, name, data, bytes);
	cr_assert_eq(chmod(file, 0666), 0);
	free(data);
	return file;
}

static void start(void)
{
	kata_vm_config config = KATA_VM_CONFIG_INIT;

	config.id = "vm";
	config.kernel = kernel;
	config.initrd = initrd;
	config.device_slots = 4;
	fixture_assert_ok(kata_vm_builder_build(builder, &config, NULL, NULL, &vm, &err), err);
	add_disk("disk", disk, 0);
	add_disk("referred", referred, KATA_STORAGE_READ_ONLY);
	fixture_assert_ok(kata_vm_start(vm, NULL, &err), err);
}

static void drop_vm(void)
{
	fixture_assert_ok(kata_vm_destroy(vm, NULL, &err), err);
	kata_vm_unref(vm);
	vm = NULL;
}

static void set_up(void)
{
	kata_qemu_options options = KATA_QEMU_OPTIONS_INIT;

	/* Before there are threads, which are to see what is mounted. */
	own_mounts = unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
	fixture_init(&f, true, 0);
	standin = fixture_make_standin(&f, NULL);
	kernel = fixture_make_kernel(&f);
	initrd = fixture_write_file(&f, "initrd", "an initrd", 9);
	disk = make_full("disk.raw", 1 << 20);
	referred = make_full("referred.raw", 1 << 20);
	snprintf(place, sizeof(place), "%s/saved", f.dir);
	cr_assert_eq(mkdir(place, 0700), 0);
	path = fixture_path(&f, "saved/one");
	options.binary = standin;
	options.accelerator = KATA_ACCELERATOR_TCG;
	fixture_assert_ok(kata_vm_builder_new_qemu(f.context, &options, &builder, &err), err);
	start();
}

static void tear_down(void)
{
	error_clear(&err);
	if (vm)
		drop_vm();
	kata_vm_builder_free(builder);
	free(standin);
	free(kernel);
	free(initrd);
	free(disk);
	free(referred);
	free(path);
	fixture_deinit(&f);
}

TestSuite(snapshot_damaged, .init = set_up, .fini = tear_down, .timeout = 60);

static void save(void)
{
	fixture_assert_ok(kata_vm_snapshot(vm, path, NULL, NULL, NULL, &err), err);
	drop_vm();
}

static size_t count_entries(const char *of)
{
	DIR *dir = opendir(of);
	struct dirent *e;
	size_t n = 0;

	cr_assert_not_null(dir);
	while ((e = readdir(dir)))
		n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
	closedir(dir);
	return n;
}

/* ---- files of the snapshot */

static char *part(const char *name)
{
	char below[64];

	snprintf(below, sizeof(below), "saved/one/%s", name);
	return fixture_path(&f, below);
}

static char *read_part(const char *name, size_t *ret_length)
{
	char *file = part(name), *text = calloc(1, 2 << 20);
	FILE *in = fopen(file, "re");

	cr_assert_not_null(in, "%s", file);
	*ret_length = fread(text, 1, (2 << 20) - 1, in);
	fclose(in);
	free(file);
	return text;
}

static void write_part(const char *name, const char *text, size_t length)
{
	char *file = part(name);
	FILE *out = fopen(file, "we");

	cr_assert(out && fwrite(text, 1, length, out) == length && fclose(out) == 0, "%s", file);
	free(file);
}

static void assert_open_refused(int status, const char *word)
{
	kata_snapshot *s = NULL;
	int rc = kata_snapshot_open(f.context, path, KATA_SNAPSHOT_VERIFY, &s, &err);

	cr_assert_eq(rc, status, "%s: %s: %s", word, kata_status_get_name(rc), error_text(err));
	cr_assert(strstr(error_text(err), word), "no word of '%s': %s", word, error_text(err));
	cr_assert_null(s);
	error_clear(&err);
}

/* It is opened, but no machine is made of it. */
static void assert_build_refused(int status, const char *word)
{
	kata_snapshot *s = NULL;
	kata_vm *restored = NULL;
	int rc;

	fixture_assert_ok(kata_snapshot_open(f.context, path, 0, &s, &err), err);
	rc = kata_vm_builder_build_from_snapshot(builder, s, NULL, NULL, NULL, NULL, &restored, &err);
	cr_assert_eq(rc, status, "%s: %s: %s", word, kata_status_get_name(rc), error_text(err));
	cr_assert(strstr(error_text(err), word), "no word of '%s': %s", word, error_text(err));
	cr_assert_null(restored);
	error_clear(&err);
	kata_snapshot_free(s);
}

static void write_to(const char *file)
{
	FILE *out = fopen(file, "r+e");

	cr_assert(out && fputc('y', out) == 'y' && fclose(out) == 0, "%s", file);
}

/* A machine was made of it, and then this file is written to. */
static void assert_start_refused(const char *file, int status, const char *word)
{
	kata_snapshot *s = NULL;
	kata_vm *restored = NULL;
	int rc;

	fixture_assert_ok(kata_snapshot_open(f.context, path, 0, &s, &err), err);
	fixture_assert_ok(kata_vm_builder_build_from_snapshot(builder, s, NULL, NULL, NULL, NULL, &restored, &err),
			  err);
	write_to(file);
	rc = kata_vm_start(restored, NULL, &err);
	cr_assert_eq(rc, status, "%s: %s: %s", word, kata_status_get_name(rc), error_text(err));
	cr_assert(strstr(error_text(err), word), "no word of '%s': %s", word, error_text(err));
	error_clear(&err);
	cr_assert_eq(kata_vm_get_pid(restored), 0, "a VMM runs");
	kata_vm_unref(restored);
	kata_snapshot_free(s);
}

static void assert_restores(void)
{
	kata_snapshot *s = NULL;

	fixture_assert_ok(kata_snapshot_open(f.context, path, KATA_SNAPSHOT_VERIFY, &s, &err), err);
	fixture_assert_ok(kata_vm_builder_build_from_snapshot(builder, s, NULL, NULL, NULL, NULL, &vm, &err), err);
	fixture_assert_ok(kata_vm_start(vm, NULL, &err), err);
	drop_vm();
	kata_snapshot_free(s);
}

Test(snapshot_damaged, a_manifest_that_was_cut_or_changed)
{
	static const struct {
		const char *member, *value;
		int status;
		const char *word;
	} edits[] = {
		{"version", "2", KATA_E_VERSION, "manifest.version: is 2"},
		{"format", "\"kata-template\"", KATA_E_CORRUPT, "manifest.format"},
		{"uuid", NULL, KATA_E_CORRUPT, "uuid"},
		{"more", "1", KATA_E_CORRUPT, "more"},
		{"memory", "\"shared\"", KATA_E_CORRUPT, "manifest.parts"},
		{"disks.0.slot", "1", KATA_E_CORRUPT, "manifest.disks[0].device"},
		{"disks.0.content", "\"referred\"", KATA_E_CORRUPT, "manifest.disks[0].source"},
		{"disks.1.device.id", "\"disk\"", KATA_E_CORRUPT, "have one id"},
		{"parts.0.name", "\"../state\"", KATA_E_CORRUPT, "manifest.parts[0].name"},
		{"parts.0.sha256", "\"00\"", KATA_E_CORRUPT, "sha256"},
		{"parts.0.size_bytes", "1", KATA_E_CORRUPT, "has"},
		{"config.memory_mib", "0", KATA_E_CORRUPT, "manifest.config"},
	};
	size_t length;
	char *text;

	save();
	text = read_part("manifest.json", &length);
	for (size_t n = 0; n < length; n += length / 16) {
		write_part("manifest.json", text, n);
		assert_open_refused(KATA_E_CORRUPT, "manifest");
	}
	for (size_t i = 0; i < sizeof(edits) / sizeof(edits[0]); i++) {
		char *changed = record_with(text, edits[i].member, edits[i].value);

		write_part("manifest.json", changed, strlen(changed));
		assert_open_refused(edits[i].status, edits[i].word);
		free(changed);
	}
	write_part("manifest.json", text, length);
	assert_restores();
	free(text);
}

Test(snapshot_damaged, a_part_that_is_missing_longer_or_another)
{
	static const char *const names[] = {"state", "disk-0"};
	char *file = part("manifest.json");

	save();
	for (int i = 0; i < 2; i++) {
		size_t length;
		char *text = read_part(names[i], &length), quoted[16], *at = part(names[i]);

		snprintf(quoted, sizeof(quoted), "'%s'", names[i]);
		write_part(names[i], text, length - 1);
		assert_open_refused(KATA_E_CORRUPT, quoted);
		write_part(names[i], text, length + 1); /* there is a NUL behind */
		assert_open_refused(KATA_E_CORRUPT, quoted);
		text[length / 2] ^= 1;
		write_part(names[i], text, length);
		assert_open_refused(KATA_E_CORRUPT, "was changed: sha256 is");
		text[length / 2] ^= 1;
		cr_assert_eq(unlink(at), 0);
		assert_open_refused(KATA_E_CORRUPT, "is missing");
		cr_assert_eq(symlink(kernel, at), 0);
		assert_open_refused(KATA_E_CORRUPT, "no regular file");
		cr_assert_eq(unlink(at), 0);
		cr_assert_eq(mkfifo(at, 0600), 0);
		assert_open_refused(KATA_E_CORRUPT, "no regular file");
		cr_assert_eq(unlink(at), 0);
		write_part(names[i], text, length); /* another file of the same content */
		free(text);
		free(at);
	}
	assert_restores();
	cr_assert_eq(unlink(file), 0);
	assert_open_refused(KATA_E_NOT_FOUND, "no manifest.json");
	free(file);
}

Test(snapshot_damaged, of_another_vmm_machine_accelerator_cpu_or_driver)
{
	static const struct {
		const char *member, *value;
		int status;
		const char *word;
	} edits[] = {
		{"vmm_version", "\"6.0.0\"", KATA_E_VERSION, "was saved by QEMU 6.0.0"},
		{"machine", "\"pc-q35-9.9\"", KATA_E_VERSION, "pc-q35-9.9"},
		{"accelerator", "\"kvm\"", KATA_E_UNSUPPORTED, "was saved under kvm"},
		{"cpu_model", "\"host: an older one\"", KATA_E_UNSUPPORTED, "'host: an older one', here it would find"},
		{"vmm.host_cpu_sha256", "\"00\"", KATA_E_UNSUPPORTED, "with other features"},
		{"driver", "\"firecracker\"", KATA_E_UNSUPPORTED, "'firecracker'"},
	};
	struct census *before;
	size_t length;
	char *text;

	save();
	before = fixture_census(&f);
	text = read_part("manifest.json", &length);
	for (size_t i = 0; i < sizeof(edits) / sizeof(edits[0]); i++) {
		char *changed = record_with(text, edits[i].member, edits[i].value);

		write_part("manifest.json", changed, strlen(changed));
		assert_build_refused(edits[i].status, edits[i].word);
		free(changed);
	}
	free(text);
	fixture_assert_census(&f, before, "after snapshots of other machines");
}

Test(snapshot_damaged, a_kernel_or_a_disk_that_was_written_to_since)
{
	struct census *before;
	struct stat st;

	save();
	cr_assert_eq(stat(referred, &st), 0);
	before = fixture_census(&f);
	write_to(disk); /* of which there is a copy */
	assert_restores();
	assert_start_refused(referred, KATA_E_CORRUPT, "storage 'referred'");
	assert_build_refused(KATA_E_CORRUPT, "storage 'referred': has changed");
	cr_assert_eq(utimensat(AT_FDCWD, referred, (const struct timespec[]){st.st_atim, st.st_mtim}, 0), 0);
	assert_build_refused(KATA_E_CORRUPT, "its time stamps"); /* that of the change cannot be set back */
	cr_assert_eq(unlink(referred), 0);
	assert_build_refused(KATA_E_NOT_FOUND, "referred");
	write_to(kernel);
	assert_build_refused(KATA_E_CORRUPT, "config.kernel");
	cr_assert_eq(unlink(initrd), 0);
	assert_build_refused(KATA_E_CORRUPT, "config.kernel");
	fixture_assert_census(&f, before, "after files that were changed");
}

/* As a QEMU does that may write to it. */
Test(snapshot_damaged, a_disk_that_another_machine_may_write_to)
{
	struct flock lock = {.l_type = F_RDLCK, .l_start = 101, .l_len = 1};
	kata_snapshot *s = NULL;
	int fd;

	save();
	fd = open(referred, O_RDONLY | O_CLOEXEC);
	cr_assert_eq(fcntl(fd, F_OFD_SETLK, &lock), 0);
	fixture_assert_ok(kata_snapshot_open(f.context, path, 0, &s, &err), err);
	fixture_assert_ok(kata_vm_builder_build_from_snapshot(builder, s, NULL, NULL, NULL, NULL, &vm, &err), err);
	fixture_assert_fails(kata_vm_start(vm, NULL, &err), KATA_E_BUSY, err);
	cr_assert(strstr(error_text(err), "storage 'referred': another machine"), "%s", error_text(err));
	error_clear(&err);
	close(fd);
	fixture_assert_ok(kata_vm_start(vm, NULL, &err), err);
	kata_snapshot_free(s);
}

/* All there is to tell a block device from another. */
Test(snapshot_damaged, a_disk_of_another_size_than_the_guest_had)
{
	kata_snapshot *s = NULL;
	char *text, *half, *changed;
	size_t length;

	save();
	text = read_part("manifest.json", &length);
	half = record_with(text, "disks.1.size_bytes", "2097152");
	changed = record_with(half, "disks.1.device.size_bytes", "2097152");
	write_part("manifest.json", changed, strlen(changed));
	fixture_assert_ok(kata_snapshot_open(f.context, path, 0, &s, &err), err);
	fixture_assert_ok(kata_vm_builder_build_from_snapshot(builder, s, NULL, NULL, NULL, NULL, &vm, &err), err);
	fixture_assert_fails(kata_vm_start(vm, NULL, &err), KATA_E_CORRUPT, err);
	cr_assert(strstr(error_text(err), "the guest had one of 2097152"), "%s", error_text(err));
	error_clear(&err);
	kata_snapshot_free(s);
	free(changed);
	free(half);
	free(text);
}

/* A restore that copies disks makes them there: a snapshot of it would be without them once it is destroyed. */
Test(snapshot_damaged, a_disk_that_goes_with_the_vm_is_copied_and_not_referred_to)
{
	kata_restore_options copies = KATA_RESTORE_OPTIONS_INIT;
	kata_snapshot_options refer = KATA_SNAPSHOT_OPTIONS_INIT;
	kata_snapshot *s = NULL;

	save();
	copies.disk = KATA_RESTORE_DISK_COPY;
	fixture_assert_ok(kata_snapshot_open(f.context, path, 0, &s, &err), err);
	fixture_assert_ok(kata_vm_builder_build_from_snapshot(builder, s, NULL, NULL, NULL, &copies, &vm, &err), err);
	kata_snapshot_free(s);
	fixture_assert_ok(kata_vm_start(vm, NULL, &err), err);
	fixture_assert_ok(kata_snapshot_delete(f.context, path, &err), err);
	refer.disk = KATA_SNAPSHOT_DISK_REFER;
	fixture_assert_fails(kata_vm_snapshot(vm, path, &refer, NULL, NULL, &err), KATA_E_INVALID, err);
	cr_assert(strstr(error_text(err), "goes with the VM"), "%s", error_text(err));
	error_clear(&err);
	save();
	assert_restores();
}

Test(snapshot_damaged, a_directory_that_others_can_write_to)
{
	save();
	cr_assert_eq(chmod(path, 0770), 0);
	assert_open_refused(KATA_E_PERMISSION, path);
	cr_assert_eq(chmod(path, 0702), 0);
	assert_open_refused(KATA_E_PERMISSION, path);
	cr_assert_eq(chmod(path, 0700), 0);
	if (geteuid() == 0) {
		cr_assert_eq(chown(path, 12345, (gid_t)-1), 0);
		assert_open_refused(KATA_E_PERMISSION, path);
		cr_assert_eq(chown(path, 0, (gid_t)-1), 0);
	}
	assert_restores();
}

/* ---- saves that cannot be */

static void assert_save_refused(int status, const char *word, kata_vm_state state)
{
	struct census *before = fixture_census(&f);
	kata_snapshot *s = NULL;
	int rc = kata_vm_snapshot(vm, path, NULL, NULL, &s, &err);

	cr_assert_eq(rc, status, "%s: %s: %s", word, kata_status_get_name(rc), error_text(err));
	cr_assert(strstr(error_text(err), word), "no word of '%s': %s", word, error_text(err));
	error_clear(&err);
	cr_assert_eq(kata_vm_get_state(vm), state);
	cr_assert_eq(count_entries(place), 0u, "something half-made is left");
	fixture_assert_census(&f, before, word);
}

Test(snapshot_damaged, no_space_while_saving)
{
	if (!own_mounts || mount("small", place, "tmpfs", 0, "size=512k,mode=0700"))
		cr_skip_test("no tmpfs can be mounted: run as root");
	assert_save_refused(KATA_E_IO, "o space left", KATA_VM_RUNNING);
	fixture_assert_ok(kata_vm_pause(vm, NULL, &err), err);
	assert_save_refused(KATA_E_IO, "o space left", KATA_VM_PAUSED);
	fixture_assert_ok(kata_vm_resume(vm, NULL, &err), err);
	cr_assert_eq(umount(place), 0);
	save();
	assert_restores();
}

Test(snapshot_damaged, a_device_that_cannot_be_saved_is_named)
{
	drop_vm();
	fixture_set_script(standin, "on blocked error \"State blocked by non-migratable device '0000:08.0/gpu'\"\n");
	start();
	assert_save_refused(KATA_E_UNSUPPORTED, "non-migratable device '0000:08.0/gpu'", KATA_VM_RUNNING);
	fixture_assert_ok(kata_vm_pause(vm, NULL, &err), err);
	assert_save_refused(KATA_E_UNSUPPORTED, "non-migratable device '0000:08.0/gpu'", KATA_VM_PAUSED);
}

/* ---- restores that cannot be as asked for */

static void save_sandbox(void)
{
	kata_nic *nic = fixture_nic("n1", "02:00:00:00:00:01");
	kata_vm_config config = KATA_VM_CONFIG_INIT;
	kata_sandbox *s = NULL;

	config.id = "sb";
	config.kernel = config.initrd = kernel;
	config.device_slots = 4;
	fixture_assert_ok(kata_sandbox_create(f.context, NULL, builder, &config, NULL, NULL, &s, &err), err);
	fixture_assert_ok(kata_sandbox_start(s, NULL, &err), err);
	fixture_assert_ok(kata_sandbox_add_nic(s, nic, NULL, NULL, &err), err);
	fixture_assert_ok(kata_sandbox_save(s, path, NULL, NULL, &err), err);
	fixture_assert_ok(kata_sandbox_destroy(s, NULL, &err), err);
	kata_sandbox_unref(s);
	kata_nic_unref(nic);
}

/* *ret is what was made the restored sandbox's own. */
static int try_restore_sandbox(uint64_t flags, uint64_t *ret)
{
	kata_restore_options options = KATA_RESTORE_OPTIONS_INIT;
	kata_snapshot *snapshot = NULL;
	kata_sandbox *s = NULL;
	kata_vm *restored;
	int rc;

	options.flags = flags;
	fixture_assert_ok(kata_snapshot_open(f.context, path, 0, &snapshot, &err), err);
	rc = kata_sandbox_build_from_snapshot(f.context, snapshot, builder, NULL, &options, NULL, NULL, &s, &err);
	kata_snapshot_free(snapshot);
	if (rc < 0)
		return rc;
	restored = kata_sandbox_get_vm(s);
	*ret = kata_vm_get_identity_reset(restored);
	kata_vm_unref(restored);
	fixture_assert_ok(kata_sandbox_destroy(s, NULL, &err), err);
	kata_sandbox_unref(s);
	return 0;
}

#define OWN (KATA_RESET_ENTROPY | KATA_RESET_CLOCK | KATA_RESET_UUID | KATA_RESET_CID)

Test(snapshot_damaged, new_macs_of_which_the_agent_cannot_tell_the_guest)
{
	struct census *before;
	uint64_t own = 0;

	save_sandbox();
	fixture_assert_ok(try_restore_sandbox(KATA_RESTORE_NEW_MACS, &own), err);
	cr_assert_eq(own, OWN | KATA_RESET_MACS, "0x%llx", (unsigned long long)own);
	before = fixture_census(&f);
	fixture_set_script(standin, "on GetGuestDetails error 12 \"it has no kata.Guest\"\n");
	fixture_assert_fails(try_restore_sandbox(KATA_RESTORE_NEW_MACS, &own), KATA_E_UNSUPPORTED, err);
	cr_assert(strstr(error_text(err), "1 of its MACs"), "%s", error_text(err));
	error_clear(&err);
	fixture_assert_census(&f, before, "after a guest that cannot be told");
	fixture_assert_ok(try_restore_sandbox(0, &own), err);
	cr_assert_eq(own, OWN, "0x%llx", (unsigned long long)own);
}
