/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Operations on a container: add, start, remove, pause, resume, stats, and the list.
 */
#include <string.h>

#include "base/options.h"
#include "base/text.h"
#include "sandbox/container.h"
#include "sandbox/device.h"
#include "sandbox/sandbox_op.h"
#include "sandbox/spec.h"

#define IN(s) KATA__IN(KATA_SANDBOX_##s)
#define CALL_MS 30000u

struct container_op {
	struct kata__sandbox_op base;
	char id[KATA__ID_MAX + 1];
	bool reserved; /* by this op */
	struct kata__spec spec;
	kata_container_stats stats;
};

static struct container_op *data_of(const kata_op *op)
{
	return kata__op_data(op);
}

static void free_container_op(void *data)
{
	struct container_op *o = data;

	kata__spec_deinit(&o->spec);
	kata__sandbox_op_deinit(&o->base);
	free(o);
}

static int call_guest(kata_op *op, kata_agent_method method, kata_error **err)
{
	kata_agent_request request = {.size = sizeof(request), .method = method};

	request.container_id = data_of(op)->id;
	return kata__sandbox_call(op, &request, err);
}

static int simple_call(kata_op *op, kata_agent_method method, kata_error **err)
{
	struct container_op *o = data_of(op);
	struct kata__container *c;
	int rc = kata__container_get(o->base.sandbox, o->id, &c, err);

	return rc < 0 ? rc : call_guest(op, method, err);
}

/* Containers that an owner made, who died before he stored them. Another agent than ours does not tell that it has none
 * of a name. */
static bool may_have_unknown(const kata_sandbox *s)
{
	return s->taken_over && s->agent && kata_agent_has_guest_service(s->agent);
}

/* ---- add: the storages it names, as the agent mounts them */

struct mounts {
	kata_agent_storage *storages;
	char **texts; /* two a storage: its address and its mount point */
	char ***options;
	size_t count;
};

static void mounts_deinit(struct mounts *m)
{
	for (size_t i = 0; i < m->count; i++) {
		free(m->texts[2 * i]);
		free(m->texts[2 * i + 1]);
		kata__strv_free(m->options[i]);
	}
	free(m->texts);
	free(m->options);
	free(m->storages);
}

/* The storage's own mount options, and "ro" where it is read-only. */
static char **mount_options(const kata_storage *storage)
{
	const char *const *own = kata__storage_mount_options(storage);
	size_t n = kata__strv_length(own);
	char **options = calloc(n + 2, sizeof(*options));

	if (!options)
		return NULL;
	for (size_t i = 0; i < n; i++)
		if (!(options[i] = kata__strdup(own[i])))
			goto no_memory;
	if (kata_storage_is_read_only(storage) && !(options[n] = kata__strdup("ro")))
		goto no_memory;
	return options;
no_memory:
	kata__strv_free(options);
	return NULL;
}

static int add_mount(struct mounts *m, const kata_storage *storage, kata_error **err)
{
	kata_agent_storage *out = &m->storages[m->count];
	char address[64];
	char *source, *mount_point, **options;

	kata_storage_get_address(storage, address, sizeof(address));
	source = m->texts[2 * m->count] = kata__strdup(address);
	mount_point = m->texts[2 * m->count + 1] =
		kata__format(KATA__SPEC_STORAGE_DIR "/%s", kata_storage_get_id(storage));
	options = m->options[m->count] = mount_options(storage);
	m->count++;
	if (!source || !mount_point || !options)
		return kata__fail_no_memory(err);
	out->driver = kata__storage_agent_driver(storage);
	out->source = source;
	out->fstype = kata_storage_get_fstype(storage);
	out->mount_point = mount_point;
	out->options = (const char *const *)options;
	return 0;
}

