/* SPDX-License-Identifier: Apache-2.0 */
/*
 * oci_schema.c - every message of a spec, field by field.
 *
 * The rows of a table stand in the order of the message's fields in agent.proto.
 *
 * Fields of the runtime-spec (1.0 to 1.3) that the messages lack are listed as `refused`: reading one fails with
 * UNSUPPORTED, unless its value says nothing (null, false, "", [] or {}) or is harmless:
 *   linux.resources.memory.useHierarchy true   what every kernel the guest may run does anyway
 *   linux.seccomp.defaultErrnoRet 1            EPERM, the default
 *   process.user.umask 18                      0022, the default
 * Names the runtime-spec does not know are refused likewise: they would be dropped silently.
 * Two fields cannot say 0, which is "not set" in the message: memory.swappiness and devices[].fileMode refuse it.
 */
#include "proto/oci_schema.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent.pb-c.h"
#include "base/text.h"

#define REQUIRED KATA__OCI_REQUIRED
#define KEEP_ZERO KATA__OCI_KEEP_ZERO
#define REFUSE_ZERO KATA__OCI_REFUSE_ZERO
#define WILDCARD KATA__OCI_WILDCARD
#define ABSOLUTE KATA__OCI_ABSOLUTE
#define VERSION KATA__OCI_VERSION
#define ACCESS KATA__OCI_ACCESS
#define MAP KATA__OCI_MAP

/* ---- words */

static const char *const namespace_words[] = {"pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time", NULL};
static const char *const device_words[] = {"c", "b", "u", "p", NULL};
static const char *const device_cgroup_words[] = {"a", "b", "c", NULL};
static const char *const propagation_words[] = {"private", "rprivate",   "shared",      "rshared", "slave",
						"rslave",  "unbindable", "runbindable", NULL};
static const char *const rlimit_words[] = {"RLIMIT_AS",
					   "RLIMIT_CORE",
					   "RLIMIT_CPU",
					   "RLIMIT_DATA",
					   "RLIMIT_FSIZE",
					   "RLIMIT_LOCKS",
					   "RLIMIT_MEMLOCK",
					   "RLIMIT_MSGQUEUE",
					   "RLIMIT_NICE",
					   "RLIMIT_NOFILE",
					   "RLIMIT_NPROC",
					   "RLIMIT_RSS",
					   "RLIMIT_RTPRIO",
					   "RLIMIT_RTTIME",
					   "RLIMIT_SIGPENDING",
					   "RLIMIT_STACK",
					   NULL};
static const char *const capability_words[] = {"CAP_AUDIT_CONTROL",   "CAP_AUDIT_READ",   "CAP_AUDIT_WRITE",
					       "CAP_BLOCK_SUSPEND",   "CAP_BPF",          "CAP_CHECKPOINT_RESTORE",
					       "CAP_CHOWN",           "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH",
					       "CAP_FOWNER",          "CAP_FSETID",       "CAP_IPC_LOCK",
					       "CAP_IPC_OWNER",       "CAP_KILL",         "CAP_LEASE",
					       "CAP_LINUX_IMMUTABLE", "CAP_MAC_ADMIN",    "CAP_MAC_OVERRIDE",
					       "CAP_MKNOD",           "CAP_NET_ADMIN",    "CAP_NET_BIND_SERVICE",
					       "CAP_NET_BROADCAST",   "CAP_NET_RAW",      "CAP_PERFMON",
					       "CAP_SETFCAP",         "CAP_SETGID",       "CAP_SETPCAP",
					       "CAP_SETUID",          "CAP_SYSLOG",       "CAP_SYS_ADMIN",
					       "CAP_SYS_BOOT",        "CAP_SYS_CHROOT",   "CAP_SYS_MODULE",
					       "CAP_SYS_NICE",        "CAP_SYS_PACCT",    "CAP_SYS_PTRACE",
					       "CAP_SYS_RAWIO",       "CAP_SYS_RESOURCE", "CAP_SYS_TIME",
					       "CAP_SYS_TTY_CONFIG",  "CAP_WAKE_ALARM",   NULL};
