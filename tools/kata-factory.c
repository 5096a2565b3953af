/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kata-factory: makes, shows and uses a template from the command line.
 *
 *     kata-factory [OPTIONS] init|status|clone|drain|destroy
 *
 * init makes the template (nothing where it is valid), status says what it is made of and whether that still holds,
 * clone starts clones side by side (in VMMs that were started before, as many as --prestarted says) and says how long
 * each took to its agent's answer, drain ends the machines below the
 * state directory that no living process drives and removes what is left of a making that was killed, destroy drains
 * and removes the template. With --json each line of stdout is one object; errors are an object too, and a line on
 * stderr. Exit status: 0, 1 (failed), 2 (usage).
 */
#include <kata/kata.h>

#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CLONES_MAX 1024u

static struct {
	const char *path, *state_dir, *guest;
	kata_vm_config config;
	uint64_t clones, prestarted;
	bool keep, json, refuse_stale;
} o = {.config = KATA_VM_CONFIG_INIT, .clones = 1};

static kata_context *ctx;
static kata_vm_builder *qemu, *template_;
static kata_agent_builder *agents;

/* ---- telling ---- */

static double ms_since(uint64_t start_ns)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return ((double)t.tv_sec * 1e9 + (double)t.tv_nsec - (double)start_ns) / 1e6;
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void line(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void line(const char *fmt, ...)
{
	va_list ap;

	if (o.json)
		return;
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
}

static void object(const char *event, json_t *take)
{
	char *text;

	if (take)
		json_object_set_new(take, "event", json_string(event));
	text = take && o.json ? json_dumps(take, JSON_SORT_KEYS | JSON_COMPACT) : NULL;
	if (text)
		puts(text);
	free(text);
	json_decref(take);
	fflush(stdout);
}

static int failed(const char *what, kata_error *take_err)
{
	char *text = kata_error_to_text(take_err);

	fprintf(stderr, "kata-factory: %s: %s", what, text ? text : "out of memory\n");
	object("error", json_pack("{s:s, s:s, s:s}", "what", what, "status",
				  kata_status_get_name(kata_error_get_status(take_err)), "message",
				  kata_error_get_message(take_err)));
	free(text);
	kata_error_free(take_err);
	return 1;
}

/* ---- init, status ---- */

static int init(void)
{
	kata_template_status s = {.size = sizeof(s)};
	uint64_t start = now_ns();
	kata_error *err = NULL;

	if (kata_template_make(template_, &o.config, NULL, &err) || kata_template_get_status(template_, &s, &err))
		return failed("init", err);
	line("%s a template of %" PRIu64 " MiB in %.0f ms: %s", s.made ? "made" : "there is", s.memory_bytes >> 20,
	     ms_since(start), o.path);
	object("init", json_pack("{s:b, s:f, s:I, s:s}", "made", s.made > 0, "ms", ms_since(start), "memory_bytes",
				 (json_int_t)s.memory_bytes, "digest", s.digest));
	return 0;
}

static void status_lines(const kata_template_status *s)
{
	time_t made = (time_t)(s->made_ns / 1000000000u);
	char when[32] = "";

	strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", localtime(&made));
	line("template   %s", o.path);
	line("state      %s%s%s", s->is_valid ? "valid" : "not valid", s->problem[0] ? ": " : "", s->problem);
	line("made       %s by libkata %s, digest %.16s...", when, s->library_version, s->digest);
	line("memory     %" PRIu64 " MiB of RAM, %.1f MiB on disk", s->memory_bytes >> 20,
	     (double)s->disk_bytes / (1 << 20));
	line("vmm        %s, accelerator %s, CPU %s", s->vmm_version, s->accelerator, s->cpu_model);
	line("guest      agent %s, kernel %.16s..., initrd %.16s...", s->agent_version, s->kernel_sha256,
	     s->initrd_sha256);
}

/* Other kinds are kata-recover's to show. */
static bool is_machine(const kata_recover_report *report, size_t i)
{
	return strcmp(kata_recover_report_get_kind(report, i), "vm") == 0;
}

static int list_machines(void)
{
	kata_recover_report *report = NULL;
	kata_error *err = NULL;
	size_t n = 0;

	if (kata_recover(ctx, NULL, NULL, &report, &err))
		return failed("looking at the state directory", err);
	for (size_t i = 0; i < kata_recover_report_get_count(report); i++)
		n += is_machine(report, i);
	line("machines   %zu below %s", n, kata_context_get_state_dir(ctx));
	for (size_t i = 0; i < kata_recover_report_get_count(report); i++) {
		const char *verdict = kata_recover_verdict_get_name(kata_recover_report_get_verdict(report, i));

		if (!is_machine(report, i))
			continue;
		line("           %s: %s: %s", kata_recover_report_get_id(report, i), verdict,
		     kata_recover_report_get_text(report, i));
		object("machine", json_pack("{s:s, s:s, s:s}", "id", kata_recover_report_get_id(report, i), "verdict",
					    verdict, "text", kata_recover_report_get_text(report, i)));
	}
	kata_recover_report_free(report);
	return 0;
}

static int status(void)
{
	kata_template_status s = {.size = sizeof(s)};
	kata_error *err = NULL;

	if (kata_template_get_status(template_, &s, &err))
		return failed("status", err);
	if (s.exists)
		status_lines(&s);
	else
		line("template   none at %s%s%s", o.path, s.problem[0] ? ": " : "", s.problem);
	object("status", json_pack("{s:b, s:b, s:s, s:I, s:I, s:I, s:s, s:s, s:s, s:s}", "exists", s.exists, "is_valid",
				   s.is_valid, "problem", s.problem, "made_ns", (json_int_t)s.made_ns, "memory_bytes",
				   (json_int_t)s.memory_bytes, "disk_bytes", (json_int_t)s.disk_bytes, "vmm_version",
				   s.vmm_version, "accelerator", s.accelerator, "agent_version", s.agent_version,
				   "digest", s.digest));
	return list_machines();
}

/* ---- clone ---- */

struct clone {
	kata_vm *vm;
	kata_op *op;
	uint64_t start_ns;
};

static int clone_begin(struct clone *c, kata_error **err)
{
	c->start_ns = now_ns();
	return kata_vm_builder_build(template_, &o.config, NULL, NULL, &c->vm, err) ||
	       kata_vm_start_begin(c->vm, NULL, &c->op, err);
}

/* Its agent was asked within the start: a clone that has started has answered. */
static int clone_end(struct clone *c, kata_error **err)
{
	char *json = NULL;
	double ms;

	if (kata_op_wait(c->op, err))
		return 1;
	ms = (double)(kata_op_get_end_ns(c->op) - c->start_ns) / 1e6;
	line("clone %s  %s  pid %" PRId64 "  ready after %.0f ms", kata_vm_get_id(c->vm),
	     kata_vm_origin_get_name(kata_vm_get_origin(c->vm)), kata_vm_get_pid(c->vm), ms);
	object("clone", json_pack("{s:s, s:s, s:s, s:I, s:f, s:I, s:b}", "id", kata_vm_get_id(c->vm), "uuid",
				  kata_vm_get_uuid(c->vm), "origin", kata_vm_origin_get_name(kata_vm_get_origin(c->vm)),
				  "pid", (json_int_t)kata_vm_get_pid(c->vm), "ms", ms, "identity_reset",
				  (json_int_t)kata_vm_get_identity_reset(c->vm), "kept", o.keep));
	if (o.keep) {
		int rc = kata_vm_release(c->vm, NULL, &json, err);

		free(json); /* released.json in its directory has it too */
		return rc;
	}
	return kata_vm_destroy(c->vm, NULL, err);
}

/* What they cost is not in the times of the clones. */
static int await_prestarted(void)
{
	uint64_t start = now_ns();
	kata_error *err = NULL;

	if (!o.prestarted)
		return 0;
	if (kata_template_make(template_, &o.config, NULL, &err) ||
	    kata_template_wait_prestarted(template_, (uint32_t)o.prestarted, NULL, &err))
		return failed("starting VMMs ahead", err);
	line("%" PRIu64 " VMMs wait for the template's state after %.0f ms", o.prestarted, ms_since(start));
	return 0;
}

static void tell_prestarted(void)
{
	kata_cache_status s = {.size = sizeof(s)};

	if (!o.prestarted || kata_template_get_prestarted(template_, &s, NULL))
		return;
	line("prestarted %u wait, %u are being started; %" PRIu64 " were taken, %" PRIu64 " clones found none", s.ready,
	     s.making, s.taken, s.missed);
	object("prestarted",
	       json_pack("{s:I, s:I, s:I, s:I, s:I, s:s}", "ready", (json_int_t)s.ready, "making", (json_int_t)s.making,
			 "taken", (json_int_t)s.taken, "missed", (json_int_t)s.missed, "failed", (json_int_t)s.failed,
			 "last_error", s.last_error));
}

static int clone_all(void)
{
	struct clone *clones = calloc(o.clones, sizeof(*clones));
	kata_error *err = NULL;
	uint64_t start;
	uint64_t started = 0;
	int bad;

	if (!clones)
		return failed("clone", NULL);
	bad = await_prestarted();
	start = now_ns();
	for (uint64_t i = 0; i < o.clones && !bad; i++)
		if (clone_begin(&clones[i], &err))
			bad = failed("clone", err);
	for (uint64_t i = 0; i < o.clones; i++) {
		err = NULL;
		if (clones[i].op && clone_end(&clones[i], &err))
			bad = failed("clone", err);
		else
			started += clones[i].op != NULL;
		kata_op_unref(clones[i].op);
		kata_vm_unref(clones[i].vm);
	}
	line("%" PRIu64 " of %" PRIu64 " in %.0f ms%s", started, o.clones, ms_since(start),
	     o.keep ? "; they run on: drain ends them" : "");
	tell_prestarted();
	object("clones", json_pack("{s:I, s:f}", "count", (json_int_t)started, "ms", ms_since(start)));
	free(clones);
	return bad;
}

/* ---- drain, destroy ---- */

static int drain(void)
{
	const char *const directories[] = {o.path, NULL};
	kata_recover_options all = KATA_RECOVER_OPTIONS_INIT;
	kata_recover_report *report = NULL;
	size_t ended = 0, owned = 0, left = 0;
	kata_error *err = NULL;

	all.flags = KATA_RECOVER_APPLY | KATA_RECOVER_ATTACHABLE_TOO;
	all.directories = directories; /* what is left of a making, too */
	if (kata_recover(ctx, NULL, &all, &report, &err))
		return failed("drain", err);
	for (size_t i = 0; i < kata_recover_report_get_count(report); i++) {
		kata_recover_verdict v = kata_recover_report_get_verdict(report, i);

		owned += v == KATA_RECOVER_OWNED;
		left += v == KATA_RECOVER_FAILED;
		ended += is_machine(report, i) && kata_recover_report_is_undone(report, i);
		if (v == KATA_RECOVER_FAILED)
			fprintf(stderr, "kata-factory: drain: %s: %s\n", kata_recover_report_get_id(report, i),
				kata_recover_report_get_text(report, i));
	}
	kata_recover_report_free(report);
	line("%zu machines ended, %zu are of living processes, %zu could not be ended", ended, owned, left);
	object("drain", json_pack("{s:I, s:I, s:I}", "ended", (json_int_t)ended, "owned", (json_int_t)owned, "failed",
				  (json_int_t)left));
	return left > 0;
}

static int destroy(void)
{
	int bad = drain();
	kata_error *err = NULL;
	int rc = kata_template_remove(template_, NULL, &err);

	if (rc == KATA_E_NOT_FOUND) {
		kata_error_free(err);
		line("there is no template at %s", o.path);
	} else if (rc) {
		return failed("destroy", err);
	} else {
		line("the template is removed: %s", o.path);
	}
	object("destroy", json_pack("{s:b}", "removed", rc == 0));
	return bad;
}

/* ---- the command line ---- */

static int usage(FILE *to)
{
	fputs("usage: kata-factory [OPTIONS] COMMAND\n"
	      "  init             makes the template, where there is none that is good\n"
	      "  status           what it is made of, and which machines there are\n"
	      "  clone            starts clones, and says how long each took to its agent's answer\n"
	      "  drain            ends every machine below --state-dir that no living process drives, whoever made it\n"
	      "  destroy          drains, and removes the template\n"
	      "  --path DIR       the template's directory (default /dev/shm/kata-template)\n"
	      "  --state-dir DIR  where running machines have theirs (default: the library's)\n"
	      "  --guest DIR      image made by tools/guest-image: vmlinux and initrd (default: its cache)\n"
	      "  --memory MIB     of a machine (default 256)\n"
	      "  --cpus N         (default 1)\n"
	      "  --count N        clone: how many, side by side (default 1)\n"
	      "  --prestarted N   clone: keep so many VMMs waiting for the template's state (default 0)\n"
	      "  --keep           clone: let go of them instead of ending them\n"
	      "  --refuse-stale   a stale template is an error instead of being made anew\n"
	      "  --json           one JSON object a line on stdout\n"
	      "Exit status: 0, 1 (failed), 2 (usage).\n",
	      to);
	return to == stdout ? 0 : 2;
}

static bool read_number(const char *text, uint64_t max, uint64_t *ret)
{
	char *end = NULL;
	unsigned long long n = strtoull(text, &end, 10);

	if (!end || *end || text[0] == '-' || n == 0 || n > max) {
		fprintf(stderr, "kata-factory: '%s' is no number from 1 to %" PRIu64 "\n", text, max);
		return false;
	}
	*ret = n;
	return true;
}

static bool read_options(int argc, char **argv)
{
	static const struct option options[] = {
		{"path", 1, NULL, 'p'},       {"state-dir", 1, NULL, 's'}, {"guest", 1, NULL, 'g'},
		{"memory", 1, NULL, 'm'},     {"cpus", 1, NULL, 'c'},      {"count", 1, NULL, 'n'},
		{"prestarted", 1, NULL, 'w'}, {"keep", 0, NULL, 'k'},      {"refuse-stale", 0, NULL, 'r'},
		{"json", 0, NULL, 'j'},       {"help", 0, NULL, 'h'},      {NULL, 0, NULL, 0},
	};
	uint64_t n = 0;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 'p':
			o.path = optarg;
			break;
		case 's':
			o.state_dir = optarg;
			break;
		case 'g':
			o.guest = optarg;
			break;
		case 'm':
			if (!read_number(optarg, UINT32_MAX, &o.config.memory_mib))
				return false;
			break;
		case 'c':
			if (!read_number(optarg, 1024, &n))
				return false;
			o.config.cpus = (uint32_t)n;
			break;
		case 'n':
			if (!read_number(optarg, CLONES_MAX, &o.clones))
				return false;
			break;
		case 'w':
			if (!read_number(optarg, CLONES_MAX, &o.prestarted))
				return false;
			break;
		case 'k':
			o.keep = true;
			break;
		case 'r':
			o.refuse_stale = true;
			break;
		case 'j':
			o.json = true;
			break;
		case 'h':
			exit(usage(stdout));
		default:
			return false;
		}
	}
	return optind == argc - 1;
}

