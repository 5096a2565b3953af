/* SPDX-License-Identifier: Apache-2.0 */
/*
 * accel_probe.c - runs a loop of long-mode code on a vCPU of /dev/kvm and takes the time.
 *
 * The guest is 16 KiB: page tables that map the first 2 MiB onto itself, and a loop that counts SLICE down and then
 * writes to a port, which comes back to us as an exit. The best slice counts: the first ones pay for page faults.
 * Hardware does a slice in about 20 us, exit included; an emulator needs 10 ms and more.
 *
 * The vCPU runs on a thread of its own with every signal blocked. After BUDGET_MS that thread is sent a signal, which
 * KVM_RUN alone can see (KVM_SET_SIGNAL_MASK opens it for the time in the guest): KVM_RUN returns, the signal stays
 * pending on the blocked thread and ends with it. So no handler is installed, and none of the caller's is called.
 */
#include "vm/qemu/accel.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/compiler.h"
#include "base/fd.h"

#define SLICE 10000u
#define SLICES 16
#define BUDGET_MS 50
/* Turns a second. Hardware: two instructions a turn, one turn a cycle or two; nested virtualization pays 50 us an exit
 * and is still at 150 million. */
#define HARDWARE_RATE 500000000.0
#define SLOWEST_USABLE_RATE 20000000.0

#define GUEST_BYTES 0x4000u
#define PML4 0x0000u
#define PDPT 0x1000u
#define PAGE_DIRECTORY 0x2000u
#define CODE 0x3000u

struct probe {
	int kvm, vm, vcpu;
	uint8_t *memory;
	struct kvm_run *run;
	size_t run_bytes;
	const char *failed; /* which call */
	int failed_errno;
	uint64_t best_ns; /* of a slice; 0: none was finished */
	pthread_mutex_t mutex;
	pthread_cond_t ended_cond;
	bool ended;
};

static int failed(struct probe *p, const char *what)
{
	p->failed = what;
	p->failed_errno = errno;
	return -1;
}

/* 2: mov ecx, SLICE / 1: dec ecx / jnz 1b / out 0x80, al / jmp 2b */
static void write_guest(uint8_t *memory)
{
	static const uint8_t code[] = {0xb9,
				       SLICE & 0xff,
				       SLICE >> 8 & 0xff,
				       SLICE >> 16 & 0xff,
				       SLICE >> 24,
				       0xff,
				       0xc9,
				       0x75,
				       0xfc,
				       0xe6,
				       0x80,
				       0xeb,
				       0xf3};
	const uint64_t pml4 = PDPT | 3, pdpt = PAGE_DIRECTORY | 3, pd = 0x83; /* present, writable; 2 MiB page at 0 */

	memcpy(memory + PML4, &pml4, sizeof(pml4));
	memcpy(memory + PDPT, &pdpt, sizeof(pdpt));
	memcpy(memory + PAGE_DIRECTORY, &pd, sizeof(pd));
	memcpy(memory + CODE, code, sizeof(code));
}

