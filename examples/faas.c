/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A VM factory for a function-as-a-service host: each request gets a machine of its own, which nobody had before and
 * nobody gets afterwards.
 *
 *     faas GUEST_DIR WORK_DIR [REQUESTS]
 *
 * Three builders, one around the other: QEMU boots; a template makes clones of a machine that booted once; a warm cache
 * keeps some of those ready. A request takes a machine from the cache, plugs the function's code as a read-only disk,
 * runs it with the request on stdin, and ends the machine. Clones share pages of memory (see kata/template.h): here all
 * functions are one tenant's, who may know this of himself.
 */
#include <kata/kata.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "parts.h"

#define FUNCTION "read name; echo hello $name, from $(cat /proc/sys/kernel/random/uuid)"

struct host {
	kata_context *ctx;
	kata_vm_builder *qemu, *clones, *warm;
	kata_vm_config machine;
	char kernel[4096], initrd[4096], template_dir[4096], code[4096], state_dir[4096], spec[4096];
};

static double now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static int failed(const char *what, kata_error *take_err)
{
	char *text = kata_error_to_text(take_err);

	fprintf(stderr, "faas: %s: %s", what, text ? text : "out of memory\n");
	free(text);
	kata_error_free(take_err);
	return -1;
}

/* ---- the factory ---- */

static int open_host(struct host *h, const char *guest, const char *work)
{
	kata_template_options template_ = KATA_TEMPLATE_OPTIONS_INIT;
	kata_context_options context = KATA_CONTEXT_OPTIONS_INIT;
	kata_cache_options cache = KATA_CACHE_OPTIONS_INIT;
	kata_cache_size size = KATA_CACHE_SIZE_INIT;
	kata_error *err = NULL;

	snprintf(h->kernel, sizeof(h->kernel), "%s/vmlinux", guest);
	snprintf(h->initrd, sizeof(h->initrd), "%s/initrd", guest);
	snprintf(h->template_dir, sizeof(h->template_dir), "%s/template", work);
	snprintf(h->state_dir, sizeof(h->state_dir), "%s/s", work); /* its own: whoever drains it harms nobody else */
	snprintf(h->code, sizeof(h->code), "%s/function.img", work);
	container_spec(h->spec, sizeof(h->spec), "storage:code", FUNCTION);
	if (make_rootfs(work, h->code))
		return failed("making the function's disk", NULL);

	h->machine = (kata_vm_config)KATA_VM_CONFIG_INIT;
	h->machine.kernel = h->kernel;
	h->machine.initrd = h->initrd;
	h->machine.memory_mib = 128;
	h->machine.device_slots = 4;
	context.state_dir = h->state_dir;
	template_.path = h->template_dir;
	template_.flags = KATA_TEMPLATE_SHARE_MEMORY;
	size.config = &h->machine;
	size.min = 2;
	size.max = 4;
	cache.sizes = &size;
	cache.size_count = 1;
	if (kata_context_new(&context, &h->ctx, &err) || kata_vm_builder_new_qemu(h->ctx, NULL, &h->qemu, &err) ||
	    kata_vm_builder_new_template(h->ctx, h->qemu, NULL, &template_, &h->clones, &err) ||
	    kata_template_make(h->clones, &h->machine, NULL, &err) ||
	    kata_vm_builder_new_cache(h->ctx, h->clones, NULL, &cache, &h->warm, &err) ||
	    kata_cache_wait_ready(h->warm, 2, NULL, &err))
		return failed("opening the factory", err);
	return 0;
}

static void close_host(struct host *h)
{
	kata_vm_builder_free(h->warm); /* ends what it kept ready */
	if (h->clones)
		kata_template_remove(h->clones, NULL, NULL);
	kata_vm_builder_free(h->clones);
	kata_vm_builder_free(h->qemu);
	kata_context_free(h->ctx, NULL);
}

/* ---- a request ---- */

static int plug_code(struct host *h, kata_sandbox *s, kata_error **err)
{
	static const char *const options[] = {"ro", NULL};
	kata_storage_config c = KATA_STORAGE_CONFIG_INIT;
	kata_storage *code = NULL;
	int rc;

	c.id = "code";
	c.path = h->code;
	c.flags = KATA_STORAGE_READ_ONLY; /* any number of machines have it at once */
	c.mount_options = options;
	rc = kata_storage_new(&c, &code, err) || kata_sandbox_add_storage(s, code, NULL, err);
	kata_storage_unref(code);
	return rc;
}

static int run_function(struct host *h, kata_sandbox *s, const char *name, char *answer, size_t size, kata_error **err)
{
	kata_container_config c = KATA_CONTAINER_CONFIG_INIT;
	int32_t status = -1;
	int in = -1, out = -1;

	c.id = "function";
	c.oci_spec = h->spec;
	if (kata_sandbox_add_container(s, &c, NULL, err) ||
	    kata_sandbox_open_stdio(s, "function", NULL, &in, &out, NULL, err) ||
	    kata_sandbox_start_container(s, "function", NULL, err))
		return -1;
	dprintf(in, "%s\n", name);
	close(in);
	read_line(out, answer, size);
	close(out);
	if (kata_sandbox_wait_process(s, "function", NULL, NULL, &status, err))
		return -1;
	return status == 0 ? 0 : unexpected("the function's exit code");
}

static int serve(struct host *h, kata_vm_builder *builder, const char *name)
{
	double begin = now_ms(), ready = 0, done = 0;
	kata_sandbox *s = NULL;
	kata_error *err = NULL;
	char answer[160] = "", origin[16] = "";
	kata_vm *vm = NULL;
	int rc = kata_sandbox_create(h->ctx, NULL, builder, &h->machine, NULL, NULL, &s, &err) ||
		 kata_sandbox_start(s, NULL, &err);

	ready = now_ms();
	rc = rc || plug_code(h, s, &err) || run_function(h, s, name, answer, sizeof(answer), &err);
	done = now_ms();
	if (s) {
		vm = kata_sandbox_get_vm(s);
		snprintf(origin, sizeof(origin), "%s", kata_vm_origin_get_name(kata_vm_get_origin(vm)));
		kata_vm_unref(vm);
		kata_sandbox_destroy(s, NULL, rc ? NULL : &err);
		kata_sandbox_unref(s);
	}
	if (rc)
		return failed(name, err);
	printf("%-8s %-7s machine ready after %7.1f ms, answered after %7.1f ms: %s\n", name, origin, ready - begin,
	       done - begin, answer);
	fflush(stdout);
	return 0;
}

int main(int argc, char **argv)
{
	static const char *const names[] = {"ada", "grace", "edsger", "barbara", "dennis", "frances"};
	long requests = argc > 3 ? strtol(argv[3], NULL, 10) : 6;
	struct host h = {0};
	int rc;

	if (argc < 3 || requests < 1) {
		fprintf(stderr, "usage: faas GUEST_DIR WORK_DIR [REQUESTS]\n");
		return 2;
	}
	rc = open_host(&h, argv[1], argv[2]);
	if (!rc)
		rc = serve(&h, h.qemu, "boot") || serve(&h, h.clones, "clone"); /* to compare with */
	for (long i = 0; i < requests && !rc; i++)
		rc = serve(&h, h.warm, names[(size_t)i % (sizeof(names) / sizeof(names[0]))]);
	close_host(&h);
	return rc ? 1 : 0;
}
