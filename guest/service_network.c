/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/guest.h"
void service_network_register(struct guest *guest)
{
}
