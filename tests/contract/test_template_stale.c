/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Templates that are stale or were tampered with: a build is refused with the reason where KATA_TEMPLATE_REFUSE_STALE
 * says so, and makes it anew otherwise; and one that finds no room. On the stand-in for QEMU.
 */
#include <criterion/criterion.h>
#include <kata/fail_point.h>
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
static char *standin, *kernel, *initrd, *path;
static kata_vm_builder *inner, *builder;
static kata_vm_config config;
static kata_error *err;
static bool own_mounts;

static void set_up(void)
{
	/* Before there are threads, which are to see what is mounted. */
	own_mounts = unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
	fixture_init(&f, false, 0);
	standin = fixture_make_standin(&f, NULL);
	kernel = fixture_make_kernel(&f);
	initrd = fixture_write_file(&f, "initrd", "an initrd", 9);
	path = fixture_path(&f, "template");
	config = (kata_vm_config)KATA_VM_CONFIG_INIT;
	config.kernel = kernel;
	config.initrd = initrd;
	config.memory_mib = 16;
}

static void tear_down(void)
{
	free(standin);
	free(kernel);
	free(initrd);
	free(path);
	fixture_deinit(&f);
}

TestSuite(template_stale, .init = set_up, .fini = tear_down, .timeout = 120);

/* As another process would come to it. */
static void open_builder(uint64_t flags)
{
	kata_template_options o = KATA_TEMPLATE_OPTIONS_INIT;
	kata_qemu_options qemu = KATA_QEMU_OPTIONS_INIT;

	f.context = fixture_new_context(&f, 0);
	qemu.binary = standin;
	qemu.accelerator = KATA_ACCELERATOR_TCG;
	o.path = path;
	o.flags = KATA_TEMPLATE_SHARE_MEMORY | flags;
	fixture_assert_ok(kata_vm_builder_new_qemu(f.context, &qemu, &inner, &err), err);
	fixture_assert_ok(kata_vm_builder_new_template(f.context, inner, NULL, &o, &builder, &err), err);
}

static void close_builder(void)
{
	kata_vm_builder_free(builder);
	kata_vm_builder_free(inner);
	fixture_assert_ok(kata_context_free(f.context, &err), err);
	f.context = NULL;
}

/* Starts, too. */
static void assert_clone(uint64_t made)
{
	kata_template_status s = {.size = sizeof(s)};
	kata_vm *vm = NULL;

	fixture_assert_ok(kata_vm_builder_build(builder, &config, NULL, NULL, &vm, &err), err);
	cr_assert_eq(kata_vm_get_origin(vm), KATA_VM_CLONED);
	fixture_assert_ok(kata_vm_start(vm, NULL, &err), err);
	fixture_assert_ok(kata_vm_destroy(vm, NULL, &err), err);
	kata_vm_unref(vm);
	fixture_assert_ok(kata_template_get_status(builder, &s, &err), err);
	cr_assert(s.is_valid, "%s", s.problem);
	cr_assert_eq(s.made, made);
}

static void assert_refused(const char *what, int status, const char *word)
{
	kata_vm *vm = NULL;
	int rc = kata_vm_builder_build(builder, &config, NULL, NULL, &vm, &err);

	cr_assert_eq(rc, status, "%s: %s: %s", what, kata_status_get_name(rc), error_text(err));
	cr_assert(strstr(error_text(err), word), "%s: no word of '%s': %s", what, word, error_text(err));
	cr_assert_null(vm);
	error_clear(&err);
}

/* ---- what is done to it */

static char *read_all(const char *file, size_t *ret_length)
{
	char *text = calloc(1, 1 << 16);
	FILE *in = fopen(file, "re");

	cr_assert_not_null(in, "%s", file);
	*ret_length = fread(text, 1, (1 << 16) - 1, in);
	fclose(in);
	return text;
}

static void write_at(const char *file, long at, int whence, const char *text, size_t length)
{
	FILE *out = fopen(file, "r+e");

	cr_assert(out && fseek(out, at, whence) == 0 && fwrite(text, 1, length, out) == length && fclose(out) == 0,
		  "%s", file);
}

static void in_base(const char *name, void (*fn)(const char *file))
{
	char below[48], *file;

	snprintf(below, sizeof(below), "template/base/%s", name);
	file = fixture_path(&f, below);
	fn(file);
	free(file);
}

static void edit(const char *file, const char *member, const char *value)
{
	size_t length;
	char *text = read_all(file, &length), *changed = record_with(text, member, value);
	FILE *out = fopen(file, "we");

	cr_assert(out && fputs(changed, out) >= 0 && fclose(out) == 0);
	free(changed);
	free(text);
}

static void change_byte(const char *file)
{
	write_at(file, 1, SEEK_SET, "\x5a", 1);
}

static void lengthen(const char *file)
{
	write_at(file, 0, SEEK_END, "z", 1);
}

static void remove_it(const char *file)
{
	cr_assert_eq(unlink(file), 0);
}

static void cut(const char *file)
{
	cr_assert_eq(truncate(file, 100), 0);
}

static void set_vmm_version(const char *file)
{
	edit(file, "vmm_version", "\"6.0.0\"");
}

static void set_accelerator(const char *file)
{
	edit(file, "accelerator", "\"kvm\"");
}

static void set_cpu(const char *file)
{
	edit(file, "cpu_model", "\"host: an older one\"");
}

static void set_version(const char *file)
{
	edit(file, "version", "7");
}

