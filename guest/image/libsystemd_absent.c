/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A libsystemd.so.0 for a guest without systemd. Debian's crun is linked against the real one, for cgroups managed by
 * systemd and for logging to its journal; the guest has neither. The real one would bring five more libraries: 3.4 MiB
 * of the image's memory, and a tenth of the time of every container operation.
 *
 * Every function answers that it cannot: a crun that was told to use systemd fails and says so.
 */
#include <errno.h>
#include <stddef.h>

#define ABSENT(name)                                                                                                   \
	int name(void);                                                                                                \
	int name(void)                                                                                                 \
	{                                                                                                              \
		return -ENOSYS;                                                                                        \
	}
#define ABSENT_POINTER(name)                                                                                           \
	void *name(void);                                                                                              \
	void *name(void)                                                                                               \
	{                                                                                                              \
		return NULL;                                                                                           \
	}

ABSENT(sd_bus_call)
ABSENT(sd_bus_default_system)
ABSENT(sd_bus_default_user)
ABSENT(sd_bus_error_free)
ABSENT(sd_bus_error_get_errno)
ABSENT(sd_bus_match_signal_async)
ABSENT(sd_bus_message_append)
ABSENT(sd_bus_message_append_strv)
ABSENT(sd_bus_message_close_container)
ABSENT(sd_bus_message_new_method_call)
ABSENT(sd_bus_message_open_container)
ABSENT(sd_bus_message_read)
ABSENT(sd_bus_process)
ABSENT(sd_bus_wait)
ABSENT(sd_journal_send_with_location)
ABSENT(sd_notify)
ABSENT(sd_notify_barrier)
ABSENT_POINTER(sd_bus_message_unref)
ABSENT_POINTER(sd_bus_unref)
