/* SPDX-License-Identifier: Apache-2.0 */
/*
 * builder.c - kata_vm_builder_new_qemu: finds the binary, asks it once what it can do, chooses the accelerator, and
 * checks configs against both.
 *
 * What was found out is kept in the builder under a mutex; a binary that was replaced meanwhile (another ctime) is
 * asked again.
 */
#include "vm/builder.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/options.h"
#include "base/text.h"
#include "vm/qemu/accel.h"
#include "vm/qemu/boot_files.h"
#include "vm/qemu/caps.h"
#include "vm/qemu/host_cpu.h"
#include "vm/qemu/machine.h"
#include "vm/qemu/vsock.h"
#include "vm/restore.h"

#define NOBODY 65534u
#define DEFAULT_MACHINE "q35"
#define TCG_TIME_SCALE 10u
/* Slots 8 to 30 of pcie.0, 8 functions each; 31 is the chipset's. */
#define PORTS_MAX 184u
/* 40 bits of address under TCG, less what lies below 4 GiB and above RAM. */
#define MEMORY_MAX_MIB ((UINT64_C(1) << 20) - 8192u)

static const char *const places[] = {"/usr/bin/qemu-system-x86_64", "/usr/local/bin/qemu-system-x86_64",
				     "/usr/libexec/qemu-system-x86_64"};

struct builder {
	kata_context *ctx;
	struct kata__qemu_settings settings;
	kata_accelerator wanted;
	pthread_mutex_t mutex; /* the rest; held over the probe, so that it is made once */
	bool known;
	struct stat binary; /* when it was asked */
	struct kata__qemu_caps *caps;
	struct kata__accel accel;
};

/* ---- finding out */

