/* SPDX-License-Identifier: Apache-2.0 */
/* The lock on a template's directory: one at a time, between processes; who waits learns of the end by an event. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "factory/template_lock.h"
#include "support/fixture.h"

#define SHORT_MS 100u
#define LONG_MS 20000u

static struct fixture f;
static char *path, *lock_path;
static kata_error *err;

static void setup(void)
{
	fixture_init(&f, true, 0);
	path = fixture_path(&f, "template");
	lock_path = fixture_path(&f, "template/lock");
}

static void teardown(void)
{
	error_clear(&err);
	free(path);
	free(lock_path);
	fixture_deinit(&f);
}

TestSuite(template_lock, .init = setup, .fini = teardown, .timeout = 60);

/* ---- operations that hold it ---- */

struct holder {
	struct kata__template_lock lock;
	kata_op *op;
	kata_op *holding; /* waits with the lock held */
	uint64_t token;
	bool keeps; /* holds the lock until let_go(); else to the end of the operation */
	bool removes;
	bool fails;
};

static struct holder *holder_of(const kata_op *op)
{
	return kata__op_data(op);
}

static int step_open(kata_op *op, kata_error **e)
{
	return kata__template_lock_open(&holder_of(op)->lock, e);
}

static int step_lock(kata_op *op, kata_error **e)
{
	return kata__template_lock_acquire(&holder_of(op)->lock, op, e);
}

static void cancel_lock(kata_op *op)
{
	kata__template_lock_cancel(&holder_of(op)->lock);
}

static int undo_open(kata_op *op, kata_error **e)
{
	kata__template_lock_unmake(&holder_of(op)->lock);
	return KATA__STEP_DONE;
}

static int step_hold(kata_op *op, kata_error **e)
{
	struct holder *h = holder_of(op);

	if (h->fails)
		return kata__fail(e, KATA_E_VMM, VMM, "as asked");
	if (h->removes)
		kata__remove_tree(path, NULL);
	if (!h->keeps)
		return KATA__STEP_DONE;
	h->token = kata__op_token(op);
	__atomic_store_n(&h->holding, op, __ATOMIC_RELEASE);
	return KATA__STEP_WAIT;
}

static void finish(kata_op *op, int status, kata_error **error)
{
	kata__template_lock_release(&holder_of(op)->lock);
}

static void keep_data(void *data)
{
}

static const struct kata__step steps[] = {
	{.name = "open", .run = step_open, .undo = undo_open, .flags = KATA__STEP_BLOCKING},
	{.name = "lock", .run = step_lock, .cancel = cancel_lock},
	{.name = "hold", .run = step_hold},
};
static const struct kata__op_table table = {
	.name = "hold", KATA__STEPS(steps), .timeout_ms = LONG_MS, .finish = finish, .free_data = keep_data};

static void begin(struct holder *h, uint64_t timeout_ms)
{
	kata_op_options o = KATA_OP_OPTIONS_INIT;

	o.timeout_ms = timeout_ms;
	kata__template_lock_init(&h->lock, path, true);
	fixture_assert_ok(kata__op_start(f.context, &table, h, &o, 1, &h->op, &err), err);
}

static void await_held(struct holder *h)
{
	for (int i = 0; !__atomic_load_n(&h->holding, __ATOMIC_ACQUIRE); i++) {
		cr_assert_lt(i, 20000, "the lock is not got");
		usleep(1000);
	}
}

static void do_let_go(void *user)
{
	struct holder *h = user;

	kata__op_resume(h->holding, h->token, 0, NULL);
}

struct letting_go {
	struct kata__task task;
	struct holder *h;
};

static void run_let_go(struct kata__task *task)
{
	do_let_go(((struct letting_go *)(void *)task)->h);
}

static void let_go(struct holder *h)
{
	struct letting_go task = {.task = {.fn = run_let_go}, .h = h};

	kata__loop_post(kata__context_loop(f.context), &task.task);
	fixture_assert_ok(kata_op_wait(h->op, &err), err);
}

static void end(struct holder *h)
{
	kata_op_unref(h->op);
}

/* ---- one at a time ---- */

Test(template_lock, the_directory_is_made_ours_alone)
{
	struct holder h = {0};
	struct stat st;

	begin(&h, LONG_MS);
	fixture_assert_ok(kata_op_wait(h.op, &err), err);
	cr_assert_eq(stat(path, &st), 0);
	cr_assert_eq(st.st_mode & 07777, 0700u);
	end(&h);
}

