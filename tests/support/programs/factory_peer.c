/* SPDX-License-Identifier: Apache-2.0 */
/*
 * factory_peer - one side of a factory that is shared between processes; killed while it is at work.
 *
 *     factory_peer steps
 *     factory_peer server STATE_DIR BINARY KERNEL INITRD SOCKET MACHINES POINT
 *     factory_peer client STATE_DIR BINARY KERNEL INITRD SOCKET ID POINT
 *
 * The server fills a warm cache with so many machines, prints "ready" and serves until its stdin ends. The client
 * builds "ID" by a remote builder, prints where the machine comes from, starts it, asks its agent, destroys it. The
 * fail-point POINT kills the process on its first pass; "-" arms nothing. "steps" prints those of both sides. Exits 0
 * when all went well, 1 with the error on stderr.
 */
#include <kata/kata.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "factory/remote.h"
#include "victim.h"

static kata_context *context;
static kata_vm_builder *qemu;
static kata_vm_config config;

static void print_steps(const struct kata__op_table *table)
{
	for (size_t i = 0; i < table->count; i++)
		printf("%s/%s\n", table->name, table->steps[i].name);
}

static void set_up(char **argv)
{
	kata_context_options options = KATA_CONTEXT_OPTIONS_INIT;
	kata_qemu_options qemu_options = KATA_QEMU_OPTIONS_INIT;
	kata_error *err = NULL;

	options.state_dir = argv[2];
	qemu_options.binary = argv[3];
	qemu_options.accelerator = KATA_ACCELERATOR_TCG;
	config = (kata_vm_config)KATA_VM_CONFIG_INIT;
	config.kernel = argv[4];
	config.initrd = argv[5];
	config.memory_mib = 192;
	MUST(kata_context_new(&options, &context, &err));
	MUST(kata_vm_builder_new_qemu(context, &qemu_options, &qemu, &err));
	if (strcmp(argv[8], "-") != 0)
		MUST(kata_context_set_fail_point(context, argv[8], KATA_FAIL_KILL, 0, 0, 1, &err));
}

static void be_server(char **argv)
{
	kata_factory_server_options options = KATA_FACTORY_SERVER_OPTIONS_INIT;
	kata_cache_options cache_options = KATA_CACHE_OPTIONS_INIT;
	kata_cache_size size = KATA_CACHE_SIZE_INIT;
	kata_factory_server *server = NULL;
	kata_vm_builder *cache = NULL;
	kata_error *err = NULL;
	char byte;

	size.config = &config;
	size.min = (uint32_t)atoi(argv[7]);
	cache_options.sizes = &size;
	cache_options.size_count = 1;
	cache_options.parallel = 2;
	cache_options.probe_ms = 20000;
	options.socket_path = argv[6];
	MUST(kata_vm_builder_new_cache(context, qemu, NULL, &cache_options, &cache, &err));
	MUST(kata_cache_wait_ready(cache, size.min, NULL, &err));
	MUST(kata_factory_server_new(context, cache, &options, &server, &err));
	printf("ready\n");
	fflush(stdout);
	while (read(0, &byte, 1) > 0)
		;
	kata_factory_server_free(server);
	kata_vm_builder_free(cache);
}

static void use(kata_vm *vm)
{
	kata_agent_builder *agents = NULL;
	kata_agent *agent = NULL;
	kata_error *err = NULL;

	MUST(kata_agent_builder_new_direct(context, &agents, &err));
	MUST(kata_vm_start(vm, NULL, &err));
	MUST(kata_agent_builder_build(agents, vm, NULL, NULL, &agent, &err));
	MUST(kata_agent_check(agent, NULL, &err));
	kata_agent_unref(agent);
	MUST(kata_vm_destroy(vm, NULL, &err));
	kata_agent_builder_free(agents);
}

static void be_client(char **argv)
{
	kata_remote_options options = KATA_REMOTE_OPTIONS_INIT;
	kata_vm_builder *remote = NULL;
	kata_error *err = NULL;
	kata_vm *vm = NULL;

	options.socket_path = argv[6];
	config.id = argv[7];
	MUST(kata_vm_builder_new_remote(context, qemu, &options, &remote, &err));
	MUST(kata_vm_builder_build(remote, &config, NULL, NULL, &vm, &err));
	printf("%s\n", kata_vm_origin_get_name(kata_vm_get_origin(vm)));
	fflush(stdout);
	use(vm);
	kata_vm_unref(vm);
	kata_vm_builder_free(remote);
}

int main(int argc, char **argv)
{
	kata_error *err = NULL;

	if (argc == 2) {
		print_steps(&kata__remote_take_table);
		print_steps(&kata__serve_table);
		return 0;
	}
	if (argc != 9)
		return 2;
	set_up(argv);
	if (strcmp(argv[1], "server") == 0)
		be_server(argv);
	else
		be_client(argv);
	kata_vm_builder_free(qemu);
	MUST(kata_context_free(context, &err));
	return 0;
}
