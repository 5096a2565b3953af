/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <string.h>

#include "guest/uevent.h"

#define PARSE(text, e) uevent_parse(text, sizeof(text), e)

Test(uevent, names_action_path_and_subsystem)
{
	struct uevent e;

	cr_assert(PARSE("add@/devices/pci0000:00/0000:00:08.0/virtio5/block/vda\0ACTION=add\0"
			"DEVPATH=/devices/pci0000:00/0000:00:08.0/virtio5/block/vda\0SUBSYSTEM=block\0MAJOR=254",
			&e));
	cr_assert_str_eq(e.action, "add");
	cr_assert_str_eq(e.devpath, "/devices/pci0000:00/0000:00:08.0/virtio5/block/vda");
	cr_assert_str_eq(e.subsystem, "block");
}

Test(uevent, leaves_what_is_absent_empty)
{
	struct uevent e;

	cr_assert(PARSE("remove@/module/x\0ACTION=remove\0DEVPATH=/module/x", &e));
	cr_assert_str_eq(e.subsystem, "");
}

Test(uevent, refuses_a_message_that_does_not_end)
{
	static const char text[] = {'a', 'd', 'd', '@', '/', 'x'};
	struct uevent e;

	cr_assert_not(uevent_parse(text, sizeof(text), &e));
	cr_assert_not(uevent_parse(text, 0, &e));
}

Test(uevent, refuses_what_udev_sends)
{
	struct uevent e;

	cr_assert_not(PARSE("libudev\0\xfe\xed\xca\xfe", &e));
}

Test(uevent, refuses_a_message_without_a_path)
{
	struct uevent e;

	cr_assert_not(PARSE("add@/x\0ACTION=add\0SUBSYSTEM=block", &e));
	cr_assert_not(PARSE("add@/x\0DEVPATH=/x", &e));
}
