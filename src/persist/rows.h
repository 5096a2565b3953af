/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_PERSIST_ROWS_H
#define KATA_PERSIST_ROWS_H
/* Rows and reservations between the public functions, which check what the caller gives, and the implementations. */
#include <kata/rows.h>

#include "persist/fields.h"

/* "kata-row" as text; INVALID as kata__noun_to_json, EXHAUSTED. Caller frees. */
int kata__row_to_json_text(const kata_row *row, char **ret, kata_error **err);
/* Strict. *ret: kata_row_free. CORRUPT, VERSION. */
int kata__row_from_json(kata_row_kind kind, const char *text, size_t len, kata_row **ret, kata_error **err);
/* A row with no texts yet; kata_row_free. NULL when out of memory. */
kata_row *kata__row_new(kata_row_kind kind);
/* What the row belongs to, or NULL. */
const char *kata__row_parent(const kata_row *row);

/* What a row of kata_reservations, or an entry of a file, says: forms and ranges. CORRUPT. */
int kata__reservation_check(const kata_reservation *r, kata_error **err);
/* -1: no such word. */
int kata__reservation_kind_parse(const char *word);
int kata__reservation_state_parse(const char *word);
/* EXISTS, naming what is taken by whom since when. `what` is "tap 'tap7'", "storage 'disk'". */
int kata__reservation_taken(const char *what, const kata_reservation *by, kata_error **err);
#define KATA__RESERVATIONS_MAX 4096 /* of a sandbox */
#endif
