/* SPDX-License-Identifier: Apache-2.0 */
/* template_rounds.c - init, clone, destroy, and what is there afterwards. */
#include "support/template_rounds.h"

#include <criterion/criterion.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <time.h>
#include <unistd.h>

#define WARM_UP 4u                /* rounds: caches, workers and the arenas of malloc have their size after them */
#define RSS_GROWTH_MAX (4l << 20) /* over all rounds: stacks and arenas of workers that start late */

#define ONCE_MAX 8        /* pieces: workers are started when they are first needed, at any round */
#define SETTLE_PAUSES 400 /* of 5 ms */

struct held {
	long live, rss, mounts;
};

static unsigned rounds_of(const struct template_rounds *r)
{
	const char *text = getenv("KATA_TEST_ROUNDS");

	return text ? (unsigned)strtoul(text, NULL, 10) : r->rounds;
}

/* Other programs mount things meanwhile: not where this process looks. */
static void leave_others_mounts(void)
{
	if (unshare(CLONE_NEWNS) == 0)
		cr_assert_eq(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
}

static long count_mounts(void)
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	long count = 0;
	int c;

	cr_assert_not_null(f);
	while ((c = getc(f)) != EOF)
		count += c == '\n';
	fclose(f);
	return count;
}

static long read_rss(void)
{
	FILE *f = fopen("/proc/self/statm", "re");
	long pages = 0;

	cr_assert(f && fscanf(f, "%*d %ld", &pages) == 1);
	fclose(f);
	return pages * sysconf(_SC_PAGESIZE);
}

static struct held look(const struct template_rounds *r)
{
	return (struct held){r->count_live ? r->count_live() : 0, read_rss(), count_mounts()};
}

static void use_clone(const struct template_rounds *r, kata_vm *vm)
{
	kata_agent_builder *agents = NULL;
	kata_agent *agent = NULL;
	kata_error *err = NULL;

	fixture_assert_ok(kata_vm_start(vm, NULL, &err), err);
	fixture_assert_ok(kata_agent_builder_new_direct(r->f->context, &agents, &err), err);
	fixture_assert_ok(kata_agent_builder_build(agents, vm, NULL, NULL, &agent, &err), err);
	fixture_assert_ok(kata_agent_check(agent, NULL, &err), err);
	kata_agent_unref(agent);
	kata_agent_builder_free(agents);
}

static void go_round(const struct template_rounds *r, const char *path, bool prestarted)
{
	kata_template_options options = KATA_TEMPLATE_OPTIONS_INIT;
	kata_vm_config config = KATA_VM_CONFIG_INIT;
	kata_vm_builder *builder = NULL;
	kata_error *err = NULL;
	kata_vm *vm = NULL;

	options.path = path;
	options.flags = KATA_TEMPLATE_SHARE_MEMORY;
	options.prestarted = prestarted;
	config.kernel = r->kernel;
	config.initrd = r->initrd;
	config.memory_mib = r->memory_mib;
	fixture_assert_ok(kata_vm_builder_new_template(r->f->context, r->inner, NULL, &options, &builder, &err), err);
	fixture_assert_ok(kata_template_make(builder, &config, NULL, &err), err);
	if (prestarted)
		fixture_assert_ok(kata_template_wait_prestarted(builder, 1, NULL, &err), err);
	fixture_assert_ok(kata_vm_builder_build(builder, &config, NULL, NULL, &vm, &err), err);
	cr_assert_eq(kata_vm_get_origin(vm), prestarted ? KATA_VM_PRESTARTED : KATA_VM_CLONED);
	use_clone(r, vm);
	fixture_assert_ok(kata_vm_destroy(vm, NULL, &err), err);
	kata_vm_unref(vm);
	fixture_assert_ok(kata_template_remove(builder, NULL, &err), err);
	kata_vm_builder_free(builder);
	cr_assert_lt(access(path, F_OK), 0);
}

static void print_held(unsigned round, const struct held *h)
{
	if (getenv("KATA_TEST_TIMES"))
		fprintf(stderr, "round %u: %ld pieces of memory, RSS %ld KiB, %ld mounts\n", round, h->live,
			h->rss >> 10, h->mounts);
}

/* Who waited for an operation may come here before its last reference goes. */
static struct held look_until(const struct template_rounds *r, long live)
{
	const struct timespec pause = {0, 5000000};
	struct held h = look(r);

	for (int i = 0; i < SETTLE_PAUSES && h.live > live; i++) {
		nanosleep(&pause, NULL);
		h = look(r);
	}
	return h;
}

static void assert_not_grown(const struct held *first, const struct held *last, unsigned round)
{
	cr_assert_eq(last->mounts, first->mounts, "round %u: %ld mounts, there were %ld", round, last->mounts,
		     first->mounts);
	cr_assert_leq(last->live, first->live + ONCE_MAX, "round %u: %ld pieces of memory, there were %ld", round,
		      last->live, first->live);
#ifndef __SANITIZE_ADDRESS__ /* which keeps what was freed */
	cr_assert_leq(last->rss - first->rss, RSS_GROWTH_MAX, "round %u: RSS %ld, it was %ld", round, last->rss,
		      first->rss);
#endif
}

void template_rounds_run(const struct template_rounds *r)
{
	char *path = fixture_path(r->f, "template");
	struct held first = {0}, now;

	leave_others_mounts();
	for (unsigned i = 0; i < rounds_of(r); i++) {
		struct census *before = i ? fixture_census(r->f) : NULL;
		char when[32];

		go_round(r, path, i % 2);
		snprintf(when, sizeof(when), "after round %u", i + 1);
		if (before)
			fixture_assert_census(r->f, before, when);
		now = look_until(r, i < WARM_UP ? LONG_MAX : first.live + ONCE_MAX);
		if (i < WARM_UP)
			first = (struct held){now.live > first.live ? now.live : first.live, now.rss, now.mounts};
		assert_not_grown(&first, &now, i + 1);
		if (i < WARM_UP || (i + 1) % 10 == 0)
			print_held(i + 1, &now);
	}
	free(path);
}
