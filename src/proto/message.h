/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_PROTO_MESSAGE_H
#define KATA_PROTO_MESSAGE_H
/*
 * Unpacking protobuf messages that may be hostile. Use this, never protobuf_c_message_unpack or a generated __unpack:
 * those allocate as much as the bytes ask for (a few bytes on the wire can become a hundred in memory).
 */
#include <protobuf-c/protobuf-c.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/*
 * Unpacks `length` bytes as a message of type `descriptor`. The message copies what it needs; one arena holds it, and
 * whatever it may take is capped: kata__proto_memory_cap(length). Fields the descriptor lacks are kept by protobuf-c
 * and ignored. ret_message: the caller frees it with kata__proto_free(), never with protobuf-c's own functions, and
 * does not add to it. Returns 0; PROTOCOL for bytes that are no such message or that take more memory than the cap;
 * NO_MEMORY. The error's origin is the guest.
 */
int kata__proto_unpack(const ProtobufCMessageDescriptor *descriptor, const void *bytes, size_t length,
		       ProtobufCMessage **ret_message, kata_error **err);
/* NULL is fine. Takes the pointer to any generated message struct. */
void kata__proto_free(void *message);

/* Sixteen times the message while that is little; at most the message and 4 MiB where it is much; 64 KiB more always.
 */
size_t kata__proto_memory_cap(size_t length);
#endif
