// SPDX-License-Identifier: GPL-2.0-only
/*
 * A workload for branch profiles: a linear feedback shift register decides which
 * way the branches between a few small functions go, so that each profile of
 * enough samples shows the same shares, and each kind of near branch occurs.
 *
 *   br_instr [SEED [STEPS [SYSCALL]]]
 *
 * With SYSCALL, every SYSCALL steps there is a system call, so that branches of the
 * kernel and far branches are around as well.
 *
 * The same arguments execute the same instructions; the last line printed tells
 * two runs of the same work from each other.
 */
#define _DEFAULT_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define noinline __attribute__((noinline, noclone))

/* x^32 + x^22 + x^2 + x + 1 in Galois form, period 2^32 - 1 */
#define TAPS 0x80200003u

/* Keeps the compiler from turning the branch around it into arithmetic. */
#define BRANCH_BODY(x) __asm__ volatile("" : "+r"(x))

struct walk {
	uint32_t state;
	uint32_t sum;
};

/* One step of the register, by a conditional branch on its lowest bit. */
static noinline uint32_t lfsr_cond(uint32_t state)
{
	if (state & 1) {
		state = (state >> 1) ^ TAPS;
		BRANCH_BODY(state);
	} else {
		state >>= 1;
		BRANCH_BODY(state);
	}
	return state;
}

/* Steps on while the register is in its lower half. */
static noinline uint32_t cmp_end(uint32_t state)
{
	do {
		state = lfsr_cond(state);
	} while (state < 0x80000000u);
	return state;
}

static noinline void add_low(struct walk *walk)
{
	walk->sum += walk->state & 0xff;
}

static noinline void add_high(struct walk *walk)
{
	walk->sum += walk->state >> 24;
}

/* An indirect jump: the cases differ too much for a table of values. */
static noinline void mix(struct walk *walk)
{
	switch ((walk->state >> 3) & 7) {
	case 0:
		walk->sum += 3;
		BRANCH_BODY(walk->sum);
		break;
	case 1:
		walk->sum ^= walk->state;
		BRANCH_BODY(walk->sum);
		break;
	case 2:
		walk->sum -= 7;
		BRANCH_BODY(walk->sum);
		break;
	case 3:
		walk->sum *= 5;
		BRANCH_BODY(walk->sum);
		break;
	case 4:
		walk->sum = ~walk->sum;
		BRANCH_BODY(walk->sum);
		break;
	case 5:
		walk->sum += walk->sum >> 16;
		BRANCH_BODY(walk->sum);
		break;
	case 6:
		walk->sum ^= walk->sum << 3;
		BRANCH_BODY(walk->sum);
		break;
	default:
		/* The one near relative jump that no compiler can do away with. */
		__asm__ volatile goto("jmp %l[out]" : : : : out);
		walk->sum++;
out:
		break;
	}
}

/* Volatile: the compiler must not guess the targets. */
static void (*volatile add[])(struct walk *walk) = { add_low, add_high };

static uint32_t number(const char *text, const char *what, uint32_t min)
{
	char *end;
	uintmax_t value;

	errno = 0;
	value = strtoumax(text, &end, 0);
	if (errno || end == text || *end || value < min || value > UINT32_MAX) {
		fprintf(stderr, "br_instr: %s is %s, must be a number from %" PRIu32
			" to %" PRIu32 "\n", what, text, min, UINT32_MAX);
		exit(2);
	}
	return (uint32_t)value;
}

/*
 * Small seeds are a few steps of the register apart: 4, 2 and 1 are the same walk.
 * This bijection puts them far from each other, and 0 to 0.
 */
static uint32_t spread(uint32_t seed)
{
	seed = (seed ^ seed >> 16) * 0x85ebca6bu;
	seed = (seed ^ seed >> 13) * 0xc2b2ae35u;
	return seed ^ seed >> 16;
}

static inline void step(struct walk *walk)
{
	walk->state = cmp_end(walk->state);
	add[(walk->state >> 8) & 1](walk);
	mix(walk);
}

int main(int argc, char **argv)
{
	/* A register of zero stays zero. */
	struct walk walk = {
		.state = spread(argc > 1 ? number(argv[1], "SEED", 1) : 1),
	};
	uint32_t steps = argc > 2 ? number(argv[2], "STEPS", 0) : 1000000;
	uint32_t period = argc > 3 ? number(argv[3], "SYSCALL", 1) : 0;
	uint32_t i;

	if (argc > 4) {
		fprintf(stderr, "usage: br_instr [SEED [STEPS [SYSCALL]]]\n");
		return 2;
	}
	if (period) {
		for (i = 0; i < steps; i++) {
			step(&walk);
			if (i % period == 0)
				syscall(SYS_getppid);
		}
	} else {
		for (i = 0; i < steps; i++)
			step(&walk);
	}
	printf("%" PRIu32 " steps: register %08" PRIx32 " sum %08" PRIx32 "\n",
	       steps, walk.state, walk.sum);
	return 0;
}