static void find_guest(char *kernel, char *initrd, size_t size)
{
	const char *cache = getenv("KATA_IMAGE_CACHE"), *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
	char dir[3072];

	if (o.guest)
		snprintf(dir, sizeof(dir), "%s", o.guest);
	else if (cache)
		snprintf(dir, sizeof(dir), "%s/current", cache);
	else
		snprintf(dir, sizeof(dir), "%s%s/libkata/guest/current",
			 xdg    ? xdg
			 : home ? home
				: "",
			 xdg ? "" : "/.cache");
	snprintf(kernel, size, "%s/vmlinux", dir);
	snprintf(initrd, size, "%s/initrd", dir);
	o.config.kernel = kernel;
	o.config.initrd = initrd;
}

static int open_factory(kata_error **err)
{
	kata_context_options co = KATA_CONTEXT_OPTIONS_INIT;
	kata_template_options to = KATA_TEMPLATE_OPTIONS_INIT;

	co.state_dir = o.state_dir;
	to.path = o.path ? o.path : "/dev/shm/kata-template";
	o.path = to.path;
	to.flags = KATA_TEMPLATE_SHARE_MEMORY | (o.refuse_stale ? KATA_TEMPLATE_REFUSE_STALE : 0);
	to.prestarted = (uint32_t)o.prestarted;
	return kata_context_new(&co, &ctx, err) || kata_vm_builder_new_qemu(ctx, NULL, &qemu, err) ||
	       kata_agent_builder_new_direct(ctx, &agents, err) ||
	       kata_vm_builder_new_template(ctx, qemu, agents, &to, &template_, err);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*run)(void);
	} commands[] = {
		{"init", init}, {"status", status}, {"clone", clone_all}, {"drain", drain}, {"destroy", destroy}};
	char kernel[4096], initrd[4096];
	kata_error *err = NULL;
	int rc = 2;

	if (!read_options(argc, argv))
		return usage(stderr);
	find_guest(kernel, initrd, sizeof(kernel));
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]) && rc == 2; i++)
		if (strcmp(argv[optind], commands[i].name) == 0)
			rc = open_factory(&err) ? failed("opening the factory", err) : commands[i].run();
	if (rc == 2)
		fprintf(stderr, "kata-factory: '%s' is no command\n", argv[optind]);
	if (rc == 2)
		usage(stderr);
	kata_vm_builder_free(template_);
	kata_agent_builder_free(agents);
	kata_vm_builder_free(qemu);
	kata_context_free(ctx, NULL);
	return rc;
}