static const char *const seccomp_action_words[] = {
	"SCMP_ACT_KILL",  "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_TRAP",   "SCMP_ACT_ERRNO",
	"SCMP_ACT_TRACE", "SCMP_ACT_ALLOW",        "SCMP_ACT_LOG",         "SCMP_ACT_NOTIFY", NULL};
static const char *const seccomp_arch_words[] = {
	"SCMP_ARCH_X86",         "SCMP_ARCH_X86_64", "SCMP_ARCH_X32",       "SCMP_ARCH_ARM",     "SCMP_ARCH_AARCH64",
	"SCMP_ARCH_MIPS",        "SCMP_ARCH_MIPS64", "SCMP_ARCH_MIPS64N32", "SCMP_ARCH_MIPSEL",  "SCMP_ARCH_MIPSEL64",
	"SCMP_ARCH_MIPSEL64N32", "SCMP_ARCH_PPC",    "SCMP_ARCH_PPC64",     "SCMP_ARCH_PPC64LE", "SCMP_ARCH_S390",
	"SCMP_ARCH_S390X",       "SCMP_ARCH_PARISC", "SCMP_ARCH_PARISC64",  "SCMP_ARCH_RISCV64", NULL};
static const char *const seccomp_flag_words[] = {"SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG",
						 "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
						 "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", NULL};
static const char *const seccomp_operator_words[] = {"SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE",        "SCMP_CMP_EQ",
						     "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_MASKED_EQ", NULL};

/* ---- fields */

/* clang-format off */
#define PLAIN(name) {.json_name = (name)}
#define RULE(name, flags_) {.json_name = (name), .flags = (flags_)}
#define WORD(name, flags_, words_) {.json_name = (name), .flags = (flags_), .words = (words_)}
#define RANGE(name, flags_, low_, high_) {.json_name = (name), .flags = (flags_), .low = (low_), .high = (high_)}
#define ABSENT {.json_name = NULL}

#define NEVER(name) {.json_name = (name)}
#define IF_TRUE(name) {.json_name = (name), .harmless_true = true}
#define IF_NUMBER(name, number) {.json_name = (name), .harmless_number = (number)}
#define END {.json_name = NULL}