static int make_vm(struct probe *p)
{
	struct kvm_userspace_memory_region region = {.memory_size = GUEST_BYTES};

	if (ioctl(p->kvm, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
		return failed(p, "has another API version");
	p->vm = ioctl(p->kvm, KVM_CREATE_VM, 0);
	if (p->vm < 0)
		return failed(p, "cannot create a VM");
	p->memory = mmap(NULL, GUEST_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p->memory == MAP_FAILED)
		return failed(p, "gets no memory");
	write_guest(p->memory);
	region.userspace_addr = (uintptr_t)p->memory;
	if (ioctl(p->vm, KVM_SET_USER_MEMORY_REGION, &region))
		return failed(p, "takes no memory");
	return 0;
}

static int make_vcpu(struct probe *p)
{
	int bytes = ioctl(p->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);

	p->vcpu = ioctl(p->vm, KVM_CREATE_VCPU, 0);
	if (p->vcpu < 0 || bytes <= 0)
		return failed(p, "cannot create a vCPU");
	p->run_bytes = (size_t)bytes;
	p->run = mmap(NULL, p->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, p->vcpu, 0);
	if (p->run == MAP_FAILED)
		return failed(p, "cannot map its vCPU");
	return 0;
}

static int enter_long_mode(struct probe *p)
{
	const struct kvm_segment code = {
		.limit = 0xffffffff, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1};
	const struct kvm_segment data = {
		.limit = 0xffffffff, .selector = 16, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1};
	struct kvm_regs regs = {.rip = CODE, .rflags = 2};
	struct kvm_sregs sregs;

	if (ioctl(p->vcpu, KVM_GET_SREGS, &sregs))
		return failed(p, "does not tell its registers");
	sregs.cr0 = 0x80050033; /* PG, AM, WP, NE, ET, MP, PE */
	sregs.cr3 = PML4;
	sregs.cr4 = 0x20;   /* PAE */
	sregs.efer = 0x500; /* LME, LMA */
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	if (ioctl(p->vcpu, KVM_SET_SREGS, &sregs) || ioctl(p->vcpu, KVM_SET_REGS, &regs))
		return failed(p, "refuses long mode");
	return 0;
}

/* The kick is open while in the guest. The kernel's mask has 8 bytes. */
static int open_signal(struct probe *p)
{
	union {
		struct kvm_signal_mask mask;
		char space[sizeof(struct kvm_signal_mask) + 8];
	} m = {.mask.len = 8};
	const uint64_t blocked = ~(UINT64_C(1) << (SIGUSR1 - 1));

	memcpy(m.mask.sigset, &blocked, sizeof(blocked));
	return ioctl(p->vcpu, KVM_SET_SIGNAL_MASK, &m) ? failed(p, "takes no signal mask") : 0;
}

static int run_slices(struct probe *p)
{
	uint64_t start = kata__now_ns();

	for (int i = 0; i < SLICES; i++) {
		uint64_t now;

		if (ioctl(p->vcpu, KVM_RUN, 0))
			return errno == EINTR ? 0 : failed(p, "does not run a vCPU");
		if (p->run->exit_reason != KVM_EXIT_IO) {
			errno = 0;
			return failed(p, "stops a plain loop");
		}
		now = kata__now_ns();
		if (!p->best_ns || now - start < p->best_ns)
			p->best_ns = now - start;
		start = now;
	}
	return 0;
}

static void *vcpu_thread(void *user)
{
	struct probe *p = user;

	if (make_vm(p) == 0 && make_vcpu(p) == 0 && enter_long_mode(p) == 0 && open_signal(p) == 0)
		(void)run_slices(p);
	pthread_mutex_lock(&p->mutex);
	p->ended = true;
	pthread_cond_signal(&p->ended_cond);
	pthread_mutex_unlock(&p->mutex);
	return NULL;
}

static void wait_or_kick(struct probe *p, pthread_t thread)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	at.tv_nsec += BUDGET_MS * 1000000L;
	at.tv_sec += at.tv_nsec / 1000000000L;
	at.tv_nsec %= 1000000000L;
	pthread_mutex_lock(&p->mutex);
	while (!p->ended)
		if (pthread_cond_timedwait(&p->ended_cond, &p->mutex, &at) == ETIMEDOUT)
			break;
	if (!p->ended)
		pthread_kill(thread, SIGUSR1);
	pthread_mutex_unlock(&p->mutex);
	pthread_join(thread, NULL);
}

/* The thread is born with every signal blocked: it inherits the mask. */
static int run_thread(struct probe *p)
{
	pthread_condattr_t attr;
	sigset_t all, old;
	pthread_t thread;
	int rc;

	pthread_mutex_init(&p->mutex, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&p->ended_cond, &attr);
	pthread_condattr_destroy(&attr);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = pthread_create(&thread, NULL, vcpu_thread, p);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc == 0)
		wait_or_kick(p, thread);
	pthread_cond_destroy(&p->ended_cond);
	pthread_mutex_destroy(&p->mutex);
	return rc;
}

static void clean_up(struct probe *p)
{
	if (p->run != MAP_FAILED)
		munmap(p->run, p->run_bytes);
	kata__close_fd(&p->vcpu);
	kata__close_fd(&p->vm);
	if (p->memory != MAP_FAILED)
		munmap(p->memory, GUEST_BYTES);
	kata__close_fd(&p->kvm);
}

static void judge(const struct probe *p, const char *device, struct kata__accel *ret)
{
	double rate = p->best_ns ? SLICE * 1e9 / (double)p->best_ns : 0;

	if (p->failed) {
		snprintf(ret->reason, sizeof(ret->reason), "%s opens but %s%s%s: using tcg", device, p->failed,
			 p->failed_errno ? ": " : "", p->failed_errno ? strerror(p->failed_errno) : "");
		return;
	}
	ret->measured = true;
	ret->kvm = rate >= SLOWEST_USABLE_RATE;
	if (ret->kvm)
		snprintf(ret->reason, sizeof(ret->reason), "%s runs guest code at the CPU's speed", device);
	else if (rate > 0)
		snprintf(ret->reason, sizeof(ret->reason),
			 "%s opens but runs guest code about %.0f times too slowly (emulated): using tcg", device,
			 HARDWARE_RATE / rate);
	else
		snprintf(ret->reason, sizeof(ret->reason),
			 "%s opens but did not run %u turns of a loop in %d ms (emulated): using tcg", device, SLICE,
			 BUDGET_MS);
}

void kata__accel_probe(const char *device, struct kata__accel *ret)
{
	struct probe p = {.kvm = -1, .vm = -1, .vcpu = -1, .memory = MAP_FAILED, .run = MAP_FAILED};
	int rc;

	*ret = (struct kata__accel){0};
	p.kvm = open(device, O_RDWR | O_CLOEXEC);
	if (p.kvm < 0) {
		snprintf(ret->reason, sizeof(ret->reason), "%s does not open: %s: using tcg", device, strerror(errno));
		return;
	}
	rc = run_thread(&p);
	clean_up(&p);
	if (rc)
		snprintf(ret->reason, sizeof(ret->reason), "%s was not tried: no thread: %s: using tcg", device,
			 strerror(rc));
	else
		judge(&p, device, ret);
}
