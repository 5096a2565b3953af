/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Templates and their clones on the real QEMU. KATA_TEST_CLONES says how many clones are looked into in the first test
 * (3 by default, 100 is the long form). KATA_TEST_ROUNDS says how many templates are made and destroyed in the
 * last test (none: contract/template_rounds is its short form; a round is a boot).
 */
#include "integration/sandbox_test.h"
#include "support/template_rounds.h"

#include <time.h>

#include "support/counting_malloc.h"

TestSuite(template, .timeout = 300);

struct world {
	struct machine m;
	kata_vm_builder *builder;
	kata_agent_builder *agents;
	kata_vm_config config;
	char *path;
	kata_error *err;
};

static void open_world(struct world *w, uint64_t flags)
{
	kata_template_options o = KATA_TEMPLATE_OPTIONS_INIT;

	memset(w, 0, sizeof(*w));
	machine_init(&w->m, 0);
	w->path = fixture_path(&w->m.f, "template");
	w->config = machine_config(&w->m);
	o.path = w->path;
	o.flags = KATA_TEMPLATE_SHARE_MEMORY | flags;
	fixture_assert_ok(kata_agent_builder_new_direct(w->m.f.context, &w->agents, &w->err), w->err);
	fixture_assert_ok(kata_vm_builder_new_template(w->m.f.context, w->m.builder, NULL, &o, &w->builder, &w->err),
			  w->err);
}

static void close_world(struct world *w)
{
	kata_vm_builder_free(w->builder);
	kata_agent_builder_free(w->agents);
	free(w->path);
	machine_deinit(&w->m);
}

static kata_vm *clone_of(struct world *w, kata_vm_builder *builder, const char *id, kata_vm_origin origin)
{
	kata_vm_config c = w->config;
	kata_vm *vm = NULL;

	c.id = id;
	fixture_assert_ok(kata_vm_builder_build(builder, &c, NULL, NULL, &vm, &w->err), w->err);
	cr_assert_eq(kata_vm_get_state(vm), KATA_VM_CREATED);
	cr_assert_eq(kata_vm_get_origin(vm), origin);
	return vm;
}

static kata_vm *clone(struct world *w, const char *id)
{
	return clone_of(w, w->builder, id, KATA_VM_CLONED);
}

static void print_timeline(const char *what, kata_op *op)
{
	kata_timeline_entry e = {.size = sizeof(e)};

	if (!getenv("KATA_TEST_TIMES"))
		return;
	fprintf(stderr, "%s:", what);
	for (size_t i = 0; i < kata_op_get_timeline_length(op); i++)
		if (kata_op_get_timeline_entry(op, i, &e, NULL) == 0)
			fprintf(stderr, " %s %.2f", e.step, (double)(e.end_ns - e.start_ns) / 1e6);
	fprintf(stderr, "; all %.2f ms\n", (double)(kata_op_get_end_ns(op) - kata_op_get_start_ns(op)) / 1e6);
}

static void start(struct world *w, kata_vm *vm)
{
	kata_op *op = NULL;

	fixture_assert_ok(kata_vm_start_begin(vm, NULL, &op, &w->err), w->err);
	fixture_assert_ok(kata_op_wait(op, &w->err), w->err);
	print_timeline("start", op);
	kata_op_unref(op);
	cr_assert_eq(kata_vm_get_state(vm), KATA_VM_RUNNING);
}

static void end(struct world *w, kata_vm *vm)
{
	fixture_assert_ok(kata_vm_destroy(vm, NULL, &w->err), w->err);
	kata_vm_unref(vm);
}

/* ---- what a clone has of its own */

#define CLONES 3u
#define ALIVE 3u /* at once */
#define ROOT "/run/rootfs"
#define LOOK                                                                                                           \
	"cat /proc/sys/kernel/hostname /dev/machine-id /sys/class/net/eth0/address /proc/sys/kernel/random/uuid;"      \
	"busybox od -An -tx1 -w32 -N32 /dev/random"

enum fact { RESET_SAMPLE = 0, HOSTNAME, MACHINE_ID, MAC, KERNEL_UUID, RANDOM, UUID, CID, FACT_COUNT };
static const char *const fact_names[] = {"random sample", "hostname",         "machine-id", "MAC",
					 "kernel's UUID", "/dev/random says", "UUID",       "CID"};

struct facts {
	char text[FACT_COUNT][100];
};

