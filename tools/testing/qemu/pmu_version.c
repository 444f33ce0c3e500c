// SPDX-License-Identifier: GPL-2.0-only
/*
 * Has a VMM that runs with LD_PRELOAD=pmu_version.so give its guests the version of
 * architectural performance monitoring that $PMU_VERSION says.  VMMs take what
 * KVM_GET_SUPPORTED_CPUID has, which is 2 at most.
 */
#define _GNU_SOURCE
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ARCH_PERFMON_LEAF 0xa

static void set_version(struct kvm_cpuid2 *cpuid, unsigned int version)
{
	for (unsigned int i = 0; i < cpuid->nent; i++) {
		struct kvm_cpuid_entry2 *entry = &cpuid->entries[i];

		if (entry->function == ARCH_PERFMON_LEAF)
			entry->eax = (entry->eax & ~0xffu) | version;
	}
}

int ioctl(int fd, unsigned long request, ...)
{
	const char *version = getenv("PMU_VERSION");
	va_list arguments;
	void *argument;

	va_start(arguments, request);
	argument = va_arg(arguments, void *);
	va_end(arguments);
	if (request == KVM_SET_CPUID2 && version)
		set_version(argument, atoi(version));
	return syscall(SYS_ioctl, fd, request, argument);
}
