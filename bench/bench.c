/* SPDX-License-Identifier: Apache-2.0 */
/* What is measured, in which order; bench/run starts this with the right directories. */
#include "bench.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

enum outcome { OUTCOME_OK, OUTCOME_MISSED, OUTCOME_FAILED };

static uint64_t clock_ns(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t bench_now(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

uint64_t bench_cpu_ns(void)
{
	return clock_ns(CLOCK_PROCESS_CPUTIME_ID);
}

int bench_fail(const char *what, kata_error *err)
{
	char *text = kata_error_to_text(err);

	fprintf(stderr, "bench: %s: %s\n", what, text ? text : "failed");
	free(text);
	kata_error_free(err);
	return -1;
}

kata_context *bench_context(struct bench *b, uint64_t flags)
{
	kata_context_options o = KATA_CONTEXT_OPTIONS_INIT;
	kata_context *ctx = NULL;
	kata_error *err = NULL;
	char dir[BENCH_DIR_MAX + 8];

	snprintf(dir, sizeof(dir), "%s/s", b->work_dir);
	o.state_dir = dir;
	o.flags = flags;
	o.max_workers = 1; /* a thread that starts late would be counted for a VM */
	if (kata_context_new(&o, &ctx, &err))
		bench_fail("context", err);
	return ctx;
}

int bench_image(struct bench *b, const char *name, char *path)
{
	int fd, rc;

	snprintf(path, 256, "%s/%s", b->work_dir, name);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return -1;
	rc = ftruncate(fd, 16 << 20);
	close(fd);
	return rc;
}

/* ---- groups ---- */

struct job {
	struct bench *b;
	const struct bench_group *group;
	char **names;
	int count;
};

static bool is_wanted(const struct job *j, const struct bench_metric *m)
{
	for (int i = 0; i < j->count; i++)
		if (strncmp(m->name, j->names[i], strlen(j->names[i])) == 0)
			return true;
	return j->count == 0;
}

static int run_group(void *user)
{
	struct bench_value values[BENCH_FIGURES_MAX] = {0};
	const struct bench_value *at = values;
	const struct job *j = user;
	bool ok = true;

	if (j->group->run(j->b, values))
		return OUTCOME_FAILED;
	for (const struct bench_metric *m = j->group->metrics; m->name; at += bench_count_figures(m), m++)
		if (is_wanted(j, m))
			ok = bench_report(j->b, m, at) && ok;
	return ok ? OUTCOME_OK : OUTCOME_MISSED;
}

static bool is_tmpfs(const char *dir)
{
	struct statfs fs;

	return statfs(dir, &fs) == 0 && fs.f_type == TMPFS_MAGIC;
}

/* A tmpfs where there is one, as the library's own state directory is: what is measured is not a disk. */
static int make_work_dir(struct bench *b)
{
	const char *const parents[] = {"/run", getenv("XDG_RUNTIME_DIR"), "/dev/shm", "/tmp"};

	for (size_t i = 0; i < sizeof(parents) / sizeof(parents[0]); i++) {
		if (!parents[i] || strlen(parents[i]) > 48 || (i < 3 && !is_tmpfs(parents[i])))
			continue;
		snprintf(b->work_dir, sizeof(b->work_dir), "%s/kata-bench-XXXXXX", parents[i]);
		if (mkdtemp(b->work_dir))
			return 0;
	}
	perror("bench: mkdtemp");
	return -1;
}

static enum outcome run_guarded(struct job *j)
{
	const char *name = NULL;
	int rc = 0;

	for (const struct bench_metric *m = j->group->metrics; m->name && !name; m++)
		if (is_wanted(j, m))
			name = m->name;
	if (!name)
		return OUTCOME_OK;
	if (make_work_dir(j->b))
		return OUTCOME_FAILED;
	rc = bench_guard(name, j->group->limit_s, run_group, j);
	bench_remove_tree(j->b->work_dir);
	if (rc == OUTCOME_OK || rc == OUTCOME_MISSED)
		return (enum outcome)rc;
	if (!bench_interrupted())
		fprintf(stderr, "bench: %s could not be measured\n", name);
	return OUTCOME_FAILED;
}

int main(int argc, char **argv)
{
	static const struct bench_group *const lists[] = {bench_size, bench_store,  bench_growth,
							  bench_wire, bench_create, bench_attach,
							  bench_plug, bench_warm,   bench_clone};
	struct bench b = {0};
	enum outcome worst = OUTCOME_OK;
	int at = 3;

	if (argc < 3) {
		fprintf(stderr, "usage: kata-bench GUEST_DIR BUILD_DIR [--json] [--quick] [METRIC...]\n");
		return 2;
	}
	b.guest_dir = argv[1];
	b.build_dir = argv[2];
	if (argc == 6 && strcmp(argv[3], "--do") == 0) {
		snprintf(b.work_dir, sizeof(b.work_dir), "%s", argv[5]);
		return bench_do(&b, argv[4]) ? 1 : 0;
	}
	for (; at < argc && argv[at][0] == '-'; at++) {
		b.json |= strcmp(argv[at], "--json") == 0;
		b.quick |= strcmp(argv[at], "--quick") == 0;
	}
	for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
		for (const struct bench_group *g = lists[i]; g->run && !bench_interrupted(); g++) {
			struct job j = {.b = &b, .group = g, .names = argv + at, .count = argc - at};
			enum outcome o = run_guarded(&j);

			worst = o > worst ? o : worst;
		}
	}
	return bench_interrupted() ? 128 + bench_interrupted() : (int)worst;
}
