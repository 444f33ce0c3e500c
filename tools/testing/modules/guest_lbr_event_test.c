// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests perf's guest LBR event alone, without KVM and without guest_lbr: what
 * its owner is told and when, who wins the LBR facility, and that nobody sees
 * records of somebody else.  Legacy LBR of 32 records with LBR_INFO_x.
 *
 * The tests run at insmod, print KTAP to the kernel log, and use a thread that
 * is bound to the last CPU in place of a vCPU's.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/cleanup.h>
#include <linux/delay.h>
#include <linux/kthread.h>
#include <linux/kvm_vmx_lbr.h>
#include <linux/module.h>
#include <linux/perf_event.h>
#include <linux/spinlock.h>

#include <asm/msr.h>

#define DEPTH	32
#define SELECT	1	/* as left by the guests here */
#define TOS	7

/* The guest's side: an owner whose records are never changed by a guest. */
struct owner {
	struct perf_guest_lbr_owner callbacks;
	u64 base;		/* where its branches are */
	raw_spinlock_t lock;
	bool has;
	int gained, intact, lost, synced;
	int wrong;		/* records or calls that were not as expected */
};

static void write_records(u64 base)
{
	for (int i = 0; i < DEPTH; i++) {
		wrmsrl(MSR_LBR_NHM_FROM + i, base + i);
		wrmsrl(MSR_LBR_NHM_TO + i, base + DEPTH + i);
		wrmsrl(MSR_LBR_INFO_0 + i, i);
	}
	wrmsrl(MSR_LBR_TOS, TOS);
	wrmsrl(MSR_LBR_SELECT, SELECT);
}

static int differs(u32 msr, u64 expected)
{
	u64 value;

	rdmsrl(msr, value);
	return value != expected;
}

static int count_wrong_records(u64 base)
{
	int wrong = differs(MSR_LBR_TOS, TOS) + differs(MSR_LBR_SELECT, SELECT);

	for (int i = 0; i < DEPTH; i++) {
		wrong += differs(MSR_LBR_NHM_FROM + i, base + i);
		wrong += differs(MSR_LBR_NHM_TO + i, base + DEPTH + i);
		wrong += differs(MSR_LBR_INFO_0 + i, i);
	}
	return wrong;
}

static void gained(void *data, u32 intact)
{
	struct owner *owner = data;

	guard(raw_spinlock)(&owner->lock);
	owner->wrong += owner->has;
	owner->has = true;
	owner->gained++;
	owner->intact += intact;
	if (intact)
		owner->wrong += count_wrong_records(owner->base);
	else
		write_records(owner->base);
}

static void lost(void *data)
{
	struct owner *owner = data;

	guard(raw_spinlock)(&owner->lock);
	owner->wrong += !owner->has;
	owner->has = false;
	owner->lost++;
	owner->wrong += count_wrong_records(owner->base);
}

static void sync(void *data)
{
	struct owner *owner = data;

	guard(raw_spinlock)(&owner->lock);
	owner->synced++;
	owner->wrong += count_wrong_records(owner->base);
}

#define OWNER(name, where) {						\
	.callbacks = { gained, lost, sync, &(name) },			\
	.base = (where),						\
	.lock = __RAW_SPIN_LOCK_UNLOCKED(name.lock),			\
}

static struct owner one = OWNER(one, 0xffff888800001000);
static struct owner two = OWNER(two, 0xffff888800002000);

/* The host's side. */
static struct perf_event *create_counter(void)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_HARDWARE,
		.size = sizeof(attr),
		.config = PERF_COUNT_HW_INSTRUCTIONS,
		.pinned = 1,
	};

	return perf_event_create_kernel_counter(&attr, -1, current, NULL, NULL);
}

/* What KVM's built-in guest LBR creates. */
static struct perf_event *create_unmarked(void)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_RAW,
		.size = sizeof(attr),
		.config = INTEL_FIXED_VLBR_EVENT,
		.sample_type = PERF_SAMPLE_BRANCH_STACK,
		.pinned = 1,
		.exclude_host = 1,
		.branch_sample_type = PERF_SAMPLE_BRANCH_CALL_STACK |
				      PERF_SAMPLE_BRANCH_USER,
	};

	return perf_event_create_kernel_counter(&attr, -1, current, NULL, NULL);
}

static void overflow(struct perf_event *event, struct perf_sample_data *data,
		     struct pt_regs *regs)
{
}

#define EVERYTHING	(PERF_SAMPLE_BRANCH_ANY | PERF_SAMPLE_BRANCH_USER | \
			 PERF_SAMPLE_BRANCH_KERNEL)
/* A kernel thread has no such branches. */
#define NOTHING		(PERF_SAMPLE_BRANCH_IND_JUMP | PERF_SAMPLE_BRANCH_USER)

