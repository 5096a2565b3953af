/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The smallest useful thing: boot a VM, plug one disk, run one container on it, destroy.
 *
 *     tiny GUEST_DIR ROOTFS_IMAGE      (./demo makes both; ROOTFS_IMAGE is a raw ext4 image with /bin/busybox)
 */
#include <kata/kata.h>

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const char spec[] =
	"{\"ociVersion\":\"1.0.2\",\"root\":{\"path\":\"storage:root\"},"
	" \"process\":{\"cwd\":\"/\",\"args\":[\"/bin/busybox\",\"echo\",\"hello from a virtual machine\"],"
	"              \"user\":{\"uid\":0,\"gid\":0},\"env\":[\"PATH=/bin\"]},"
	" \"mounts\":[{\"destination\":\"/proc\",\"type\":\"proc\",\"source\":\"proc\"}],"
	" \"linux\":{\"namespaces\":[{\"type\":\"mount\"},{\"type\":\"ipc\"},{\"type\":\"uts\"}]}}";

static kata_sandbox *sandbox;

/* Every call returns 0 or a status and fills the error: one place ends the machine and the program on it. */
static void must(int rc, kata_error **err)
{
	char *text = rc ? kata_error_to_text(*err) : NULL;

	if (!rc)
		return;
	fprintf(stderr, "tiny: %s", text ? text : "out of memory\n");
	if (sandbox)
		kata_sandbox_destroy(sandbox, NULL, NULL);
	exit(1);
}

int main(int argc, char **argv)
{
	char kernel[4096], initrd[4096], output[256];
	kata_context *ctx = NULL;
	kata_vm_builder *builder = NULL;
	kata_storage *disk = NULL;
	kata_error *err = NULL;
	int32_t status = -1;
	int out = -1;
	ssize_t n;

	if (argc != 3) {
		fprintf(stderr, "usage: tiny GUEST_DIR ROOTFS_IMAGE\n");
		return 2;
	}
	snprintf(kernel, sizeof(kernel), "%s/vmlinuz", argv[1]);
	snprintf(initrd, sizeof(initrd), "%s/initrd", argv[1]);

	must(kata_context_new(NULL, &ctx, &err), &err);
	must(kata_vm_builder_new_qemu(ctx, NULL, &builder, &err), &err);

	kata_vm_config vm = KATA_VM_CONFIG_INIT;
	vm.kernel = kernel;
	vm.initrd = initrd;
	must(kata_sandbox_create(ctx, NULL, builder, &vm, NULL, NULL, &sandbox, &err), &err);
	must(kata_sandbox_start(sandbox, NULL, &err), &err);

	kata_storage_config root = KATA_STORAGE_CONFIG_INIT;
	root.id = "root";
	root.path = argv[2];
	must(kata_storage_new(&root, &disk, &err), &err);
	must(kata_sandbox_add_storage(sandbox, disk, NULL, &err), &err);

	kata_container_config container = KATA_CONTAINER_CONFIG_INIT;
	container.id = "hello";
	container.oci_spec = spec;
	must(kata_sandbox_add_container(sandbox, &container, NULL, &err), &err);
	must(kata_sandbox_open_stdio(sandbox, "hello", "hello", NULL, &out, NULL, &err), &err);
	must(kata_sandbox_start_container(sandbox, "hello", NULL, &err), &err);
	while ((n = read(out, output, sizeof(output))) > 0)
		fwrite(output, 1, (size_t)n, stdout);
	close(out);
	must(kata_sandbox_wait_process(sandbox, "hello", "hello", NULL, &status, &err), &err);
	printf("exit code %d\n", (int)status);

	must(kata_sandbox_destroy(sandbox, NULL, &err), &err);
	kata_storage_unref(disk);
	kata_sandbox_unref(sandbox);
	kata_vm_builder_free(builder);
	must(kata_context_free(ctx, &err), &err);
	return status;
}