static const struct kata__oci_field spec_fields[] = {
	RULE("ociVersion", REQUIRED | VERSION), RULE("process", REQUIRED), RULE("root", REQUIRED), PLAIN("hostname"),
	PLAIN("mounts"), PLAIN("hooks"), RULE("annotations", MAP), PLAIN("linux"), ABSENT, ABSENT,
};
static const struct kata__oci_refused spec_refused[] = {
	NEVER("domainname"), NEVER("solaris"), NEVER("windows"), NEVER("vm"), NEVER("zos"), NEVER("freebsd"), END,
};
static const struct kata__oci_field process_fields[] = {
	PLAIN("terminal"), PLAIN("consoleSize"), PLAIN("user"), RULE("args", REQUIRED), PLAIN("env"),
	RULE("cwd", REQUIRED | ABSOLUTE), PLAIN("capabilities"), PLAIN("rlimits"), PLAIN("noNewPrivileges"),
	PLAIN("apparmorProfile"), RANGE("oomScoreAdj", 0, -1000, 1000), PLAIN("selinuxLabel"),
};
static const struct kata__oci_refused process_refused[] = {
	NEVER("commandLine"), NEVER("scheduler"), NEVER("ioPriority"), NEVER("execCPUAffinity"), END,
};
static const struct kata__oci_field box_fields[] = {RULE("height", REQUIRED), RULE("width", REQUIRED)};
static const struct kata__oci_field user_fields[] = {
	RULE("uid", KEEP_ZERO), RULE("gid", KEEP_ZERO), PLAIN("additionalGids"), PLAIN("username"),
};
static const struct kata__oci_refused user_refused[] = {IF_NUMBER("umask", 18), END};
static const struct kata__oci_field capabilities_fields[] = {
	WORD("bounding", 0, capability_words), WORD("effective", 0, capability_words),
	WORD("inheritable", 0, capability_words), WORD("permitted", 0, capability_words),
	WORD("ambient", 0, capability_words),
};
static const struct kata__oci_field rlimit_fields[] = {
	WORD("type", REQUIRED, rlimit_words), RULE("hard", REQUIRED), RULE("soft", REQUIRED),
};
static const struct kata__oci_field mount_fields[] = {
	RULE("destination", REQUIRED | ABSOLUTE), PLAIN("source"), PLAIN("type"), PLAIN("options"),
};
static const struct kata__oci_refused mount_refused[] = {NEVER("uidMappings"), NEVER("gidMappings"), END};
static const struct kata__oci_field root_fields[] = {RULE("path", REQUIRED), PLAIN("readonly")};
static const struct kata__oci_field hooks_fields[] = {
	PLAIN("prestart"), PLAIN("poststart"), PLAIN("poststop"), PLAIN("createRuntime"), PLAIN("createContainer"),
	PLAIN("startContainer"),
};
static const struct kata__oci_field hook_fields[] = {
	RULE("path", REQUIRED | ABSOLUTE), PLAIN("args"), PLAIN("env"), RANGE("timeout", 0, 1, INT32_MAX),
};
static const struct kata__oci_field linux_fields[] = {
	PLAIN("uidMappings"), PLAIN("gidMappings"), RULE("sysctl", MAP), PLAIN("resources"), PLAIN("cgroupsPath"),
	PLAIN("namespaces"), PLAIN("devices"), PLAIN("seccomp"), WORD("rootfsPropagation", 0, propagation_words),
	PLAIN("maskedPaths"), PLAIN("readonlyPaths"), PLAIN("mountLabel"), PLAIN("intelRdt"),
};
static const struct kata__oci_refused linux_refused[] = {
	NEVER("personality"), NEVER("timeOffsets"), NEVER("netDevices"), NEVER("memoryPolicy"), END,
};
static const struct kata__oci_field id_mapping_fields[] = {
	RULE("hostID", REQUIRED), RULE("containerID", REQUIRED), RULE("size", REQUIRED),
};
static const struct kata__oci_field namespace_fields[] = {WORD("type", REQUIRED, namespace_words), PLAIN("path")};
static const struct kata__oci_field device_fields[] = {
	RULE("path", REQUIRED | ABSOLUTE), WORD("type", REQUIRED, device_words), RULE("major", KEEP_ZERO),
	RULE("minor", KEEP_ZERO), RANGE("fileMode", REFUSE_ZERO, 0, UINT16_MAX), PLAIN("uid"), PLAIN("gid"),
};
static const struct kata__oci_field resources_fields[] = {
	PLAIN("devices"), PLAIN("memory"), PLAIN("cpu"), PLAIN("pids"), PLAIN("blockIO"), PLAIN("hugepageLimits"),
	PLAIN("network"),
};
static const struct kata__oci_refused resources_refused[] = {NEVER("rdma"), NEVER("unified"), END};
static const struct kata__oci_field memory_fields[] = {
	PLAIN("limit"), PLAIN("reservation"), PLAIN("swap"), PLAIN("kernel"), PLAIN("kernelTCP"),
	RULE("swappiness", REFUSE_ZERO), PLAIN("disableOOMKiller"),
};
static const struct kata__oci_refused memory_refused[] = {IF_TRUE("useHierarchy"), NEVER("checkBeforeUpdate"), END};
static const struct kata__oci_field cpu_fields[] = {
	PLAIN("shares"), PLAIN("quota"), PLAIN("period"), PLAIN("realtimeRuntime"), PLAIN("realtimePeriod"),
	PLAIN("cpus"), PLAIN("mems"),
};
static const struct kata__oci_refused cpu_refused[] = {NEVER("idle"), NEVER("burst"), END};
static const struct kata__oci_field weight_device_fields[] = {
	RULE("major", REQUIRED), RULE("minor", REQUIRED), RANGE("weight", 0, 0, UINT16_MAX), RANGE("leafWeight", 0, 0, UINT16_MAX),
};
static const struct kata__oci_field throttle_device_fields[] = {
	RULE("major", REQUIRED), RULE("minor", REQUIRED), RULE("rate", REQUIRED),
};
static const struct kata__oci_field block_io_fields[] = {
	RANGE("weight", 0, 0, UINT16_MAX), RANGE("leafWeight", 0, 0, UINT16_MAX), PLAIN("weightDevice"), PLAIN("throttleReadBpsDevice"),
	PLAIN("throttleWriteBpsDevice"), PLAIN("throttleReadIOPSDevice"), PLAIN("throttleWriteIOPSDevice"),
};
static const struct kata__oci_field pids_fields[] = {RULE("limit", REQUIRED)};
static const struct kata__oci_field device_cgroup_fields[] = {
	RULE("allow", REQUIRED), WORD("type", 0, device_cgroup_words), RULE("major", WILDCARD),
	RULE("minor", WILDCARD), RULE("access", ACCESS),
};
static const struct kata__oci_field network_fields[] = {PLAIN("classID"), PLAIN("priorities")};
static const struct kata__oci_field hugepage_limit_fields[] = {RULE("pageSize", REQUIRED), RULE("limit", REQUIRED)};
static const struct kata__oci_field interface_priority_fields[] = {RULE("name", REQUIRED), RULE("priority", REQUIRED)};
static const struct kata__oci_field seccomp_fields[] = {
	WORD("defaultAction", REQUIRED, seccomp_action_words), WORD("architectures", 0, seccomp_arch_words),
	WORD("flags", 0, seccomp_flag_words), PLAIN("syscalls"),
};
static const struct kata__oci_refused seccomp_refused[] = {
	IF_NUMBER("defaultErrnoRet", 1), NEVER("listenerPath"), NEVER("listenerMetadata"), END,
};
static const struct kata__oci_field seccomp_arg_fields[] = {
	RULE("index", REQUIRED), RULE("value", REQUIRED), PLAIN("valueTwo"),
	WORD("op", REQUIRED, seccomp_operator_words),
};
static const struct kata__oci_field syscall_fields[] = {
	RULE("names", REQUIRED), WORD("action", REQUIRED, seccomp_action_words), PLAIN("errnoRet"), PLAIN("args"),
};
static const struct kata__oci_field intel_rdt_fields[] = {PLAIN("l3CacheSchema")};
static const struct kata__oci_refused intel_rdt_refused[] = {
	NEVER("closID"), NEVER("memBwSchema"), NEVER("enableCMT"), NEVER("enableMBM"), NEVER("schemata"),
	NEVER("enableMonitoring"), END,
};

