/* SPDX-License-Identifier: Apache-2.0 */
/*
 * start.c - from a config to a running QEMU.
 *
 * The sockets are made and listened on here and given to QEMU, so a connect cannot come too early; our ends of the
 * listening ones are closed as soon as QEMU has them, so that a connection to a QEMU that died breaks.
 */
#include "vm/qemu/start.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/text.h"
#include "vm/qemu/boot_files.h"
#include "vm/qemu/vsock.h"
#include "vm/restore.h"

#define KILL_MS 5000

/* What the steps hand to each other. */
struct scratch {
	struct kata__qemu_boot_files files;
	int qmp_fd, console_fd, agent_fd, vsock_fd, log_fd, pid_file_fd;
	unsigned vsock_cid;
	int pidfd;
	bool is_let_go;
	struct kata__process_identity process;
};

static struct scratch *scratch_of(const kata_op *op)
{
	return kata__vm_op_data(op)->scratch;
}

static int make_scratch(kata_op *op, kata_error **err)
{
	struct scratch *s = calloc(1, sizeof(*s));

	if (!s)
		return kata__fail_no_memory(err);
	*s = (struct scratch){.files = KATA__QEMU_NO_BOOT_FILES,
			      .qmp_fd = -1,
			      .console_fd = -1,
			      .agent_fd = -1,
			      .vsock_fd = -1,
			      .log_fd = -1,
			      .pid_file_fd = -1,
			      .pidfd = -1};
	kata__vm_op_data(op)->scratch = s;
	return 0;
}

int kata__qemu_start_make_dir(kata_op *op, kata_error **err)
{
	int rc = make_scratch(op, err);

	return rc < 0 ? rc : kata__vm_step_make_dir(op, err);
}

/* ---- files and sockets */

static int open_in_dir(const kata_vm *vm, const char *name, int *ret_fd, kata_error **err)
{
	KATA_AUTO(free) char *path = kata__format("%s/%s", vm->dir, name);

	if (!path)
		return kata__fail_no_memory(err);
	*ret_fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600);
	return *ret_fd < 0 ? kata__fail_errno(err, errno, "cannot make %s", path) : 0;
}

/* Locked for as long as we or a child that has not yet written into it live: see vm/recover.c. */
static int open_pid_file(const kata_vm *vm, int *ret_fd, kata_error **err)
{
	int rc = open_in_dir(vm, "vmm.pid", ret_fd, err);

	if (rc == 0 && flock(*ret_fd, LOCK_SH | LOCK_NB) < 0)
		rc = kata__fail_errno(err, errno, "cannot lock %s/vmm.pid", vm->dir);
	return rc;
}

static void close_files(struct scratch *s)
{
	kata__qemu_boot_files_close(&s->files);
	kata__close_fd(&s->log_fd);
	kata__close_fd(&s->pid_file_fd);
}

static int check_saved_memory(const kata_vm *vm, kata_error **err)
{
	const struct kata__restore *r = vm->restore;

	return r && r->memory_fd >= 0 ? kata__qemu_check_memory(kata_snapshot_get_path(r->snapshot), r->memory_fd,
								&kata__qemu_of(vm)->settings, err)
				      : 0;
}

int kata__qemu_start_open_files(kata_op *op, kata_error **err)
{
	kata_vm *vm = kata__vm_op_data(op)->vm;
	const struct kata__qemu_settings *settings = &kata__qemu_of(vm)->settings;
	struct scratch *s = scratch_of(op);
	int rc;

	if ((rc = kata__qemu_boot_files_open(&vm->config->v, settings, &s->files, err)) ||
	    (rc = open_in_dir(vm, "vmm.log", &s->log_fd, err)) || (rc = open_pid_file(vm, &s->pid_file_fd, err)) ||
	    (rc = kata__qemu_memory_file_open(&vm->config->v, settings, &s->files, err)) ||
	    (rc = check_saved_memory(vm, err)))
		close_files(s);
	return rc;
}

int kata__qemu_start_undo_open_files(kata_op *op, kata_error **err)
{
	struct scratch *s = scratch_of(op);

	if (s->files.made_memory)
		unlink(kata__vm_op_data(op)->vm->config->v.memory_path);
	close_files(s);
	return KATA__STEP_DONE;
}

static void close_listeners(struct scratch *s)
{
	kata__close_fd(&s->qmp_fd);
	kata__close_fd(&s->console_fd);
	kata__close_fd(&s->agent_fd);
	kata__close_fd(&s->vsock_fd);
}

static int listen_for_agent(const kata_vm *vm, struct scratch *s, kata_error **err)
{
	if (vm->agent_transport == KATA_AGENT_VSOCK)
		return kata__qemu_vsock_open(&s->vsock_cid, &s->vsock_fd, err);
	return kata__unix_listen(vm->dir, "agent.sock", &s->agent_fd, err);
}

