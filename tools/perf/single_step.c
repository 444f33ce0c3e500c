// SPDX-License-Identifier: GPL-2.0-only
/*
 * Steps through a child as a debugger does, first by instructions, then by branches, and
 * counts: each instruction or branch stops the child once, a system call too.
 */
#define _DEFAULT_SOURCE
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef PTRACE_SINGLEBLOCK
#define PTRACE_SINGLEBLOCK	33
#endif

#define ROUNDS		100
#define INSTRUCTIONS	(7 * ROUNDS + 4)
/* In the last round JNZ is not taken, but JMP is behind it. */
#define BRANCHES	(4 * ROUNDS)

/* Returns ROUNDS times the number of the process. */
long work(void);
void work_end(void);

__asm__(".pushsection .text\n"
	".globl work, work_end\n"
	"work:\n\t"
	"xor %r8d, %r8d\n\t"
	"mov $100, %r9d\n"
	"1:\n\t"
	"mov $39, %eax\n\t"	/* getpid() */
	"syscall\n\t"
	"add %rax, %r8\n\t"
	"call 2f\n\t"
	"dec %r9d\n\t"
	"jnz 1b\n\t"
	"mov %r8, %rax\n\t"
	"jmp work_end\n"
	"2:\n\t"
	"ret\n"
	"work_end:\n\t"
	"ret\n\t"
	".popsection");

static void die(const char *what)
{
	fprintf(stderr, "single_step: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* Lets the child go on until its next stop, which is for SIGTRAP. */
static void step(pid_t child, int request)
{
	int status;

	if (ptrace(request, child, 0, 0))
		die("ptrace");
	if (waitpid(child, &status, 0) != child)
		die("waitpid");
	if (!WIFSTOPPED(status) || WSTOPSIG(status) != SIGTRAP) {
		fprintf(stderr, "single_step: status %#x instead of a stop\n", status);
		exit(1);
	}
}

/* Returns how many stops there are until the child comes to this place. */
static int steps(pid_t child, int request, void (*place)(void))
{
	for (int number = 0; number < 10 * INSTRUCTIONS; number++) {
		long rip;

		errno = 0;
		rip = ptrace(PTRACE_PEEKUSER, child, offsetof(struct user_regs_struct, rip), 0);
		if (errno)
			die("ptrace");
		if (rip == (long)place)
			return number;
		step(child, request);
	}
	fprintf(stderr, "single_step: the child does not come to %p\n", (void *)place);
	exit(1);
}

static int run(const char *what, int request, int expected)
{
	pid_t child = fork();
	int status, number;

	if (child < 0)
		die("fork");
	if (!child) {
		if (ptrace(PTRACE_TRACEME, 0, 0, 0))
			die("ptrace");
		raise(SIGTRAP);
		_exit(work() != ROUNDS * (long)getpid());
	}
	if (waitpid(child, &status, 0) != child)
		die("waitpid");
	steps(child, PTRACE_SINGLESTEP, (void (*)(void))work);
	number = steps(child, request, work_end);
	if (ptrace(PTRACE_CONT, child, 0, 0) || waitpid(child, &status, 0) != child)
		die("the child does not go on");
	printf("%d stops at %d %s, then status %#x\n", number, expected, what, status);
	return number != expected || status;
}

int main(void)
{
	return run("instructions", PTRACE_SINGLESTEP, INSTRUCTIONS) |
	       run("branches", PTRACE_SINGLEBLOCK, BRANCHES);
}
