/* SPDX-License-Identifier: Apache-2.0 */
#include "unit/proto/oci_test.h"

#define INVALID KATA_E_INVALID
#define UNSUPPORTED KATA_E_UNSUPPORTED

Test(oci_read, the_smallest_spec)
{
	Grpc__Spec *spec = read_spec(
		"{\"ociVersion\":\"1.0.2\",\"process\":{\"args\":[\"sh\"],\"cwd\":\"/\"},\"root\":{\"path\":\"r\"}}");

	cr_assert_str_eq(spec->version, "1.0.2");
	cr_assert_eq(spec->process->n_args, 1);
	cr_assert_str_eq(spec->process->args[0], "sh");
	cr_assert_str_eq(spec->root->path, "r");
	cr_assert(!spec->linux);
	kata__oci_free(spec);
}

Test(oci_read, every_field_of_the_maximal_spec_arrives)
{
	char *text = read_data(DATA("maximal.json"));
	Grpc__Spec *spec = read_spec(text);
	Grpc__LinuxResources *r = spec->linux->resources;

	cr_assert_eq(spec->process->terminal, 1);
	cr_assert_eq(spec->process->consolesize->width, 80);
	cr_assert_eq(spec->process->user->additionalgids[2], UINT32_MAX);
	cr_assert_str_eq(spec->process->args[2], "echo \"quoted\" \\ back \xc3\xa9 \xf0\x9f\x98\x80 \ttab");
	cr_assert_str_eq(spec->process->capabilities->ambient[0], "CAP_PERFMON");
	cr_assert_eq(spec->process->rlimits[1]->hard, UINT64_MAX);
	cr_assert_eq(spec->process->oomscoreadj, -100);
	cr_assert_str_eq(spec->root->path, "storage:rootfs/sub");
	cr_assert_str_eq(spec->mounts[2]->options[0], "rbind");
	cr_assert_eq(spec->hooks->poststart[0]->timeout, INT32_MAX);
	cr_assert_eq(spec->n_annotations, 4);
	cr_assert_str_eq(spec->annotations[3]->key, "io.kubernetes/a b");
	cr_assert_str_eq(spec->annotations[3]->value, "{\"json\": [1]}");
	cr_assert_eq(spec->linux->uidmappings[0]->size, 32000);
	cr_assert_str_eq(spec->linux->sysctl[1]->value, "256");
	cr_assert_eq(r->devices[0]->major, -1, "an absent major is the wildcard");
	cr_assert_eq(r->devices[1]->major, 10);
	cr_assert_eq(r->memory->swap, -1);
	cr_assert_eq(r->cpu->quota, -1);
	cr_assert_str_eq(r->cpu->mems, "0-7");
	cr_assert_eq(r->pids->limit, 32771);
	cr_assert_eq(r->blockio->throttlereadiopsdevice[0]->rate, UINT64_MAX);
	cr_assert_str_eq(r->hugepagelimits[0]->pagesize, "2MB");
	cr_assert_eq(r->network->priorities[0]->priority, 500);
	cr_assert_str_eq(spec->linux->namespaces[7]->type, "time");
	cr_assert_eq(spec->linux->devices[0]->filemode, 0666);
	cr_assert_eq(spec->linux->seccomp->syscalls[1]->errnoret_case, GRPC__LINUX_SYSCALL__ERRNORET_ERRNO_RET);
	cr_assert_eq(spec->linux->seccomp->syscalls[2]->errnoret_case, GRPC__LINUX_SYSCALL__ERRNORET__NOT_SET);
	cr_assert_eq(spec->linux->seccomp->syscalls[2]->args[0]->valuetwo, UINT64_MAX);
	cr_assert_str_eq(spec->linux->intelrdt->l3cacheschema, "L3:0=7f0;1=1f");
	kata__oci_free(spec);
	free(text);
}

Test(oci_read, the_maximal_spec_cut_at_every_byte_is_refused)
{
	char *text = read_data(DATA("maximal.json"));
	size_t length = strlen(text) - 1; /* without the newline at the end */

	for (size_t n = 0; n < length; n++) {
		Grpc__Spec *spec = NULL;

		cr_assert_eq(kata__oci_spec_from_json(text, n, &spec, NULL), INVALID, "%zu bytes", n);
		cr_assert(!spec);
	}
	free(text);
}

