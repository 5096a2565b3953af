/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_TESTS_CONTRACT_DAMAGE_KIT_H
#define KATA_TESTS_CONTRACT_DAMAGE_KIT_H
/*
 * For records and databases that are damaged on purpose, by numbers of a seed (KATA_TEST_SEED): a released sandbox
 * "sb" on the stand-in, which the good record brings back whatever was tried with bad ones; another sandbox of ours
 * that runs; a process that has nothing to do with it, and whose pid is put into the records; a place where nothing may
 * appear. KATA_TEST_ROUNDS says how many are tried; what was tried last is kept in the build directory (DAMAGE_TRIED).
 */
#include "standin_kit.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define DAMAGE_TRIED KATA_BUILD_DIR "/tests/tried-"
#define DAMAGE_SECONDS 30u /* each round ends by then: SIGALRM ends the test */

struct identity {
	int64_t pid, start_time;
};

struct site {
	struct standin_kit k; /* k.s is NULL while "sb" is released */
	kata_sandbox *neighbour;
	pid_t vmm, neighbour_vmm, canary;
	char *bait; /* a directory: hostile paths lead there */
	char *json; /* the good record */
	char boot_id[40];
	char *owner, *released; /* the good files in the machine's directory */
	uint64_t random;
	unsigned rounds, succeeded;
};

/* ---- numbers */

STANDIN_FN uint64_t number_of(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text ? strtoull(text, NULL, 10) : otherwise;
}

STANDIN_FN uint64_t any(struct site *w, uint64_t below)
{
	w->random ^= w->random << 13;
	w->random ^= w->random >> 7;
	w->random ^= w->random << 17;
	return below ? w->random % below : 0;
}

STANDIN_FN struct identity identity_of(pid_t pid)
{
	char path[64], text[1024] = "", *at;
	struct identity id = {pid, 0};
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	file = fopen(path, "r");
	cr_assert_not_null(file);
	cr_assert_gt(fread(text, 1, sizeof(text) - 1, file), 0u);
	fclose(file);
	at = strrchr(text, ')');
	for (int i = 0; at && i < 20; i++)
		at = strchr(at + 1, ' ');
	id.start_time = at ? strtoll(at, NULL, 10) : 0;
	return id;
}

/* Whom a record may try to have killed: init, ourselves, a stranger, another machine's VMM. */
STANDIN_FN struct identity any_victim(struct site *w)
{
	const pid_t pids[] = {1, getpid(), w->canary, w->neighbour_vmm};

	return identity_of(pids[any(w, sizeof(pids) / sizeof(pids[0]))]);
}

/* ---- files */

STANDIN_FN char *slurp(const char *path, size_t *ret_length)
{
	FILE *file = fopen(path, "r");
	char *data = NULL;
	long length;

	cr_assert_not_null(file, "%s", path);
	fseek(file, 0, SEEK_END);
	length = ftell(file);
	rewind(file);
	data = malloc((size_t)length + 1);
	cr_assert_eq(fread(data, 1, (size_t)length, file), (size_t)length);
	data[length] = '\0';
	fclose(file);
	if (ret_length)
		*ret_length = (size_t)length;
	return data;
}

STANDIN_FN void spill(const char *path, const void *data, size_t length)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	cr_assert_geq(fd, 0, "%s", path);
	cr_assert_eq(write(fd, data, length), (ssize_t)length);
	close(fd);
}

STANDIN_FN char *machine_file(struct site *w, const char *name)
{
	char *path = malloc(128);

	snprintf(path, 128, "%s/vm/sb/%s", w->k.f.state_dir, name);
	return path;
}

STANDIN_FN char *read_machine_file(struct site *w, const char *name)
{
	char *path = machine_file(w, name), *text = slurp(path, NULL);

	free(path);
	return text;
}

STANDIN_FN void write_machine_file(struct site *w, const char *name, const char *text)
{
	char *path = machine_file(w, name);

	spill(path, text, strlen(text));
	free(path);
}

/* ---- the site */

STANDIN_FN void site_init(struct site *w, uint64_t rounds)
{
	kata_error *err = NULL;
	FILE *file;

	memset(w, 0, sizeof(*w));
	w->random = number_of("KATA_TEST_SEED", 20260101) | 1;
	w->rounds = (unsigned)number_of("KATA_TEST_ROUNDS", rounds);
	w->canary = fork();
	cr_assert_geq(w->canary, 0);
	if (w->canary == 0) {
		for (;;)
			pause();
	}
	standin_kit_init(&w->k);
	fixture_assert_ok(standin_try_start(&w->k, w->k.f.context, w->k.builder, "neighbour", &w->neighbour, &err),
			  err);
	w->vmm = standin_pid(w->k.s);
	w->neighbour_vmm = standin_pid(w->neighbour);
	w->bait = fixture_path(&w->k.f, "bait");
	cr_assert_eq(mkdir(w->bait, 0777), 0);
	file = fopen("/proc/sys/kernel/random/boot_id", "r");
	cr_assert_eq(fscanf(file, "%39s", w->boot_id), 1);
	fclose(file);
}

/* Lets "sb" go: through `p` where there is one. */
STANDIN_FN void site_release(struct site *w, kata_persistence *p)
{
	kata_error *err = NULL;

	if (p)
		fixture_assert_ok(kata_persistence_release_sandbox(p, w->k.s, NULL, &w->json, &err), err);
	else
		fixture_assert_ok(kata_sandbox_release(w->k.s, NULL, &w->json, &err), err);
	kata_sandbox_unref(w->k.s);
	w->k.s = NULL;
	w->owner = read_machine_file(w, "owner.json");
	w->released = read_machine_file(w, "released.json");
}