static bool is_same_binary(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
	       a->st_ctim.tv_sec == b->st_ctim.tv_sec && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

static int ask(struct builder *b, kata_error **err)
{
	const struct kata__qemu_settings *s = &b->settings;
	const char *cache_dir = kata__context_cache_dir(b->ctx);
	struct kata__qemu_caps *caps = NULL;
	int rc;

	(void)kata__mkdirs(cache_dir, 0700, NULL); /* without a cache it only takes longer */
	rc = kata__qemu_caps_get(s->binary, cache_dir, s->set_ids, s->uid, s->gid, &caps, err);
	if (!rc)
		rc = kata__qemu_caps_check(caps, s->binary, err);
	if (!rc)
		rc = kata__accel_choose(b->wanted, cache_dir, s->set_ids ? s->uid : geteuid(),
					s->set_ids ? s->gid : getegid(), &b->accel, err);
	if (rc) {
		kata__qemu_caps_free(caps);
		return rc;
	}
	kata__qemu_caps_free(b->caps);
	b->caps = caps;
	return 0;
}

/* Under the mutex. */
static int know(struct builder *b, kata_error **err)
{
	struct stat st;
	int rc;

	if (stat(b->settings.binary, &st))
		return kata__fail(err, KATA_E_NOT_FOUND, HOST, "QEMU's binary '%s' has gone since the builder was made",
				  b->settings.binary);
	if (b->known && is_same_binary(&st, &b->binary))
		return 0;
	rc = ask(b, err);
	if (rc)
		return rc;
	b->binary = st;
	b->known = true;
	return 0;
}

/* ---- the config against the binary */

static const char *machine_of(const kata_vm_config *c)
{
	return c->machine ? c->machine : DEFAULT_MACHINE;
}

/* Root ports and the chipset's slots are q35's. */
static bool is_q35(const struct kata__qemu_machine *m)
{
	return strncmp(m->name, "pc-q35-", 7) == 0 || (m->alias && strcmp(m->alias, "q35") == 0);
}

static void check_machine(const struct builder *b, const kata_vm_config *c, struct kata__problems *p)
{
	const struct kata__qemu_machine *m = kata__qemu_caps_find_machine(b->caps, machine_of(c));

	if (!m) {
		kata__problems_add(p, "config.machine: %s has no machine '%.64s'", b->settings.binary, machine_of(c));
		return;
	}
	if (!is_q35(m))
		kata__problems_add(
			p,
			"config.machine: '%s' has no PCIe root ports: must be \"q35\" or a version of it (pc-q35-...)",
			m->name);
	if (c->cpus_max > m->cpus_max || c->cpus > m->cpus_max)
		kata__problems_add(p, "config.cpus_max: is %u, machine '%s' takes at most %u",
				   c->cpus_max > c->cpus ? c->cpus_max : c->cpus, m->name, m->cpus_max);
}

static void check_boot_files(const struct builder *b, const kata_vm_config *c, struct kata__problems *p)
{
	struct kata__qemu_boot_files files = KATA__QEMU_NO_BOOT_FILES;
	kata_error *problem = NULL;

	if (kata__qemu_boot_files_open(c, &b->settings, &files, &problem))
		kata__problems_add(p, "%s", kata_error_get_message(problem));
	kata_error_free(problem);
	kata__qemu_boot_files_close(&files);
}

static void check_params(const kata_vm_config *c, struct kata__problems *p)
{
	kata_error *problem = NULL;
	char *text = NULL;

	if (kata__qemu_kernel_cmdline(c, false, &text, &problem))
		kata__problems_add(p, "%s", kata_error_get_message(problem));
	kata_error_free(problem);
	free(text);
}

/* `config` has passed kata_vm_config_validate. */
static int check_config(const struct builder *b, const kata_vm_config *c, kata_error **err)
{
	struct kata__problems p = {0};

	check_machine(b, c, &p);
	if (c->device_slots > PORTS_MAX)
		kata__problems_add(&p, "config.device_slots: is %u, QEMU's pcie.0 has room for %u root ports",
				   c->device_slots, PORTS_MAX);
	check_boot_files(b, c, &p);
	check_params(c, &p);
	return kata__problems_finish(&p, "config", err);
}

/* ---- building */

/* What the driver needs to know beyond the config. */
static int equip(struct builder *b, kata_vm *vm, kata_error **err)
{
	struct kata__qemu *q = kata__qemu_of(vm);

	q->settings = b->settings;
	q->settings.binary = kata__strdup(b->settings.binary);
	return q->settings.binary ? 0 : kata__fail_no_memory(err);
}

static int equip_new(struct builder *b, kata_vm *vm, const char *machine, kata_error **err)
{
	struct kata__qemu *q = kata__qemu_of(vm);
	int rc = equip(b, vm, err);

	if (rc)
		return rc;
	q->kvm = b->accel.kvm;
	q->machine = kata__strdup(machine);
	snprintf(vm->accelerator, sizeof(vm->accelerator), "%s", q->kvm ? "kvm" : "tcg");
	snprintf(vm->accelerator_reason, sizeof(vm->accelerator_reason), "%s", b->accel.reason);
	vm->time_scale = q->kvm ? 1 : TCG_TIME_SCALE;
	return q->machine ? 0 : kata__fail_no_memory(err);
}

static bool has_vsock(const struct builder *b)
{
	return (b->caps->types & 1u << KATA__QEMU_VHOST_VSOCK) && kata__qemu_vsock_is_there();
}

/* AUTO: vsock where it can be had. */
static int choose_channel(const struct builder *b, const kata_agent_config *agent, kata_agent_config *ret,
			  kata_error **err)
{
	int rc = kata__options_read(ret, sizeof(*ret), agent, "agent_config", err);

	if (rc)
		return rc;
	if (ret->transport == KATA_AGENT_AUTO)
		ret->transport = has_vsock(b) ? KATA_AGENT_VSOCK : KATA_AGENT_VIRTIO_SERIAL;
	if (ret->transport != KATA_AGENT_VSOCK || has_vsock(b))
		return 0;
	return kata__fail(err, KATA_E_UNSUPPORTED, HOST,
			  "agent_config.transport: vsock: %s: use KATA_AGENT_VIRTIO_SERIAL or KATA_AGENT_AUTO",
			  kata__qemu_vsock_is_there() ? "this QEMU has no vhost-vsock-pci"
						      : "this host has no " KATA__QEMU_VSOCK_DEVICE
							" that we may open");
}

static int build_locked(struct builder *b, const kata_vm_config *config, const kata_agent_config *agent,
			const kata_qos_config *qos, kata_vm **ret_vm, kata_error **err)
{
	kata_agent_config channel = KATA_AGENT_CONFIG_INIT;
	kata_vm_config c = KATA_VM_CONFIG_INIT;
	kata_vm *vm = NULL;
	int rc;

	if ((rc = kata__options_read(&c, sizeof(c), config, "config", err)) || (rc = know(b, err)) ||
	    (rc = check_config(b, &c, err)) || (rc = choose_channel(b, agent, &channel, err)) ||
	    (rc = kata__vm_new(b->ctx, &kata__qemu_driver, config, &channel, qos, &vm, err)))
		return rc;
	rc = equip_new(b, vm, machine_of(&vm->config->v), err);
	if (rc)
		kata_vm_unref(vm);
	else
		*ret_vm = vm;
	return rc;
}

static int build(void *self, const kata_vm_config *config, const kata_agent_config *agent, const kata_qos_config *qos,
		 kata_vm **ret_vm, kata_error **err)
{
	struct builder *b = self;
	int rc = kata_vm_config_validate(config, err);

	if (rc)
		return rc;
	pthread_mutex_lock(&b->mutex);
	rc = build_locked(b, config, agent, qos, ret_vm, err);
	pthread_mutex_unlock(&b->mutex);
	return rc;
}

/* ---- from a snapshot */

/* The state of one QEMU is loaded only by the like of it. */
static int check_vmm(const struct builder *b, const struct kata__manifest *m, kata_error **err)
{
	const char *accelerator = b->accel.kvm ? "kvm" : "tcg";
	char version[32];

	snprintf(version, sizeof(version), "%u.%u.%u", b->caps->version[0], b->caps->version[1], b->caps->version[2]);
	if (strcmp(m->driver, "qemu") != 0)
		return 0; /* refused by name in the core */
	if (strcmp(m->vmm_version, version) != 0)
		return kata__fail(err, KATA_E_VERSION, CALLER, "snapshot: was saved by QEMU %s, %s is %s",
				  m->vmm_version, b->settings.binary, version);
	if (!kata__qemu_caps_find_machine(b->caps, m->machine))
		return kata__fail(err, KATA_E_VERSION, CALLER, "snapshot: is of a machine '%s', %s has none",
				  m->machine, b->settings.binary);
	if (strcmp(m->accelerator, accelerator) != 0)
		return kata__fail(err, KATA_E_UNSUPPORTED, CALLER,
				  "snapshot: was saved under %s, this builder runs machines under %s: %s",
				  m->accelerator, accelerator, b->accel.reason);
	return kata__qemu_host_cpu_check(m, b->accel.kvm, err);
}

static int restore_locked(struct builder *b, const kata_snapshot *snapshot, const kata_vm_config *config,
			  const kata_agent_config *agent, const kata_qos_config *qos,
			  const kata_restore_options *options, kata_vm **ret_vm, kata_error **err)
{
	const struct kata__manifest *m = kata__snapshot_manifest(snapshot);
	struct kata__problems problems = {0};
	kata_vm *vm = NULL;
	int rc;

	if ((rc = know(b, err)) || (rc = check_vmm(b, m, err)) ||
	    (rc = kata__vm_new_from_snapshot(b->ctx, &kata__qemu_driver, snapshot, config, agent, qos, options, &vm,
					     err)))
		return rc;
	check_boot_files(b, &vm->config->v, &problems);
	rc = kata__problems_finish(&problems, "config", err);
	if (!rc)
		rc = equip_new(b, vm, m->machine, err);
	if (rc)
		kata_vm_unref(vm);
	else
		*ret_vm = vm;
	return rc;
}

static int build_from_snapshot(void *self, const kata_snapshot *snapshot, const kata_vm_config *config,
			       const kata_agent_config *agent, const kata_qos_config *qos,
			       const kata_restore_options *options, kata_vm **ret_vm, kata_error **err)
{
	struct builder *b = self;
	int rc;

	pthread_mutex_lock(&b->mutex);
	rc = restore_locked(b, snapshot, config, agent, qos, options, ret_vm, err);
	pthread_mutex_unlock(&b->mutex);
	return rc;
}

static int prepare(kata_vm *vm, void *user, kata_error **err)
{
	return equip(user, vm, err);
}

static int build_from_released(void *self, const char *json, size_t length, const kata_op_options *options,
			       kata_vm **ret_vm, kata_op **ret_op, kata_error **err)
{
	struct builder *b = self;

	return kata__vm_rebuild_begin(b->ctx, &kata__qemu_driver, json, length, options, prepare, b, ret_vm, ret_op,
				      err);
}

/* What this host has, as far as the machine can address it. */
static uint64_t memory_max_mib(void)
{
	struct sysinfo info;
	uint64_t host;

	if (sysinfo(&info))
		return MEMORY_MAX_MIB;
	host = ((uint64_t)info.totalram + info.totalswap) * info.mem_unit >> 20;
	return host < MEMORY_MAX_MIB ? host : MEMORY_MAX_MIB;
}

static void describe(const struct builder *b, kata_capabilities *c)
{
	const struct kata__qemu_machine *m = kata__qemu_caps_find_machine(b->caps, DEFAULT_MACHINE);

	snprintf(c->driver, sizeof(c->driver), "qemu");
	snprintf(c->vmm_version, sizeof(c->vmm_version), "%u.%u.%u", b->caps->version[0], b->caps->version[1],
		 b->caps->version[2]);
	snprintf(c->accelerator, sizeof(c->accelerator), "%s", b->accel.kvm ? "kvm" : "tcg");
	snprintf(c->accelerator_reason, sizeof(c->accelerator_reason), "%s", b->accel.reason);
	c->isolation = b->accel.kvm;
	c->hotplug_storage = c->hotplug_nic = c->pause = c->release = true;
	c->vsock = has_vsock(b);
	c->snapshot = true;
	c->cpus_max = m ? m->cpus_max : 0;
	c->device_slots_max = PORTS_MAX;
	c->scsi_luns_max = KATA__VM_LUNS_MAX;
	c->memory_max_mib = memory_max_mib();
	c->vmm_path = b->settings.binary;
}

static int get_capabilities(void *self, kata_capabilities *ret, kata_error **err)
{
	struct builder *b = self;
	int rc;

	pthread_mutex_lock(&b->mutex);
	rc = know(b, err);
	if (!rc)
		describe(b, ret);
	pthread_mutex_unlock(&b->mutex);
	return rc;
}

static void free_builder(void *self)
{
	struct builder *b = self;

	kata__qemu_caps_free(b->caps);
	pthread_mutex_destroy(&b->mutex);
	free(b->settings.binary);
	free(b);
}

static const kata_vm_builder_ops ops = {
	.size = sizeof(ops),
	.name = "qemu",
	.build = build,
	.build_from_released = build_from_released,
	.get_capabilities = get_capabilities,
	.free = free_builder,
	.build_from_snapshot = build_from_snapshot,
};

/* ---- making one */

static int check_options(const kata_qemu_options *o, kata_error **err)
{
	if (o->binary && o->binary[0] != '/')
		return kata__fail(err, KATA_E_INVALID, CALLER, "qemu_options.binary: '%.200s' is not an absolute path",
				  o->binary);
	if ((unsigned)o->accelerator > KATA_ACCELERATOR_TCG)
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "qemu_options.accelerator: %d is none of AUTO (0), KVM (1), TCG (2)",
				  (int)o->accelerator);
	if (o->flags & ~KATA_QEMU_KEEP_IDS)
		return kata__fail(err, KATA_E_INVALID, CALLER, "qemu_options.flags: 0x%llx has unknown bits",
				  (unsigned long long)o->flags);
	return 0;
}

