/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Eight processes on one store create, obtain, release, recover and destroy sandboxes on the stand-in, and die now and
 * then. A board in shared memory has what each believes: no sandbox has two owners, no row is lost or comes back,
 * nobody waits for ever, and at the end there is nothing. KATA_TEST_ROUNDS says how many operations.
 *
 * The processes are forked from one that has no context and no thread.
 */
#include "standin_kit.h"

#include <kata/recover.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define WORKERS 8
#define HELD_MAX 2
#define PLACES_MAX 32768
#define STUCK_SECONDS 60u

enum { NEVER, THERE, LEAVING, LEFT };
enum { CREATE, OBTAIN, RELEASE, DESTROY, RECOVER, DIE, ACTS };
static const char *const act_names[ACTS] = {"create", "obtain", "release", "destroy", "recover", "die"};

struct board {
	atomic_int owner[PLACES_MAX]; /* number of a worker, 0: nobody */
	atomic_int state[PLACES_MAX];
	atomic_uint next, done, living;
	atomic_uint counts[ACTS], refused; /* an obtain that was not granted */
	atomic_bool over;
	unsigned total;
	char problem[1024];
};

struct crowd {
	struct standin_kit k;
	struct board *board;
	bool in_directory;
};

struct worker {
	struct crowd *crowd;
	struct board *board;
	int number;
	uint64_t random;
	kata_context *context;
	kata_vm_builder *builder;
	kata_persistence *p;
	kata_error *err;
	unsigned held_count;
	struct {
		unsigned place;
		kata_sandbox *s;
	} held[HELD_MAX];
};

__attribute__((format(printf, 2, 3), noreturn)) static void fail(struct worker *w, const char *format, ...)
{
	bool expected = false;
	va_list ap;

	if (atomic_compare_exchange_strong(&w->board->over, &expected, true)) {
		va_start(ap, format);
		vsnprintf(w->board->problem, sizeof(w->board->problem), format, ap);
		va_end(ap);
	}
	_exit(1);
}

static void must(struct worker *w, int rc, const char *what, unsigned place)
{
	if (rc < 0)
		fail(w, "worker %d: %s p%05u: %s", w->number, what, place, error_text(w->err));
}

static uint64_t any(struct worker *w, uint64_t below)
{
	w->random ^= w->random << 13;
	w->random ^= w->random >> 7;
	w->random ^= w->random << 17;
	return w->random % below;
}

static void name_of(unsigned place, char id[16])
{
	snprintf(id, 16, "p%05u", place);
}

/* ---- what a worker does */

static void enter(struct worker *w, struct crowd *crowd, int number)
{
	kata_context_options context = KATA_CONTEXT_OPTIONS_INIT;
	kata_qemu_options qemu = KATA_QEMU_OPTIONS_INIT;
	char path[64];

	*w = (struct worker){.crowd = crowd, .board = crowd->board, .number = number};
	w->random = ((uint64_t)getpid() << 20) + 88172645463325252u;
	context.state_dir = crowd->k.f.state_dir;
	qemu.binary = crowd->k.binary;
	qemu.accelerator = KATA_ACCELERATOR_TCG;
	snprintf(path, sizeof(path), "%s/records", crowd->k.f.dir);
	must(w, kata_context_new(&context, &w->context, &w->err), "context", 0);
	must(w, kata_vm_builder_new_qemu(w->context, &qemu, &w->builder, &w->err), "builder", 0);
	must(w,
	     crowd->in_directory ? kata_persistence_new_file(w->context, path, &w->p, &w->err)
				 : kata_persistence_new_sqlite(w->context, path, &w->p, &w->err),
	     "opening the records", 0);
}

static void leave(struct worker *w)
{
	kata_persistence_free(w->p);
	kata_vm_builder_free(w->builder);
	must(w, kata_context_free(w->context, &w->err), "freeing the context", 0);
}

static void own(struct worker *w, unsigned place, kata_sandbox *s)
{
	int nobody = 0;

	if (!atomic_compare_exchange_strong(&w->board->owner[place], &nobody, w->number))
		fail(w, "p%05u is obtained by %d, and %d has it", place, w->number, nobody);
	w->held[w->held_count].place = place;
	w->held[w->held_count++].s = s;
}

static kata_sandbox *disown(struct worker *w, unsigned *ret_place)
{
	size_t i = any(w, w->held_count);
	kata_sandbox *s = w->held[i].s;

	*ret_place = w->held[i].place;
	w->held[i] = w->held[--w->held_count];
	atomic_store(&w->board->owner[*ret_place], 0); /* before: the next may have it before the call returns here */
	return s;
}