static void write_kernel(void)
{
	lengthen(kernel);
}
static void replace_initrd(void)
{
	cr_assert_eq(unlink(initrd), 0);
	free(fixture_write_file(&f, "initrd", "another 1", 9));
}
/* What is behind the end of a program is not looked at. */
static void change_vmm(void)
{
	lengthen(standin);
}
static void another_vmm_version(void)
{
	in_base("manifest.json", set_vmm_version);
}
static void another_accelerator(void)
{
	in_base("manifest.json", set_accelerator);
}
static void another_cpu(void)
{
	in_base("manifest.json", set_cpu);
}
static void another_format(void)
{
	in_base("manifest.json", set_version);
}
static void cut_manifest(void)
{
	in_base("manifest.json", cut);
}
static void change_memory(void)
{
	in_base("memory", change_byte);
}
static void lengthen_state(void)
{
	in_base("state", lengthen);
}
static void lose_state(void)
{
	in_base("state", remove_it);
}
static void change_record(void)
{
	in_base("x-template", change_byte);
}

static const struct {
	const char *what;
	void (*fn)(void);
	int status;
	const char *word;
} changes[] = {
	{"the kernel was written to", write_kernel, KATA_E_VERSION, "its kernel"},
	{"the initrd was replaced", replace_initrd, KATA_E_VERSION, "its initrd"},
	{"another VMM binary", change_vmm, KATA_E_VERSION, "its VMM"},
	{"another VMM version", another_vmm_version, KATA_E_VERSION, "was version 6.0.0"},
	{"another accelerator", another_accelerator, KATA_E_VERSION, "accelerator 'kvm'"},
	{"another CPU", another_cpu, KATA_E_UNSUPPORTED, "'host: an older one'"},
	{"another version of the format", another_format, KATA_E_VERSION, "manifest.version"},
	{"a manifest that was cut", cut_manifest, KATA_E_CORRUPT, "manifest"},
	{"its memory was changed", change_memory, KATA_E_CORRUPT, "'memory'"},
	{"its state is longer", lengthen_state, KATA_E_CORRUPT, "'state'"},
	{"its state is missing", lose_state, KATA_E_CORRUPT, "'state'"},
	{"its record was changed", change_record, KATA_E_CORRUPT, "'x-template'"},
};

Test(template_stale, is_refused_or_made_anew_as_configured)
{
	open_builder(0);
	assert_clone(1);
	close_builder();
	for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
		changes[i].fn();
		open_builder(KATA_TEMPLATE_REFUSE_STALE);
		assert_refused(changes[i].what, changes[i].status, changes[i].word);
		close_builder();
		open_builder(0);
		assert_clone(1);
		close_builder();
	}
}

/* A builder that has used it already sees it too. */
Test(template_stale, what_changes_while_it_is_in_use_is_seen_by_the_next_build)
{
	open_builder(KATA_TEMPLATE_REFUSE_STALE);
	assert_clone(1);
	config.id = "../elsewhere";
	assert_refused("an id that is no name", KATA_E_INVALID, "config.id");
	config.id = NULL;
	in_base("memory", change_byte);
	assert_refused("its memory was changed", KATA_E_CORRUPT, "'memory'");
	fixture_assert_ok(kata_template_make(builder, &config, NULL, &err), err);
	assert_clone(2);
	write_kernel();
	assert_refused("its kernel was written to", KATA_E_VERSION, "its kernel");
	fixture_assert_ok(kata_template_make(builder, &config, NULL, &err), err);
	assert_clone(3);
	change_vmm();
	assert_refused("another VMM binary", KATA_E_VERSION, "its VMM");
	close_builder();
}

/* It was not booted from what its stamp would say. */
Test(template_stale, a_kernel_that_changes_while_it_is_made_fails_the_making)
{
	kata_timeline_entry e = {.size = sizeof(e)};
	kata_op *op = NULL;

	open_builder(0);
	fixture_assert_ok(
		kata_context_set_fail_point(f.context, "template/build:before", KATA_FAIL_DELAY, 500, 0, 1, &err), err);
	fixture_assert_ok(kata_template_make_begin(builder, &config, NULL, &op, &err), err);
	while (kata_op_get_timeline_entry(op, 4, &e, NULL) < 0 || !e.end_ns) /* make-room, which notes what is there */
		usleep(1000);
	cr_assert_str_eq(e.step, "make-room");
	write_kernel();
	fixture_assert_fails(kata_op_wait(op, &err), KATA_E_VERSION, err);
	cr_assert(strstr(error_text(err), "has changed while the template was made"), "%s", error_text(err));
	error_clear(&err);
	kata_op_unref(op);
	cr_assert_lt(access(path, F_OK), 0, "something is left");
	assert_clone(1);
	close_builder();
}

Test(template_stale, a_directory_that_others_can_write_to_is_refused_and_left)
{
	open_builder(0);
	assert_clone(1);
	cr_assert_eq(chmod(path, 0777), 0);
	assert_refused("mode 0777", KATA_E_PERMISSION, path);
	cr_assert_eq(chmod(path, 0700), 0);
	assert_clone(1);
	close_builder();
}

Test(template_stale, where_there_is_no_room_it_says_how_much_is_missing)
{
	char *small = fixture_path(&f, "small");

	cr_assert_eq(mkdir(small, 0700), 0);
	if (!own_mounts || mount("small", small, "tmpfs", 0, "size=4m,mode=0700"))
		cr_skip_test("no tmpfs can be mounted: run as root");
	free(path);
	path = fixture_path(&f, "small/template");
	open_builder(0);
	assert_refused("4 MiB of room", KATA_E_IO, "MiB free, the machine's RAM may take 16");
	cr_assert_lt(access(path, F_OK), 0, "something is left");
	close_builder();
	cr_assert_eq(umount(small), 0);
	free(small);
}
