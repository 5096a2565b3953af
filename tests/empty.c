/* SPDX-License-Identifier: Apache-2.0 */
/* What the header tests compile, with one public header before it. */
int kata_tests_empty;
