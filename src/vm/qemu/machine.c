/* SPDX-License-Identifier: Apache-2.0 */
/* machine.c - see machine.h: the process, its connections, commands for steps. */
#include "vm/qemu/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/json.h"
#include "base/text.h"
#include "vm/qemu/migration.h"

#define LAST_WORDS_MAX 4096
#define LOG_MAX (1024 * 1024) /* bytes of vmm.log; a guest may make QEMU complain */
#define LOG_LOOK_MS 60000u
#define SILENCE_MS 1000u /* of the monitor after an undo's command; it does not depend on the guest's speed */
#define RESENDS_MAX 3u
#define BUSY_MS                                                                                                        \
	10u /* between two tries to take away what a deleted device has not let go of yet; there is no event for it */
#define BUSY_TRIES_MAX 200u
#define FULL_MS 20u /* between two tries to connect while QEMU takes no connection */

/* ---- life */

int kata__qemu_init(kata_vm *vm, kata_error **err)
{
	struct kata__qemu *q = calloc(1, sizeof(*q));

	if (!q)
		return kata__fail_no_memory(err);
	q->vm = vm;
	q->pidfd = -1;
	q->cold_last = &q->cold;
	kata__console_init(&q->console);
	vm->impl = q;
	return 0;
}

void kata__qemu_deinit(kata_vm *vm)
{
	struct kata__qemu *q = kata__qemu_of(vm);

	int pidfd = kata__qemu_let_go(q);

	kata__close_fd(&pidfd);
	kata__qemu_drop_cold(q);
	kata__console_deinit(&q->console);
	free(q->last_words);
	free(q->settings.binary);
	free(q->machine);
	free(q);
	vm->impl = NULL;
}

/* ---- the process */

static void say_how_it_ended(const struct kata__qemu *q, kata_error **err)
{
	if (q->exit_status < 0)
		kata__fail(err, KATA_E_GONE, VMM, "QEMU has ended");
	else if (q->exit_status > 128)
		kata__fail(err, KATA_E_GONE, VMM, "QEMU was ended by signal %d", q->exit_status - 128);
	else
		kata__fail(err, KATA_E_GONE, VMM, "QEMU has ended with exit status %d", q->exit_status);
}

/* Who waited for QEMU's answer was told it when the connection broke. */
static bool says_so(const kata_error *err, const kata_error *how)
{
	while (err && strcmp(kata_error_get_message(err), kata_error_get_message(how)) != 0)
		err = kata_error_get_cause(err);
	return err != NULL;
}

static void explain_end(const struct kata__qemu *q, kata_error *err)
{
	kata_error *how = NULL;

	say_how_it_ended(q, &how);
	if (says_so(err, how))
		kata_error_free(how);
	else
		kata__error_add_cause(err, how);
	if (kata_error_get_hint(err))
		return;
	if (q->exit_status > 128)
		kata__error_set_hint(err, "somebody ended QEMU: after a signal 9 look for the kernel's out-of-memory "
					  "killer in its log");
	else
		kata__error_set_hint(err, "the guest powered off, rebooted or panicked, or QEMU failed%s",
				     kata_error_get_console(err)      ? ": the console's tail shows the guest's end"
				     : kata_error_get_vmm_output(err) ? ": look at QEMU's last words"
								      : "");
}

void kata__qemu_explain(kata_vm *vm, kata_error *err)
{
	const struct kata__qemu *q = kata__qemu_of(vm);
	struct kata__process_identity id;

	kata__vm_get_process(vm, &id);
	if (q->exited)
		explain_end(q, err);
	else if (kata_error_get_status(err) == KATA_E_TIMEOUT && kata__process_is_stopped(&id))
		kata__error_set_hint(err, "the VMM is stopped, by a signal or a debugger: continue it (kill -CONT %ld)",
				     (long)id.pid);
}

static void give_up_connecting(struct kata__qemu *q, const kata_error *why);
static void look_at_log_later(struct kata__qemu *q);