static kata_op *ask(struct world *w, kata_agent *agent, const kata_agent_request *request)
{
	kata_agent_request r = *request;
	kata_op *op = NULL;

	r.size = sizeof(r);
	fixture_assert_ok(kata_agent_call_begin(agent, &r, NULL, &op, &w->err), w->err);
	fixture_assert_ok(kata_op_wait(op, &w->err), w->err);
	return op;
}

#define TELL(w, agent, ...) kata_op_unref(ask(w, agent, &(kata_agent_request){__VA_ARGS__}))

static int64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* Random bytes of the guest's; its clock is right. */
static void sample(struct world *w, kata_agent *agent, char *out)
{
	int64_t before = now_us(), clock;
	kata_op *op = ask(w, agent, &(kata_agent_request){.method = KATA_AGENT_RESET_IDENTITY, .max_length = 32});
	const kata_agent_reply *reply = kata_agent_op_get_reply(op);

	clock = reply->seconds * 1000000 + reply->microseconds;
	cr_assert(clock > before - 1000000 && clock < now_us() + 1000000, "the guest's clock is %lld us off",
		  (long long)(clock - before));
	cr_assert_eq(reply->data_length, 32u);
	for (size_t i = 0; i < 32; i++)
		sprintf(out + 2 * i, "%02x", ((const uint8_t *)reply->data)[i]);
	kata_op_unref(op);
}

static char *read_output(struct world *w, kata_agent *agent)
{
	char *text = calloc(1, 4096);
	size_t length = 0, got;

	do {
		kata_op *op = ask(w, agent,
				  &(kata_agent_request){.method = KATA_AGENT_READ_STDOUT,
							.container_id = "look",
							.exec_id = "look",
							.max_length = 1024});
		const kata_agent_reply *reply = kata_agent_op_get_reply(op);

		got = reply->data_length;
		cr_assert_lt(length + got, 4096u);
		if (got)
			memcpy(text + length, reply->data, got);
		length += got;
		kata_op_unref(op);
	} while (got);
	return text;
}

/* Straight from the agent: a sandbox would give the guest a hostname. */
static char *look_inside(struct world *w, kata_agent *agent, const char *disk_address)
{
	static const char mounts[] =
		"{\"destination\":\"/proc\",\"type\":\"proc\",\"source\":\"proc\"},"
		"{\"destination\":\"/sys\",\"type\":\"sysfs\",\"source\":\"sysfs\"},"
		"{\"destination\":\"/dev\",\"type\":\"tmpfs\",\"source\":\"tmpfs\"},"
		"{\"destination\":\"/dev/machine-id\",\"type\":\"bind\",\"source\":\"/etc/machine-id\","
		"\"options\":[\"bind\",\"ro\"]}";
	const char *const ro[] = {"ro", NULL};
	kata_agent_storage root = {
		.driver = "blk", .source = disk_address, .fstype = "ext4", .mount_point = ROOT, .options = ro};
	char process[1024], spec[4096];

	process_text(process, sizeof(process), LOOK, false);
	snprintf(spec, sizeof(spec),
		 "{\"ociVersion\":\"1.0.2\",\"process\":%s,\"root\":{\"path\":\"" ROOT "\",\"readonly\":true},"
		 "\"mounts\":[%s],\"linux\":{\"namespaces\":[{\"type\":\"mount\"},{\"type\":\"pid\"}]}}",
		 process, mounts);
	TELL(w, agent, .method = KATA_AGENT_CREATE_SANDBOX, .sandbox_id = "look");
	TELL(w, agent, .method = KATA_AGENT_CREATE_CONTAINER, .container_id = "look", .exec_id = "look", .json = spec,
	     .json_length = strlen(spec), .storages = &root, .storage_count = 1);
	TELL(w, agent, .method = KATA_AGENT_START_CONTAINER, .container_id = "look");
	return read_output(w, agent);
}

static void read_lines(char *text, struct facts *f)
{
	char *rest = NULL, *line = strtok_r(text, "\n", &rest);

	for (int i = HOSTNAME; i <= RANDOM; i++, line = strtok_r(NULL, "\n", &rest)) {
		cr_assert_not_null(line, "no line for %s", fact_names[i]);
		snprintf(f->text[i], sizeof(f->text[i]), "%s", line);
	}
}

