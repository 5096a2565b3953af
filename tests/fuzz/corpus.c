/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The seeds of every fuzz target as plain tests: each as it is, cut at every byte, and with bytes changed. A target
 * that finds something wrong aborts, which Criterion reports.
 */
#include <criterion/criterion.h>
#include <dirent.h>
#include <stdio.h>
#include <string.h>

#include "base/fd.h"
#include "fuzz.h"

#define SEED_MAX (1u << 20)
#define MUTATED_MAX 4096u /* longer seeds are run as they are and cut in steps */

typedef int (*target_fn)(const uint8_t *data, size_t size);

int fuzz_ttrpc(const uint8_t *data, size_t size);
int fuzz_messages(const uint8_t *data, size_t size);
int fuzz_qmp(const uint8_t *data, size_t size);
int fuzz_oci_read(const uint8_t *data, size_t size);
int fuzz_oci_write(const uint8_t *data, size_t size);
int fuzz_record(const uint8_t *data, size_t size);
int fuzz_qcow2(const uint8_t *data, size_t size);
int fuzz_vm_record(const uint8_t *data, size_t size);
int fuzz_factory_message(const uint8_t *data, size_t size);
int fuzz_manifest(const uint8_t *data, size_t size);
int fuzz_template_record(const uint8_t *data, size_t size);

static void run_copy(target_fn target, const uint8_t *data, size_t size)
{
	/* A copy of exactly that size, so that ASan sees an overrun. */
	uint8_t *copy = malloc(size ? size : 1);

	cr_assert(copy);
	memcpy(copy, data, size);
	target(copy, size);
	free(copy);
}

static void run_mutations(target_fn target, uint8_t *data, size_t size)
{
	static const uint8_t values[] = {0x00, 0x7f, 0x80, 0xff, '"', '{', ']', '9'};
	size_t step = size > MUTATED_MAX ? size / MUTATED_MAX + 1 : 1;

	for (size_t i = 0; i < size; i += step) {
		uint8_t kept = data[i];

		run_copy(target, data, i);
		data[i] = values[i % sizeof(values)];
		run_copy(target, data, size);
		data[i] = (uint8_t)(kept ^ (1u << i % 8));
		run_copy(target, data, size);
		data[i] = kept;
	}
}

static void run_seed(target_fn target, const char *directory, const char *name)
{
	char path[512], *text;
	size_t size;

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	cr_assert_eq(kata__read_file(path, SEED_MAX, &text, &size, NULL), 0, "%s", path);
	run_copy(target, (const uint8_t *)text, size);
	run_mutations(target, (uint8_t *)text, size);
	free(text);
}

static void run_corpus(target_fn target, const char *name)
{
	char directory[256];
	struct dirent *entry;
	unsigned seeds = 0;
	DIR *d;

	snprintf(directory, sizeof(directory), KATA_SOURCE_DIR "/tests/fuzz/corpus/%s", name);
	d = opendir(directory);
	cr_assert(d, "%s", directory);
	while ((entry = readdir(d))) {
		if (entry->d_name[0] == '.')
			continue;
		run_seed(target, directory, entry->d_name);
		seeds++;
	}
	closedir(d);
	cr_assert_gt(seeds, 0, "%s has no seeds", directory);
	target(NULL, 0);
}

Test(fuzz_corpus, ttrpc_frames_are_survived)
{
	run_corpus(fuzz_ttrpc, "ttrpc");
}

Test(fuzz_corpus, messages_of_the_agent_are_survived)
{
	run_corpus(fuzz_messages, "messages");
}

Test(fuzz_corpus, qmp_lines_are_survived)
{
	run_corpus(fuzz_qmp, "qmp");
}

Test(fuzz_corpus, oci_texts_are_survived_and_round_trip)
{
	run_corpus(fuzz_oci_read, "oci_read");
}

Test(fuzz_corpus, specs_off_the_wire_are_survived)
{
	run_corpus(fuzz_oci_write, "oci_write");
}

Test(fuzz_corpus, records_of_sandboxes_are_survived_and_round_trip)
{
	run_corpus(fuzz_record, "record");
}

Test(fuzz_corpus, headers_of_qcow2_images_are_survived)
{
	run_corpus(fuzz_qcow2, "qcow2");
}

Test(fuzz_corpus, records_of_vms_are_survived_and_round_trip)
{
	run_corpus(fuzz_vm_record, "vm_record");
}

Test(fuzz_corpus, messages_between_a_factory_and_its_clients_are_survived)
{
	run_corpus(fuzz_factory_message, "factory_message");
}

Test(fuzz_corpus, manifests_of_snapshots_are_survived_and_round_trip)
{
	run_corpus(fuzz_manifest, "manifest");
}

Test(fuzz_corpus, records_of_templates_are_survived_and_round_trip)
{
	run_corpus(fuzz_template_record, "template_record");
}
