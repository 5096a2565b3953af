/* SPDX-License-Identifier: Apache-2.0 */
/*
 * accel.c - the choice of the accelerator, and its cache.
 *
 * The cache is one small JSON file, accelerator.json. Whatever does not read back exactly as it is written is measured
 * anew.
 */
#include "vm/qemu/accel.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/json.h"
#include "base/process.h"
#include "base/text.h"

#define DEVICE "/dev/kvm"
#define CACHE_NAME "accelerator.json"
#define CACHE_MAX 4096u

/* Boot id and identity of the device: another kernel or another module is another verdict. */
static char *make_key(const struct stat *st)
{
	char boot[37];

	if (kata__boot_id(boot, NULL))
		return NULL;
	return kata__format("%s %llx %llx %lld.%09ld", boot, (unsigned long long)st->st_rdev,
			    (unsigned long long)st->st_ino, (long long)st->st_ctim.tv_sec, st->st_ctim.tv_nsec);
}

static int parse_cache(const json_t *o, const char *key, struct kata__accel *ret)
{
	const char *cached_key, *reason;
	bool kvm;

	if (kata__json_get_string(o, CACHE_NAME, "key", &cached_key, NULL) || strcmp(cached_key, key) != 0 ||
	    kata__json_get_bool(o, CACHE_NAME, "kvm", &kvm, NULL) ||
	    kata__json_get_string(o, CACHE_NAME, "reason", &reason, NULL) || strlen(reason) >= sizeof(ret->reason))
		return -1;
	*ret = (struct kata__accel){.kvm = kvm, .measured = true};
	snprintf(ret->reason, sizeof(ret->reason), "%s", reason);
	return 0;
}

static int read_cache(const char *path, const char *key, struct kata__accel *ret)
{
	KATA_AUTO(free) char *text = NULL;
	KATA_AUTO_JSON json_t *o = NULL;
	size_t len;

	if (kata__read_file(path, CACHE_MAX, &text, &len, NULL) ||
	    kata__json_parse(CACHE_NAME, text, len, CACHE_MAX, &o, NULL))
		return -1;
	return parse_cache(o, key, ret);
}

/* A cache that cannot be written costs the next one 0.1 s. */
static void write_cache(const char *path, const char *key, const struct kata__accel *a)
{
	KATA_AUTO_JSON json_t *o = json_pack("{s:s, s:b, s:s}", "key", key, "kvm", a->kvm, "reason", a->reason);
	KATA_AUTO(free) char *text = o ? kata__json_dump(o) : NULL;

	if (text)
		(void)kata__write_file_atomic(path, text, strlen(text), NULL);
}

static void probe_cached(const char *cache_dir, const struct stat *st, struct kata__accel *ret)
{
	KATA_AUTO(free) char *key = make_key(st);
	KATA_AUTO(free) char *path = kata__format("%s/%s", cache_dir, CACHE_NAME);

	if (key && path && read_cache(path, key, ret) == 0)
		return;
	kata__accel_probe(DEVICE, ret);
	if (key && path && ret->measured)
		write_cache(path, key, ret);
}

static bool may_use(const struct stat *st, uid_t uid, gid_t gid)
{
	mode_t bits = st->st_mode;

	if (uid == 0)
		return true;
	if (st->st_uid == uid)
		return (bits & 0600) == 0600;
	if (st->st_gid == gid)
		return (bits & 0060) == 0060;
	return (bits & 0006) == 0006;
}

static void find_out(const char *cache_dir, uid_t uid, gid_t gid, struct kata__accel *ret)
{
	struct stat st;

	*ret = (struct kata__accel){0};
	if (stat(DEVICE, &st) || !S_ISCHR(st.st_mode)) {
		snprintf(ret->reason, sizeof(ret->reason), DEVICE " is not there: using tcg");
		return;
	}
	probe_cached(cache_dir, &st, ret);
	if (ret->kvm && !may_use(&st, uid, gid)) {
		ret->kvm = false;
		snprintf(ret->reason, sizeof(ret->reason),
			 DEVICE " works, but uid %u gid %u may not open it: using tcg", (unsigned)uid, (unsigned)gid);
	}
}

int kata__accel_choose(kata_accelerator wanted, const char *cache_dir, uid_t uid, gid_t gid, struct kata__accel *ret,
		       kata_error **err)
{
	if (wanted == KATA_ACCELERATOR_TCG) {
		*ret = (struct kata__accel){.reason = "asked for"};
		return 0;
	}
	find_out(cache_dir, uid, gid, ret);
	if (wanted == KATA_ACCELERATOR_KVM && !ret->kvm)
		return kata__fail(err, KATA_E_UNSUPPORTED, HOST,
				  "qemu_options.accelerator: KVM was asked for, but %.*s",
				  (int)strcspn(ret->reason, "\n"), ret->reason);
	return 0;
}

gid_t kata__accel_group(const char *device, gid_t fallback)
{
	struct stat st;

	if (stat(device, &st) || !S_ISCHR(st.st_mode) || (st.st_mode & 0060) != 0060 || st.st_gid == 0)
		return fallback;
	return st.st_gid;
}