/* What the VMM was started with; none where the host has no vsock. */
static void read_cid(kata_vm *vm, char *out)
{
	char path[40], text[16384];
	FILE *f;
	size_t n;

	snprintf(path, sizeof(path), "/proc/%lld/cmdline", (long long)kata_vm_get_pid(vm));
	f = fopen(path, "re");
	cr_assert_not_null(f);
	n = fread(text, 1, sizeof(text) - 1, f);
	fclose(f);
	for (size_t i = 0; i < n; i++)
		text[i] = text[i] ? text[i] : ' ';
	text[n] = 0;
	if (strstr(text, "guest-cid="))
		sscanf(strstr(text, "guest-cid="), "guest-cid=%20[0-9]", out);
}

static kata_agent *connect_to(struct world *w, kata_vm *vm)
{
	kata_agent *agent = NULL;

	fixture_assert_ok(kata_agent_builder_build(w->agents, vm, NULL, NULL, &agent, &w->err), w->err);
	return agent;
}

static void assert_its_own(kata_vm *vm, const struct facts *f, const char *mac)
{
	char machine_id[33], *at = machine_id;

	for (const char *p = kata_vm_get_uuid(vm); *p; p++)
		if (*p != '-')
			*at++ = *p;
	*at = 0;
	cr_assert_str_eq(f->text[HOSTNAME], kata_vm_get_id(vm));
	cr_assert_str_eq(f->text[MACHINE_ID], machine_id);
	cr_assert_str_eq(f->text[MAC], mac);
}

/* All clones have it. */
static kata_storage *read_only_disk(struct world *w, const char *path)
{
	kata_storage_config config = KATA_STORAGE_CONFIG_INIT;
	kata_storage *disk = NULL;

	config.id = "root";
	config.path = path;
	config.driver = KATA_STORAGE_VIRTIO_BLK;
	config.flags = KATA_STORAGE_READ_ONLY;
	fixture_assert_ok(kata_storage_new(&config, &disk, &w->err), w->err);
	return disk;
}

/* With disks and a NIC from before its start; of one disk the guest lets go. */
static void look_into_clone(struct world *w, kata_vm *vm, const char *const disks[2], struct facts *f)
{
	const uint64_t all = KATA_RESET_ENTROPY | KATA_RESET_CLOCK | KATA_RESET_HOSTNAME | KATA_RESET_MACHINE_ID |
			     KATA_RESET_MACS | KATA_RESET_UUID | KATA_RESET_CID;
	kata_storage *disk = read_only_disk(w, disks[0]);
	kata_storage *other = fixture_storage("other", disks[1], KATA_STORAGE_VIRTIO_BLK);
	kata_nic *nic = fixture_nic("net", NULL);
	kata_agent *agent;
	char address[32], *text;

	fixture_assert_ok(kata_vm_add_storage(vm, disk, NULL, &w->err), w->err);
	fixture_assert_ok(kata_vm_add_storage(vm, other, NULL, &w->err), w->err);
	fixture_assert_ok(kata_vm_add_nic(vm, nic, NULL, &w->err), w->err);
	start(w, vm);
	cr_assert_eq(kata_vm_get_identity_reset(vm), all);
	agent = connect_to(w, vm);
	sample(w, agent, f->text[RESET_SAMPLE]);
	kata_storage_get_address(disk, address, sizeof(address));
	text = look_inside(w, agent, address);
	read_lines(text, f);
	snprintf(f->text[UUID], sizeof(f->text[UUID]), "%s", kata_vm_get_uuid(vm));
	read_cid(vm, f->text[CID]);
	assert_its_own(vm, f, kata_nic_get_mac(nic));
	kata_agent_unref(agent);
	fixture_assert_ok(kata_vm_remove_storage(vm, "other", NULL, &w->err), w->err);
	free(text);
	kata_storage_unref(disk);
	kata_storage_unref(other);
	kata_nic_unref(nic);
}

static void assert_distinct(const struct facts *a, const struct facts *b)
{
	for (int i = 0; i < FACT_COUNT; i++)
		cr_assert((i == CID && !a->text[i][0]) || strcmp(a->text[i], b->text[i]) != 0,
			  "two clones have one %s: %s", fact_names[i], a->text[i]);
}

/* Its files are as they were written, to the last byte. */
static void check_unchanged(struct world *w)
{
	kata_snapshot *snapshot = NULL;
	char base[256];

	snprintf(base, sizeof(base), "%s/base", w->path);
	fixture_assert_ok(kata_snapshot_open(w->m.f.context, base, KATA_SNAPSHOT_VERIFY, &snapshot, &w->err), w->err);
	kata_snapshot_free(snapshot);
}

