/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kata_vm_config: validation, deep copy, JSON.
 *
 * Model: check_values looks at the members alone, check_files at the host. Both add to a list of problems, so that a
 * caller sees all of them at once. What comes from a record is checked by check_values only: the files were needed at
 * boot.
 */
#include "vm/config.h"

#include <kata/vm_builder.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/options.h"
#include "base/text.h"

#define PATH_BYTES_MAX 4095u

/* ---- values ---- */

static void check_id(const char *id, struct kata__problems *p)
{
	kata_error *e = NULL;

	if (!id || kata__id_check("config.id", id, &e) == 0)
		return;
	kata__problems_add(p, "%s", kata_error_get_message(e));
	kata_error_free(e);
}

static void check_cpus(const kata_vm_config *c, struct kata__problems *p)
{
	uint32_t cpus = c->cpus ? c->cpus : 1;

	if (cpus > KATA__VM_CPUS_MAX)
		kata__problems_add(p, "config.cpus: %u, at most %u", cpus, KATA__VM_CPUS_MAX);
	if (c->cpus_max > KATA__VM_CPUS_MAX)
		kata__problems_add(p, "config.cpus_max: %u, at most %u", c->cpus_max, KATA__VM_CPUS_MAX);
	if (c->cpus_max && c->cpus_max < cpus)
		kata__problems_add(p, "config.cpus_max: %u is less than cpus, %u", c->cpus_max, cpus);
}

static void check_memory(const kata_vm_config *c, struct kata__problems *p)
{
	uint64_t mib = c->memory_mib ? c->memory_mib : 256;

	if (mib < KATA__VM_MEMORY_MIN_MIB || mib > KATA__VM_MEMORY_MAX_MIB)
		kata__problems_add(p, "config.memory_mib: %llu, must be %u to %llu", (unsigned long long)mib,
				   KATA__VM_MEMORY_MIN_MIB, (unsigned long long)KATA__VM_MEMORY_MAX_MIB);
	if (c->memory_max_mib > KATA__VM_MEMORY_MAX_MIB)
		kata__problems_add(p, "config.memory_max_mib: %llu, at most %llu",
				   (unsigned long long)c->memory_max_mib, (unsigned long long)KATA__VM_MEMORY_MAX_MIB);
	if (c->memory_max_mib && c->memory_max_mib < mib)
		kata__problems_add(p, "config.memory_max_mib: %llu is less than memory_mib, %llu",
				   (unsigned long long)c->memory_max_mib, (unsigned long long)mib);
	if (c->memory_slots > KATA__VM_MEMORY_SLOTS_MAX)
		kata__problems_add(p, "config.memory_slots: %u, at most %u", c->memory_slots,
				   KATA__VM_MEMORY_SLOTS_MAX);
	if (c->memory_slots && c->memory_max_mib <= mib)
		kata__problems_add(p,
				   "config.memory_slots: %u, but memory_max_mib leaves no memory to plug: it must be "
				   "above memory_mib, %llu",
				   c->memory_slots, (unsigned long long)mib);
	if (c->memory_shared && !c->memory_path)
		kata__problems_add(p, "config.memory_shared: needs memory_path, the file that is shared");
}

static bool path_is_absolute(const char *member, const char *path, struct kata__problems *p)
{
	if (path[0] != '/')
		kata__problems_add(p, "config.%s: '%.128s' is relative, must be absolute", member, path);
	else if (strnlen(path, PATH_BYTES_MAX + 1) > PATH_BYTES_MAX)
		kata__problems_add(p, "config.%s: is longer than %u bytes", member, PATH_BYTES_MAX);
	else
		return true;
	return false;
}

static void check_paths(const kata_vm_config *c, struct kata__problems *p)
{
	if (!c->kernel)
		kata__problems_add(p, "config.kernel: is NULL, must be the path of a kernel image");
	else
		path_is_absolute("kernel", c->kernel, p);
	if (!c->initrd && !c->image)
		kata__problems_add(p, "config.initrd: is NULL, and so is config.image: one of them must be given");
	if (c->initrd)
		path_is_absolute("initrd", c->initrd, p);
	if (c->image)
		path_is_absolute("image", c->image, p);
	if (c->memory_path)
		path_is_absolute("memory_path", c->memory_path, p);
}

/* Why the kernel would read this parameter as something else, or NULL. The kernel splits at spaces outside of double
 * quotes. */
static const char *param_fault(const char *param)
{
	bool quoted = false;

	if (!param[0])
		return "is empty";
	if (param[0] == '=')
		return "has no key before '='";
	for (const unsigned char *b = (const unsigned char *)param; *b; b++) {
		if (*b == '"')
			quoted = !quoted;
		else if (*b < ' ' || *b == 0x7f)
			return "has a control character (a newline?)";
		else if (*b == ' ' && !quoted)
			return "has a space outside of double quotes: it would be two parameters";
	}
	return quoted ? "has a double quote that is not closed: it would swallow those that follow" : NULL;
}

