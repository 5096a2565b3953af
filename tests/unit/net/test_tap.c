/* SPDX-License-Identifier: Apache-2.0 */
/* Taps, in a network namespace of the test's own: made, attached to, refused; the host's links are as before. */
#include <criterion/criterion.h>
#include <errno.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "net/nic.h"
#include "support/fixture.h"

static kata_error *err;
static struct census *before;
static const struct census_scope scope = {.what = CENSUS_FDS | CENSUS_LINKS};
static bool ready;

static void setup(void)
{
	ready = fixture_enter_netns() && access("/dev/net/tun", R_OK | W_OK) == 0;
	before = census_take(&scope);
}

static void teardown(void)
{
	struct census *after = census_take(&scope);
	char *diff = census_diff(before, after);

	cr_expect_null(diff, "%s", diff);
	free(diff);
	census_free(before);
	census_free(after);
	error_clear(&err);
}

TestSuite(tap, .init = setup, .fini = teardown, .timeout = 30);

#define NEED_TAPS()                                                                                                    \
	do {                                                                                                           \
		if (!ready)                                                                                            \
			cr_skip_test("needs root, network namespaces and /dev/net/tun");                               \
	} while (0)

static void ip(const char *a, const char *b, const char *c, const char *d, const char *e, const char *f)
{
	const char *argv[] = {"/sbin/ip", a, b, c, d, e, f, NULL};
	char *output = NULL;

	cr_assert_eq(fixture_run(argv, 10000, &output), 0, "ip %s %s %s: %s", a, b, c, output);
	free(output);
}

static struct ifreq query(const char *name, unsigned long request)
{
	int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq r = {0};

	snprintf(r.ifr_name, sizeof(r.ifr_name), "%s", name);
	cr_assert_eq(ioctl(sock, request, &r), 0, "%s: %s", name, strerror(errno));
	close(sock);
	return r;
}

Test(tap, a_missing_one_is_made_up_and_goes_with_its_fd)
{
	bool created = false;
	int fd = -1;

	NEED_TAPS();
	fixture_assert_ok(kata__tap_open("kt0", 9000, &fd, &created, NULL, &err), err);
	cr_assert(created);
	cr_assert_eq(query("kt0", SIOCGIFMTU).ifr_mtu, 9000);
	cr_assert(query("kt0", SIOCGIFFLAGS).ifr_flags & IFF_UP);
	close(fd);
	cr_assert_eq(if_nametoindex("kt0"), 0u);
}

Test(tap, one_that_is_there_is_attached_to_and_stays)
{
	bool created = true;
	int fd = -1;

	NEED_TAPS();
	ip("tuntap", "add", "kt1", "mode", "tap", NULL);
	fixture_assert_ok(kata__tap_open("kt1", 1400, &fd, &created, NULL, &err), err);
	cr_assert(!created);
	close(fd);
	cr_assert_neq(if_nametoindex("kt1"), 0u);
	ip("tuntap", "del", "kt1", "mode", "tap", NULL);
}

Test(tap, an_undo_puts_back_what_was_there)
{
	struct kata__tap_before b;
	bool created = true;
	int fd = -1;

	NEED_TAPS();
	ip("tuntap", "add", "kt6", "mode", "tap", NULL);
	fixture_assert_ok(kata__tap_open("kt6", 1400, &fd, &created, &b, &err), err);
	cr_assert_eq(query("kt6", SIOCGIFMTU).ifr_mtu, 1400);
	fixture_assert_ok(kata__tap_undo("kt6", &fd, &b, &err), err);
	cr_assert_eq(fd, -1);
	cr_assert_eq(query("kt6", SIOCGIFMTU).ifr_mtu, 1500);
	cr_assert_eq(query("kt6", SIOCGIFFLAGS).ifr_flags & IFF_UP, 0);
	fixture_assert_ok(kata__tap_undo("kt6", &fd, &b, &err), err);
	ip("tuntap", "del", "kt6", "mode", "tap", NULL);
}

static int open_fails(const char *name, uint32_t mtu, int status, const char *part)
{
	bool created = false;
	int fd = -7;

	fixture_assert_fails(kata__tap_open(name, mtu, &fd, &created, NULL, &err), status, err);
	cr_assert(strstr(error_text(err), part), "%s", error_text(err));
	cr_assert_eq(fd, -7);
	return 0;
}

Test(tap, one_that_is_held_is_busy)
{
	bool created = false;
	int fd = -1;

	NEED_TAPS();
	fixture_assert_ok(kata__tap_open("kt2", 1500, &fd, &created, NULL, &err), err);
	open_fails("kt2", 1500, KATA_E_BUSY, "held by another");
	close(fd);
}

Test(tap, a_link_that_is_no_tap_is_left_alone)
{
	NEED_TAPS();
	open_fails("lo", 1500, KATA_E_EXISTS, "'lo' is a link, but no tap");
	cr_assert_neq(if_nametoindex("lo"), 0u);
}

Test(tap, a_bridge_of_that_name_is_left_alone)
{
	NEED_TAPS();
	ip("link", "add", "kbr0", "type", "bridge", NULL);
	open_fails("kbr0", 1500, KATA_E_EXISTS, "no tap");
	ip("link", "del", "kbr0", NULL, NULL, NULL);
}

Test(tap, a_tun_of_that_name_is_refused)
{
	NEED_TAPS();
	ip("tuntap", "add", "kt3", "mode", "tun", NULL);
	open_fails("kt3", 1500, KATA_E_EXISTS, "is a tun");
	ip("tuntap", "del", "kt3", "mode", "tun", NULL);
}

Test(tap, an_mtu_the_kernel_refuses_leaves_no_tap)
{
	NEED_TAPS();
	open_fails("kt4", 70000, KATA_E_IO, "does not take an MTU of 70000");
	cr_assert_eq(if_nametoindex("kt4"), 0u);
}

Test(tap, without_the_privilege_it_says_what_would_help)
{
	bool created = false;
	int fd = -1, rc;

	NEED_TAPS();
	cr_assert_eq(seteuid(65534), 0);
	rc = kata__tap_open("kt5", 1500, &fd, &created, NULL, &err);
	cr_assert_eq(seteuid(0), 0);
	cr_assert_eq(rc, KATA_E_PERMISSION, "%s", error_text(err));
	cr_assert_eq(fd, -1);
}