int kata__qemu_start_listen(kata_op *op, kata_error **err)
{
	const kata_vm *vm = kata__vm_op_data(op)->vm;
	struct scratch *s = scratch_of(op);
	int rc;

	if ((rc = kata__unix_listen(vm->dir, "qmp.sock", &s->qmp_fd, err)) ||
	    (rc = kata__unix_listen(vm->dir, "console.sock", &s->console_fd, err)) ||
	    (rc = listen_for_agent(vm, s, err)))
		close_listeners(s);
	return rc;
}

int kata__qemu_start_undo_listen(kata_op *op, kata_error **err)
{
	close_listeners(scratch_of(op)); /* the names go with the directory */
	return KATA__STEP_DONE;
}

/* ---- the process */

static struct kata__qemu_boot describe(const kata_vm *vm, const struct scratch *s)
{
	const struct kata__qemu *q = kata__qemu_of(vm);

	return (struct kata__qemu_boot){.binary = q->settings.binary,
					.id = vm->id,
					.uuid = vm->uuid,
					.machine = q->machine,
					.kvm = q->kvm,
					.config = &vm->config->v,
					.devices = q->cold,
					.kernel_fd = s->files.kernel_fd,
					.initrd_fd = s->files.initrd_fd,
					.image_fd = s->files.image_fd,
					.memory_fd = vm->restore && vm->restore->memory_fd >= 0 ? vm->restore->memory_fd
												: s->files.memory_fd,
					.incoming = vm->restore != NULL,
					.qmp_fd = s->qmp_fd,
					.console_fd = s->console_fd,
					.agent_fd = s->agent_fd,
					.agent_vsock = vm->agent_transport == KATA_AGENT_VSOCK,
					.vsock_fd = s->vsock_fd,
					.vsock_cid = s->vsock_cid,
					.log_fd = s->log_fd};
}

static void kill_and_reap(struct scratch *s)
{
	struct pollfd p = {.fd = s->pidfd, .events = POLLIN};
	int status, n;

	if (s->pidfd < 0)
		return;
	kata__process_signal(s->pidfd, SIGKILL);
	do
		n = poll(&p, 1, KILL_MS);
	while (n < 0 && errno == EINTR);
	kata__process_try_reap(s->pidfd, &status);
	kata__close_fd(&s->pidfd);
}

static int spawn(const struct kata__qemu_settings *settings, const struct kata__qemu_launch *l, const char *boot_id,
		 struct scratch *s, kata_error **err)
{
	const struct kata__spawn spawn = {.path = settings->binary,
					  .argv = (const char *const *)l->argv,
					  .fds = l->fds,
					  .fd_count = l->fd_count,
					  .set_ids = settings->set_ids,
					  .uid = settings->uid,
					  .gid = settings->gid,
					  .pid_fd = s->pid_file_fd,
					  .boot_id = boot_id};
	pid_t pid;
	int rc;

	rc = kata__process_spawn(&spawn, &pid, &s->pidfd, err);
	if (rc)
		return rc;
	rc = kata__process_identity_of(pid, &s->process, err);
	if (rc)
		kill_and_reap(s);
	return rc;
}

/* Neither the cold list nor vm->restore changes while the VM is STARTING. */
int kata__qemu_start_spawn(kata_op *op, kata_error **err)
{
	kata_vm *vm = kata__vm_op_data(op)->vm;
	struct scratch *s = scratch_of(op);
	struct kata__qemu_cold *saved = NULL;
	struct kata__qemu_boot boot = describe(vm, s);
	struct kata__qemu_launch launch;
	int rc = vm->restore ? kata__qemu_list_restored(vm->restore, &saved, err) : 0;

	if (vm->restore)
		boot.devices = saved;
	if (!rc)
		rc = kata__qemu_launch_make(&boot, &launch, err);
	if (!rc) {
		rc = spawn(&kata__qemu_of(vm)->settings, &launch, kata__context_self(vm->ctx)->boot_id, s, err);
		kata__qemu_launch_deinit(&launch);
	}
	free(saved);
	if (rc)
		return rc;
	close_listeners(s);
	close_files(s);
	return KATA__STEP_DONE;
}

int kata__qemu_start_undo_spawn(kata_op *op, kata_error **err)
{
	kill_and_reap(scratch_of(op));
	kata__qemu_keep_last_words(kata__vm_op_data(op)->vm);
	return KATA__STEP_DONE;
}

/* ---- one that was started before */

int kata__qemu_start_claim(kata_op *op, kata_error **err)
{
	return make_scratch(op, err);
}