static const struct kata__oci_message messages[] = {
	{&grpc__spec__descriptor, spec_fields, spec_refused},
	{&grpc__process__descriptor, process_fields, process_refused},
	{&grpc__box__descriptor, box_fields, NULL},
	{&grpc__user__descriptor, user_fields, user_refused},
	{&grpc__linux_capabilities__descriptor, capabilities_fields, NULL},
	{&grpc__posixrlimit__descriptor, rlimit_fields, NULL},
	{&grpc__mount__descriptor, mount_fields, mount_refused},
	{&grpc__root__descriptor, root_fields, NULL},
	{&grpc__hooks__descriptor, hooks_fields, NULL},
	{&grpc__hook__descriptor, hook_fields, NULL},
	{&grpc__linux__descriptor, linux_fields, linux_refused},
	{&grpc__linux_idmapping__descriptor, id_mapping_fields, NULL},
	{&grpc__linux_namespace__descriptor, namespace_fields, NULL},
	{&grpc__linux_device__descriptor, device_fields, NULL},
	{&grpc__linux_resources__descriptor, resources_fields, resources_refused},
	{&grpc__linux_memory__descriptor, memory_fields, memory_refused},
	{&grpc__linux_cpu__descriptor, cpu_fields, cpu_refused},
	{&grpc__linux_weight_device__descriptor, weight_device_fields, NULL},
	{&grpc__linux_throttle_device__descriptor, throttle_device_fields, NULL},
	{&grpc__linux_block_io__descriptor, block_io_fields, NULL},
	{&grpc__linux_pids__descriptor, pids_fields, NULL},
	{&grpc__linux_device_cgroup__descriptor, device_cgroup_fields, NULL},
	{&grpc__linux_network__descriptor, network_fields, NULL},
	{&grpc__linux_hugepage_limit__descriptor, hugepage_limit_fields, NULL},
	{&grpc__linux_interface_priority__descriptor, interface_priority_fields, NULL},
	{&grpc__linux_seccomp__descriptor, seccomp_fields, seccomp_refused},
	{&grpc__linux_seccomp_arg__descriptor, seccomp_arg_fields, NULL},
	{&grpc__linux_syscall__descriptor, syscall_fields, NULL},
	{&grpc__linux_intel_rdt__descriptor, intel_rdt_fields, intel_rdt_refused},
};
/* clang-format on */

