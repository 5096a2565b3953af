/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kata-mkinitrd -m MODULE_DIR < RECIPE > INITRD: writes the guest's initramfs as a newc cpio archive.
 *
 * Model: a recipe is lines of words, carried out in order:
 *     dir PATH MODE | file PATH SOURCE MODE | link PATH TARGET | node PATH MODE MAJOR MINOR | module GROUP NAME
 * A module goes in as /lib/modules/NAME.ko after the modules it depends on. /lib/modules/list names all of them in that
 * order, each with its group (a dependency joins the group that asked first); /lib/modules/alias has "PATTERN NAME"
 * lines.
 *
 * Invariants: 1. no root and no device is needed: owners and nodes are mere headers. 2. the same inputs give the same
 * bytes: owner 0, time 0, inodes counted up. 3. a module's appended signature is left out: the kernel does not enforce
 * it, and checking it under emulation takes longer than loading the module.
 *
 * What it does not do: compress, walk directories, resolve libraries.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "guest/image/module_file.h"

#define MAX_MODULES 256

static unsigned next_inode = 1;
static size_t written;
static const char *module_dir;
static char *packed[MAX_MODULES];
static size_t packed_count;
static FILE *list_out, *alias_out;

static void put(const void *data, size_t len)
{
	if (len && fwrite(data, 1, len, stdout) != len)
		die("cannot write the archive: %s", strerror(errno));
	written += len;
}

static void pad4(void)
{
	static const char zero[4];

	put(zero, (4 - written % 4) % 4);
}

struct node {
	const char *path; /* with a leading '/' */
	unsigned mode;
	unsigned major, minor;
	const void *data;
	size_t len;
};

static void put_node(const struct node *n)
{
	const char *name = n->path[0] == '/' ? n->path + 1 : n->path;
	char header[111];
	size_t name_len = strlen(name) + 1;

	snprintf(header, sizeof(header), "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X", next_inode++,
		 n->mode, 0, 0, 1, 0, (unsigned)n->len, 0, 0, n->major, n->minor, (unsigned)name_len, 0);
	put(header, 110);
	put(name, name_len);
	pad4();
	put(n->data, n->len);
	pad4();
}

static void put_file(const char *path, const char *source, unsigned mode)
{
	size_t len;
	uint8_t *data = module_file_read(source, &len);

	put_node(&(struct node){.path = path, .mode = S_IFREG | mode, .data = data, .len = len});
	free(data);
}

static bool is_packed(const char *name)
{
	for (size_t i = 0; i < packed_count; i++)
		if (strcmp(packed[i], name) == 0)
			return true;
	return false;
}

static void put_module(const char *group, const char *name);

static void put_dependencies(const struct module_file *m, const char *group)
{
	const char *depends = module_file_info(m, "depends", NULL);
	char *copy, *save = NULL;

	if (!depends || !(copy = strdup(depends)))
		return;
	for (char *d = strtok_r(copy, ",", &save); d; d = strtok_r(NULL, ",", &save))
		put_module(group, d);
	free(copy);
}

static void put_module(const char *group, const char *name)
{
	struct module_file m;
	char path[128];
	const char *alias = NULL;

	if (is_packed(name))
		return;
	if (packed_count == MAX_MODULES)
		die("more than %d modules", MAX_MODULES);
	if (!module_file_open(&m, module_dir, name)) {
		if (module_dir_has_builtin(module_dir, name))
			return;
		die("module '%s' is neither below %s nor built into the kernel", name, module_dir);
	}
	packed[packed_count++] = strdup(name);
	put_dependencies(&m, group);
	snprintf(path, sizeof(path), "/lib/modules/%s.ko", name);
	put_node(&(struct node){.path = path, .mode = S_IFREG | 0644, .data = m.data, .len = m.len});
	fprintf(list_out, "%s %s\n", group, name);
	while ((alias = module_file_info(&m, "alias", alias)))
		fprintf(alias_out, "%s %s\n", alias, name);
	module_file_close(&m);
}

static unsigned number(const char *text, int base)
{
	char *end;
	unsigned long v = text ? strtoul(text, &end, base) : 0;

	if (!text || *end)
		die("'%s' is not a number", text ? text : "");
	return (unsigned)v;
}

static void carry_out(char *line, unsigned line_number)
{
	char *w[6] = {NULL};
	char *save = NULL;
	size_t n = 0;

	for (char *t = strtok_r(line, " \t\n", &save); t && n < 6; t = strtok_r(NULL, " \t\n", &save))
		w[n++] = t;
	if (n == 0 || w[0][0] == '#')
		return;
	if (strcmp(w[0], "dir") == 0 && n == 3)
		put_node(&(struct node){.path = w[1], .mode = S_IFDIR | number(w[2], 8)});
	else if (strcmp(w[0], "file") == 0 && n == 4)
		put_file(w[1], w[2], number(w[3], 8));
	else if (strcmp(w[0], "link") == 0 && n == 3)
		put_node(&(struct node){.path = w[1], .mode = S_IFLNK | 0777, .data = w[2], .len = strlen(w[2])});
	else if (strcmp(w[0], "node") == 0 && n == 5)
		put_node(&(struct node){.path = w[1],
					.mode = S_IFCHR | number(w[2], 8),
					.major = number(w[3], 10),
					.minor = number(w[4], 10)});
	else if (strcmp(w[0], "module") == 0 && n == 3)
		put_module(w[1], w[2]);
	else
		die("line %u: not a dir, file, link, node or module line", line_number);
}

static void put_text(const char *path, FILE *f, char **text, size_t *len)
{
	if (fclose(f) != 0)
		die("out of memory");
	put_node(&(struct node){.path = path, .mode = S_IFREG | 0644, .data = *text, .len = *len});
	free(*text);
}

int main(int argc, char **argv)
{
	char *list_text = NULL, *alias_text = NULL, *line = NULL;
	size_t list_len = 0, alias_len = 0, line_size = 0;

	if (argc != 3 || strcmp(argv[1], "-m") != 0)
		die("usage: kata-mkinitrd -m MODULE_DIR < RECIPE > INITRD");
	module_dir = argv[2];
	list_out = open_memstream(&list_text, &list_len);
	alias_out = open_memstream(&alias_text, &alias_len);
	if (!list_out || !alias_out)
		die("out of memory");

	for (unsigned number_of_line = 1; getline(&line, &line_size, stdin) >= 0; number_of_line++)
		carry_out(line, number_of_line);
	put_text("/lib/modules/list", list_out, &list_text, &list_len);
	put_text("/lib/modules/alias", alias_out, &alias_text, &alias_len);
	put_node(&(struct node){.path = "/TRAILER!!!"});

	free(line);
	for (size_t i = 0; i < packed_count; i++)
		free(packed[i]);
	if (fflush(stdout) != 0)
		die("cannot write the archive: %s", strerror(errno));
	return 0;
}