/* Where nothing was done yet, it waits on. */
int kata__qemu_start_undo_claim(kata_op *op, kata_error **err)
{
	if (!scratch_of(op)->is_let_go)
		return KATA__STEP_DONE;
	kata__qemu_start_undo_spawn(op, err);
	return kata__vm_step_unmake_dir(op, err);
}

/* ---- its monitor and console */

/* A step of its own: whatever fails after it, QEMU must be let go of before it is killed. */
int kata__qemu_start_watch_process(kata_op *op, kata_error **err)
{
	struct kata__qemu *q = kata__qemu_of_op(op);
	int rc = kata__qemu_adopt(q, kata__take_fd(&scratch_of(op)->pidfd), err);

	q->is_child = !rc;
	return rc;
}

int kata__qemu_start_undo_watch_process(kata_op *op, kata_error **err)
{
	scratch_of(op)->pidfd = kata__qemu_let_go(kata__qemu_of_op(op));
	scratch_of(op)->is_let_go = true;
	return KATA__STEP_DONE;
}

int kata__qemu_start_connect_console(kata_op *op, kata_error **err)
{
	return kata__qemu_connect_console(kata__qemu_of_op(op), err);
}

int kata__qemu_start_cont(kata_op *op, kata_error **err)
{
	return kata__qemu_plain_command(op, "cont", NULL, err);
}

int kata__qemu_start_commit(kata_op *op, kata_error **err)
{
	kata_vm *vm = kata__vm_op_data(op)->vm;
	struct scratch *s = scratch_of(op);

	kata__vm_set_pid(vm, s->process.pid, s->process.start_time);
	kata__qemu_of(vm)->vsock_cid = s->vsock_cid;
	kata__qemu_of(vm)->has_dir = true;
	return KATA__STEP_DONE;
}

/* "Connection reset by peer" helps nobody: what QEMU said last is the message. */
static void say_why(const kata_vm *vm, kata_error **error)
{
	const char *output = kata_error_get_vmm_output(*error), *line = output;

	for (const char *p = output; p && *p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : "")
		if (*p != '\n')
			line = p;
	if (!line || !*line)
		return;
	kata__error_wrap(error, KATA_E_GONE, "QEMU ended while it started: %.*s", (int)strcspn(line, "\n"), line);
	kata__error_set_hint(
		*error,
		kata__qemu_says_locked(output)
			? "another process or VM has one of its disks open: a file may be writable in one place only"
		: vm->restore ? "a state that cannot be loaded is cut, or of another machine"
			      : "look at what it names in the vm_config: kernel, initrd, "
				"memory_mib, machine");
}

void kata__qemu_start_finish(kata_op *op, int status, kata_error **error)
{
	struct scratch *s = scratch_of(op);

	if (s) {
		close_listeners(s);
		close_files(s);
		kata__close_fd(&s->pidfd);
	}
	if (status == 0)
		kata__qemu_drop_cold(kata__qemu_of_op(op)); /* QEMU has its own fds */
	if (kata__vm_op_data(op)->vm->restore)
		kata__vm_restore_close(kata__vm_op_data(op)->vm->restore);
	kata__vm_finish_device(op, status, error);
	if (status == KATA_E_GONE)
		say_why(kata__vm_op_data(op)->vm, error);
}

static const struct kata__step steps[] = {
	{.name = "make-dir",
	 .run = kata__qemu_start_make_dir,
	 .undo = kata__vm_step_unmake_dir,
	 .flags = KATA__STEP_BLOCKING | KATA__STEP_UNDO_BLOCKING},
	{.name = "open-files",
	 .run = kata__qemu_start_open_files,
	 .undo = kata__qemu_start_undo_open_files,
	 .flags = KATA__STEP_BLOCKING | KATA__STEP_JOURNAL},
	{.name = "listen",
	 .run = kata__qemu_start_listen,
	 .undo = kata__qemu_start_undo_listen,
	 .flags = KATA__STEP_BLOCKING},
	{.name = "spawn",
	 .run = kata__qemu_start_spawn,
	 .undo = kata__qemu_start_undo_spawn,
	 .flags = KATA__STEP_BLOCKING | KATA__STEP_UNDO_BLOCKING | KATA__STEP_JOURNAL},
	{.name = "watch-process", .run = kata__qemu_start_watch_process, .undo = kata__qemu_start_undo_watch_process},
	{.name = "connect-qmp", .run = kata__qemu_step_connect},
	{.name = "connect-console", .run = kata__qemu_start_connect_console},
	{.name = "cont", .run = kata__qemu_start_cont},
	{.name = "commit", .run = kata__qemu_start_commit},
};
const struct kata__op_table kata__qemu_start = {
	.name = "start",
	KATA__STEPS(steps),
	.timeout_ms = 10000,
	.finish = kata__qemu_start_finish,
	.free_data = kata__vm_free_op_data,
};