static void check_params(const char *const *params, struct kata__problems *p)
{
	size_t bytes = 0, count = params ? kata__strv_length(params) : 0;

	if (count > KATA__VM_KERNEL_PARAMS_MAX) {
		kata__problems_add(p, "config.kernel_params: %zu of them, at most %u", count,
				   KATA__VM_KERNEL_PARAMS_MAX);
		return;
	}
	for (size_t i = 0; i < count; i++) {
		const char *fault = param_fault(params[i]);

		bytes += strnlen(params[i], KATA__VM_CMDLINE_MAX) + 1;
		if (fault)
			kata__problems_add(p, "config.kernel_params[%zu]: %s", i, fault);
	}
	if (bytes > KATA__VM_CMDLINE_MAX)
		kata__problems_add(p, "config.kernel_params: more than %u bytes together", KATA__VM_CMDLINE_MAX);
}

static void check_machine(const kata_vm_config *c, struct kata__problems *p)
{
	if (c->machine && !kata__id_is_valid(c->machine))
		kata__problems_add(p,
				   "config.machine: must be the name of a machine type: letters, digits, '_', '.' and "
				   "'-', at most %d bytes",
				   KATA__ID_MAX);
	if (c->device_slots > KATA__VM_DEVICE_SLOTS_MAX)
		kata__problems_add(p, "config.device_slots: %u, at most %u", c->device_slots,
				   KATA__VM_DEVICE_SLOTS_MAX);
}

static void check_values(const kata_vm_config *c, struct kata__problems *p)
{
	check_id(c->id, p);
	check_cpus(c, p);
	check_memory(c, p);
	check_paths(c, p);
	check_params(c->kernel_params, p);
	check_machine(c, p);
}

/* ---- files ---- */

static const char *kind_of(mode_t mode)
{
	return S_ISDIR(mode)    ? "a directory"
	       : S_ISFIFO(mode) ? "a fifo"
	       : S_ISSOCK(mode) ? "a socket"
	       : S_ISCHR(mode)  ? "a character device"
	       : S_ISBLK(mode)  ? "a block device"
				: "no regular file";
}

/* A path that the VMM must be able to read: what is not absolute has been reported already. */
static void check_readable(const char *member, const char *path, bool block_device_too, struct kata__problems *p)
{
	struct stat st;

	if (!path || path[0] != '/')
		return;
	if (stat(path, &st) < 0)
		kata__problems_add(p, "config.%s: %s: %s%s", member, path, strerror(errno),
				   errno == ENOENT && !block_device_too ? " (tools/guest-image makes kernel and initrd)"
									: "");
	else if (!S_ISREG(st.st_mode) && !(block_device_too && S_ISBLK(st.st_mode)))
		kata__problems_add(p, "config.%s: %s is %s, must be a regular file", member, path, kind_of(st.st_mode));
	else if (S_ISREG(st.st_mode) && st.st_size == 0)
		kata__problems_add(p, "config.%s: %s is empty", member, path);
	else if (faccessat(AT_FDCWD, path, R_OK, AT_EACCESS) < 0)
		kata__problems_add(p, "config.%s: %s cannot be read: %s", member, path, strerror(errno));
	else if (block_device_too && S_ISREG(st.st_mode) && st.st_size % 512)
		kata__problems_add(p, "config.%s: %s has %lld bytes, a raw disk has a multiple of 512", member, path,
				   (long long)st.st_size);
}

/* The file may be made by the VMM: then its directory must be there. */
static void check_memory_path(const char *path, struct kata__problems *p)
{
	const char *slash;
	char dir[PATH_BYTES_MAX + 1];
	struct stat st;

	if (!path || path[0] != '/' || strnlen(path, sizeof(dir)) >= sizeof(dir))
		return;
	if (stat(path, &st) == 0) {
		if (!S_ISREG(st.st_mode))
			kata__problems_add(p, "config.memory_path: %s is %s, must be a regular file, or not there yet",
					   path, kind_of(st.st_mode));
		return;
	}
	slash = strrchr(path, '/');
	snprintf(dir, sizeof(dir), "%.*s", slash == path ? 1 : (int)(slash - path), path);
	if (stat(dir, &st) < 0 || !S_ISDIR(st.st_mode))
		kata__problems_add(p, "config.memory_path: its directory %s does not exist", dir);
	else if (!slash[1])
		kata__problems_add(p, "config.memory_path: %s ends with '/', must name a file", path);
}