static struct perf_event *create_host(int cpu, bool pinned, u64 branches)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_HARDWARE,
		.size = sizeof(attr),
		.config = PERF_COUNT_HW_CPU_CYCLES,
		.sample_type = PERF_SAMPLE_BRANCH_STACK,
		.sample_period = 100003,
		.pinned = pinned,
		.branch_sample_type = branches,
	};

	return perf_event_create_kernel_counter(&attr, cpu, NULL, overflow, NULL);
}

/* How many records of a guest the LBRs of the CPU hold. */
static void count_guest_records(void *result)
{
	int *found = result;
	u64 from, to;

	*found = 0;
	for (int i = 0; i < DEPTH; i++) {
		rdmsrl(MSR_LBR_NHM_FROM + i, from);
		rdmsrl(MSR_LBR_NHM_TO + i, to);
		from &= PAGE_MASK;
		to &= PAGE_MASK;
		*found += from == one.base || from == two.base ||
			  to == one.base || to == two.base;
	}
}

static int guest_records_on(int cpu)
{
	int found;

	smp_call_function_single(cpu, count_guest_records, &found, 1);
	return found;
}

/* The thread in place of the vCPU's: does what it is told, else spins or sleeps. */
static int cpu;
static void (*job)(void);
static bool spin;
static struct perf_event *event, *other;

static int thread_main(void *unused)
{
	void (*todo)(void);

	while (!kthread_should_stop()) {
		/* Pairs with in_thread(). */
		todo = smp_load_acquire(&job);
		if (todo) {
			todo();
			/* Pairs with in_thread(). */
			smp_store_release(&job, NULL);
		} else if (READ_ONCE(spin)) {
			cpu_relax();
			cond_resched();
		} else {
			usleep_range(500, 1000);
		}
	}
	return 0;
}

static void in_thread(void (*todo)(void))
{
	/* Pairs with thread_main(). */
	smp_store_release(&job, todo);
	/* Pairs with thread_main(). */
	while (smp_load_acquire(&job))
		usleep_range(100, 200);
}

static void release(struct perf_event *it)
{
	if (!IS_ERR(it))
		perf_event_release_kernel(it);
}

static int second_thread_main(void *unused)
{
	struct perf_event *mine = perf_guest_lbr_create_event(&two.callbacks);

	while (!kthread_should_stop())
		usleep_range(500, 1000);
	release(mine);
	return 0;
}

static struct task_struct *start(int (*function)(void *arg), const char *name)
{
	struct task_struct *task = kthread_create(function, NULL, "%s", name);

	if (!IS_ERR(task)) {
		kthread_bind(task, cpu);
		wake_up_process(task);
	}
	return task;
}

static void create_one(void) { event = perf_guest_lbr_create_event(&one.callbacks); }
static void create_two(void) { other = perf_guest_lbr_create_event(&two.callbacks); }
static void create_other_counter(void) { other = create_counter(); }
static void create_other_unmarked(void) { other = create_unmarked(); }

static void disable_other(void)
{
	if (!IS_ERR(other))
		perf_event_disable(other);
}

static void enable_other(void)
{
	if (!IS_ERR(other))
		perf_event_enable(other);
}

static void revive(void)
{
	if (!IS_ERR(event))
		perf_event_enable(event);
}

/* The tests.  Each begins with one's event created and the thread spinning. */
static bool is_active(struct perf_event *it)
{
	return !IS_ERR(it) && READ_ONCE(it->state) == PERF_EVENT_STATE_ACTIVE;
}

static bool is_error(struct perf_event *it)
{
	return IS_ERR(it) || READ_ONCE(it->state) == PERF_EVENT_STATE_ERROR;
}

static bool first_gain_is_not_intact(void)
{
	return one.gained && one.intact == one.gained - 1;
}

static bool context_switches_keep_records(void)
{
	int before = one.lost;

	WRITE_ONCE(spin, false);
	msleep(30);
	WRITE_ONCE(spin, true);
	msleep(20);
	return one.lost - before > 4 && first_gain_is_not_intact();
}

/*
 * If the thread is switched out just then, as on one CPU it must be, its records
 * are saved, and there is nothing to sync.
 */
static bool sync_reaches_the_cpu(void)
{
	int before = one.synced;

	for (int i = 0; i < 10 && one.synced == before; i++) {
		int gained = one.gained;

		perf_guest_lbr_sync_event(event);
		if (one.synced == before && one.has && one.gained == gained)
			return false;
	}
	return one.synced > before || num_online_cpus() == 1;
}

static bool rescheduling_is_not_told(void)
{
	int before = one.lost;

	in_thread(create_other_counter);
	for (int i = 0; i < 10; i++) {
		in_thread(disable_other);
		in_thread(enable_other);
	}
	release(other);
	return num_online_cpus() == 1 || one.lost - before < 4;
}