static bool create(struct worker *w)
{
	unsigned place;
	kata_sandbox *s = NULL;
	char id[16];

	if (w->held_count == HELD_MAX || atomic_load(&w->board->living) >= 3 * WORKERS)
		return false;
	place = atomic_fetch_add(&w->board->next, 1);
	if (place >= PLACES_MAX)
		return false;
	name_of(place, id);
	atomic_fetch_add(&w->board->living, 1);
	must(w, kata_persistence_create_sandbox(w->p, id, &w->err), "reserve", place);
	must(w, standin_try_start(&w->crowd->k, w->context, w->builder, id, &s, &w->err), "create", place);
	own(w, place, s);
	must(w, kata_persistence_store_sandbox(w->p, s, &w->err), "store", place);
	atomic_store(&w->board->state[place], THERE);
	return true;
}

/* What another is destroying or obtaining just now is refused in one of these ways. */
static bool is_refusal(int rc)
{
	return rc == KATA_E_FENCED || rc == KATA_E_NOT_FOUND || rc == KATA_E_GONE;
}

static bool obtain(struct worker *w)
{
	unsigned made = atomic_load(&w->board->next), place, tries = 0;
	kata_sandbox *s = NULL;
	char id[16];
	int rc;

	if (w->held_count == HELD_MAX || made == 0)
		return false;
	do
		place = (unsigned)any(w, made);
	while (atomic_load(&w->board->state[place]) != THERE && ++tries < 64);
	name_of(place, id);
	rc = kata_persistence_obtain_sandbox(w->p, id, w->builder, NULL, NULL, &s, &w->err);
	if (rc == 0) {
		own(w, place, s);
		return true;
	}
	if (!is_refusal(rc))
		must(w, rc, "obtain", place);
	atomic_fetch_add(&w->board->refused, 1);
	error_clear(&w->err);
	return true;
}

static bool release(struct worker *w)
{
	unsigned place;
	kata_sandbox *s;

	if (w->held_count == 0)
		return false;
	s = disown(w, &place);
	must(w, kata_persistence_release_sandbox(w->p, s, NULL, NULL, &w->err), "release", place);
	kata_sandbox_unref(s);
	return true;
}

static bool destroy(struct worker *w)
{
	unsigned place;
	kata_sandbox *s;
	char id[16];

	if (w->held_count == 0)
		return false;
	s = disown(w, &place);
	name_of(place, id);
	atomic_store(&w->board->state[place], LEAVING);
	must(w, kata_sandbox_destroy(s, NULL, &w->err), "destroy", place);
	must(w, kata_persistence_delete_sandbox(w->p, id, &w->err), "delete", place);
	atomic_store(&w->board->state[place], LEFT);
	atomic_fetch_sub(&w->board->living, 1);
	kata_sandbox_unref(s);
	return true;
}

/* Nobody dies in the middle of anything here: whatever it removes that it should not, its owner or the end misses. (A
 * verdict may be of what was a moment ago, and what another has destroyed since counts as undone.) */
static bool recover(struct worker *w)
{
	kata_recover_options options = KATA_RECOVER_OPTIONS_INIT;
	kata_recover_report *report = NULL;

	options.flags = KATA_RECOVER_APPLY;
	must(w, kata_recover(w->context, w->p, &options, &report, &w->err), "recover", 0);
	for (size_t i = 0; i < kata_recover_report_get_count(report); i++) {
		kata_recover_verdict verdict = kata_recover_report_get_verdict(report, i);

		if (verdict == KATA_RECOVER_FAILED)
			fail(w, "recover: %s %s: %s: %s", kata_recover_report_get_kind(report, i),
			     kata_recover_report_get_id(report, i), kata_recover_verdict_get_name(verdict),
			     kata_recover_report_get_text(report, i));
	}
	kata_recover_report_free(report);
	return true;
}

/* With what it holds, which the others take over. */
static bool die(struct worker *w)
{
	atomic_fetch_add(&w->board->counts[DIE], 1);
	atomic_fetch_add(&w->board->done, 1);
	for (unsigned i = 0; i < w->held_count; i++)
		atomic_store(&w->board->owner[w->held[i].place], 0);
	raise(SIGKILL);
	return false;
}

static bool (*const acts[ACTS])(struct worker *w) = {create, obtain, release, destroy, recover, die};

static int any_act(struct worker *w)
{
	static const int weights[ACTS] = {16, 40, 24, 15, 4, 1}; /* of 100 */
	int n = (int)any(w, 100), act = 0;

	while (n >= weights[act])
		n -= weights[act++];
	return act;
}

static void work(struct crowd *crowd, int number)
{
	struct worker w;

	alarm(STUCK_SECONDS);
	enter(&w, crowd, number);
	while (!atomic_load(&w.board->over) && atomic_load(&w.board->done) < w.board->total) {
		int act = any_act(&w);

		alarm(STUCK_SECONDS);
		if (!acts[act](&w))
			continue;
		atomic_fetch_add(&w.board->counts[act], 1);
		atomic_fetch_add(&w.board->done, 1);
	}
	while (w.held_count)
		release(&w);
	leave(&w);
	_exit(0);
}

/* ---- the end: what the board says is there is in the records, answers, and can be ended */