int kata_vm_config_validate(const kata_vm_config *config, kata_error **err)
{
	kata_vm_config c = KATA_VM_CONFIG_INIT;
	struct kata__problems problems = {0};
	int rc;

	if (!config)
		return kata__fail(err, KATA_E_INVALID, CALLER, "config: is NULL");
	rc = kata__options_read(&c, sizeof(c), config, "config", err);
	if (rc < 0)
		return rc;
	check_values(&c, &problems);
	check_readable("kernel", c.kernel, false, &problems);
	/* A machine of a record may have it: it runs. */
	if (c.memory_max_mib > (c.memory_mib ? c.memory_mib : 256) && !c.memory_slots)
		kata__problems_add(&problems,
				   "config.memory_slots: is 0, but memory_max_mib, %llu, is above memory_mib: nothing "
				   "could be plugged",
				   (unsigned long long)c.memory_max_mib);
	check_readable("initrd", c.initrd, false, &problems);
	check_readable("image", c.image, true, &problems);
	check_memory_path(c.memory_path, &problems);
	return kata__problems_finish(&problems, "config", err);
}

int kata__vm_config_check_values(const kata_vm_config *config, kata_error **err)
{
	kata_vm_config c = KATA_VM_CONFIG_INIT;
	struct kata__problems problems = {0};
	int rc = kata__options_read(&c, sizeof(c), config, "config", err);

	if (rc < 0)
		return rc;
	check_values(&c, &problems);
	return kata__problems_finish(&problems, "config", err);
}

/* ---- the copy ---- */

static bool dup_string(const char **member)
{
	if (!*member)
		return true;
	*member = kata__strdup(*member);
	return *member != NULL;
}

static bool dup_strings(struct kata__vm_config_copy *c)
{
	static const char *const none[] = {NULL};
	const char **members[] = {&c->v.id, &c->v.kernel, &c->v.initrd, &c->v.image, &c->v.memory_path, &c->v.machine};
	bool ok = true;

	/* Every member is replaced, so that the free below never sees a borrowed one. */
	for (size_t i = 0; i < kata__array_size(members); i++)
		ok = dup_string(members[i]) && ok;
	c->kernel_params = kata__strv_dup(c->v.kernel_params ? c->v.kernel_params : none);
	c->v.kernel_params = (const char *const *)c->kernel_params;
	return ok && c->kernel_params;
}

static void fill_defaults(kata_vm_config *v)
{
	v->cpus = v->cpus ? v->cpus : 1;
	v->cpus_max = v->cpus_max ? v->cpus_max : v->cpus;
	v->memory_mib = v->memory_mib ? v->memory_mib : 256;
	v->memory_max_mib = v->memory_max_mib ? v->memory_max_mib : v->memory_mib;
	v->device_slots = v->device_slots ? v->device_slots : KATA__VM_DEVICE_SLOTS_DEFAULT;
}

int kata__vm_config_copy_new(const kata_vm_config *config, struct kata__vm_config_copy **ret, kata_error **err)
{
	struct kata__vm_config_copy *c = calloc(1, sizeof(*c));
	char uuid[37];
	int rc;

	if (!c)
		return kata__fail_no_memory(err);
	rc = kata__options_read(&c->v, sizeof(c->v), config, "config", err);
	if (rc < 0) {
		free(c);
		return rc;
	}
	if (!c->v.id) {
		kata__uuid_generate(uuid);
		c->v.id = uuid;
	}
	fill_defaults(&c->v);
	if (!dup_strings(c)) {
		kata__vm_config_copy_free(c);
		return kata__fail_no_memory(err);
	}
	*ret = c;
	return 0;
}

void kata__vm_config_copy_free(struct kata__vm_config_copy *c)
{
	if (!c)
		return;
	free((char *)c->v.id);
	free((char *)c->v.kernel);
	free((char *)c->v.initrd);
	free((char *)c->v.image);
	free((char *)c->v.memory_path);
	free((char *)c->v.machine);
	kata__strv_free(c->kernel_params);
	free(c);
}

/* ---- JSON ---- */

static json_t *params_to_json(char *const *params)
{
	json_t *list = json_array();

	for (size_t i = 0; list && params[i]; i++) {
		if (json_array_append_new(list, json_string(params[i])) < 0) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

json_t *kata__vm_config_to_json(const struct kata__vm_config_copy *c)
{
	const kata_vm_config *v = &c->v;
	json_t *o = json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:o, s:b, s:I}", "id", v->id, "cpus", (json_int_t)v->cpus,
			      "cpus_max", (json_int_t)v->cpus_max, "memory_mib", (json_int_t)v->memory_mib,
			      "memory_max_mib", (json_int_t)v->memory_max_mib, "memory_slots",
			      (json_int_t)v->memory_slots, "kernel_params", params_to_json(c->kernel_params),
			      "memory_shared", (int)v->memory_shared, "device_slots", (json_int_t)v->device_slots);

	if (!o || kata__json_set_text(o, "kernel", v->kernel) < 0 || kata__json_set_text(o, "initrd", v->initrd) < 0 ||
	    kata__json_set_text(o, "image", v->image) < 0 ||
	    kata__json_set_text(o, "memory_path", v->memory_path) < 0 ||
	    kata__json_set_text(o, "machine", v->machine) < 0) {
		json_decref(o);
		return NULL;
	}
	return o;
}