STANDIN_FN bool is_empty(const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *d;
	int entries = 0;

	while (dir && (d = readdir(dir)) != NULL)
		entries += d->d_name[0] != '.';
	if (dir)
		closedir(dir);
	return entries == 0;
}

STANDIN_FN void assert_nobody_was_hurt(struct site *w, const char *when)
{
	int status;

	cr_assert_eq(waitpid(w->canary, &status, WNOHANG), 0, "%s: a stranger got a signal", when);
	cr_assert_eq(kill(w->vmm, 0), 0, "%s: the VMM has ended", when);
	cr_assert_eq(kill(w->neighbour_vmm, 0), 0, "%s: another's VMM has ended", when);
	cr_assert(is_empty(w->bait), "%s: something was made outside the state directory", when);
}

/* What came of an attempt: an error that is one, or the machine, which is let go again as it was before. */
STANDIN_FN void settle_attempt(struct site *w, int rc, kata_sandbox *s, kata_error *err, const char *when)
{
	cr_assert_eq(rc < 0, err != NULL, "%s: status %d: %s", when, rc, error_text(err));
	if (rc < 0) {
		cr_assert_eq(rc, (int)kata_error_get_status(err), "%s", when);
		cr_assert_gt(strlen(kata_error_get_message(err)), 10u, "%s", when);
		cr_assert_neq(rc, KATA_E_TIMEOUT, "%s: it hung: %s", when, error_text(err));
		cr_assert_null(s, "%s", when);
		return;
	}
	cr_assert_eq(standin_pid(s), w->vmm, "%s: it was given process %d, not %d, state %s", when, (int)standin_pid(s),
		     (int)w->vmm, kata_sandbox_state_get_name(kata_sandbox_get_state(s)));
	w->succeeded++;
	rc = kata_sandbox_release(s, NULL, NULL, &err);
	cr_assert_eq(rc, 0, "%s: %s", when, error_text(err));
	kata_sandbox_unref(s);
	write_machine_file(w, "owner.json", w->owner); /* the good record is that of before */
	write_machine_file(w, "released.json", w->released);
}

STANDIN_FN void assert_good_record_works(struct site *w, const char *when)
{
	kata_sandbox *s = NULL;
	kata_error *err = NULL;
	int rc = kata_sandbox_build_from_released(w->k.f.context, w->json, strlen(w->json), w->k.builder, NULL, NULL,
						  &s, &err);

	cr_assert_eq(rc, 0, "%s: the good record: %s", when, error_text(err));
	if (kata_sandbox_get_state(s) == KATA_SANDBOX_PAUSED)
		fixture_assert_ok(kata_sandbox_resume(s, NULL, &err), err);
	standin_assert_answers(s, when);
	settle_attempt(w, 0, s, NULL, when);
	w->succeeded--;
}

STANDIN_FN void site_deinit(struct site *w)
{
	kata_error *err = NULL;
	int status;

	alarm(0);
	assert_good_record_works(w, "at the end");
	fixture_assert_ok(kata_sandbox_build_from_released(w->k.f.context, w->json, strlen(w->json), w->k.builder, NULL,
							   NULL, &w->k.s, &err),
			  err);
	fixture_assert_ok(kata_sandbox_destroy(w->neighbour, NULL, &err), err);
	kata_sandbox_unref(w->neighbour);
	cr_assert_eq(kill(w->canary, SIGKILL), 0);
	cr_assert_eq(waitpid(w->canary, &status, 0), w->canary);
	free(w->bait);
	free(w->json);
	free(w->owner);
	free(w->released);
	standin_kit_deinit(&w->k);
}

/* ---- hostile values */

STANDIN_FN char *repeated(const char *what, size_t times)
{
	size_t n = strlen(what);
	char *text = malloc(n * times + 1);

	for (size_t i = 0; i < times; i++)
		memcpy(text + i * n, what, n);
	text[n * times] = '\0';
	return text;
}

STANDIN_FN int64_t any_number(struct site *w)
{
	const int64_t numbers[] = {0,
				   1,
				   -1,
				   2,
				   getpid(),
				   w->canary,
				   w->neighbour_vmm,
				   INT64_MAX,
				   INT64_MIN,
				   INT32_MAX,
				   INT32_MIN,
				   4194305,
				   65536,
				   256,
				   1025,
				   UINT32_MAX,
				   w->vmm,
				   (int64_t)1 << 53,
				   99,
				   7};

	return numbers[any(w, sizeof(numbers) / sizeof(numbers[0]))];
}

/* Caller frees. No NUL in it, and no quote. */
STANDIN_FN char *any_text(struct site *w)
{
	static const char *const texts[] = {"",
					    ".",
					    "..",
					    "/",
					    "/etc/passwd",
					    "../../../bait/x",
					    "sb",
					    "other",
					    "neighbour",
					    "-rf",
					    "a/b",
					    "%s%n%s",
					    "\xff\xfe",
					    "\xc3",
					    "x y",
					    "running",
					    "released",
					    "virtio-blk",
					    "qcow2",
					    "qemu",
					    "mock",
					    "ff/ff",
					    "02:00:00:00:00:01",
					    "00000000-0000-4000-8000-000000000000",
					    "{}",
					    "[]",
					    "null",
					    "\n",
					    "CON"};
	size_t which = any(w, sizeof(texts) / sizeof(texts[0]) + 4);
	char *text;

	if (which < sizeof(texts) / sizeof(texts[0]))
		return strdup(texts[which]);
	if (which % 4 == 0)
		return repeated("x", any(w, 3) ? 70 : 1 << 20);
	if (which % 4 == 1)
		return repeated("[", 5000);
	text = malloc(strlen(w->bait) + 16);
	sprintf(text, "%s/%s", w->bait, which % 4 == 2 ? "made" : "../bait/made");
	return text;
}
#endif
