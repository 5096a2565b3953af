/* SPDX-License-Identifier: Apache-2.0 */
/* The list of what was found, which becomes the report. */
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "recover/recover.h"

int kata__finding_add(struct kata__recovery *r, const struct kata__kind *kind, const char *id,
		      kata_recover_verdict verdict, char *take_text, struct kata__finding **ret, kata_error **err)
{
	struct kata__finding *grown = r->findings;
	char *copy = kata__strdup(id);

	if ((r->count & (r->count - 1)) == 0) /* 0, 1, 2, 4, ...: room for as many again */
		grown = reallocarray(r->findings, r->count ? 2 * r->count : 1, sizeof(*grown));
	if (grown)
		r->findings = grown;
	if (!grown || !copy || !take_text) {
		free(copy);
		free(take_text);
		return kata__fail_no_memory(err);
	}
	grown[r->count] = (struct kata__finding){
		.kind = kind, .id = copy, .text = take_text, .verdict = verdict, .depends_on = SIZE_MAX};
	if (ret)
		*ret = &grown[r->count];
	r->count++;
	return 0;
}

void kata__finding_drop_last(struct kata__recovery *r)
{
	struct kata__finding *f = &r->findings[--r->count];

	free(f->id);
	free(f->text);
}

void kata__finding_say(struct kata__finding *f, kata_recover_verdict verdict, char *take_text)
{
	free(f->text);
	f->verdict = verdict;
	f->text = take_text;
}

void kata__finding_say_error(struct kata__finding *f, kata_recover_verdict verdict, kata_error *take_error)
{
	kata__finding_say(f, verdict, kata__strdup(kata_error_get_message(take_error)));
	kata_error_free(take_error);
}

bool kata__finding_is_undoable(const struct kata__finding *f)
{
	return f->verdict == KATA_RECOVER_GONE || f->verdict == KATA_RECOVER_HALF_MADE ||
	       f->verdict == KATA_RECOVER_ORPHAN;
}

bool kata__finding_exists(const struct kata__recovery *r, const struct kata__kind *kind, const char *id)
{
	for (size_t i = 0; i < r->count; i++)
		if (r->findings[i].kind == kind && strcmp(r->findings[i].id, id) == 0)
			return true;
	return false;
}

/* Machines are in order of ids; UUIDs are looked through. */
const struct kata__finding *kata__finding_of_machine(const struct kata__recovery *r, const char *vm_uuid,
						     const char *vm_id)
{
	for (size_t i = 0; vm_uuid[0] && i < r->machine_count; i++)
		if (strcmp(r->findings[i].vm_uuid, vm_uuid) == 0)
			return &r->findings[i];
	for (size_t i = 0; vm_id[0] && i < r->machine_count; i++)
		if (!r->findings[i].vm_uuid[0] && strcmp(r->findings[i].id, vm_id) == 0)
			return &r->findings[i];
	return NULL;
}

void kata__findings_free(struct kata__finding *findings, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		if (findings[i].kind->free)
			findings[i].kind->free(findings[i].data);
		free(findings[i].id);
		free(findings[i].text);
	}
	free(findings);
}
