/* SPDX-License-Identifier: Apache-2.0 */
/* See recover_scene.h. */
#include "support/recover_scene.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static void init(struct scene *sc)
{
	memset(sc, 0, sizeof(*sc));
#ifdef __SANITIZE_THREAD__
	cr_skip_test(
		"ThreadSanitizer sees no synchronisation in a child of its own fork and reports races that are none");
#endif
	fixture_init(&sc->f, false, 0);
	sc->disk = fixture_make_raw(&sc->f, "disk", 1 << 20);
	sc->board = mmap(NULL, sizeof(*sc->board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	cr_assert_neq(sc->board, MAP_FAILED);
}

void scene_init(struct scene *sc)
{
	init(sc);
	sc->kernel = fixture_make_kernel(&sc->f);
	sc->initrd = strdup(sc->kernel);
	sc->binary = fixture_make_standin(&sc->f, NULL);
	sc->memory_mib = 64;
}

void scene_init_qemu(struct scene *sc, const char *kernel, const char *initrd)
{
	init(sc);
	sc->kernel = strdup(kernel);
	sc->initrd = strdup(initrd);
	sc->binary = strdup("/usr/bin/qemu-system-x86_64");
	sc->memory_mib = 128;
}

void scene_deinit(struct scene *sc)
{
	munmap(sc->board, sizeof(*sc->board));
	free(sc->kernel);
	free(sc->initrd);
	free(sc->binary);
	free(sc->disk);
	fixture_deinit(&sc->f);
}

int scene_run(struct scene *sc, void (*fn)(struct scene *sc))
{
	int status;
	pid_t pid = fork();

	cr_assert_geq(pid, 0);
	if (pid == 0) {
		fn(sc);
		_exit(0);
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	return status;
}

void scene_assert_killed(struct scene *sc, int status, const char *what)
{
	cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "%s: ended with %d: %s", what, status,
		  sc->board->problem);
}

void scene_assert_ended(struct scene *sc, int status, const char *what)
{
	cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s: ended with %d: %s", what, status,
		  sc->board->problem);
}

/* ---- in the children ---- */

void actor_must(struct actor *a, int rc, kata_error *err, const char *what)
{
	if (rc == 0)
		return;
	snprintf(a->sc->board->problem, sizeof(a->sc->board->problem), "%s: %s", what, error_text(err));
	_exit(1);
}

void actor_want(struct actor *a, bool good, const char *what)
{
	if (good)
		return;
	snprintf(a->sc->board->problem, sizeof(a->sc->board->problem), "%s", what);
	_exit(1);
}

void actor_open_without_p(struct actor *a, struct scene *sc)
{
	kata_context_options context_options = KATA_CONTEXT_OPTIONS_INIT;
	kata_qemu_options options = KATA_QEMU_OPTIONS_INIT;
	kata_error *err = NULL;

	*a = (struct actor){.sc = sc};
	context_options.state_dir = sc->f.state_dir;
	options.binary = sc->binary;
	options.accelerator = KATA_ACCELERATOR_TCG;
	MUST(a, kata_context_new(&context_options, &a->context, &err));
	MUST(a, kata_vm_builder_new_qemu(a->context, &options, &a->builder, &err));
}

void actor_open(struct actor *a, struct scene *sc)
{
	char *path = fixture_path(&sc->f, "book.db");
	kata_error *err = NULL;

	actor_open_without_p(a, sc);
	MUST(a, kata_persistence_new_sqlite(a->context, path, &a->p, &err));
	free(path);
}

void actor_close(struct actor *a)
{
	kata_error *err = NULL;

	kata_persistence_free(a->p);
	kata_vm_builder_free(a->builder);
	MUST(a, kata_context_free(a->context, &err));
}

kata_vm_config actor_config(struct actor *a, const char *id)
{
	kata_vm_config config = KATA_VM_CONFIG_INIT;

	config.id = id;
	config.kernel = a->sc->kernel;
	config.initrd = a->sc->initrd;
	config.memory_mib = a->sc->memory_mib;
	return config;
}

kata_vm *actor_start_vm(struct actor *a, const char *id)
{
	kata_vm_config config = actor_config(a, id);
	kata_error *err = NULL;
	kata_vm *vm = NULL;

	MUST(a, kata_vm_builder_build(a->builder, &config, NULL, NULL, &vm, &err));
	MUST(a, kata_vm_start(vm, NULL, &err));
	return vm;
}

kata_sandbox *actor_start_sandbox(struct actor *a, const char *id)
{
	kata_sandbox_options options = KATA_SANDBOX_OPTIONS_INIT;
	kata_vm_config config = actor_config(a, id);
	kata_sandbox *s = NULL;
	kata_error *err = NULL;

	options.id = id;
	MUST(a, kata_persistence_create_sandbox(a->p, id, &err));
	MUST(a, kata_sandbox_create(a->context, &options, a->builder, &config, NULL, NULL, &s, &err));
	MUST(a, kata_sandbox_start(s, NULL, &err));
	MUST(a, kata_persistence_store_sandbox(a->p, s, &err));
	return s;
}

void actor_reserve_storage(struct actor *a, const char *sandbox_id, const char *id)
{
	kata_reservation_config c = KATA_RESERVATION_CONFIG_INIT;
	kata_error *err = NULL;

	c.sandbox_id = sandbox_id;
	c.kind = KATA_RESERVE_STORAGE;
	c.id = id;
	MUST(a, kata_persistence_reserve(a->p, &c, &err));
}

kata_recover_report *actor_recover(struct actor *a, uint64_t flags)
{
	kata_recover_report *report = NULL;
	kata_error *err = NULL;

	MUST(a, fixture_recover(a->context, a->p, flags, &report, &err));
	return report;
}

size_t actor_find(const kata_recover_report *report, const char *kind, const char *id)
{
	for (size_t i = 0; i < kata_recover_report_get_count(report); i++)
		if (strcmp(kata_recover_report_get_kind(report, i), kind) == 0 &&
		    strcmp(kata_recover_report_get_id(report, i), id) == 0)
			return i;
	return SIZE_MAX;
}

void actor_want_settled(struct actor *a, const kata_recover_report *report)
{
	char problem[400];

	for (size_t i = 0; i < kata_recover_report_get_count(report); i++) {
		if (fixture_was_undone(report, i) ||
		    kata_recover_report_get_verdict(report, i) == KATA_RECOVER_ATTACHABLE)
			continue;
		snprintf(problem, sizeof(problem), "%s %s is %s: %s", kata_recover_report_get_kind(report, i),
			 kata_recover_report_get_id(report, i),
			 kata_recover_verdict_get_name(kata_recover_report_get_verdict(report, i)),
			 kata_recover_report_get_text(report, i));
		actor_want(a, false, problem);
	}
}

void scene_warm_up(struct scene *sc)
{
	kata_error *err = NULL;
	struct actor a;
	kata_vm *vm;

	actor_open(&a, sc); /* makes the caches, and the database */
	vm = actor_start_vm(&a, "first");
	MUST(&a, kata_vm_destroy(vm, NULL, &err));
	kata_vm_unref(vm);
	actor_close(&a);
}