Test(oci_read, what_is_not_an_object_of_json_is_refused)
{
	expect_spec_refused("", INVALID, "the OCI spec must be a JSON object");
	expect_spec_refused("[]", INVALID, "must be a JSON object");
	expect_spec_refused("hello", INVALID, "must be a JSON object");
	expect_spec_refused("{\"ociVersion\":\"1.0.2\"", INVALID,
			    "the OCI spec is not JSON at byte 21 (line 1): expected ',' or '}'");
	expect_spec_refused("{\"hostname\":\"\xff\"}", INVALID, "not UTF-8");
}

Test(oci_read, text_behind_the_spec_is_refused)
{
	char *text = spec_with((struct pieces){0});
	char *more = NULL;

	cr_assert_gt(asprintf(&more, "%s {}", text), 0);
	expect_spec_refused(more, INVALID, "expected the end of the text");
	free(more);
	free(text);
}

Test(oci_read, what_must_be_there_is_named_when_it_is_missing)
{
	static const struct {
		const char *text;
		const char *part;
	} cases[] = {
		{"{}", "ociVersion: is missing"},
		{"{\"ociVersion\":\"1.0.2\"}", "process: is missing"},
		{"{\"ociVersion\":\"1.0.2\",\"process\":{\"cwd\":\"/\"}}", "process.args: is missing"},
		{"{\"ociVersion\":\"1.0.2\",\"process\":{\"args\":[],\"cwd\":\"/\"}}",
		 "process.args: must not be empty"},
		{"{\"ociVersion\":\"1.0.2\",\"process\":{\"args\":null,\"cwd\":\"/\"}}", "process.args: is missing"},
		{"{\"ociVersion\":\"1.0.2\",\"process\":{\"args\":[\"a\"]}}", "process.cwd: is missing"},
		{"{\"ociVersion\":\"1.0.2\",\"process\":{\"args\":[\"a\"],\"cwd\":\"\"}}",
		 "process.cwd: must not be empty"},
		{"{\"ociVersion\":\"1.0.2\",\"process\":{\"args\":[\"a\"],\"cwd\":\"tmp\"}}",
		 "process.cwd: 'tmp' is not an absolute path"},
		{"{\"ociVersion\":\"1.0.2\",\"process\":{\"args\":[\"a\"],\"cwd\":\"/\"}}", "root: is missing"},
		{"{\"ociVersion\":\"1.0.2\",\"process\":{\"args\":[\"a\"],\"cwd\":\"/\"},\"root\":{}}",
		 "root.path: is missing"},
		{"{\"ociVersion\":\"1.0.2\",\"process\":{\"args\":[\"a\"],\"cwd\":\"/\"},\"root\":{\"path\":\"\"}}",
		 "root.path: must not be empty"},
		{"{\"ociVersion\":\"2.0.0\"}", "ociVersion: '2.0.0' is not a version 1.x"},
		{"{\"ociVersion\":\"1.\"}", "ociVersion: '1.' is not a version 1.x"},
		{"{\"ociVersion\":\"\"}", "ociVersion: must not be empty"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		expect_spec_refused(cases[i].text, INVALID, cases[i].part);
}

Test(oci_read, versions_of_1_x_are_taken)
{
	static const char *const versions[] = {"1.0.0", "1.0.2-dev", "1.1.0", "1.2.1+meta", "1.10.0"};

	for (size_t i = 0; i < sizeof(versions) / sizeof(versions[0]); i++) {
		char *text = NULL;

		cr_assert_gt(asprintf(&text,
				      "{\"ociVersion\":\"%s\",\"process\":{\"args\":[\"sh\"],\"cwd\":\"/"
				      "\"},\"root\":{\"path\":\"r\"}}",
				      versions[i]),
			     0);
		kata__oci_free(read_spec(text));
		free(text);
	}
}

Test(oci_read, a_wrong_type_is_named_with_its_path)
{
	static const struct {
		struct pieces p;
		const char *part;
	} cases[] = {
		{{.process = ",\"env\":[\"a\",\"b\",3]"}, "process.env[2]: expected a string, found integer"},
		{{.process = ",\"env\":[null]"}, "process.env[0]: expected a string, found null"},
		{{.process = ",\"env\":\"a\""}, "process.env: expected an array, found string"},
		{{.process = ",\"terminal\":1"}, "process.terminal: expected a boolean, found integer"},
		{{.process = ",\"user\":[]"}, "process.user: expected an object, found array"},
		{{.process = ",\"user\":{\"uid\":\"0\"}"}, "process.user.uid: expected an integer, found string"},
		{{.process = ",\"user\":{\"uid\":1.0}"}, "process.user.uid: expected an integer, found real number"},
		{{.process = ",\"user\":{\"uid\":{}}"}, "process.user.uid: expected an integer, found object"},
		{{.spec = ",\"annotations\":{\"k\":1}"}, "annotations.k: expected a string, found integer"},
		{{.spec = ",\"annotations\":[]"}, "annotations: expected an object, found array"},
		{{.spec = ",\"mounts\":[7]"}, "mounts[0]: expected an object, found integer"},
		{{.linux_ = ",\"devices\":[{\"path\":true}]"},
		 "linux.devices[0].path: expected a string, found boolean"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		expect_refused_with(cases[i].p, INVALID, cases[i].part);
}

Test(oci_read, numbers_out_of_range_are_named_with_their_range)
{
	static const struct {
		struct pieces p;
		const char *part;
	} cases[] = {
		{{.process = ",\"user\":{\"uid\":4294967296}"},
		 "process.user.uid: expected an integer from 0 to 4294967295"},
		{{.process = ",\"user\":{\"uid\":-1}"}, "process.user.uid: expected an integer from 0 to"},
		{{.process = ",\"rlimits\":[{\"type\":\"RLIMIT_CPU\",\"hard\":-1}]"},
		 "process.rlimits[0].hard: expected an integer from 0 to 18446744073709551615"},
		{{.process = ",\"rlimits\":[{\"type\":\"RLIMIT_CPU\",\"hard\":18446744073709551616}]"},
		 "process.rlimits[0].hard: expected"},
		{{.linux_ = ",\"resources\":{\"memory\":{\"swap\":9223372036854775808}}"},
		 "linux.resources.memory.swap: expected an integer from -9223372036854775808 to 9223372036854775807"},
		{{.linux_ = ",\"resources\":{\"memory\":{\"swap\":-9223372036854775809}}"}, "memory.swap: expected"},
		{{.process = ",\"oomScoreAdj\":1001"},
		 "process.oomScoreAdj: expected an integer from -1000 to 1000, found 1001"},
		{{.process = ",\"oomScoreAdj\":-1001"}, "process.oomScoreAdj: expected"},
		{{.linux_ = ",\"resources\":{\"blockIO\":{\"weight\":65536}}"},
		 "blockIO.weight: expected an integer from 0 to 65535"},
		{{.linux_ = ",\"devices\":[{\"fileMode\":65536}]"},
		 "linux.devices[0].fileMode: expected an integer from 0 to 65535"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		expect_refused_with(cases[i].p, INVALID, cases[i].part);
}

Test(oci_read, numbers_at_their_limits_are_taken)
{
	Grpc__Spec *spec = read_with((struct pieces){
		.process = ",\"oomScoreAdj\":-1000,\"user\":{\"uid\":4294967295,\"gid\":-0}",
		.linux_ = ",\"resources\":{\"memory\":{\"swap\":-9223372036854775808,\"limit\":9223372036854775807}}"});

	cr_assert_eq(spec->process->oomscoreadj, -1000);
	cr_assert_eq(spec->linux->resources->memory->swap, INT64_MIN);
	cr_assert_eq(spec->linux->resources->memory->limit, INT64_MAX);
	cr_assert_eq(spec->process->user->uid, UINT32_MAX);
	kata__oci_free(spec);
}

Test(oci_read, an_unknown_word_is_named_with_the_allowed_ones)
{
	static const struct {
		struct pieces p;
		const char *part;
	} cases[] = {
		{{.linux_ = ",\"namespaces\":[{\"type\":\"pid\"},{\"type\":\"net\"}]"},
		 "linux.namespaces[1].type: 'net' is none of pid, network, mount, ipc, uts, user, cgroup, time"},
		{{.process = ",\"rlimits\":[{\"type\":\"NOFILE\",\"hard\":1,\"soft\":1}]"},
		 "process.rlimits[0].type: 'NOFILE' is none of RLIMIT_AS, RLIMIT_CORE"},
		{{.process = ",\"capabilities\":{\"bounding\":[\"CAP_KILL\",\"KILL\"]}"},
		 "process.capabilities.bounding[1]: 'KILL' is none of CAP_AUDIT_CONTROL"},
		{{.process = ",\"capabilities\":{\"ambient\":[\"cap_kill\"]}"}, "'cap_kill' is none of"},
		{{.linux_ = ",\"devices\":[{\"path\":\"/dev/x\",\"type\":\"char\"}]"},
		 "linux.devices[0].type: 'char' is none of c, b, u, p"},
		{{.linux_ = ",\"resources\":{\"devices\":[{\"allow\":true,\"type\":\"u\"}]}"},
		 "linux.resources.devices[0].type: 'u' is none of a, b, c"},
		{{.linux_ = ",\"resources\":{\"devices\":[{\"allow\":true,\"access\":\"rx\"}]}"},
		 "linux.resources.devices[0].access: 'rx' may have the letters r, w and m alone"},
		{{.linux_ = ",\"seccomp\":{\"defaultAction\":\"SCMP_ACT_DENY\"}"},
		 "linux.seccomp.defaultAction: 'SCMP_ACT_DENY' is none of SCMP_ACT_KILL"},
		{{.linux_ = ",\"seccomp\":{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"architectures\":[\"x86_64\"]}"},
		 "linux.seccomp.architectures[0]: 'x86_64' is none of SCMP_ARCH_X86"},
		{{.linux_ = ",\"seccomp\":{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"flags\":[\"TSYNC\"]}"},
		 "linux.seccomp.flags[0]: 'TSYNC' is none of"},
		{{.linux_ = ",\"seccomp\":{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"syscalls\":[{\"names\":[\"a\"],"
			    "\"action\":\"ALLOW\"}]}"},
		 "linux.seccomp.syscalls[0].action: 'ALLOW' is none of"},
		{{.linux_ = ",\"seccomp\":{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"syscalls\":[{\"names\":[\"a\"],"
			    "\"action\":\"SCMP_ACT_LOG\","
			    "\"args\":[{\"index\":0,\"value\":1,\"op\":\"EQ\"}]}]}"},
		 "linux.seccomp.syscalls[0].args[0].op: 'EQ' is none of SCMP_CMP_NE"},
		{{.linux_ = ",\"mountLabel\":\"\",\"rootfsPropagation\":\"shared\""},
		 "linux.rootfsPropagation: given twice"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		expect_refused_with(cases[i].p, INVALID, cases[i].part);
	expect_spec_refused("{\"linux\":{\"rootfsPropagation\":\"hidden\"}}", INVALID,
			    "linux.rootfsPropagation: 'hidden' is none of private");
}

Test(oci_read, parts_lack_nothing_that_the_spec_requires_of_them)
{
	static const struct {
		struct pieces p;
		const char *part;
	} cases[] = {
		{{.process = ",\"consoleSize\":{\"height\":1}"}, "process.consoleSize.width: is missing"},
		{{.process = ",\"rlimits\":[{\"type\":\"RLIMIT_CPU\",\"soft\":1}]"},
		 "process.rlimits[0].hard: is missing"},
		{{.spec = ",\"mounts\":[{\"source\":\"a\"}]"}, "mounts[0].destination: is missing"},
		{{.spec = ",\"mounts\":[{\"destination\":\"tmp\"}]"},
		 "mounts[0].destination: 'tmp' is not an absolute path"},
		{{.spec = ",\"hooks\":{\"prestart\":[{}]}"}, "hooks.prestart[0].path: is missing"},
		{{.spec = ",\"hooks\":{\"poststop\":[{\"path\":\"a\"}]}"},
		 "hooks.poststop[0].path: 'a' is not an absolute path"},
		{{.spec = ",\"hooks\":{\"poststop\":[{\"path\":\"/a\",\"timeout\":0}]}"},
		 "hooks.poststop[0].timeout: expected an integer from 1 to 2147483647"},
		{{.spec = ",\"hooks\":{\"poststop\":[{\"path\":\"/a\",\"timeout\":-5}]}"},
		 "hooks.poststop[0].timeout: expected an integer from 1 to 2147483647"},
		{{.linux_ = ",\"uidMappings\":[{\"hostID\":0,\"containerID\":0}]"},
		 "linux.uidMappings[0].size: is missing"},
		{{.linux_ = ",\"namespaces\":[{}]"}, "linux.namespaces[0].type: is missing"},
		{{.linux_ = ",\"devices\":[{\"path\":\"/dev/x\"}]"}, "linux.devices[0].type: is missing"},
		{{.linux_ = ",\"devices\":[{\"path\":\"dev/x\",\"type\":\"c\"}]"},
		 "linux.devices[0].path: 'dev/x' is not an absolute path"},
		{{.linux_ = ",\"resources\":{\"devices\":[{}]}"}, "linux.resources.devices[0].allow: is missing"},
		{{.linux_ = ",\"resources\":{\"pids\":{}}"}, "linux.resources.pids.limit: is missing"},
		{{.linux_ = ",\"resources\":{\"hugepageLimits\":[{\"limit\":1}]}"},
		 "linux.resources.hugepageLimits[0].pageSize: is missing"},
		{{.linux_ = ",\"resources\":{\"blockIO\":{\"throttleReadBpsDevice\":[{\"major\":1,\"minor\":1}]}}"},
		 "throttleReadBpsDevice[0].rate: is missing"},
		{{.linux_ = ",\"resources\":{\"network\":{\"priorities\":[{\"priority\":1}]}}"},
		 "priorities[0].name: is missing"},
		{{.linux_ = ",\"seccomp\":{}"}, "linux.seccomp.defaultAction: is missing"},
		{{.linux_ = ",\"seccomp\":{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"syscalls\":[{\"names\":[],\"action\":"
			    "\"SCMP_ACT_LOG\"}]}"},
		 "linux.seccomp.syscalls[0].names: must not be empty"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		expect_refused_with(cases[i].p, INVALID, cases[i].part);
}

Test(oci_read, what_the_protocol_cannot_carry_is_refused_with_its_path)
{
	static const struct {
		struct pieces p;
		const char *part;
	} cases[] = {
		{{.spec = ",\"domainname\":\"x\""}, "domainname: the agent's protocol cannot carry"},
		{{.spec = ",\"windows\":{\"layerFolders\":[\"x\"]}"}, "windows: the agent's"},
		{{.spec = ",\"solaris\":{\"milestone\":\"x\"}"}, "solaris: the agent's"},
		{{.spec = ",\"vm\":{\"kernel\":{\"path\":\"x\"}}"}, "vm: the agent's"},
		{{.process = ",\"commandLine\":\"x\""}, "process.commandLine: the agent's"},
		{{.process = ",\"ioPriority\":{\"class\":\"IOPRIO_CLASS_IDLE\"}"}, "process.ioPriority: the agent's"},
		{{.process = ",\"scheduler\":{\"policy\":\"SCHED_FIFO\"}"}, "process.scheduler: the agent's"},
		{{.process = ",\"execCPUAffinity\":{\"initial\":\"0\"}"}, "process.execCPUAffinity: the agent's"},
		{{.process = ",\"user\":{\"uid\":0,\"gid\":0,\"umask\":0}"}, "process.user.umask: the agent's"},
		{{.spec = ",\"mounts\":[{\"destination\":\"/a\",\"uidMappings\":[{}]}]"},
		 "mounts[0].uidMappings: the agent's"},
		{{.spec = ",\"mounts\":[{\"destination\":\"/a\",\"gidMappings\":[{}]}]"},
		 "mounts[0].gidMappings: the agent's"},
		{{.linux_ = ",\"personality\":{\"domain\":\"LINUX32\"}"}, "linux.personality: the agent's"},
		{{.linux_ = ",\"timeOffsets\":{\"monotonic\":{}}"}, "linux.timeOffsets: the agent's"},
		{{.linux_ = ",\"resources\":{\"unified\":{\"memory.high\":\"1\"}}"},
		 "linux.resources.unified: the agent's"},
		{{.linux_ = ",\"resources\":{\"rdma\":{\"mlx5\":{}}}"}, "linux.resources.rdma: the agent's"},
		{{.linux_ = ",\"resources\":{\"cpu\":{\"idle\":1}}"}, "linux.resources.cpu.idle: the agent's"},
		{{.linux_ = ",\"resources\":{\"cpu\":{\"burst\":1000}}"}, "linux.resources.cpu.burst: the agent's"},
		{{.linux_ = ",\"resources\":{\"memory\":{\"checkBeforeUpdate\":true}}"},
		 "linux.resources.memory.checkBeforeUpdate: the agent's"},
		{{.linux_ = ",\"seccomp\":{\"defaultAction\":\"SCMP_ACT_ERRNO\",\"defaultErrnoRet\":38}"},
		 "linux.seccomp.defaultErrnoRet: the agent's"},
		{{.linux_ = ",\"seccomp\":{\"defaultAction\":\"SCMP_ACT_ERRNO\",\"listenerPath\":\"/s\"}"},
		 "linux.seccomp.listenerPath: the agent's"},
		{{.linux_ = ",\"intelRdt\":{\"closID\":\"x\"}"}, "linux.intelRdt.closID: the agent's"},
		{{.linux_ = ",\"intelRdt\":{\"enableCMT\":true}"}, "linux.intelRdt.enableCMT: the agent's"},
		{{.linux_ = ",\"resources\":{\"memory\":{\"swappiness\":0}}"},
		 "linux.resources.memory.swappiness: 0 cannot be told"},
		{{.linux_ = ",\"devices\":[{\"path\":\"/dev/x\",\"type\":\"c\",\"fileMode\":0}]"},
		 "linux.devices[0].fileMode: 0 cannot be told"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		expect_refused_with(cases[i].p, UNSUPPORTED, cases[i].part);
}

Test(oci_read, what_changes_nothing_is_left_out_quietly)
{
	static const struct pieces cases[] = {
		{.spec = ",\"domainname\":\"\",\"windows\":null,\"solaris\":{},\"vm\":null"},
		{.process = ",\"ioPriority\":null,\"user\":{\"uid\":0,\"gid\":0,\"umask\":18}"},
		{.spec = ",\"mounts\":[{\"destination\":\"/a\",\"uidMappings\":[],\"gidMappings\":[ ]}]"},
		{.linux_ = ",\"timeOffsets\":{ "
			   "},\"resources\":{\"unified\":{},\"rdma\":null,\"memory\":{\"useHierarchy\":true,"
			   "\"checkBeforeUpdate\":false}}"},
		{.linux_ = ",\"seccomp\":{\"defaultAction\":\"SCMP_ACT_ERRNO\",\"defaultErrnoRet\":1,\"listenerPath\":"
			   "\"\"}"},
		{.linux_ = ",\"intelRdt\":{\"enableCMT\":false}"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		kata__oci_free(read_with(cases[i]));
}

Test(oci_read, names_the_spec_does_not_know_are_refused)
{
	expect_refused_with((struct pieces){.process = ",\"arg\":[\"x\"]"}, UNSUPPORTED,
			    "process.arg: no field of the OCI runtime-spec");
	expect_refused_with((struct pieces){.spec = ",\"Hostname\":\"x\""}, UNSUPPORTED, "Hostname: no field of");
	expect_refused_with((struct pieces){.spec = ",\"a\\nb\":1"}, UNSUPPORTED, "a?b: no field of");
	expect_refused_with((struct pieces){.spec = ",\"x\":[[[[[[[[[[[[[[[[[[[[[[[[[["}, UNSUPPORTED,
			    "x: no field of");
}

Test(oci_read, null_is_the_same_as_absent)
{
	Grpc__Spec *spec = read_with(
		(struct pieces){.spec = ",\"mounts\":null,\"hooks\":null,\"hostname\":null,\"annotations\":null",
				.process = ",\"user\":null,\"oomScoreAdj\":null,\"terminal\":null"});

	cr_assert_eq(spec->n_mounts, 0);
	cr_assert(!spec->hooks);
	cr_assert_str_eq(spec->hostname, "");
	cr_assert(!spec->process->user);
	kata__oci_free(spec);
}

Test(oci_read, fields_and_map_keys_given_twice_are_refused)
{
	expect_refused_with((struct pieces){.process = ",\"cwd\":\"/b\""}, INVALID, "process.cwd: given twice");
	expect_refused_with((struct pieces){.spec = ",\"annotations\":{\"a\":\"1\",\"\\u0061\":\"2\"}"}, INVALID,
			    "annotations.a: given twice");
	expect_refused_with((struct pieces){.linux_ = ",\"sysctl\":{\"a\":\"1\",\"a\":\"2\"}"}, INVALID,
			    "linux.sysctl.a: given twice");
}

Test(oci_read, hostile_values_in_errors_are_cut_and_cleaned)
{
	char piece[4096] = ",\"cwd2\":1,\"x\":\"";
	Grpc__Spec *spec = NULL;
	kata_error *err = NULL;
	char *text;

	snprintf(piece, sizeof(piece), ",\"namespaces\":[{\"type\":\"\\n\\u001b[31m%03000d\"}]", 7);
	text = spec_with((struct pieces){.linux_ = piece});
	cr_assert_eq(kata__oci_spec_from_json(text, strlen(text), &spec, &err), INVALID);
	cr_assert_lt(strlen(kata_error_get_message(err)), 400);
	cr_assert(!strpbrk(kata_error_get_message(err), "\n\x1b"));
	kata_error_free(err);
	free(text);
}

/* ---- limits */

static char *spec_with_items(size_t n)
{
	char *piece = malloc(32 + 3 * n);
	char *at = piece + snprintf(piece, 32, ",\"env\":[");
	char *text;

	for (size_t i = 0; i < n; i++, at += 3)
		memcpy(at, "\"\",", 3);
	memcpy(at - 1, "]", 2);
	text = spec_with((struct pieces){.process = piece});
	free(piece);
	return text;
}

Test(oci_read, a_list_of_4096_items_is_read_and_of_4097_refused)
{
	char *full = spec_with_items(4096);
	char *over = spec_with_items(4097);

	kata__oci_free(read_spec(full));
	expect_spec_refused(over, INVALID, "process.env[4096]: more than 4096 items");
	free(full);
	free(over);
}

static char *spec_of_size(size_t size)
{
	char *text = spec_with((struct pieces){0});
	size_t length = strlen(text);

	text = realloc(text, size + 1);
	memset(text + length, ' ', size - length);
	text[size] = '\0';
	return text;
}

Test(oci_read, a_text_of_1_mib_is_read_and_of_one_byte_more_refused)
{
	char *full = spec_of_size(KATA__OCI_JSON_MAX);
	char *over = spec_of_size(KATA__OCI_JSON_MAX + 1);

	kata__oci_free(read_spec(full));
	expect_spec_refused(over, INVALID, "the OCI spec has 1048577 bytes, at most 1048576 are read");
	free(full);
	free(over);
}

/* ---- process and resources alone */

Test(oci_read, a_process_alone)
{
	const char *text = "{\"args\":[\"id\"],\"cwd\":\"/tmp\",\"terminal\":true,\"user\":{\"uid\":5,\"gid\":6}}";
	Grpc__Process *p = NULL;
	kata_error *err = NULL;

	expect_success(kata__oci_process_from_json(text, strlen(text), &p, &err), &err);
	cr_assert_str_eq(p->cwd, "/tmp");
	cr_assert_eq(p->user->gid, 6);
	kata__oci_free(p);
}

Test(oci_read, errors_of_a_process_alone_begin_with_process)
{
	Grpc__Process *p = NULL;
	kata_error *err = NULL;

	expect_failure(kata__oci_process_from_json("{\"args\":[1]}", 12, &p, &err), INVALID,
		       "process.args[0]: expected", &err);
	expect_failure(kata__oci_process_from_json("{}", 2, &p, &err), INVALID, "process.args: is missing", &err);
	expect_failure(kata__oci_process_from_json("7", 1, &p, &err), INVALID, "the OCI process must be", &err);
}

Test(oci_read, resources_alone)
{
	const char *text = "{\"memory\":{\"limit\":5},\"cpu\":{\"shares\":2}}";
	Grpc__LinuxResources *r = NULL;
	kata_error *err = NULL;

	expect_success(kata__oci_resources_from_json(text, strlen(text), &r, &err), &err);
	cr_assert_eq(r->memory->limit, 5);
	cr_assert_eq(r->cpu->shares, 2);
	kata__oci_free(r);
	expect_failure(kata__oci_resources_from_json("{\"cpu\":3}", 9, &r, &err), INVALID,
		       "resources.cpu: expected an object", &err);
}

/* ---- editing */

Test(oci_read, strings_can_be_replaced)
{
	Grpc__Spec *spec = read_with((struct pieces){.spec = ",\"mounts\":[{\"destination\":\"/a\"}]"});

	cr_assert_eq(kata__oci_set_string(&spec->root->path, "/run/rootfs", NULL), 0);
	cr_assert_eq(kata__oci_set_string(&spec->mounts[0]->source, "/x", NULL), 0);
	cr_assert_eq(kata__oci_set_string(&spec->mounts[0]->source, "/y", NULL), 0);
	cr_assert_str_eq(spec->root->path, "/run/rootfs");
	cr_assert_str_eq(spec->mounts[0]->source, "/y");
	kata__oci_free(spec);
	kata__oci_free(NULL);
}