/* QEMU appends: after the cut it goes on at the start. */
static void look_at_log(void *user)
{
	struct kata__qemu *q = user;
	KATA_AUTO(free) char *path = kata__format("%s/vmm.log", q->vm->dir);
	struct stat st;

	q->log_timer = NULL;
	if (path && lstat(path, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > LOG_MAX) {
		kata__qemu_keep_last_words(q->vm);
		(void)!truncate(path, 0);
	}
	look_at_log_later(q);
}

static void look_at_log_later(struct kata__qemu *q)
{
	(void)kata__timer_add(kata__context_loop(q->vm->ctx), kata__deadline_in_ms(LOG_LOOK_MS), look_at_log, q,
			      &q->log_timer, NULL);
}

static void stop_watching(struct kata__qemu *q)
{
	kata__timer_remove(kata__take_ptr(q->log_timer));
	kata__watch_remove(q->pid_watch);
	q->pid_watch = NULL;
	kata__close_fd(&q->pidfd);
}

static void on_exit_seen(void *user, uint32_t events)
{
	KATA_AUTO(kata_error_free) kata_error *why = NULL;
	struct kata__qemu *q = user;
	struct kata__qmp *qmp = q->qmp;
	kata_op *killing = q->killing;

	if (!kata__process_try_reap(q->pidfd, &q->exit_status))
		return;
	q->exited = true;
	stop_watching(q);
	say_how_it_ended(q, &why);
	q->qmp = NULL;
	kata__qmp_close(qmp, why);
	give_up_connecting(q, why);
	kata__qemu_fail_waiters(q, why);
	kata__qemu_fail_migration(q, why);
	kata__qemu_look_at_ports(q);
	kata__qemu_forget_strays(q);
	kata__console_detach(&q->console);
	q->killing = NULL;
	if (killing)
		kata__op_resume(killing, q->killing_token, 0, NULL);
	kata_op_unref(killing);
	kata__vm_ended(q->vm);
}

int kata__qemu_adopt(struct kata__qemu *q, int take_pidfd, kata_error **err)
{
	int rc;

	q->pidfd = take_pidfd;
	q->exited = false;
	rc = kata__watch_add(kata__context_loop(q->vm->ctx), q->pidfd, EPOLLIN, on_exit_seen, q, &q->pid_watch, err);
	if (rc)
		kata__close_fd(&q->pidfd);
	else
		look_at_log_later(q);
	return rc;
}

int kata__qemu_let_go(struct kata__qemu *q)
{
	int pidfd = kata__take_fd(&q->pidfd);

	kata__qmp_close(kata__take_ptr(q->qmp), NULL);
	give_up_connecting(q, NULL);
	stop_watching(q);
	kata__console_detach(&q->console);
	kata__qemu_forget_strays(q);
	kata__timer_remove(kata__take_ptr(q->look_timer));
	q->look_due = false;
	q->connections = 0;
	return pidfd;
}

/* ---- connections */

static void on_event(void *user, const char *name, const json_t *data)
{
	struct kata__qemu *q = user;
	const char *device = json_string_value(json_object_get(data, "device"));

	q->silent = false;
	if (strcmp(name, "DEVICE_DELETED") == 0 && device)
		kata__qemu_on_deleted(q, device);
	else if (strcmp(name, "MIGRATION") == 0 && json_is_string(json_object_get(data, "status")))
		kata__qemu_on_migration(q, json_string_value(json_object_get(data, "status")));
}

static void on_broken(void *user, const kata_error *err)
{
	struct kata__qemu *q = user;

	kata__log(q->vm->ctx, kata_error_get_status(err) == KATA_E_GONE ? KATA_LOG_DEBUG : KATA_LOG_WARNING, "vm",
		  "vm %s: %s", q->vm->id, kata_error_get_message(err));
	kata__qemu_fail_waiters(q, err);
	kata__qemu_fail_migration(q, err);
}

static const struct kata__qmp_handler handler = {.on_event = on_event, .on_broken = on_broken};

int kata__qemu_connect_socket(const struct kata__qemu *q, const char *name, int *ret_fd, kata_error **err)
{
	KATA_AUTO(free) char *path = kata__format("%s/%s", q->vm->dir, name);

	return path ? kata__unix_connect(path, ret_fd, err) : kata__fail_no_memory(err);
}

/* ready: as kata__qmp_open; takes ready_user only on success. */
static int connect_monitor(struct kata__qemu *q, kata__qmp_reply_fn ready, void *ready_user, kata_error **err)
{
	int fd;
	int rc;

	if (q->exited) {
		say_how_it_ended(q, err);
		return KATA_E_GONE;
	}
	kata__qmp_close(kata__take_ptr(q->qmp), NULL);
	rc = kata__qemu_connect_socket(q, "qmp.sock", &fd, err);
	if (rc)
		return rc;
	q->connections++;
	return kata__qmp_open(kata__context_loop(q->vm->ctx), fd, &handler, q, ready, ready_user, &q->qmp, err);
}

static void ignore_ready(void *user, const json_t *value, kata_error *take_err)
{
	kata_error_free(take_err);
}

int kata__qemu_connect(struct kata__qemu *q, kata_error **err)
{
	return connect_monitor(q, ignore_ready, NULL, err);
}

int kata__qemu_ensure_connected(struct kata__qemu *q, kata_error **err)
{
	int rc = q->qmp && !kata__qmp_is_broken(q->qmp) ? 0 : kata__qemu_connect(q, err);

	if (!rc && q->look_due)
		kata__qemu_look_for_lost(q);
	return rc;
}

int kata__qemu_connect_console(struct kata__qemu *q, kata_error **err)
{
	int fd;
	int rc = kata__qemu_connect_socket(q, "console.sock", &fd, err);

	return rc ? rc : kata__console_attach(&q->console, kata__context_loop(q->vm->ctx), fd, err);
}

/* ---- commands for steps */

struct kata__qemu_call {
	struct kata__qemu *q;
	kata_op *op; /* referenced */
	uint64_t token;
	kata__qemu_check_fn check;
	/* An undo must get its answer: it is sent again when the connection breaks, or once when it stays silent. A
	 * step's own command is not, also not when its op is being undone meanwhile. */
	bool is_undo;
	bool was_silent;
	const char *command;
	json_t *args;
	unsigned resends, busy_tries;
	struct kata__timer *silence, *again;
};

static void call_free(struct kata__qemu_call *c)
{
	kata__timer_remove(c->silence);
	kata__timer_remove(c->again);
	kata_op_unref(c->op);
	json_decref(c->args);
	free(c);
}

static struct kata__qemu_call *call_new(kata_op *op, const char *command, json_t *args, kata__qemu_check_fn check)
{
	struct kata__qemu_call *c = calloc(1, sizeof(*c));

	if (c)
		*c = (struct kata__qemu_call){.q = kata__qemu_of_op(op),
					      .op = kata_op_ref(op),
					      .token = kata__op_token(op),
					      .check = check,
					      .is_undo = kata__op_is_undoing(op),
					      .command = command,
					      .args = json_incref(args)};
	return c;
}

static void on_reply(void *user, const json_t *value, kata_error *take_err);

static void on_silence(void *user)
{
	KATA_AUTO(kata_error_free) kata_error *why = NULL;
	struct kata__qemu_call *c = user;

	c->silence = NULL;
	if (c->was_silent) {
		c->q->silent = true;
		kata__fail(&why, KATA_E_TIMEOUT, VMM, "QEMU does not answer %s, not on a new connection either",
			   c->command);
	} else {
		c->was_silent = true;
		kata__fail(&why, KATA_E_GONE, VMM, "QEMU did not answer %s: connecting to its monitor anew",
			   c->command);
	}
	kata__qmp_close(kata__take_ptr(c->q->qmp), why);
}

static int call_send(struct kata__qemu_call *c, int fd, kata_error **err)
{
	uint64_t wait_ms = c->was_silent ? 2 * SILENCE_MS : SILENCE_MS;
	int rc;

	if (c->is_undo && c->q->silent)
		return kata__fail(err, KATA_E_TIMEOUT, VMM, "QEMU has stopped answering: %s was not sent", c->command);
	rc = kata__qemu_ensure_connected(c->q, err);
	if (!rc && c->is_undo && !c->silence)
		rc = kata__timer_add(kata__context_loop(c->q->vm->ctx), kata__deadline_in_ms(wait_ms), on_silence, c,
				     &c->silence, err);
	return rc ? rc : kata__qmp_execute(c->q->qmp, c->command, json_incref(c->args), fd, on_reply, c, err);
}

static bool is_broken(int rc)
{
	return rc == KATA_E_GONE || rc == KATA_E_PROTOCOL;
}

static void call_end(struct kata__qemu_call *c, int rc, const json_t *value, kata_error *take_err)
{
	if (c->check)
		rc = c->check(c->op, value, &take_err);
	kata__op_resume(c->op, c->token, rc, take_err);
	call_free(c);
}

static void on_again(void *user)
{
	struct kata__qemu_call *c = user;
	kata_error *err = NULL;
	int rc;

	c->again = NULL;
	rc = call_send(c, -1, &err);
	if (rc)
		call_end(c, rc, NULL, err);
}

/* QEMU tells that a device is deleted a moment before it lets go of the device's node, and that a state is written a
 * moment before it may run on. */
static bool is_nearly_there(const char *command, const char *message)
{
	if (!command)
		return false;
	return (strcmp(command, "blockdev-del") == 0 && strstr(message, "is in use")) ||
	       (strcmp(command, "cont") == 0 && strstr(message, "is not finalized yet"));
}

static bool try_again_soon(struct kata__qemu_call *c, const kata_error *err)
{
	if (!is_nearly_there(c->command, kata_error_get_message(err)) || c->busy_tries++ >= BUSY_TRIES_MAX)
		return false;
	return kata__timer_add(kata__context_loop(c->q->vm->ctx), kata__deadline_in_ms(BUSY_MS), on_again, c, &c->again,
			       NULL) == 0;
}

static void on_reply(void *user, const json_t *value, kata_error *take_err)
{
	struct kata__qemu_call *c = user;
	int rc = take_err ? (int)kata_error_get_status(take_err) : 0;

	if (rc == 0 || rc == KATA_E_VMM)
		c->q->silent = false;
	if (is_broken(rc) && c->is_undo && c->resends++ < RESENDS_MAX) {
		kata_error_free(kata__take_ptr(take_err));
		rc = call_send(c, -1, &take_err);
		if (!rc)
			return;
	}
	if (rc == KATA_E_VMM && try_again_soon(c, take_err)) {
		kata_error_free(take_err);
		return;
	}
	call_end(c, rc, value, take_err);
}

/* The step is over, by its deadline too: then the resume does nothing. */
static void give_up_connecting(struct kata__qemu *q, const kata_error *why)
{
	struct kata__qemu_call *c = kata__take_ptr(q->connecting);
	kata_error *own;

	if (!c)
		return;
	own = kata__error_dup(why);
	if (!why)
		kata__fail(&own, KATA_E_GONE, CALLER, "the VM was let go of");
	call_end(c, (int)kata_error_get_status(own), NULL, own);
}

static void connect_again(void *user);

/* QEMU, which keeps few connections that it has not accepted, is slow, or stopped with those of earlier tries. 0: c is
 * on its way. */
static int try_connecting(struct kata__qemu_call *c, kata_error **err)
{
	kata_error *failure = NULL;
	int rc = connect_monitor(c->q, on_reply, c, &failure);

	if (rc != KATA_E_BUSY)
		return rc ? kata__error_move(err, &failure) : 0;
	kata_error_free(failure);
	rc = kata__timer_add(kata__context_loop(c->q->vm->ctx), kata__deadline_in_ms(FULL_MS), connect_again, c,
			     &c->again, err);
	if (!rc)
		c->q->connecting = c;
	return rc;
}

static void connect_again(void *user)
{
	struct kata__qemu_call *c = user;
	kata_error *err = NULL;
	int rc;

	c->again = NULL;
	c->q->connecting = NULL;
	rc = try_connecting(c, &err);
	if (rc)
		call_end(c, rc, NULL, err);
}

int kata__qemu_step_connect(kata_op *op, kata_error **err)
{
	struct kata__qemu_call *c = call_new(op, NULL, NULL, NULL);
	int rc;

	if (!c)
		return kata__fail_no_memory(err);
	rc = try_connecting(c, err);
	if (!rc)
		return KATA__STEP_WAIT;
	call_free(c);
	return rc;
}

/* QEMU cannot be reached: an undo may take that for done. */
static int not_sent(kata_op *op, kata__qemu_check_fn check, kata_error *take_failure, kata_error **err)
{
	int rc = (int)kata_error_get_status(take_failure);

	if (check)
		rc = check(op, NULL, &take_failure);
	return rc ? kata__error_move(err, &take_failure) : KATA__STEP_DONE;
}

static int command_step(kata_op *op, const char *command, json_t *args, int fd, kata__qemu_check_fn check,
			kata_error **err)
{
	struct kata__qemu_call *c = call_new(op, command, args, check);
	kata_error *failure = NULL;

	if (!c)
		return kata__fail_no_memory(err);
	if (!call_send(c, fd, &failure))
		return KATA__STEP_WAIT;
	call_free(c);
	return not_sent(op, check, failure, err);
}

int kata__qemu_command(kata_op *op, const char *command, json_t *take_args, int fd, kata__qemu_check_fn check,
		       kata_error **err)
{
	KATA_AUTO_JSON json_t *args = take_args;

	return args ? command_step(op, command, args, fd, check, err) : kata__fail_no_memory(err);
}

int kata__qemu_plain_command(kata_op *op, const char *command, kata__qemu_check_fn check, kata_error **err)
{
	return command_step(op, command, NULL, -1, check, err);
}

bool kata__qemu_says_absent(const kata_error *err)
{
	static const char *const words[] = {"not found", "Failed to find node", "Cannot find device"};
	const char *message = kata_error_get_message(err);

	if (kata_error_get_status(err) != KATA_E_VMM)
		return false;
	for (size_t i = 0; i < kata__array_size(words); i++)
		if (strstr(message, words[i]))
			return true;
	return false;
}

int kata__qemu_check_absent(kata_op *op, const json_t *value, kata_error **err)
{
	if (!*err)
		return 0;
	if (!kata__qemu_says_absent(*err) && kata_error_get_status(*err) != KATA_E_GONE)
		return (int)kata_error_get_status(*err);
	kata_error_free(*err);
	*err = NULL;
	return 0;
}

/* ---- what is known of it afterwards */

static char *read_tail(int fd, size_t *ret_len)
{
	struct stat st;
	char *text;
	ssize_t n;

	if (fstat(fd, &st) || st.st_size <= 0)
		return NULL;
	text = malloc(LAST_WORDS_MAX + 1);
	if (!text)
		return NULL;
	n = pread(fd, text, LAST_WORDS_MAX, st.st_size > LAST_WORDS_MAX ? st.st_size - LAST_WORDS_MAX : 0);
	if (n <= 0) {
		free(text);
		return NULL;
	}
	text[n] = '\0';
	*ret_len = (size_t)n;
	return text;
}

static char *read_log(const kata_vm *vm, size_t *ret_len)
{
	KATA_AUTO(free) char *path = kata__format("%s/vmm.log", vm->dir);
	KATA_AUTO_FD int fd = path ? open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW) : -1;

	return fd < 0 ? NULL : read_tail(fd, ret_len);
}

void kata__qemu_keep_last_words(kata_vm *vm)
{
	struct kata__qemu *q = kata__qemu_of(vm);
	size_t len = 0;
	char *text = read_log(vm, &len);

	pthread_mutex_lock(&q->console.mutex);
	free(q->last_words);
	q->last_words = text;
	pthread_mutex_unlock(&q->console.mutex);
}

char *kata__qemu_last_words(kata_vm *vm, size_t *ret_len)
{
	struct kata__qemu *q = kata__qemu_of(vm);
	char *text = read_log(vm, ret_len);

	if (text)
		return text;
	pthread_mutex_lock(&q->console.mutex);
	text = kata__strdup(q->last_words);
	*ret_len = text ? strlen(text) : 0;
	pthread_mutex_unlock(&q->console.mutex);
	return text;
}

char *kata__qemu_console(kata_vm *vm, size_t *ret_len)
{
	return kata__console_copy(&kata__qemu_of(vm)->console, ret_len);
}
