/* SPDX-License-Identifier: Apache-2.0 */
/*
 * factory_client - takes a machine from a factory in another process, and does with it what it is told.
 *
 *     factory_client STATE_DIR BINARY KERNEL INITRD SOCKET POINT
 *
 * Builds by a remote builder, prints "UUID ORIGIN", and reads a word from stdin: then it starts the machine, asks its
 * agent, prints "works", and: "use" destroys it, "drop" exits without, "crash" kills itself. The fail-point POINT kills
 * it on its first pass; "-" arms nothing. Exits 0, or 1 with the error on stdout.
 */
#include <kata/kata.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "victim.h"

static kata_context *context;
static kata_vm_builder *local, *remote;

static void set_up(char **argv)
{
	kata_context_options options = KATA_CONTEXT_OPTIONS_INIT;
	kata_qemu_options qemu = KATA_QEMU_OPTIONS_INIT;
	kata_remote_options from = KATA_REMOTE_OPTIONS_INIT;
	kata_error *err = NULL;

	options.state_dir = argv[1];
	qemu.binary = argv[2];
	qemu.accelerator = KATA_ACCELERATOR_TCG;
	from.socket_path = argv[5];
	from.take_ms = 120000;
	MUST(kata_context_new(&options, &context, &err));
	MUST(kata_vm_builder_new_qemu(context, &qemu, &local, &err));
	MUST(kata_vm_builder_new_remote(context, local, &from, &remote, &err));
	if (strcmp(argv[6], "-") != 0)
		MUST(kata_context_set_fail_point(context, argv[6], KATA_FAIL_KILL, 0, 0, 1, &err));
}

static void use(kata_vm *vm)
{
	kata_op_options patient = KATA_OP_OPTIONS_INIT;
	kata_agent_builder *agents = NULL;
	kata_agent *agent = NULL;
	kata_error *err = NULL;

	patient.timeout_ms = 120000;
	MUST(kata_agent_builder_new_direct(context, &agents, &err));
	MUST(kata_vm_start(vm, &patient, &err));
	MUST(kata_agent_builder_build(agents, vm, NULL, &patient, &agent, &err));
	MUST(kata_agent_check(agent, &patient, &err));
	kata_agent_unref(agent);
	kata_agent_builder_free(agents);
	printf("works\n");
	fflush(stdout);
}

static void end(kata_vm *vm)
{
	kata_error *err = NULL;

	MUST(kata_vm_destroy(vm, NULL, &err));
	kata_vm_unref(vm);
	kata_vm_builder_free(remote);
	kata_vm_builder_free(local);
	MUST(kata_context_free(context, &err));
}

int main(int argc, char **argv)
{
	kata_vm_config config = KATA_VM_CONFIG_INIT;
	kata_error *err = NULL;
	kata_vm *vm = NULL;
	char word[16] = "", id[32];

	if (argc != 7)
		return 2;
	set_up(argv);
	config.kernel = argv[3];
	config.initrd = argv[4];
	config.memory_mib = 192;
	snprintf(id, sizeof(id), "of-%ld", (long)getpid());
	config.id = id;
	MUST(kata_vm_builder_build(remote, &config, NULL, NULL, &vm, &err));
	printf("%s %s\n", kata_vm_get_uuid(vm), kata_vm_origin_get_name(kata_vm_get_origin(vm)));
	fflush(stdout);
	if (!fgets(word, sizeof(word), stdin))
		return 3;
	use(vm);
	if (strcmp(word, "crash\n") == 0)
		raise(SIGKILL);
	if (strcmp(word, "drop\n") == 0)
		_exit(0);
	end(vm);
	return 0;
}