static bool flexible_host_event_waits(void)
{
	struct perf_event *host = create_host(cpu, false, EVERYTHING);
	bool good;

	msleep(20);
	good = !is_error(event) && !is_active(host);
	release(host);
	return good;
}

static bool pinned_host_event_wins(void)
{
	struct perf_event *host = create_host(cpu, true, EVERYTHING);
	bool good = !guest_records_on(cpu) && is_active(host) && !one.has;

	/* Without luck: not as long as the host has the LBRs. */
	in_thread(revive);
	good = good && is_error(event) && is_active(host);
	release(host);
	return good;
}

static bool error_is_revived(void)
{
	int gains = one.gained, intact = one.intact;

	in_thread(revive);
	return !is_error(event) && one.gained > gains &&
	       one.intact - intact < one.gained - gains;
}

static bool second_guest_event_is_refused(void)
{
	bool good;

	in_thread(create_two);
	good = is_error(other) && !is_error(event) && !two.gained;
	release(other);
	return good;
}

static bool unmarked_event_is_refused(void)
{
	bool good;

	in_thread(create_other_unmarked);
	good = is_error(other) && !is_error(event);
	release(other);
	return good;
}

static bool release_is_a_loss(void)
{
	release(event);
	return !one.has && one.gained == one.lost;
}

static bool unmarked_event_works_alone(void)
{
	bool good;

	in_thread(create_other_unmarked);
	msleep(20);
	good = !is_error(other) && !guest_records_on(cpu);
	in_thread(create_one);
	good = good && is_error(event);
	release(other);
	in_thread(revive);
	return good && !is_error(event);
}

static bool returning_host_event_sees_nothing(void)
{
	struct perf_event *host;
	bool good;

	release(event);
	host = create_host(cpu, false, NOTHING);
	msleep(20);
	in_thread(create_one);
	good = !is_active(host) && !is_error(event);
	release(event);
	for (int i = 0; i < 2000 && !is_active(host); i++)
		udelay(20);
	good = good && is_active(host) && !guest_records_on(cpu);
	release(host);
	in_thread(create_one);
	return good;
}

static bool two_threads_do_not_mix(void)
{
	struct task_struct *second;
	int before = one.gained - one.intact;

	WRITE_ONCE(spin, false);
	second = start(second_thread_main, "guest_lbr_test2");
	if (IS_ERR(second))
		return false;
	msleep(50);
	kthread_stop(second);
	return one.gained - one.intact - before > 2 &&
	       two.gained - two.intact > 2 && !two.has;
}

static const struct {
	bool (*run)(void);
	const char *name;
} tests[] = {
	{ first_gain_is_not_intact, "the first gain is not intact, all others are" },
	{ context_switches_keep_records, "records survive context switches" },
	{ sync_reaches_the_cpu, "sync reaches the event's CPU" },
	{ rescheduling_is_not_told, "the owner is not told of rescheduling" },
	{ flexible_host_event_waits, "a flexible host event waits" },
	{ pinned_host_event_wins, "a pinned host event wins, and sees no guest record" },
	{ error_is_revived, "the event is revived after that" },
	{ second_guest_event_is_refused, "a second guest event of the thread is refused" },
	{ unmarked_event_is_refused, "an unmarked virtual LBR event is refused" },
	{ release_is_a_loss, "a release is a loss" },
	{ unmarked_event_works_alone, "an unmarked virtual LBR event works alone" },
	{ returning_host_event_sees_nothing, "a host event that returns sees no guest record" },
	{ two_threads_do_not_mix, "guests in two threads do not see each other" },
};

static int __init guest_lbr_event_test_init(void)
{
	struct task_struct *thread;

	cpu = num_online_cpus() - 1;
	thread = start(thread_main, "guest_lbr_test");
	if (IS_ERR(thread))
		return PTR_ERR(thread);

	in_thread(create_one);
	if (IS_ERR(event)) {
		kthread_stop(thread);
		return PTR_ERR(event);
	}
	WRITE_ONCE(spin, true);
	msleep(20);

	pr_info("1..%zu\n", ARRAY_SIZE(tests));
	for (int i = 0; i < ARRAY_SIZE(tests); i++) {
		int wrong = one.wrong + two.wrong;
		bool good = tests[i].run();

		wrong = one.wrong + two.wrong - wrong;
		if (wrong)
			pr_info("# %d records or calls were wrong\n", wrong);
		pr_info("%sok %d %s\n", good && !wrong ? "" : "not ", i + 1,
			tests[i].name);
	}

	release(event);
	kthread_stop(thread);
	return 0;
}
module_init(guest_lbr_event_test_init);

static void __exit guest_lbr_event_test_exit(void)
{
}
module_exit(guest_lbr_event_test_exit);

MODULE_DESCRIPTION("Test of perf's guest LBR event");
MODULE_LICENSE("GPL");
MODULE_IMPORT_NS(GUEST_LBR);