const struct kata__oci_message *kata__oci_message_of(const ProtobufCMessageDescriptor *descriptor)
{
	for (size_t i = 0; i < kata__array_size(messages); i++)
		if (messages[i].descriptor == descriptor)
			return &messages[i];
	return NULL;
}

/* ---- paths */

static void append(struct kata__oci_path *path, const char *text, size_t max)
{
	for (size_t i = 0; i < max && text[i] && path->length + 1 < KATA__OCI_PATH_MAX; i++) {
		unsigned char c = (unsigned char)text[i];

		path->text[path->length++] = c < 0x20 || c >= 0x7f ? '?' : (char)c;
	}
	path->text[path->length] = '\0';
}

size_t kata__oci_path_push_key(struct kata__oci_path *path, const char *key)
{
	size_t before = path->length;

	if (before)
		append(path, ".", 1);
	append(path, key, 64);
	return before;
}

size_t kata__oci_path_push_index(struct kata__oci_path *path, size_t index)
{
	size_t before = path->length;
	char text[32];

	snprintf(text, sizeof(text), "[%zu]", index);
	append(path, text, sizeof(text));
	return before;
}

void kata__oci_path_pop(struct kata__oci_path *path, size_t length)
{
	path->length = length;
	path->text[length] = '\0';
}

/* ---- checks */

int kata__oci_fail(const struct kata__oci_path *path, kata_error **err, const char *fmt, ...)
{
	char what[2048];
	va_list args;

	va_start(args, fmt);
	vsnprintf(what, sizeof(what), fmt, args);
	va_end(args);
	return kata__fail(err, KATA_E_INVALID, CALLER, "%s: %s", path->length ? path->text : "the text", what);
}

static int fail_with_value(const struct kata__oci_path *path, const char *value, const char *should, kata_error **err)
{
	char *clean = kata__sanitize(value, strnlen(value, 128), false);
	int rc = kata__oci_fail(path, err, "'%s' %s", clean ? clean : "", should);

	free(clean);
	return rc;
}

static int check_word(const struct kata__oci_field *field, const struct kata__oci_path *path, const char *value,
		      kata_error **err)
{
	char should[1536] = "is none of ";
	size_t used = strlen(should);

	for (const char *const *w = field->words; *w; w++)
		if (strcmp(*w, value) == 0)
			return 0;
	for (const char *const *w = field->words; *w && used < sizeof(should); w++)
		used += (size_t)snprintf(should + used, sizeof(should) - used, "%s%s", w == field->words ? "" : ", ",
					 *w);
	return fail_with_value(path, value, should, err);
}

int kata__oci_check_range(const struct kata__oci_field *field, const struct kata__oci_path *path, int64_t value,
			  kata_error **err)
{
	if (!(field->low || field->high) || (value >= field->low && value <= field->high))
		return 0;
	return kata__oci_fail(path, err, "expected an integer from %" PRId64 " to %" PRId64 ", found %" PRId64,
			      field->low, field->high, value);
}

int kata__oci_check_string(const struct kata__oci_field *field, const struct kata__oci_path *path, const char *value,
			   kata_error **err)
{
	if (!*value && field->flags & REQUIRED)
		return kata__oci_fail(path, err, "must not be empty");
	if (!*value)
		return 0;
	if (field->words)
		return check_word(field, path, value, err);
	if (field->flags & ABSOLUTE && value[0] != '/')
		return fail_with_value(path, value, "is not an absolute path", err);
	if (field->flags & ACCESS && value[strspn(value, "rwm")])
		return fail_with_value(path, value, "may have the letters r, w and m alone", err);
	if (field->flags & VERSION && (strncmp(value, "1.", 2) != 0 || value[2] < '0' || value[2] > '9'))
		return fail_with_value(path, value, "is not a version 1.x of the runtime-spec", err);
	return 0;
}
