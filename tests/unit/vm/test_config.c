/* SPDX-License-Identifier: Apache-2.0 */
/* Validation of kata_vm_config: each problem by its member's name, all of them at once; the copy and its JSON. */
#include <criterion/criterion.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <kata/vm_builder.h>

#include "base/text.h"
#include "support/fixture.h"
#include "vm/config.h"

static struct fixture f;
static kata_vm_config c;
static kata_error *err;
static char *kernel, *initrd;

static void setup(void)
{
	fixture_init(&f, false, 0);
	kernel = fixture_write_file(&f, "kernel", "k", 1);
	initrd = fixture_write_file(&f, "initrd", "i", 1);
	c = (kata_vm_config)KATA_VM_CONFIG_INIT;
	c.kernel = kernel;
	c.initrd = initrd;
}

static void teardown(void)
{
	free(kernel);
	free(initrd);
	error_clear(&err);
	fixture_deinit(&f);
}

TestSuite(config, .init = setup, .fini = teardown, .timeout = 30);

/* Exactly one problem, that begins so. */
static void has_problem(const char *text)
{
	fixture_assert_fails(kata_vm_config_validate(&c, &err), KATA_E_INVALID, err);
	cr_assert_eq(kata_error_get_problem_count(err), 1u, "%s", error_text(err));
	cr_assert(strstr(kata_error_get_problem(err, 0), text), "'%s' is not in '%s'", text,
		  kata_error_get_problem(err, 0));
}

static void is_fine(void)
{
	fixture_assert_ok(kata_vm_config_validate(&c, &err), err);
}

Test(config, the_least_is_a_kernel_and_an_initrd)
{
	is_fine();
}

Test(config, null_is_refused)
{
	fixture_assert_fails(kata_vm_config_validate(NULL, &err), KATA_E_INVALID, err);
}

Test(config, a_size_of_zero_is_refused)
{
	c.size = 0;
	fixture_assert_fails(kata_vm_config_validate(&c, &err), KATA_E_INVALID, err);
	cr_assert(strstr(error_text(err), "config.size"));
}

Test(config, every_problem_is_reported_at_once)
{
	c.id = "a/b";
	c.cpus = 4;
	c.cpus_max = 2;
	c.memory_mib = 512;
	c.memory_max_mib = 256;
	c.kernel = "/nonexistent/kernel";
	c.device_slots = 10000;
	fixture_assert_fails(kata_vm_config_validate(&c, &err), KATA_E_INVALID, err);
	cr_assert_eq(kata_error_get_problem_count(err), 5u, "%s", error_text(err));
	cr_assert(strstr(error_text(err), "5 problems"));
}

Test(config, an_id_with_a_slash_is_a_problem)
{
	c.id = "../x";
	has_problem("config.id");
}

Test(config, an_id_too_long_is_a_problem)
{
	char id[66];

	memset(id, 'a', 65);
	id[65] = '\0';
	c.id = id;
	has_problem("config.id");
	id[64] = '\0';
	error_clear(&err);
	is_fine();
}

Test(config, too_many_cpus_are_a_problem)
{
	c.cpus = 256;
	c.cpus_max = 0;
	has_problem("config.cpus: 256, at most 255");
}

Test(config, fewer_cpus_at_most_than_at_boot_are_a_problem)
{
	c.cpus = 4;
	c.cpus_max = 3;
	has_problem("config.cpus_max: 3 is less than cpus, 4");
}

Test(config, memory_above_the_maximum_is_a_problem)
{
	c.memory_mib = 1024;
	c.memory_max_mib = 512;
	has_problem("config.memory_max_mib: 512 is less than memory_mib, 1024");
}

Test(config, too_little_memory_is_a_problem)
{
	c.memory_mib = 1;
	has_problem("config.memory_mib: 1");
}

Test(config, absurd_memory_is_a_problem)
{
	c.memory_mib = UINT64_MAX;
	has_problem("config.memory_mib");
}

Test(config, memory_slots_without_room_are_a_problem)
{
	c.memory_slots = 2;
	has_problem("config.memory_slots: 2, but");
	error_clear(&err);
	c.memory_max_mib = 512;
	is_fine();
}