static int read_u32(const json_t *o, const char *what, const char *key, uint32_t max, uint32_t *ret, kata_error **err)
{
	uint64_t value = 0;
	int rc = kata__json_get_uint(o, what, key, max, &value, err);

	if (rc == 0)
		*ret = (uint32_t)value;
	return rc;
}

static int read_numbers(const json_t *o, const char *what, kata_vm_config *v, kata_error **err)
{
	int rc = read_u32(o, what, "cpus", KATA__VM_CPUS_MAX, &v->cpus, err);

	if (rc == 0)
		rc = read_u32(o, what, "cpus_max", KATA__VM_CPUS_MAX, &v->cpus_max, err);
	if (rc == 0)
		rc = kata__json_get_uint(o, what, "memory_mib", KATA__VM_MEMORY_MAX_MIB, &v->memory_mib, err);
	if (rc == 0)
		rc = kata__json_get_uint(o, what, "memory_max_mib", KATA__VM_MEMORY_MAX_MIB, &v->memory_max_mib, err);
	if (rc == 0)
		rc = read_u32(o, what, "memory_slots", KATA__VM_MEMORY_SLOTS_MAX, &v->memory_slots, err);
	if (rc == 0)
		rc = kata__json_get_bool(o, what, "memory_shared", &v->memory_shared, err);
	if (rc == 0)
		rc = read_u32(o, what, "device_slots", KATA__VM_DEVICE_SLOTS_MAX, &v->device_slots, err);
	if (rc == 0 && (!v->cpus || !v->cpus_max || !v->memory_mib || !v->memory_max_mib || !v->device_slots))
		rc = kata__fail(err, KATA_E_CORRUPT, CALLER,
				"%s: cpus, memory and device_slots must not be 0 in a record", what);
	return rc;
}

static int read_strings(const json_t *o, const char *what, kata_vm_config *v, kata_error **err)
{
	static const char *const keys[] = {"kernel", "initrd", "image", "memory_path", "machine"};
	const char **members[] = {&v->kernel, &v->initrd, &v->image, &v->memory_path, &v->machine};
	int rc = kata__json_get_string(o, what, "id", &v->id, err);

	for (size_t i = 0; rc == 0 && i < kata__array_size(keys); i++)
		rc = kata__json_get_string_opt(o, what, keys[i], members[i], err);
	return rc;
}

static int read_params(const json_t *o, const char *what, const char ***ret, kata_error **err)
{
	json_t *array;
	const char **list;
	int rc = kata__json_get_array(o, what, "kernel_params", KATA__VM_KERNEL_PARAMS_MAX, &array, err);

	if (rc < 0)
		return rc;
	list = calloc(json_array_size(array) + 1, sizeof(*list));
	if (!list)
		return kata__fail_no_memory(err);
	for (size_t i = 0; i < json_array_size(array); i++) {
		list[i] = json_string_value(json_array_get(array, i));
		if (!list[i]) {
			free(list);
			return kata__fail(err, KATA_E_CORRUPT, CALLER, "%s.kernel_params[%zu]: is no string", what, i);
		}
	}
	*ret = list;
	return 0;
}

int kata__vm_config_from_json(const json_t *o, const char *what, struct kata__vm_config_copy **ret, kata_error **err)
{
	KATA_AUTO(free) const char **params = NULL;
	struct kata__problems problems = {0};
	kata_vm_config v = KATA_VM_CONFIG_INIT;
	kata_error *cause = NULL;
	int rc;

	rc = read_strings(o, what, &v, err);
	if (rc == 0)
		rc = read_numbers(o, what, &v, err);
	if (rc == 0)
		rc = read_params(o, what, &params, err);
	if (rc < 0)
		return rc;
	v.kernel_params = params;
	check_values(&v, &problems);
	rc = kata__problems_finish(&problems, what, &cause);
	if (rc < 0) {
		rc = kata__fail(err, KATA_E_CORRUPT, CALLER, "%s", kata_error_get_message(cause));
		kata_error_free(cause);
		return rc;
	}
	return kata__vm_config_copy_new(&v, ret, err);
}
