/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool_victim - a program that keeps a pool of machines and is killed while it does.
 *
 *     pool_victim STATE_DIR BINARY KERNEL INITRD MACHINES POINT [TEMPLATE_DIR]
 *
 * Fills a warm cache with so many machines, takes one under the id "victim", starts and destroys it, and drains the
 * rest; the fail-point POINT kills this process on its first pass. POINT "-" arms nothing. POINT "?" only prints the
 * steps that can be named, a line "operation/step" each. Exits 0 when all went well, 1 with the error on stderr.
 *
 * With TEMPLATE_DIR it keeps so many VMMs waiting for the template there instead, which is made where it is missing.
 */
#include <kata/kata.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "factory/pool.h"
#include "vm/qemu/machine.h"
#include "victim.h"

/* And makes what is made once: what the VMM can do is asked. */
static void print_steps(kata_vm_builder *builder)
{
	kata_capabilities c = {.size = sizeof(c)};
	kata_error *err = NULL;

	const struct kata__op_table *const tables[] = {&kata__pool_make_table,           &kata__hand_out_table,
						       &kata__pool_prestart_table,       &kata__qemu_prestart,
						       &kata__hand_out_prestarted_table, &kata__qemu_start_prestarted};

	for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++)
		for (size_t j = 0; j < tables[i]->count; j++)
			printf("%s/%s\n", tables[i]->name, tables[i]->steps[j].name);
	MUST(kata_vm_builder_get_capabilities(builder, &c, &err));
	printf("pool-take/hand-out\nstart-warm/cont\npool-drain/drain\n");
}

static void run(kata_vm_builder *cache, uint32_t machines, kata_vm_config *config)
{
	kata_error *err = NULL;
	kata_vm *vm = NULL;

	MUST(kata_cache_wait_ready(cache, machines, NULL, &err));
	config->id = "victim";
	MUST(kata_vm_builder_build(cache, config, NULL, NULL, &vm, &err));
	MUST(kata_vm_start(vm, NULL, &err));
	MUST(kata_cache_drain(cache, NULL, &err));
	MUST(kata_vm_destroy(vm, NULL, &err));
	kata_vm_unref(vm);
}

/* Asked for its steps it makes the template. */
static void run_template(kata_context *context, kata_vm_builder *inner, const char *dir, uint32_t machines,
			 kata_vm_config *config, bool only_make)
{
	kata_template_options options = KATA_TEMPLATE_OPTIONS_INIT;
	kata_vm_builder *builder = NULL;
	kata_error *err = NULL;
	kata_vm *vm = NULL;

	options.path = dir;
	options.flags = KATA_TEMPLATE_SHARE_MEMORY;
	options.prestarted = only_make ? 0 : machines;
	config->memory_mib = 16;
	MUST(kata_vm_builder_new_template(context, inner, NULL, &options, &builder, &err));
	MUST(kata_template_make(builder, config, NULL, &err));
	if (!only_make) {
		MUST(kata_template_wait_prestarted(builder, machines, NULL, &err));
		config->id = "victim";
		MUST(kata_vm_builder_build(builder, config, NULL, NULL, &vm, &err));
		MUST(kata_vm_start(vm, NULL, &err));
		MUST(kata_vm_destroy(vm, NULL, &err));
		kata_vm_unref(vm);
	}
	kata_vm_builder_free(builder);
}

int main(int argc, char **argv)
{
	kata_context_options options = KATA_CONTEXT_OPTIONS_INIT;
	kata_qemu_options qemu = KATA_QEMU_OPTIONS_INIT;
	kata_vm_config config = KATA_VM_CONFIG_INIT;
	kata_cache_size size = KATA_CACHE_SIZE_INIT;
	kata_cache_options cache_options = KATA_CACHE_OPTIONS_INIT;
	kata_vm_builder *builder = NULL, *cache = NULL;
	kata_context *context = NULL;
	kata_error *err = NULL;

	if (argc != 7 && argc != 8)
		return 2;

	options.state_dir = argv[1];
	qemu.binary = argv[2];
	qemu.accelerator = KATA_ACCELERATOR_TCG;
	config.kernel = argv[3];
	config.initrd = argv[4];
	config.memory_mib = 128;
	size.config = &config;
	size.min = (uint32_t)atoi(argv[5]);
	cache_options.sizes = &size;
	cache_options.size_count = 1;
	cache_options.parallel = 2;
	MUST(kata_context_new(&options, &context, &err));
	MUST(kata_vm_builder_new_qemu(context, &qemu, &builder, &err));
	if (argv[6][1])
		MUST(kata_context_set_fail_point(context, argv[6], KATA_FAIL_KILL, 0, 0, 1, &err));
	if (argv[6][0] == '?') {
		print_steps(builder);
		cache_options.size_count = 0;
	}
	if (argv[7]) {
		run_template(context, builder, argv[7], size.min, &config, argv[6][0] == '?');
		cache_options.size_count = 0;
	}
	MUST(kata_vm_builder_new_cache(context, builder, NULL, &cache_options, &cache, &err));
	if (cache_options.size_count)
		run(cache, size.min, &config);
	kata_vm_builder_free(cache);
	kata_vm_builder_free(builder);
	MUST(kata_context_free(context, &err));
	return 0;
}
