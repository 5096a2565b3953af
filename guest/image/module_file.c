/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/image/module_file.h"

#include <elf.h>
#include <errno.h>
#include <ftw.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SIGNATURE_MARK "~Module signature appended~\n"

/* The kernel's struct module_signature, which ends right before the mark. */
struct signature_trailer {
	uint8_t other[8];
	uint8_t signature_len_be[4];
};

static const char *wanted;
static char found[4096];

void die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fputs("kata-image: ", stderr);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	va_end(ap);
	exit(1);
}

uint8_t *module_file_read(const char *path, size_t *ret_len)
{
	FILE *f = fopen(path, "re");
	uint8_t *data;
	long len;

	if (!f || fseek(f, 0, SEEK_END) != 0 || (len = ftell(f)) < 0)
		die("cannot read %s: %s", path, strerror(errno));
	rewind(f);
	data = malloc((size_t)len + 1);
	if (!data || fread(data, 1, (size_t)len, f) != (size_t)len)
		die("cannot read %s", path);
	fclose(f);
	data[len] = 0;
	*ret_len = (size_t)len;
	return data;
}

/* True where the file name `base` is name + ".ko", taking '-' for '_'. */
static bool is_file_of(const char *base, const char *name)
{
	size_t i = 0;

	for (; name[i]; i++) {
		char a = base[i] == '-' ? '_' : base[i];
		char b = name[i] == '-' ? '_' : name[i];

		if (a != b)
			return false;
	}
	return strcmp(base + i, ".ko") == 0;
}

static int look_at(const char *path, const struct stat *st, int type, struct FTW *where)
{
	if (type != FTW_F || !is_file_of(path + where->base, wanted))
		return 0;
	snprintf(found, sizeof(found), "%s", path);
	return 1;
}

static size_t length_without_signature(const uint8_t *data, size_t len)
{
	const size_t mark_len = sizeof(SIGNATURE_MARK) - 1;
	struct signature_trailer t;
	size_t extra, signature_len;

	if (len < mark_len + sizeof(t) || memcmp(data + len - mark_len, SIGNATURE_MARK, mark_len) != 0)
		return len;
	memcpy(&t, data + len - mark_len - sizeof(t), sizeof(t));
	signature_len = (size_t)t.signature_len_be[0] << 24 | (size_t)t.signature_len_be[1] << 16 |
			(size_t)t.signature_len_be[2] << 8 | t.signature_len_be[3];
	extra = mark_len + sizeof(t) + signature_len;
	return extra < len ? len - extra : len;
}

static void find_info(struct module_file *m, const char *path)
{
	const Elf64_Ehdr *e = (const void *)m->data;
	const Elf64_Shdr *s;
	const char *names;

	if (m->len < sizeof(*e) || memcmp(e->e_ident, ELFMAG, SELFMAG) != 0 ||
	    e->e_shoff + (uint64_t)e->e_shnum * sizeof(*s) > m->len || e->e_shstrndx >= e->e_shnum)
		die("%s is not a module", path);
	s = (const void *)(m->data + e->e_shoff);
	names = (const char *)m->data + s[e->e_shstrndx].sh_offset;
	for (unsigned i = 0; i < e->e_shnum; i++) {
		if (strcmp(names + s[i].sh_name, ".modinfo") != 0 || s[i].sh_offset + s[i].sh_size > m->len)
			continue;
		m->info = (const char *)m->data + s[i].sh_offset;
		m->info_len = s[i].sh_size;
	}
	if (!m->info || m->info[m->info_len - 1] != '\0')
		die("%s has no .modinfo", path);
}

bool module_file_open(struct module_file *m, const char *dir, const char *name)
{
	char root[2048];

	*m = (struct module_file){0};
	snprintf(root, sizeof(root), "%s/kernel", dir);
	wanted = name;
	if (nftw(root, look_at, 16, FTW_PHYS) != 1)
		return false;
	m->data = module_file_read(found, &m->len);
	m->len = length_without_signature(m->data, m->len);
	find_info(m, found);
	return true;
}

void module_file_close(struct module_file *m)
{
	free(m->data);
	*m = (struct module_file){0};
}

const char *module_file_info(const struct module_file *m, const char *key, const char *previous)
{
	const char *p = previous ? previous + strlen(previous) + 1 : m->info;
	size_t key_len = strlen(key);

	for (; p < m->info + m->info_len; p += strlen(p) + 1)
		if (strncmp(p, key, key_len) == 0 && p[key_len] == '=')
			return p + key_len + 1;
	return NULL;
}

bool module_dir_has_builtin(const char *dir, const char *name)
{
	char path[2048], line[512];
	bool has = false;
	FILE *f;

	snprintf(path, sizeof(path), "%s/modules.builtin", dir);
	f = fopen(path, "re");
	while (f && !has && fgets(line, sizeof(line), f)) {
		char *base = strrchr(line, '/');

		line[strcspn(line, "\n")] = '\0';
		has = base && is_file_of(base + 1, name);
	}
	if (f)
		fclose(f);
	return has;
}
