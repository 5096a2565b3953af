/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_GUEST_GUEST_H
#define KATA_GUEST_GUEST_H
/* The agent as a whole: what the handlers of calls share. One of it exists; it is used on the loop's thread alone. */
#include <stdbool.h>

#include "base/loop.h"
#include "guest/rpc.h"

#define AGENT_VERSION "0.1.0"
#define SYS "/sys"

struct children;
struct containers;
struct device_waits;
struct oom;
struct runtime;
struct storages;

struct guest {
	struct kata__loop *loop;
	struct rpc *rpc;
	struct rpc_handlers handlers;
	struct device_waits *waits;
	struct children *children;
	struct runtime *runtime;
	struct storages *storages;
	struct containers *containers;
	struct oom *oom;
	bool is_settled;             /* what the boot put off is done */
	uint32_t hotplug_timeout_ms; /* agent.hotplug_timeout=SECONDS on the kernel's command line */
};

/* Each fills in the handlers of its methods. */
void service_health_register(struct guest *guest);
void service_device_register(struct guest *guest);
void service_container_register(struct guest *guest);
void service_process_register(struct guest *guest);
void service_sandbox_register(struct guest *guest);
void service_network_register(struct guest *guest);
void service_identity_register(struct guest *guest);
/* It is settled: whoever waits for that is answered. */
void service_health_settled(struct guest *guest);
/* Memory that is plugged is brought online as it appears. */
int service_sandbox_begin(struct guest *guest, kata_error **err);
#endif