Test(config, memory_that_may_grow_but_has_no_slots_is_a_problem)
{
	c.memory_max_mib = 512;
	has_problem("config.memory_slots: is 0, but memory_max_mib, 512");
}

Test(config, a_missing_image_is_not_said_to_be_made_by_our_tool)
{
	c.image = "/nonexistent/image";
	has_problem("config.image: /nonexistent/image: No such file or directory");
	cr_assert_null(strstr(error_text(err), "tools/guest-image"));
}

Test(config, shared_memory_without_a_file_is_a_problem)
{
	c.memory_shared = true;
	has_problem("config.memory_shared");
}

Test(config, a_missing_kernel_is_a_problem)
{
	c.kernel = "/nonexistent/vmlinuz";
	has_problem("config.kernel: /nonexistent/vmlinuz: No such file or directory (tools/guest-image makes ");
}

Test(config, no_kernel_is_a_problem)
{
	c.kernel = NULL;
	has_problem("config.kernel: is NULL");
}

Test(config, a_relative_kernel_is_a_problem)
{
	c.kernel = "vmlinuz";
	has_problem("config.kernel: 'vmlinuz' is relative");
}

Test(config, a_kernel_that_is_a_directory_is_a_problem)
{
	c.kernel = f.dir;
	has_problem("is a directory");
}

Test(config, an_empty_kernel_is_a_problem)
{
	char *empty = fixture_write_file(&f, "empty", "", 0);

	c.kernel = empty;
	has_problem("is empty");
	free(empty);
}

Test(config, a_kernel_that_is_a_fifo_is_a_problem_and_does_not_block)
{
	char *fifo = fixture_path(&f, "fifo");

	cr_assert_eq(mkfifo(fifo, 0600), 0);
	c.kernel = fifo;
	has_problem("is a fifo");
	free(fifo);
}

Test(config, an_unreadable_kernel_is_a_problem)
{
	cr_assert_eq(chmod(kernel, 0), 0);
	cr_assert_eq(chmod(f.dir, 0755), 0);
	if (geteuid() == 0)
		cr_assert_eq(seteuid(65534), 0); /* root reads everything */
	has_problem("cannot be read");
	if (getuid() == 0)
		cr_assert_eq(seteuid(0), 0);
}

Test(config, neither_initrd_nor_image_is_a_problem)
{
	c.initrd = NULL;
	has_problem("config.initrd: is NULL, and so is config.image");
}

Test(config, a_missing_initrd_is_a_problem)
{
	c.initrd = "/nonexistent/initrd";
	has_problem("config.initrd: /nonexistent/initrd");
}

Test(config, an_image_of_an_odd_size_is_a_problem)
{
	char *odd = fixture_write_file(&f, "odd", "odd", 3);

	c.image = odd;
	has_problem("a multiple of 512");
	free(odd);
}

Test(config, an_image_alone_is_enough)
{
	char *image = fixture_make_raw(&f, "image", 4096);

	c.initrd = NULL;
	c.image = image;
	is_fine();
	free(image);
}

#define PARAM_PROBLEM(name, param, text)                                                                               \
	Test(config, name)                                                                                             \
	{                                                                                                              \
		const char *params[] = {"quiet", param, NULL};                                                         \
		c.kernel_params = params;                                                                              \
		has_problem("config.kernel_params[1]: " text);                                                         \
	}

PARAM_PROBLEM(an_empty_kernel_parameter_is_a_problem, "", "is empty")
PARAM_PROBLEM(a_kernel_parameter_with_a_newline_is_a_problem, "a=b\nc", "has a control character")
PARAM_PROBLEM(a_kernel_parameter_with_a_space_is_a_problem, "a=b c", "has a space")
PARAM_PROBLEM(a_kernel_parameter_with_an_open_quote_is_a_problem, "a=\"b c", "has a double quote that is not closed")
PARAM_PROBLEM(a_kernel_parameter_without_a_key_is_a_problem, "=b", "has no key")

Test(config, a_kernel_parameter_may_have_spaces_in_quotes)
{
	const char *params[] = {"a=\"b c\"", "quiet", NULL};

	c.kernel_params = params;
	is_fine();
}

