/* SPDX-License-Identifier: Apache-2.0 */
/* What was found out about a binary: QEMU's replies, the cache file as hostile input, the check. */
#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "vm/qemu/accel.h"
#include "vm/qemu/caps.h"
#include "support/fixture.h"

#define KEY "/usr/bin/qemu 1:2 3.4 5"

static const char good[] =
	"{\"format\":1,\"key\":\"" KEY "\",\"machines\":[{\"alias\":\"q35\",\"cpus_max\":288,\"name\":\"pc-q35-7.2\"},"
	"{\"cpus_max\":1,\"name\":\"none\"}],\"types\":511,\"version\":[7,2,22]}";

Test(caps, the_cache_reads_back_what_it_wrote)
{
	struct kata__qemu_caps *a = NULL, *b = NULL;
	char *text, *again;

	cr_assert_eq(kata__qemu_caps_parse(good, strlen(good), KEY, &a, NULL), 0);
	text = kata__qemu_caps_format(a, KEY);
	cr_assert_eq(kata__qemu_caps_parse(text, strlen(text), KEY, &b, NULL), 0);
	again = kata__qemu_caps_format(b, KEY);
	cr_assert_str_eq(text, again);
	cr_assert_eq(b->machine_count, 2u);
	cr_assert_str_eq(kata__qemu_caps_find_machine(b, "q35")->name, "pc-q35-7.2");
	cr_assert_eq(kata__qemu_caps_find_machine(b, "pc-q35-7.2")->cpus_max, 288u);
	cr_assert_null(kata__qemu_caps_find_machine(b, "microvm"));
	kata__qemu_caps_free(a);
	kata__qemu_caps_free(b);
	free(text);
	free(again);
}

Test(caps, the_cache_of_another_binary_is_not_found)
{
	struct kata__qemu_caps *c = NULL;

	cr_assert_eq(kata__qemu_caps_parse(good, strlen(good), "/usr/bin/qemu 1:2 3.5 5", &c, NULL), KATA_E_NOT_FOUND);
	cr_assert_null(c);
}

Test(caps, a_cache_cut_anywhere_is_refused)
{
	for (size_t len = 0; len < strlen(good); len++) {
		struct kata__qemu_caps *c = NULL;

		cr_assert_neq(kata__qemu_caps_parse(good, len, KEY, &c, NULL), 0, "cut at %zu", len);
		cr_assert_null(c);
	}
}

Test(caps, a_cache_with_a_byte_changed_is_refused_or_harmless)
{
	char text[sizeof(good)];

	for (size_t i = 0; i < strlen(good); i++) {
		for (int bit = 0; bit < 8; bit++) {
			struct kata__qemu_caps *c = NULL;

			memcpy(text, good, sizeof(good));
			text[i] = (char)(text[i] ^ 1 << bit);
			if (kata__qemu_caps_parse(text, strlen(good), KEY, &c, NULL) == 0)
				for (size_t m = 0; m < c->machine_count; m++)
					cr_assert_null(strpbrk(c->machines[m].name, ",= \n\""));
			kata__qemu_caps_free(c);
		}
	}
}

Test(caps, a_cache_whose_machine_would_be_syntax_is_corrupt)
{
	static const char *const names[] = {"q35,accel=kvm", "q35 ", "", "a=b", "a\\nb"};
	char text[512];

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		struct kata__qemu_caps *c = NULL;

		snprintf(text, sizeof(text),
			 "{\"format\":1,\"key\":\"" KEY
			 "\",\"machines\":[{\"cpus_max\":1,\"name\":\"%s\"}],\"types\":1,\"version\":[7,2,0]}",
			 names[i]);
		cr_assert_eq(kata__qemu_caps_parse(text, strlen(text), KEY, &c, NULL), KATA_E_CORRUPT, "%s", names[i]);
	}
}

Test(caps, an_old_version_is_unsupported)
{
	struct kata__qemu_caps c = {.version = {7, 1, 9}, .types = ~0u};
	kata_error *err = NULL;

	cr_assert_eq(kata__qemu_caps_check(&c, "/q", &err), KATA_E_UNSUPPORTED);
	cr_assert(strstr(kata_error_get_message(err), "7.1.9"));
	kata_error_free(err);
}

Test(caps, missing_device_types_are_named)
{
	struct kata__qemu_caps c = {.version = {8, 0, 0},
				    .types = ~(1u << KATA__QEMU_SCSI_HD | 1u << KATA__QEMU_ROOT_PORT)};
	kata_error *err = NULL;

	cr_assert_eq(kata__qemu_caps_check(&c, "/q", &err), KATA_E_UNSUPPORTED);
	cr_assert(strstr(kata_error_get_message(err), "scsi-hd"));
	cr_assert(strstr(kata_error_get_message(err), "pcie-root-port"));
	cr_assert_null(strstr(kata_error_get_message(err), "virtio-blk"));
	kata_error_free(err);
}

