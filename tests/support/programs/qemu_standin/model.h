/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_TESTS_STANDIN_MODEL_H
#define KATA_TESTS_STANDIN_MODEL_H
/*
 * The machine that the stand-in pretends to be: fd sets, named fds, block nodes, netdevs, devices on buses; with QEMU's
 * rules for what may be added and removed, and its words for what may not.
 */
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct named_fd {
	struct named_fd *next;
	char name[64]; /* of getfd; "" in a set */
	int64_t set;   /* of add-fd; -1 */
	int fd;
};

struct node {
	struct node *next;
	char name[64];
	char driver[32];
	uint64_t size_bytes;
	bool read_only;
	char user[80]; /* the device that has it; "" */
};

struct netdev {
	struct netdev *next;
	char id[64];
	int fd;
	char user[80];
};

struct device {
	struct device *next;
	char id[80]; /* "" for those without one */
	char driver[32];
	char bus[64];
	char drive[64], netdev[64], mac[18];
	char pci_path[16]; /* "SS/00" or "ID:LUN": how the guest finds it; "" */
	int64_t addr, lun; /* on pcie.0, on a SCSI bus; -1 */
	bool unplugging;
};

struct model {
	struct named_fd *fds;
	struct node *nodes;
	struct netdev *netdevs;
	struct device *devices;
	char uuid[37], name[80];
	bool running, started, hot; /* hot: past the command line */
	bool incoming;              /* waits for a state */
	bool postmigrate;           /* stands still since its state was written */
};

/* What QEMU would answer. Empty class: no error. */
struct refusal {
	char class[24];
	char text[256];
};

/* Each returns false with *why set. `take_fd` -1: none came with the command. */
bool model_getfd(struct model *m, const json_t *args, int take_fd, struct refusal *why);
int model_take_fd(struct model *m, const char *name); /* of getfd; the caller's; -1: there is none */
bool model_closefd(struct model *m, const json_t *args, struct refusal *why);
bool model_add_fd(struct model *m, int64_t set, int take_fd, struct refusal *why);
bool model_remove_fd(struct model *m, const json_t *args, struct refusal *why);
bool model_blockdev_add(struct model *m, const json_t *args, struct refusal *why);
bool model_blockdev_del(struct model *m, const json_t *args, struct refusal *why);
bool model_netdev_add(struct model *m, const json_t *args, struct refusal *why);
bool model_netdev_del(struct model *m, const json_t *args, struct refusal *why);
bool model_device_add(struct model *m, const json_t *args, struct refusal *why);
/* Only asks: model_device_remove() does it once the guest has let go. */
bool model_device_del(struct model *m, const json_t *args, struct refusal *why);
void model_device_remove(struct model *m, struct device *d);
struct device *model_find_device(const struct model *m, const char *id);
/* True when the guest's consent is needed for an unplug: not for SCSI disks. */
bool model_is_pci(const struct device *d);
/* For the agent: "blk" by PCI path, "scsi" by "ID:LUN", "net" by MAC. */
bool model_guest_find(const struct model *m, const char *kind, const char *address, char ret_name[32],
		      uint64_t *ret_size);
#endif
