/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_EXPORT_H
#define KATA_EXPORT_H
/* Linkage of the public functions; the list of exported symbols is src/libkata.map. */
#if defined(__GNUC__)
#define KATA_API __attribute__((visibility("default")))
#else
#define KATA_API
#endif
#endif