Test(template_lock, who_waits_gets_it_when_the_holder_is_done)
{
	struct holder first = {.keeps = true}, second = {.keeps = true};

	begin(&first, LONG_MS);
	await_held(&first);
	begin(&second, LONG_MS);
	usleep(50000);
	cr_assert_null(__atomic_load_n(&second.holding, __ATOMIC_ACQUIRE));
	let_go(&first);
	await_held(&second);
	let_go(&second);
	end(&first);
	end(&second);
}

Test(template_lock, of_many_that_wait_each_gets_it)
{
	struct holder first = {.keeps = true}, others[16] = {0};

	begin(&first, LONG_MS);
	await_held(&first);
	for (size_t i = 0; i < 16; i++)
		begin(&others[i], LONG_MS);
	let_go(&first);
	for (size_t i = 0; i < 16; i++) {
		fixture_assert_ok(kata_op_wait(others[i].op, &err), err);
		end(&others[i]);
	}
	end(&first);
}

Test(template_lock, waiting_ends_by_the_deadline_and_by_a_cancel)
{
	struct holder first = {.keeps = true}, late = {0}, cancelled = {0};
	struct census *before;

	begin(&first, LONG_MS);
	await_held(&first);
	before = fixture_census(&f);
	begin(&late, SHORT_MS);
	fixture_assert_fails(kata_op_wait(late.op, &err), KATA_E_TIMEOUT, err);
	error_clear(&err);
	begin(&cancelled, LONG_MS);
	usleep(20000);
	kata_op_cancel(cancelled.op);
	fixture_assert_fails(kata_op_wait(cancelled.op, &err), KATA_E_CANCELLED, err);
	end(&late);
	end(&cancelled);
	fixture_assert_census(&f, before, "two gave up");
	let_go(&first);
	end(&first);
}

Test(template_lock, a_holder_in_another_process_that_is_killed_lets_go)
{
	struct holder h = {0};
	int ready[2], status;
	char byte;
	pid_t pid;

	cr_assert_eq(mkdir(path, 0700), 0);
	cr_assert_eq(pipe(ready), 0);
	pid = fork();
	if (pid == 0) {
		int fd = open(lock_path, O_RDWR | O_CREAT, 0600);

		if (fd < 0 || flock(fd, LOCK_EX) < 0 || write(ready[1], "x", 1) != 1)
			_exit(1);
		pause();
		_exit(0);
	}
	cr_assert_eq(read(ready[0], &byte, 1), 1);
	begin(&h, LONG_MS);
	usleep(50000);
	cr_assert_not(kata_op_is_done(h.op));
	kill(pid, SIGKILL);
	fixture_assert_ok(kata_op_wait(h.op, &err), err);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	close(ready[0]);
	close(ready[1]);
	end(&h);
}

Test(template_lock, when_the_holder_removes_the_directory_the_next_one_makes_it_anew)
{
	struct holder first = {.keeps = true, .removes = true}, second = {0};

	begin(&first, LONG_MS);
	await_held(&first); /* and removed it */
	begin(&second, LONG_MS);
	fixture_assert_ok(kata_op_wait(second.op, &err), err);
	cr_assert_eq(access(lock_path, F_OK), 0);
	end(&second);
	let_go(&first);
	end(&first);
}

Test(template_lock, who_waits_for_a_holder_that_removes_the_directory_makes_it_anew)
{
	struct holder first = {.keeps = true}, second = {0};

	begin(&first, LONG_MS);
	await_held(&first);
	begin(&second, LONG_MS);
	usleep(20000);
	cr_assert_eq(kata__remove_tree(path, NULL), 0);
	let_go(&first);
	fixture_assert_ok(kata_op_wait(second.op, &err), err);
	cr_assert_eq(access(lock_path, F_OK), 0);
	end(&second);
	end(&first);
}

static void *remove_again_and_again(void *stop)
{
	while (!__atomic_load_n((bool *)stop, __ATOMIC_RELAXED)) {
		unlink(lock_path);
		rmdir(path);
		usleep(10000); /* far longer than an opening: its tries are few */
	}
	return NULL;
}

/* Whenever that happens. */
Test(template_lock, a_directory_that_goes_while_it_is_opened_is_made_anew)
{
	struct kata__template_lock l;
	bool stop = false;
	pthread_t other;

	cr_assert_eq(pthread_create(&other, NULL, remove_again_and_again, &stop), 0);
	for (int i = 0; i < 400; i++) {
		kata__template_lock_init(&l, path, true);
		fixture_assert_ok(kata__template_lock_open(&l, &err), err);
		kata__template_lock_release(&l);
	}
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	cr_assert_eq(pthread_join(other, NULL), 0);
}

