/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_NIC_H
#define KATA_NIC_H
/*
 * kata_nic: a network interface the caller wants plugged; after the plug, the NIC as the guest sees it. Lifetime and
 * rules as for kata_storage.
 */
#include <stddef.h>
#include <stdint.h>

#include <kata/error.h>
#include <kata/storage.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kata_nic kata_nic;

typedef enum kata_nic_type {
	KATA_NIC_USER = 0, /* the VMM's own NAT (slirp): 10.0.2.0/24, gateway 10.0.2.2; needs no privilege */
	KATA_NIC_TAP = 1   /* a tap in the caller's network namespace: attached to when it exists, else made; one the
			    * library made goes with the VM */
} kata_nic_type;
KATA_API const char *kata_nic_type_get_name(kata_nic_type type);

typedef struct kata_nic_config {
	size_t size;    /* sizeof(kata_nic_config) */
	const char *id; /* as kata_storage_config.id */
	kata_nic_type type;
	const char *tap_name; /* TAP: 1 to 15 bytes, no '/', ' ', '%', not "all" or "default"; NULL: one is generated */
	const char *mac;      /* "02:11:22:33:44:55", unicast; NULL: a random locally administered one */
	uint32_t mtu;         /* bytes, 68 to 65535; 0: 1500 */
} kata_nic_config;
#define KATA_NIC_CONFIG_INIT                                                                                           \
	{                                                                                                              \
		sizeof(kata_nic_config), NULL, KATA_NIC_USER, NULL, NULL, 0                                            \
	}

/* Copies the config. Touches nothing on the host. INVALID: which member, what was wrong. */
KATA_API int kata_nic_new(const kata_nic_config *config, kata_nic **ret_nic, kata_error **err);
KATA_API kata_nic *kata_nic_ref(kata_nic *nic);
KATA_API void kata_nic_unref(kata_nic *nic); /* accepts NULL */

/* Borrowed, constant for its life. */
KATA_API const char *kata_nic_get_id(const kata_nic *nic);
KATA_API kata_nic_type kata_nic_get_type(const kata_nic *nic);
KATA_API const char *kata_nic_get_tap_name(const kata_nic *nic); /* NULL for USER */
KATA_API const char *kata_nic_get_mac(const kata_nic *nic);      /* lower case */
KATA_API uint32_t kata_nic_get_mtu(const kata_nic *nic);

KATA_API kata_device_state kata_nic_get_state(const kata_nic *nic);
/* The PCI path "SS/DD", as kata_storage_get_address(). */
KATA_API size_t kata_nic_get_address(const kata_nic *nic, char *buf, size_t buf_size);

#ifdef __cplusplus
}
#endif
#endif