static unsigned clone_count(void)
{
	const char *text = getenv("KATA_TEST_CLONES");

	return text ? (unsigned)strtoul(text, NULL, 10) : CLONES;
}

static void print_facts(const struct facts *f)
{
	for (int i = 0; i < FACT_COUNT && getenv("KATA_TEST_TIMES"); i++)
		fprintf(stderr, "%s: %s\n", fact_names[i], f->text[i]);
}

/* By turns in a VMM that waited and in one of its own, some at once. */
static void make_clones(struct world *w, kata_vm_builder *builder, struct facts *facts, const char *rootfs)
{
	kata_vm *alive[ALIVE] = {0};
	char *others[ALIVE], name[16];

	for (unsigned i = 0; i < ALIVE; i++) {
		snprintf(name, sizeof(name), "other%u", i);
		others[i] = fixture_make_raw(&w->m.f, name, 1 << 20);
	}

	for (unsigned i = 0; i < clone_count(); i++) {
		kata_vm **at = &alive[i % ALIVE];
		bool waited = i % 2 == 0;

		if (*at)
			end(w, *at);
		if (waited)
			fixture_assert_ok(kata_template_wait_prestarted(builder, 1, NULL, &w->err), w->err);
		*at = waited ? clone_of(w, builder, NULL, KATA_VM_PRESTARTED) : clone(w, NULL);
		look_into_clone(w, *at, (const char *const[]){rootfs, others[i % ALIVE]}, &facts[i]);
		for (unsigned j = 0; j < i; j++)
			assert_distinct(&facts[i], &facts[j]);
	}
	for (unsigned i = 0; i < ALIVE; i++) {
		if (alive[i])
			end(w, alive[i]);
		free(others[i]);
	}
	print_facts(&facts[clone_count() - 1]);
}

/* Two of them are the same in nothing, and what they write is not in the template's files. */
static void check_clones(struct world *w)
{
	struct facts *facts = calloc(clone_count(), sizeof(*facts));
	kata_template_options o = KATA_TEMPLATE_OPTIONS_INIT;
	kata_vm_builder *builder = NULL;
	struct stage st = {.m = w->m};

	make_rootfs(&st);
	o.path = w->path;
	o.flags = KATA_TEMPLATE_SHARE_MEMORY;
	o.prestarted = 2;
	fixture_assert_ok(kata_vm_builder_new_template(w->m.f.context, w->m.builder, NULL, &o, &builder, &w->err),
			  w->err);
	fixture_assert_ok(kata_template_make(builder, &w->config, NULL, &w->err), w->err);
	make_clones(w, builder, facts, st.rootfs);
	kata_vm_builder_free(builder);
	check_unchanged(w);
	free(facts);
}

Test(template, the_first_build_makes_it_and_clones_start_and_are_each_its_own, .timeout = 1800)
{
	kata_template_status s = {.size = sizeof(s)};
	struct world w;
	kata_op *op = NULL;

	open_world(&w, 0);
	fixture_assert_ok(kata_template_make_begin(w.builder, &w.config, NULL, &op, &w.err), w.err);
	fixture_assert_ok(kata_op_wait(op, &w.err), w.err);
	print_timeline("make", op);
	kata_op_unref(op);
	check_clones(&w);
	fixture_assert_ok(kata_template_get_status(w.builder, &s, &w.err), w.err);
	cr_assert(s.exists && s.is_valid, "%s", s.problem);
	cr_assert_eq(s.clones, clone_count() / 2);
	cr_assert_eq(s.made, 1u);
	fixture_assert_ok(kata_template_remove(w.builder, NULL, &w.err), w.err);
	cr_assert_lt(access(w.path, F_OK), 0);
	close_world(&w);
}

static long count_live(void)
{
	return live;
}

Test(template, made_cloned_and_destroyed_again_and_again_nothing_grows, .timeout = 6000)
{
	struct template_rounds r = {.memory_mib = 128, .count_live = count_live};
	struct machine m;

	machine_init(&m, 0);
	r.f = &m.f;
	r.inner = m.builder;
	r.kernel = m.kernel;
	r.initrd = m.initrd;
	template_rounds_run(&r);
	machine_deinit(&m);
}
