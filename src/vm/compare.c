/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The record that a rebuild was given, against the one that the release left in the VM's own directory.
 *
 * The directory is ours alone (checked when it is taken over), so its released.json is trusted; the record came through
 * the caller's hands. Of one epoch the two must say the same, but for what is asked of the process itself: whether it
 * is paused, and who it is. There is none after the death of an owner; then only the machine can contradict a record.
 *
 * A record that says the same need not be held against the machine as well: nobody has driven it since.
 */
#include "vm/core.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/fd.h"
#include "base/text.h"

#define MEMBER_MAX 160
#define VALUE_MAX 96

struct difference {
	char member[MEMBER_MAX]; /* "record.storages[0].slot" */
	const json_t *given, *trusted;
};

static bool differ(struct difference *d, const json_t *given, const json_t *trusted);

/* With the member's name extended meanwhile; a longer one than fits is cut. */
static bool member_differs(struct difference *d, const char *name, size_t index, const json_t *given,
			   const json_t *trusted)
{
	size_t len = strlen(d->member);

	if (name)
		snprintf(d->member + len, sizeof(d->member) - len, ".%s", name);
	else
		snprintf(d->member + len, sizeof(d->member) - len, "[%zu]", index);
	if (differ(d, given, trusted))
		return true;
	d->member[len] = '\0';
	return false;
}

static bool objects_differ(struct difference *d, json_t *given, json_t *trusted)
{
	const char *key;
	json_t *value;

	json_object_foreach(trusted, key, value)
	{
		if (member_differs(d, key, 0, json_object_get(given, key), value))
			return true;
	}
	json_object_foreach(given, key, value)
	{
		if (!json_object_get(trusted, key) && member_differs(d, key, 0, value, NULL))
			return true;
	}
	return false;
}

static bool arrays_differ(struct difference *d, const json_t *given, const json_t *trusted)
{
	size_t a = json_array_size(given), b = json_array_size(trusted);

	for (size_t i = 0; i < a || i < b; i++)
		if (member_differs(d, NULL, i, json_array_get(given, i), json_array_get(trusted, i)))
			return true;
	return false;
}

static bool differ(struct difference *d, const json_t *given, const json_t *trusted)
{
	if (json_is_object(given) && json_is_object(trusted))
		return objects_differ(d, (json_t *)(uintptr_t)given, (json_t *)(uintptr_t)trusted);
	if (json_is_array(given) && json_is_array(trusted))
		return arrays_differ(d, given, trusted);
	if (json_equal(given, trusted))
		return false;
	d->given = given;
	d->trusted = trusted;
	return true;
}

static void describe(const json_t *value, char out[VALUE_MAX])
{
	char *text = value ? json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY | JSON_ENSURE_ASCII) : NULL;

	snprintf(out, VALUE_MAX, "%s", text ? text : "not there");
	free(text);
}

static int compare(const json_t *given, json_t *trusted, kata_error **err)
{
	static const char *const asked_elsewhere[] = {"state", "epoch", "process"};
	struct difference d = {.member = "record"};
	char is[VALUE_MAX], was[VALUE_MAX];

	for (size_t i = 0; i < kata__array_size(asked_elsewhere); i++)
		if (json_object_set(trusted, asked_elsewhere[i], json_object_get(given, asked_elsewhere[i])) < 0)
			return kata__fail_no_memory(err);
	if (!differ(&d, given, trusted))
		return 0;
	describe(d.given, is);
	describe(d.trusted, was);
	return kata__fail(err, KATA_E_CORRUPT, CALLER,
			  "%s: is %s, but was %s when the machine was released: the record has been changed since",
			  d.member, is, was);
}

/* What the release left, if it is of the epoch of the record given; one that cannot be read says nothing: it is removed
 * with the machine or the rebuild. malloc'ed text, or NULL. */
static char *read_released(const struct kata__vm_op *d, json_t **ret)
{
	char path[PATH_MAX];
	KATA_AUTO(free) char *text = NULL;
	KATA_AUTO_JSON json_t *trusted = NULL;
	uint64_t epoch = 0, given_epoch = 0;
	size_t len = 0;

	snprintf(path, sizeof(path), "%s/released.json", d->vm->dir);
	if (kata__read_file(path, KATA__JSON_RECORD_MAX, &text, &len, NULL) < 0)
		return NULL;
	if (strcmp(text, d->json_owned) == 0)
		return kata__take_ptr(text);
	if (kata__json_parse("released.json", text, len, KATA__JSON_RECORD_MAX, &trusted, NULL) < 0 ||
	    kata__json_get_uint(trusted, "record", "epoch", INT64_MAX, &epoch, NULL) < 0 ||
	    kata__json_get_uint(d->record, "record", "epoch", INT64_MAX, &given_epoch, NULL) < 0 ||
	    epoch != given_epoch)
		return NULL;
	*ret = kata__take_ptr(trusted);
	return kata__take_ptr(text);
}

int kata__vm_step_compare_record(kata_op *op, kata_error **err)
{
	struct kata__vm_op *d = kata__vm_op_data(op);
	KATA_AUTO_JSON json_t *trusted = NULL;
	KATA_AUTO(free) char *text = d->vm->dir ? read_released(d, &trusted) : NULL;

	return trusted ? compare(d->record, trusted, err) : KATA__STEP_DONE;
}

/*
 * The last owner let go in good order (owner.json names nobody) and wrote this very record; who took the machine over
 * since, if any, did not come to the end of it, else the copy would be gone. If that owner had nothing under way that
 * the record does not show, only the guest can have changed what it tells: by letting go of a device.
 */
void kata__vm_look_at_released(kata_op *op)
{
	struct kata__vm_op *d = kata__vm_op_data(op);
	KATA_AUTO_JSON json_t *trusted = NULL;
	KATA_AUTO(free) char *text = NULL;

	if (!d->owner_before || d->owner_before->process.pid)
		return;
	text = read_released(d, &trusted);
	d->is_released_one = text && (!trusted || compare(d->record, trusted, NULL) == 0);
	d->is_as_released = d->is_released_one && !d->owner_before->unsettled && !d->was_saving && !d->frozen &&
			    kata__vm_devices_are_known(d->vm);
}