Test(template_lock, a_failure_removes_the_directory_that_it_made_and_no_other)
{
	struct holder h = {.fails = true};
	struct census *before = fixture_census(&f);

	begin(&h, LONG_MS);
	fixture_assert_fails(kata_op_wait(h.op, &err), KATA_E_VMM, err);
	error_clear(&err);
	end(&h);
	fixture_assert_census(&f, before, "failed with the lock held");
	cr_assert_lt(access(path, F_OK), 0);

	cr_assert_eq(mkdir(path, 0700), 0);
	begin(&h, LONG_MS);
	fixture_assert_fails(kata_op_wait(h.op, &err), KATA_E_VMM, err);
	end(&h);
	cr_assert_eq(access(path, F_OK), 0);
}

/* ---- the directory ---- */

static void assert_refused(int status, const char *word)
{
	struct holder h = {0};

	begin(&h, LONG_MS);
	fixture_assert_fails(kata_op_wait(h.op, &err), status, err);
	cr_assert(strstr(error_text(err), word), "%s", error_text(err));
	error_clear(&err);
	end(&h);
}

Test(template_lock, a_directory_that_others_can_write_is_refused)
{
	cr_assert_eq(mkdir(path, 0700), 0);
	cr_assert_eq(chmod(path, 0770), 0);
	assert_refused(KATA_E_PERMISSION, "0770");
	cr_assert_eq(chmod(path, 0702), 0);
	assert_refused(KATA_E_PERMISSION, "0702");
	cr_assert_eq(chmod(path, 01777), 0);
	assert_refused(KATA_E_PERMISSION, "1777");
}

Test(template_lock, a_parent_that_others_can_write_is_refused_unless_it_is_sticky)
{
	struct holder h = {0};

	cr_assert_eq(chmod(f.dir, 0777), 0);
	assert_refused(KATA_E_PERMISSION, "0777");
	cr_assert_eq(chmod(f.dir, 01777), 0);
	begin(&h, LONG_MS);
	fixture_assert_ok(kata_op_wait(h.op, &err), err);
	end(&h);
}

Test(template_lock, what_is_somebody_elses_is_refused, .timeout = 60)
{
	if (geteuid() != 0)
		cr_skip_test("only root can give a directory away");
	cr_assert_eq(mkdir(path, 0700), 0);
	cr_assert_eq(chown(path, 65534, 65534), 0);
	assert_refused(KATA_E_PERMISSION, "65534");
}

Test(template_lock, what_is_no_templates_directory_is_refused_and_left_alone)
{
	char *other = fixture_path(&f, "template/precious");
	int fd;

	cr_assert_eq(mkdir(path, 0700), 0);
	fd = open(other, O_WRONLY | O_CREAT, 0600);
	cr_assert_geq(fd, 0);
	close(fd);
	assert_refused(KATA_E_INVALID, "no template's");
	cr_assert_eq(access(other, F_OK), 0);
	cr_assert_lt(access(lock_path, F_OK), 0);
	free(other);
}

/* A name alone does not make it a template's. */
Test(template_lock, a_base_that_is_somebody_elses_is_refused_and_left_alone)
{
	char *base = fixture_path(&f, "template/base"), *theirs = fixture_path(&f, "template/base/precious");
	char *beside = fixture_path(&f, "template/beside");

	cr_assert_eq(mkdir(path, 0700), 0);
	cr_assert_eq(mkdir(base, 0700), 0);
	cr_assert_eq(mkdir(theirs, 0700), 0);
	assert_refused(KATA_E_INVALID, "no template's");
	cr_assert_eq(mkdir(beside, 0700), 0);
	close(open(lock_path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600)); /* neither does that */
	assert_refused(KATA_E_INVALID, "no template's");
	cr_assert_eq(access(theirs, F_OK), 0);
	free(beside);
	free(theirs);
	free(base);
}

Test(template_lock, a_file_or_a_symlink_in_its_place_is_refused)
{
	int fd = open(path, O_WRONLY | O_CREAT, 0600);

	cr_assert_geq(fd, 0);
	close(fd);
	assert_refused(KATA_E_INVALID, "no directory");
	cr_assert_eq(unlink(path), 0);
	cr_assert_eq(symlink(f.state_dir, path), 0);
	assert_refused(KATA_E_INVALID, "no directory");
}