static bool is_program(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, X_OK) == 0;
}

static int no_binary(const char *wanted, kata_error **err)
{
	int rc = wanted ? kata__fail(err, KATA_E_NOT_FOUND, CALLER,
				     "qemu_options.binary: '%.200s' is no program that can be run", wanted)
			: kata__fail(err, KATA_E_NOT_FOUND, HOST, "no QEMU: looked for %s, %s and %s", places[0],
				     places[1], places[2]);

	if (err)
		kata__error_set_hint(*err, "Debian's package is qemu-system-x86");
	return rc;
}

static int find_binary(const char *wanted, char **ret, kata_error **err)
{
	const char *found = wanted && is_program(wanted) ? wanted : NULL;

	for (size_t i = 0; !wanted && !found && i < kata__array_size(places); i++)
		if (is_program(places[i]))
			found = places[i];
	if (!found)
		return no_binary(wanted, err);
	*ret = kata__strdup(found);
	return *ret ? 0 : kata__fail_no_memory(err);
}

/* Without the group of /dev/kvm a QEMU that is nobody could not use it. */
static gid_t default_gid(const kata_qemu_options *o)
{
	return o->accelerator == KATA_ACCELERATOR_TCG ? NOBODY : kata__accel_group("/dev/kvm", NOBODY);
}

