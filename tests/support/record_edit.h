/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_TESTS_SUPPORT_RECORD_EDIT_H
#define KATA_TESTS_SUPPORT_RECORD_EDIT_H
/*
 * A record that somebody has changed on its way: `json` with the member at `path` ("storages.0.device.path") set to
 * `value`, itself JSON ("\"/other\"", "3"); NULL removes it. Asserts that all but the last part of the path is there.
 * The caller frees.
 */
char *record_with(const char *json, const char *path, const char *value);
#endif
