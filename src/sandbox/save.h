/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_SANDBOX_SAVE_H
#define KATA_SANDBOX_SAVE_H
/* What a saved sandbox has beside its machine: its record, as a part of the snapshot. */
#define KATA__SANDBOX_PART "x-sandbox"
#endif