Test(config, kernel_parameters_too_long_together_are_a_problem)
{
	char param[1200];
	const char *params[] = {param, param, NULL};

	memset(param, 'x', sizeof(param));
	param[sizeof(param) - 1] = '\0';
	c.kernel_params = params;
	has_problem("config.kernel_params: more than 2000 bytes");
}

Test(config, too_many_kernel_parameters_are_a_problem)
{
	const char *params[300];

	for (int i = 0; i < 299; i++)
		params[i] = "x";
	params[299] = NULL;
	c.kernel_params = params;
	has_problem("config.kernel_params: 299 of them");
}

Test(config, a_memory_file_in_no_directory_is_a_problem)
{
	c.memory_path = "/nonexistent/memory";
	has_problem("config.memory_path: its directory /nonexistent does not exist");
}

Test(config, a_memory_file_that_is_a_directory_is_a_problem)
{
	c.memory_path = f.dir;
	has_problem("config.memory_path");
}

Test(config, a_relative_memory_file_is_a_problem)
{
	c.memory_path = "memory";
	has_problem("config.memory_path: 'memory' is relative");
}

Test(config, a_memory_file_that_is_not_there_yet_is_fine)
{
	char *path = fixture_path(&f, "memory");

	c.memory_path = path;
	c.memory_shared = true;
	is_fine();
	free(path);
}

Test(config, a_machine_with_options_in_its_name_is_a_problem)
{
	c.machine = "q35,accel=kvm";
	has_problem("config.machine");
}

Test(config, too_many_device_slots_are_a_problem)
{
	c.device_slots = 241;
	has_problem("config.device_slots: 241, at most 240");
}

/* ---- the copy ---- */

Test(config, the_copy_has_the_defaults)
{
	struct kata__vm_config_copy *copy = NULL;

	fixture_assert_ok(kata__vm_config_copy_new(&c, &copy, &err), err);
	cr_assert(kata__uuid_is_valid(copy->v.id));
	cr_assert_eq(copy->v.cpus, 1u);
	cr_assert_eq(copy->v.cpus_max, 1u);
	cr_assert_eq(copy->v.memory_mib, 256u);
	cr_assert_eq(copy->v.memory_max_mib, 256u);
	cr_assert_eq(copy->v.device_slots, 16u);
	cr_assert_neq(copy->v.kernel, c.kernel);
	cr_assert_null(copy->kernel_params[0]);
	kata__vm_config_copy_free(copy);
	kata__vm_config_copy_free(NULL);
}

Test(config, json_and_back_is_the_same)
{
	const char *params[] = {"a=\"b c\"", "quiet", NULL};
	struct kata__vm_config_copy *copy = NULL, *again = NULL;
	KATA_AUTO_JSON json_t *one = NULL, *two = NULL;

	c.kernel_params = params;
	c.memory_path = "/dev/shm/x";
	c.memory_shared = true;
	c.machine = "q35";
	fixture_assert_ok(kata__vm_config_copy_new(&c, &copy, &err), err);
	one = kata__vm_config_to_json(copy);
	fixture_assert_ok(kata__vm_config_from_json(one, "config", &again, &err), err);
	two = kata__vm_config_to_json(again);
	cr_assert(json_equal(one, two));
	json_decref(two);
	two = NULL;
	kata__vm_config_copy_free(copy);
	kata__vm_config_copy_free(again);
}

Test(config, json_with_a_bad_value_is_corrupt)
{
	struct kata__vm_config_copy *copy = NULL, *again = NULL;
	KATA_AUTO_JSON json_t *o = NULL;

	fixture_assert_ok(kata__vm_config_copy_new(&c, &copy, &err), err);
	o = kata__vm_config_to_json(copy);
	json_object_set_new(o, "cpus_max", json_integer(0));
	fixture_assert_fails(kata__vm_config_from_json(o, "config", &again, &err), KATA_E_CORRUPT, err);
	error_clear(&err);
	json_object_set_new(o, "cpus_max", json_integer(1));
	json_object_set_new(o, "kernel", json_string("relative"));
	fixture_assert_fails(kata__vm_config_from_json(o, "config", &again, &err), KATA_E_CORRUPT, err);
	cr_assert_null(again);
	kata__vm_config_copy_free(copy);
}