static struct kata__qemu_settings read_ids(const kata_qemu_options *o)
{
	return (struct kata__qemu_settings){.set_ids = geteuid() == 0 && !(o->flags & KATA_QEMU_KEEP_IDS),
					    .uid = o->run_as_uid ? o->run_as_uid : NOBODY,
					    .gid = o->run_as_gid ? o->run_as_gid : default_gid(o)};
}

int kata_vm_builder_new_qemu(kata_context *context, const kata_qemu_options *options, kata_vm_builder **ret_builder,
			     kata_error **err)
{
	kata_qemu_options o = KATA_QEMU_OPTIONS_INIT;
	struct builder *b;
	int rc;

	if (!context || !ret_builder)
		return kata__fail(err, KATA_E_INVALID, CALLER, "%s: is NULL", context ? "ret_builder" : "context");
	if ((rc = kata__options_read(&o, sizeof(o), options, "qemu_options", err)) || (rc = check_options(&o, err)))
		return rc;
	b = calloc(1, sizeof(*b));
	if (!b)
		return kata__fail_no_memory(err);
	b->ctx = context;
	b->wanted = o.accelerator;
	b->settings = read_ids(&o);
	pthread_mutex_init(&b->mutex, NULL);
	rc = find_binary(o.binary, &b->settings.binary, err);
	if (!rc)
		rc = kata_vm_builder_new(context, &ops, b, ret_builder, err);
	if (rc)
		free_builder(b);
	return rc;
}