static void end(struct crowd *crowd)
{
	struct board *b = crowd->board;
	unsigned there = 0, listed = 0;
	char **ids = NULL;
	struct worker w;

	enter(&w, crowd, WORKERS + 1);
	must(&w, kata_persistence_list_sandboxes(w.p, &ids, &w.err), "list", 0);
	for (unsigned place = 0; place < atomic_load(&b->next); place++) {
		char id[16];

		name_of(place, id);
		if (atomic_load(&b->state[place]) != THERE) {
			if (ids[listed] && strcmp(ids[listed], id) == 0)
				fail(&w, "%s was destroyed and is in the records", id);
			continue;
		}
		if (!ids[listed] || strcmp(ids[listed], id) != 0)
			fail(&w, "%s is not in the records, but %s", id, ids[listed] ? ids[listed] : "nothing");
		listed++;
		there++;
	}
	if (ids[listed])
		fail(&w, "%s is in the records, and nobody made it", ids[listed]);
	for (char **id = ids; *id; id++) {
		unsigned place = (unsigned)strtoul(*id + 1, NULL, 10);
		kata_sandbox *s = NULL;

		must(&w, kata_persistence_obtain_sandbox(w.p, *id, w.builder, NULL, NULL, &s, &w.err),
		     "the last obtain", place);
		own(&w, place, s);
		must(&w, kata_sandbox_pause(s, NULL, &w.err), "pause", place);
		must(&w, kata_sandbox_resume(s, NULL, &w.err), "resume", place);
		destroy(&w);
	}
	kata_string_list_free(ids);
	recover(&w);
	must(&w, kata_persistence_list_sandboxes(w.p, &ids, &w.err), "list", 0);
	if (ids[0])
		fail(&w, "%s is left in the records", ids[0]);
	kata_string_list_free(ids);
	leave(&w);
	_exit(0);
}

static pid_t start(struct crowd *crowd, int number)
{
	pid_t pid = fork();

	cr_assert_geq(pid, 0);
	if (pid == 0)
		work(crowd, number);
	return pid;
}

/* Those who die are followed by others until the work is done. */
static void supervise(struct crowd *crowd)
{
	pid_t pids[WORKERS], pid;
	int status, left = WORKERS;

	for (int i = 0; i < WORKERS; i++)
		pids[i] = start(crowd, i + 1);
	while (left && (pid = waitpid(-1, &status, 0)) > 0) {
		int i = 0;

		while (i < WORKERS && pids[i] != pid)
			i++;
		if (i == WORKERS)
			continue;
		if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL && !atomic_load(&crowd->board->over)) {
			pids[i] = start(crowd, i + 1);
			continue;
		}
		left--;
		if (WIFSIGNALED(status) && !crowd->board->problem[0])
			snprintf(crowd->board->problem, sizeof(crowd->board->problem), "worker %d ended by signal %d%s",
				 i + 1, WTERMSIG(status), WTERMSIG(status) == SIGALRM ? ": it was stuck" : "");
		if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
			atomic_store(&crowd->board->over, true);
	}
}

static void be_many(bool in_directory, unsigned otherwise)
{
	const char *rounds = getenv("KATA_TEST_ROUNDS");
	struct crowd crowd = {.in_directory = in_directory};
	int64_t pids[4];
	int status;
	pid_t pid;

#ifdef __SANITIZE_THREAD__
	cr_skip_test(
		"ThreadSanitizer sees no synchronisation in a child of its own fork and reports races that are none");
#endif
	standin_kit_prepare(&crowd.k);
	crowd.board = mmap(NULL, sizeof(*crowd.board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	cr_assert_neq(crowd.board, MAP_FAILED);
	crowd.board->total = rounds ? (unsigned)strtoul(rounds, NULL, 10) : otherwise;
	supervise(&crowd);
	cr_assert_eq(crowd.board->problem[0], '\0', "after %u operations: %s", atomic_load(&crowd.board->done),
		     crowd.board->problem);
	pid = fork();
	cr_assert_geq(pid, 0);
	if (pid == 0)
		end(&crowd);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert_eq(status, 0, "at the end: %d %s", status, crowd.board->problem);
	cr_assert_eq(census_find_processes(crowd.k.binary, pids, 4), 0u, "a VMM is left");
	for (int i = 0; i < ACTS; i++) {
		cr_log_info("%u %s", atomic_load(&crowd.board->counts[i]), act_names[i]);
		cr_assert(i == DIE || atomic_load(&crowd.board->counts[i]) > 0, "none was to %s", act_names[i]);
	}
	cr_log_info("%u obtains were not granted", atomic_load(&crowd.board->refused));
	munmap(crowd.board, sizeof(*crowd.board));
	standin_kit_deinit(&crowd.k);
}

Test(persistence_crowd, eight_processes_on_one_database_lose_nothing_and_share_nothing, .timeout = 3600)
{
	be_many(false, 300);
}

Test(persistence_crowd, eight_processes_on_one_directory_lose_nothing_and_share_nothing, .timeout = 3600)
{
	be_many(true, 150);
}