static int find_storage(kata_sandbox *s, const char *id, kata_storage **ret, kata_error **err)
{
	for (const struct kata__sandbox_leaving *l = s->leaving; l; l = l->next)
		if (strcmp(l->id, id) == 0)
			return kata__fail(err, KATA_E_BUSY, CALLER, "config.oci_spec: storage '%s' is being removed",
					  id);
	if (kata_vm_find_storage(s->vm, id, ret, NULL) < 0)
		return kata__fail(err, KATA_E_NOT_FOUND, CALLER,
				  "config.oci_spec: storage '%s' is not plugged into sandbox '%s': add it first", id,
				  s->id);
	if (kata_storage_get_state(*ret) == KATA_DEVICE_PLUGGED)
		return 0;
	kata__fail(err, KATA_E_NOT_FOUND, CALLER, "config.oci_spec: storage '%s' is %s, must be plugged", id,
		   kata_device_state_get_name(kata_storage_get_state(*ret)));
	kata_storage_unref(*ret);
	return KATA_E_NOT_FOUND;
}

static int make_mounts(kata_sandbox *s, char *const *ids, struct mounts *m, kata_error **err)
{
	size_t n = kata__strv_length((const char *const *)ids);

	m->storages = calloc(n + 1, sizeof(*m->storages));
	m->texts = calloc(2 * n + 2, sizeof(*m->texts));
	m->options = calloc(n + 1, sizeof(*m->options));
	if (!m->storages || !m->texts || !m->options)
		return kata__fail_no_memory(err);
	for (size_t i = 0; i < n; i++) {
		kata_storage *storage = NULL;
		int rc = find_storage(s, ids[i], &storage, err);

		if (rc == 0) {
			rc = add_mount(m, storage, err);
			kata_storage_unref(storage);
		}
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int step_reserve(kata_op *op, kata_error **err)
{
	struct container_op *o = data_of(op);
	kata_sandbox *s = o->base.sandbox;
	struct mounts m = {0};
	struct kata__container *c;
	int rc = make_mounts(s, o->spec.storages, &m, err);

	mounts_deinit(&m);
	if (rc < 0)
		return rc;
	rc = kata__container_reserve(s, o->id, (const char *const *)o->spec.storages, o->spec.terminal, &c, err);
	o->reserved = rc == 0;
	return rc;
}

static int step_unreserve(kata_op *op, kata_error **err)
{
	struct container_op *o = data_of(op);
	struct kata__container *c = kata__container_find(o->base.sandbox, o->id);

	if (c && o->reserved)
		kata__container_forget(o->base.sandbox, c);
	o->reserved = false;
	return KATA__STEP_DONE;
}

static int step_end_unknown(kata_op *op, kata_error **err)
{
	if (!may_have_unknown(kata__sandbox_of(op)))
		return KATA__STEP_DONE;
	kata__op_forgive_child(op, KATA_E_NOT_FOUND);
	return call_guest(op, KATA_AGENT_REMOVE_CONTAINER, err);
}

static int step_create(kata_op *op, kata_error **err)
{
	kata_agent_request request = {.size = sizeof(request), .method = KATA_AGENT_CREATE_CONTAINER};
	struct container_op *o = data_of(op);
	struct mounts m = {0};
	int rc = make_mounts(o->base.sandbox, o->spec.storages, &m, err);

	if (rc == 0) {
		request.container_id = o->id;
		request.exec_id = o->id;
		request.json = o->spec.json;
		request.json_length = o->spec.json_length;
		request.storages = m.storages;
		request.storage_count = m.count;
		rc = kata__sandbox_call(op, &request, err);
	}
	mounts_deinit(&m);
	return rc;
}

static int step_uncreate(kata_op *op, kata_error **err)
{
	kata_agent_request request = {.size = sizeof(request), .method = KATA_AGENT_REMOVE_CONTAINER};

	request.container_id = data_of(op)->id;
	return kata__sandbox_call_anyhow(op, &request, err);
}

static int step_show(kata_op *op, kata_error **err)
{
	struct container_op *o = data_of(op);
	struct kata__container *c = kata__container_find(o->base.sandbox, o->id);

	if (!c)
		return kata__fail(err, KATA_E_GONE, CALLER, "container '%s' went away while it was made", o->id);
	kata__container_show(o->base.sandbox, c);
	return KATA__STEP_DONE;
}

/* ---- the others */

/* One that runs though nothing here says so was started by a call whose answer was lost. */
static int step_start(kata_op *op, kata_error **err)
{
	const struct kata__container *c = kata__container_find(kata__sandbox_of(op), data_of(op)->id);

	if (c && c->processes->state == KATA_PROCESS_CREATED)
		kata__op_forgive_child(op, KATA_E_EXISTS);
	return simple_call(op, KATA_AGENT_START_CONTAINER, err);
}

/* A guest that has no such container has removed it: at the first try, whose answer was lost, or for an owner who died
 * before he stored that. */
static int step_remove(kata_op *op, kata_error **err)
{
	kata_sandbox *s = kata__sandbox_of(op);

	if (!kata__container_find(s, data_of(op)->id) && may_have_unknown(s))
		return call_guest(op, KATA_AGENT_REMOVE_CONTAINER, err);
	kata__op_forgive_child(op, KATA_E_NOT_FOUND);
	return simple_call(op, KATA_AGENT_REMOVE_CONTAINER, err);
}

static int step_pause(kata_op *op, kata_error **err)
{
	return simple_call(op, KATA_AGENT_PAUSE_CONTAINER, err);
}

static int step_resume(kata_op *op, kata_error **err)
{
	return simple_call(op, KATA_AGENT_RESUME_CONTAINER, err);
}

static int step_stats(kata_op *op, kata_error **err)
{
	return simple_call(op, KATA_AGENT_STATS_CONTAINER, err);
}

/* The guest has done it: the table follows. */
static struct kata__container *succeeded(kata_op *op, int status)
{
	return status == 0 ? kata__container_find(kata__sandbox_of(op), data_of(op)->id) : NULL;
}

static void finish(kata_op *op, int status, kata_error **error)
{
	kata__sandbox_op_end(op, status);
}

static void finish_start(kata_op *op, int status, kata_error **error)
{
	struct kata__container *c = succeeded(op, status);

	if (c)
		kata__container_set_state(kata__sandbox_of(op), c, KATA_PROCESS_CREATED, KATA_PROCESS_RUNNING);
	kata__sandbox_op_end(op, status);
}

static void finish_pause(kata_op *op, int status, kata_error **error)
{
	struct kata__container *c = succeeded(op, status);

	if (c)
		kata__container_set_state(kata__sandbox_of(op), c, KATA_PROCESS_RUNNING, KATA_PROCESS_PAUSED);
	kata__sandbox_op_end(op, status);
}

static void finish_resume(kata_op *op, int status, kata_error **error)
{
	struct kata__container *c = succeeded(op, status);

	if (c)
		kata__container_set_state(kata__sandbox_of(op), c, KATA_PROCESS_PAUSED, KATA_PROCESS_RUNNING);
	kata__sandbox_op_end(op, status);
}

static void finish_remove(kata_op *op, int status, kata_error **error)
{
	struct kata__container *c = succeeded(op, status);

	if (c)
		kata__container_forget(kata__sandbox_of(op), c);
	kata__sandbox_op_end(op, status);
}

static void finish_stats(kata_op *op, int status, kata_error **error)
{
	const kata_agent_reply *reply = status == 0 ? kata__sandbox_reply(op) : NULL;

	if (reply)
		data_of(op)->stats = reply->stats;
	kata__sandbox_op_end(op, status);
}

static const struct kata__step add_steps[] = {
	{.name = "reserve", .run = step_reserve, .undo = step_unreserve},
	{.name = "end-unknown", .run = step_end_unknown},
	{.name = "create", .run = step_create, .undo = step_uncreate, .flags = KATA__STEP_UNCERTAIN},
	{.name = "show", .run = step_show},
};
static const struct kata__op_table add_table = {
	.name = "add-container",
	KATA__STEPS(add_steps),
	.timeout_ms = CALL_MS,
	.finish = finish,
	.free_data = free_container_op,
};

#define CONTAINER_TABLE(noun, op_name, finish_fn)                                                                      \
	static const struct kata__step noun##_steps[] = {{.name = #noun, .run = step_##noun}};                         \
	static const struct kata__op_table noun##_table = {                                                            \
		.name = (op_name),                                                                                     \
		KATA__STEPS(noun##_steps),                                                                             \
		.timeout_ms = CALL_MS,                                                                                 \
		.finish = (finish_fn),                                                                                 \
		.free_data = free_container_op,                                                                        \
	}
CONTAINER_TABLE(start, "start-container", finish_start);
CONTAINER_TABLE(remove, "remove-container", finish_remove);
CONTAINER_TABLE(pause, "pause-container", finish_pause);
CONTAINER_TABLE(resume, "resume-container", finish_resume);
CONTAINER_TABLE(stats, "stats-container", finish_stats);

/* ---- public */

static int new_op(const kata_sandbox *s, const char *id, struct container_op **ret, kata_error **err)
{
	struct container_op *o;
	int rc = kata__sandbox_check_ids(s, id, NULL, err);

	if (rc < 0)
		return rc;
	o = calloc(1, sizeof(*o));
	if (!o)
		return kata__fail_no_memory(err);
	snprintf(o->id, sizeof(o->id), "%s", id);
	*ret = o;
	return 0;
}

int kata_sandbox_add_container_begin(kata_sandbox *sandbox, const kata_container_config *config,
				     const kata_op_options *options, kata_op **ret_op, kata_error **err)
{
	static const struct kata__sandbox_entry entry = {"kata_sandbox_add_container", IN(RUNNING), -1, 0};
	kata_container_config c = KATA_CONTAINER_CONFIG_INIT;
	struct container_op *o = NULL;
	int rc = config ? kata__options_read(&c, sizeof(c), config, "config", err)
			: kata__fail(err, KATA_E_INVALID, CALLER, "config: it is NULL");

	if (rc == 0)
		rc = kata__sandbox_check(sandbox, err);
	if (rc == 0)
		rc = kata__id_check("config.id", c.id, err);
	if (rc == 0)
		rc = new_op(sandbox, c.id, &o, err);
	if (rc < 0)
		return rc;
	if (strlen(c.id) < 2)
		rc = kata__fail(err, KATA_E_INVALID, CALLER,
				"config.id: '%s' is too short, the agent wants at least 2 bytes", c.id);
	else
		rc = kata__spec_parse("config.oci_spec", c.oci_spec, c.oci_spec_length, &o->spec, err);
	if (rc < 0) {
		free_container_op(o);
		return rc;
	}
	return kata__sandbox_begin(sandbox, &entry, &add_table, o, options, ret_op, err);
}

int kata_sandbox_add_container(kata_sandbox *sandbox, const kata_container_config *config,
			       const kata_op_options *options, kata_error **err)
{
	kata_op *op = NULL;
	int rc = kata__sandbox_check_may_block(sandbox, "kata_sandbox_add_container", err);

	if (rc == 0)
		rc = kata_sandbox_add_container_begin(sandbox, config, options, &op, err);
	return kata__op_finish_sync(rc, &op, err);
}

static int run(kata_sandbox *s, const char *function, const char *id, const struct kata__op_table *table,
	       const kata_op_options *options, kata_error **err)
{
	const struct kata__sandbox_entry entry = {function, IN(RUNNING), -1, 0};
	struct container_op *o = NULL;
	kata_op *op = NULL;
	int rc = kata__sandbox_check_may_block(s, function, err);

	if (rc == 0)
		rc = new_op(s, id, &o, err);
	if (rc == 0)
		rc = kata__sandbox_begin(s, &entry, table, o, options, &op, err);
	return kata__op_finish_sync(rc, &op, err);
}

int kata_sandbox_start_container(kata_sandbox *sandbox, const char *id, const kata_op_options *options,
				 kata_error **err)
{
	return run(sandbox, "kata_sandbox_start_container", id, &start_table, options, err);
}

int kata_sandbox_remove_container(kata_sandbox *sandbox, const char *id, const kata_op_options *options,
				  kata_error **err)
{
	return run(sandbox, "kata_sandbox_remove_container", id, &remove_table, options, err);
}

int kata_sandbox_pause_container(kata_sandbox *sandbox, const char *id, const kata_op_options *options,
				 kata_error **err)
{
	return run(sandbox, "kata_sandbox_pause_container", id, &pause_table, options, err);
}

int kata_sandbox_resume_container(kata_sandbox *sandbox, const char *id, const kata_op_options *options,
				  kata_error **err)
{
	return run(sandbox, "kata_sandbox_resume_container", id, &resume_table, options, err);
}

int kata_sandbox_get_container_stats(kata_sandbox *sandbox, const char *id, const kata_op_options *options,
				     kata_container_stats *ret_stats, kata_error **err)
{
	static const struct kata__sandbox_entry entry = {"kata_sandbox_get_container_stats", IN(RUNNING), -1, 0};
	struct container_op *o = NULL;
	kata_op *op = NULL;
	int rc = kata__options_check_ret(ret_stats, "ret_stats", err);

	if (rc == 0)
		rc = kata__sandbox_check_may_block(sandbox, "kata_sandbox_get_container_stats", err);

	if (rc == 0)
		rc = new_op(sandbox, id, &o, err);
	if (rc == 0)
		rc = kata__sandbox_begin(sandbox, &entry, &stats_table, o, options, &op, err);
	if (rc < 0)
		return rc;
	rc = kata_op_wait(op, err);
	if (rc == 0)
		kata__options_write(ret_stats, &data_of(op)->stats, sizeof(data_of(op)->stats));
	kata_op_unref(op);
	return rc;
}

/* ---- the list, from any thread */

size_t kata_sandbox_get_container_count(const kata_sandbox *sandbox)
{
	kata_sandbox *s = (kata_sandbox *)(uintptr_t)sandbox; /* the mutex is not part of what the caller sees */
	size_t n = 0;

	if (!s)
		return 0;
	pthread_mutex_lock(&s->mutex);
	for (struct kata__container *c = s->containers; c; c = c->next)
		n += c->visible;
	pthread_mutex_unlock(&s->mutex);
	return n;
}

/* The mutex is held. */
static void describe(const struct kata__container *c, kata_container_info *info)
{
	snprintf(info->id, sizeof(info->id), "%s", c->id);
	info->state = c->processes->state;
	info->exit_status = c->processes->exit_status;
	for (struct kata__process *p = c->processes->next; p; p = p->next)
		info->exec_count += p->visible;
}

int kata_sandbox_get_container(kata_sandbox *sandbox, size_t index, kata_container_info *ret_info, kata_error **err)
{
	kata_container_info info = {.size = sizeof(info)};
	bool found = false;
	size_t n = 0;
	int rc = kata__sandbox_check(sandbox, err);

	if (rc == 0)
		rc = kata__options_check_ret(ret_info, "ret_info", err);
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&sandbox->mutex);
	for (struct kata__container *c = sandbox->containers; c && !found; c = c->next) {
		found = c->visible && n == index;
		if (found)
			describe(c, &info);
		n += c->visible;
	}
	pthread_mutex_unlock(&sandbox->mutex);
	if (!found)
		return kata__fail(err, KATA_E_NOT_FOUND, CALLER, "index: %zu, but there are %zu containers", index, n);
	kata__options_write(ret_info, &info, sizeof(info));
	return 0;
}