Test(caps, a_binary_without_vsock_is_fine)
{
	struct kata__qemu_caps c = {.version = {7, 2, 0}, .types = ~(1u << KATA__QEMU_VHOST_VSOCK)};

	cr_assert_eq(kata__qemu_caps_check(&c, "/q", NULL), 0);
}

static void assert_probe_fails(const char *binary, const char *words, const char *status)
{
	struct kata__qemu_caps *c = NULL;
	kata_error *err = NULL;

	cr_assert_lt(kata__qemu_probe(binary, false, 0, 0, &c, &err), 0);
	cr_assert(strstr(kata_error_get_message(err), binary), "%s", kata_error_get_message(err));
	if (words)
		cr_assert(strstr(kata_error_get_vmm_output(kata_error_get_cause(err)), words));
	cr_assert(strstr(error_text(err), status), "%s", error_text(err));
	cr_assert(strstr(kata_error_get_hint(err), binary));
	kata_error_free(err);
}

Test(caps, a_program_that_is_not_qemu_is_reported_with_its_last_words)
{
	assert_probe_fails("/bin/ls", "invalid option", "its exit status was ");
}

Test(caps, a_program_that_ends_at_once_is_reported)
{
	assert_probe_fails("/bin/true", NULL, "its exit status was 0");
}

Test(accel, tcg_asked_for_is_not_probed)
{
	struct kata__accel a;

	cr_assert_eq(kata__accel_choose(KATA_ACCELERATOR_TCG, "/nonexistent", 0, 0, &a, NULL), 0);
	cr_assert_not(a.kvm);
	cr_assert_str_eq(a.reason, "asked for");
}

Test(accel, the_group_of_a_device_is_taken_only_where_it_may_use_it)
{
	struct stat st;

	cr_assert_eq(kata__accel_group("/nonexistent", 7), 7u);
	cr_assert_eq(kata__accel_group("/etc/passwd", 7), 7u, "no device");
	cr_assert_eq(kata__accel_group("/dev/null", 7), 7u, "root's group is no privilege to give");
	cr_assert_eq(stat("/dev/ptmx", &st), 0);
	cr_assert_eq(kata__accel_group("/dev/ptmx", 7), st.st_gid && (st.st_mode & 0060) == 0060 ? st.st_gid : 7u);
}

Test(accel, a_device_that_is_not_there_is_tcg_with_the_reason)
{
	struct kata__accel a;

	kata__accel_probe("/nonexistent/kvm", &a);
	cr_assert_not(a.kvm);
	cr_assert(strstr(a.reason, "does not open"), "%s", a.reason);
}

Test(accel, a_device_that_is_not_kvm_is_tcg_with_the_reason)
{
	struct kata__accel a;

	kata__accel_probe("/dev/null", &a);
	cr_assert_not(a.kvm);
	cr_assert_not(a.measured);
	cr_assert(strstr(a.reason, "opens but"), "%s", a.reason);
}

Test(accel, the_verdict_is_kept_and_a_spoilt_cache_is_measured_anew, .timeout = 30)
{
	char dir[] = "/tmp/kata-accel-XXXXXX", path[64], *text = NULL;
	struct kata__accel first, second, third;
	size_t len;

	if (access("/dev/kvm", R_OK | W_OK) != 0)
		cr_skip_test("/dev/kvm cannot be opened here: there is no verdict to keep");
	cr_assert_not_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/accelerator.json", dir);
	cr_assert_eq(kata__accel_choose(KATA_ACCELERATOR_AUTO, dir, 0, 0, &first, NULL), 0);
	cr_assert_eq(kata__read_file(path, 4096, &text, &len, NULL), 0);
	cr_assert_eq(kata__accel_choose(KATA_ACCELERATOR_AUTO, dir, 0, 0, &second, NULL), 0);
	cr_assert_str_eq(first.reason, second.reason);
	cr_assert_eq(kata__write_file_atomic(path, "{\"kvm\":true}", 12, NULL), 0);
	cr_assert_eq(kata__accel_choose(KATA_ACCELERATOR_AUTO, dir, 0, 0, &third, NULL), 0);
	cr_assert_eq(third.kvm, first.kvm);
	free(text);
	unlink(path);
	rmdir(dir);
}

Test(accel, kvm_asked_for_where_it_does_not_work_is_unsupported_with_the_reason, .timeout = 30)
{
	char dir[] = "/tmp/kata-accel-XXXXXX", path[64];
	struct kata__accel a;
	kata_error *err = NULL;

	cr_assert_not_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/accelerator.json", dir);
	cr_assert_eq(kata__accel_choose(KATA_ACCELERATOR_AUTO, dir, 0, 0, &a, NULL), 0);
	if (a.kvm)
		cr_skip_test("KVM works here");
	cr_assert_eq(kata__accel_choose(KATA_ACCELERATOR_KVM, dir, 0, 0, &a, &err), KATA_E_UNSUPPORTED);
	cr_assert(strstr(kata_error_get_message(err), "/dev/kvm"));
	kata_error_free(err);
	unlink(path);
	rmdir(dir);
}
