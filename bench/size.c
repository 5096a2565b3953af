/* SPDX-License-Identifier: Apache-2.0 */
/* What an idle VM costs its process, and how large the library is: exact counts. */
#include "bench.h"

#include <dirent.h>
#include <elf.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define VMS 16

static int count_entries(const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *e;
	int n = 0;

	while (d && (e = readdir(d)))
		n += e->d_name[0] != '.';
	if (d)
		closedir(d);
	return n;
}

struct cost {
	double heap_kib, fds, threads;
};

static struct cost now(void)
{
	struct mallinfo2 m = mallinfo2();

	return (struct cost){(double)m.uordblks / 1024, count_entries("/proc/self/fd"),
			     count_entries("/proc/self/task")};
}

static int start_one(kata_vm_builder *builder, kata_vm **ret_vm)
{
	kata_vm_config config = KATA_VM_CONFIG_INIT;
	char kernel[] = "/proc/self/exe"; /* the stand-in boots nothing */
	kata_error *err = NULL;

	config.kernel = kernel;
	config.initrd = kernel;
	if (kata_vm_builder_build(builder, &config, NULL, NULL, ret_vm, &err) || kata_vm_start(*ret_vm, NULL, &err))
		return bench_fail("starting a VM of the stand-in", err);
	return 0;
}

/* The QEMU driver's VMs, on the stand-in: the first VM pays for what is made once. */
static int measure(struct bench *b, struct cost *ret)
{
	kata_context *ctx = bench_context(b, 0);
	kata_qemu_options o = KATA_QEMU_OPTIONS_INIT;
	kata_vm_builder *builder = NULL;
	kata_vm *vms[VMS + 1] = {NULL};
	kata_error *err = NULL;
	char binary[512];
	struct cost before, after;
	int rc;

	snprintf(binary, sizeof(binary), "%s/tests/programs/qemu_standin", b->build_dir);
	o.binary = binary;
	o.accelerator = KATA_ACCELERATOR_TCG;
	o.flags = KATA_QEMU_KEEP_IDS;
	rc = !ctx || kata_vm_builder_new_qemu(ctx, &o, &builder, &err) ? bench_fail("builder", err)
								       : start_one(builder, &vms[VMS]);
	before = now();
	for (int i = 0; !rc && i < VMS; i++)
		rc = start_one(builder, &vms[i]);
	after = now();
	*ret = (struct cost){(after.heap_kib - before.heap_kib) / VMS, (after.fds - before.fds) / VMS,
			     (after.threads - before.threads) / VMS};
	for (int i = 0; i <= VMS; i++) {
		if (vms[i])
			kata_vm_destroy(vms[i], NULL, NULL);
		kata_vm_unref(vms[i]);
	}
	kata_vm_builder_free(builder);
	kata_context_free(ctx, NULL);
	return rc;
}

static int idle(struct bench *b, struct bench_value *values)
{
	struct cost c;

	if (measure(b, &c))
		return -1;
	bench_count(&values[0], c.heap_kib);
	bench_count(&values[1], c.fds);
	bench_count(&values[2], c.threads);
	return 0;
}

/* The section .text of libkata.so. */
static int text(struct bench *b, struct bench_value *ret)
{
	char path[512];
	Elf64_Ehdr head;
	Elf64_Shdr *sections;
	char *names = NULL;
	double size = -1;
	FILE *f;

	snprintf(path, sizeof(path), "%s/libkata.so.0", b->build_dir);
	f = fopen(path, "re");
	if (!f || fread(&head, sizeof(head), 1, f) != 1)
		return -1;
	sections = calloc(head.e_shnum, sizeof(*sections));
	fseek(f, (long)head.e_shoff, SEEK_SET);
	if (sections && fread(sections, sizeof(*sections), head.e_shnum, f) == head.e_shnum) {
		const Elf64_Shdr *strings = &sections[head.e_shstrndx];

		names = calloc(1, strings->sh_size + 1);
		fseek(f, (long)strings->sh_offset, SEEK_SET);
		if (names && fread(names, 1, strings->sh_size, f) == strings->sh_size)
			for (int i = 0; i < head.e_shnum; i++)
				if (strcmp(names + sections[i].sh_name, ".text") == 0)
					size = (double)sections[i].sh_size / 1024;
	}
	free(names);
	free(sections);
	fclose(f);
	bench_count(ret, size);
	return size < 0 ? -1 : 0;
}

const struct bench_group bench_size[] = {
	{60,
	 idle,
	 {{.name = "heap_per_vm_kib", .unit = "KiB", .figures = {{NULL, 16, 4}}},
	  {.name = "fds_per_vm", .unit = "count", .figures = {{NULL, 4, 3}}},
	  {.name = "threads_per_vm", .unit = "count", .figures = {{NULL, 0, 0}}}}},
	{10, text, {{.name = "text_kib", .unit = "KiB", .figures = {{NULL, 400, 200}}}}},
	{0, NULL, {{NULL}}},
};
