// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests perf's grant of the LBRs alone, without KVM and without guest_lbr: who
 * has the LBRs and when, and that nobody sees records of somebody else.  Legacy
 * LBR of 32 records with LBR_INFO_x.
 *
 * The tests run at insmod, print KTAP to the kernel log, and use a thread that
 * is bound to the last CPU in place of a vCPU's.  What it does with interrupts
 * disabled after it was granted the LBRs stands for a guest that runs.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/cleanup.h>
#include <linux/cpu.h>
#include <linux/delay.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/perf_event.h>
#include <linux/perf_guest_lbr.h>

#include <asm/debugreg.h>
#include <asm/msr.h>

#define DEPTH	32
#define SELECT	1	/* as left by the guests here */
#define TOS	7

/* A guest, and what it wrote last: records at an address of its own. */
struct guest {
	struct perf_guest_lbr_legacy lbr;
	struct perf_event *event;
	u64 base;
	u64 written;
	int entries, granted, wrong;
};

static struct guest one = { .lbr.head.cpu = PERF_GUEST_LBR_NO_CPU, .base = 0xffff888800100000 };
static struct guest two = { .lbr.head.cpu = PERF_GUEST_LBR_NO_CPU, .base = 0xffff888800200000 };

/* The guest's newest record is empty, others are not. */
static bool newest_empty;

static u64 from_of(u64 base, int i)
{
	return newest_empty && i == TOS ? 0 : base + i;
}

static void write_records(u64 base)
{
	for (int i = 0; i < DEPTH; i++) {
		wrmsrl(MSR_LBR_NHM_FROM + i, from_of(base, i));
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
		wrong += differs(MSR_LBR_NHM_FROM + i, from_of(base, i));
		wrong += differs(MSR_LBR_NHM_TO + i, base + DEPTH + i);
		wrong += differs(MSR_LBR_INFO_0 + i, i);
	}
	return wrong;
}

static int count_wrong_copies(const struct guest *guest)
{
	const struct perf_guest_lbr_legacy *lbr = &guest->lbr;
	int wrong = (lbr->tos != TOS) + (lbr->select != SELECT);

	for (int i = 0; i < DEPTH; i++) {
		wrong += lbr->from[i] != guest->written + i;
		wrong += lbr->to[i] != guest->written + DEPTH + i;
		wrong += lbr->info[i] != i;
	}
	return wrong;
}

/* A VM-Entry: the guest finds what it wrote last, and writes something new. */
static bool enter(struct guest *guest)
{
	guard(irqsave)();

	guest->entries++;
	if (!perf_guest_lbr_grant(guest->event))
		return false;

	guest->granted++;
	guest->wrong += guest->lbr.head.cpu != smp_processor_id();
	guest->wrong += !!(get_debugctlmsr() & DEBUGCTLMSR_LBR);
	if (guest->written)
		guest->wrong += count_wrong_records(guest->written);
	guest->written = guest->base + guest->entries * 256;
	write_records(guest->written);
	return true;
}

/* The host's side. */
static void overflow(struct perf_event *event, struct perf_sample_data *data,
		     struct pt_regs *regs)
{
}

static struct perf_event *create_host(int cpu, struct task_struct *task, bool pinned)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_HARDWARE,
		.size = sizeof(attr),
		.config = PERF_COUNT_HW_CPU_CYCLES,
		.sample_type = PERF_SAMPLE_BRANCH_STACK,
		.sample_period = 100003,
		.pinned = pinned,
		.branch_sample_type = PERF_SAMPLE_BRANCH_ANY | PERF_SAMPLE_BRANCH_USER |
				      PERF_SAMPLE_BRANCH_KERNEL,
	};

	return perf_event_create_kernel_counter(&attr, cpu, task, overflow, NULL);
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

/* A counter of the guest's, as KVM creates it. */
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

static void release(struct perf_event **event)
{
	if (!IS_ERR_OR_NULL(*event))
		perf_event_release_kernel(*event);
	*event = NULL;
}

/* How many values of the guests' the LBRs of a CPU hold. */
static void count_guests_values(void *result)
{
	int *found = result;
	u64 value;

	*found = 0;
	for (int i = 0; i < 2 * DEPTH; i++) {
		rdmsrl(i < DEPTH ? MSR_LBR_NHM_FROM + i : MSR_LBR_NHM_TO + i - DEPTH, value);
		value &= ~0xfffffULL;
		*found += value == one.base || value == two.base;
	}
}

static int guests_values_on(int cpu)
{
	int found;

	smp_call_function_single(cpu, count_guests_values, &found, 1);
	return found;
}

/* What a deep C-state, or suspend to RAM, does to the LBRs. */
static void lose_records(void *unused)
{
	for (int i = 0; i < DEPTH; i++) {
		wrmsrl(MSR_LBR_NHM_FROM + i, 0);
		wrmsrl(MSR_LBR_NHM_TO + i, 0);
		wrmsrl(MSR_LBR_INFO_0 + i, 0);
	}
}

/* perf_snapshot_branch_stack(), of which modules know no address. */
static ulong snapshot;
module_param(snapshot, ulong, 0);
MODULE_PARM_DESC(snapshot, "address of the static call perf_snapshot_branch_stack");

/* The thread in place of the vCPU's: does what it is told, else spins or sleeps. */
static int cpu;
static void (*job)(void);
static bool spin, answer;
static struct task_struct *thread;
static struct perf_event *other;

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

static int second_thread_main(void *unused)
{
	two.event = perf_guest_lbr_create_event(&two.lbr.head);
	while (!kthread_should_stop()) {
		enter(&two);
		usleep_range(500, 1000);
	}
	release(&two.event);
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

static void create_one(void) { one.event = perf_guest_lbr_create_event(&one.lbr.head); }
static void create_two(void) { two.event = perf_guest_lbr_create_event(&two.lbr.head); }
static void create_other_counter(void) { other = create_counter(); }
static void create_other_unmarked(void) { other = create_unmarked(); }
static void enter_one(void) { answer = enter(&one); }
static void enter_two(void) { answer = enter(&two); }
static void set_host_lbr(void) { update_debugctlmsr(get_debugctlmsr() | DEBUGCTLMSR_LBR); }

/* Enters as one, in its thread, and returns whether the LBRs were granted. */
static bool one_is_granted(void)
{
	in_thread(enter_one);
	return answer;
}

static bool two_is_granted(void)
{
	in_thread(enter_two);
	return answer;
}

static void enter_ten_times(void)
{
	for (int i = 0; i < 10; i++) {
		enter(&one);
		enter(&two);
	}
}

/* The tests.  Each begins with one's event created and the thread spinning. */
static bool granted_in_its_thread(void)
{
	return one_is_granted() && one_is_granted();
}

static bool refused_elsewhere(void)
{
	int before = one.granted;

	enter(&one);
	return one.granted == before;
}

static bool context_switches_keep_records(void)
{
	int before = one.granted;

	WRITE_ONCE(spin, false);
	for (int i = 0; i < 20; i++) {
		in_thread(enter_one);
		msleep(2);
	}
	WRITE_ONCE(spin, true);
	return one.granted == before + 20;
}

static bool park_brings_the_copy(void)
{
	bool good = one_is_granted();

	perf_guest_lbr_park(one.event);
	good = good && one.lbr.head.cpu == PERF_GUEST_LBR_NO_CPU && !count_wrong_copies(&one);
	return good && one_is_granted();
}

static bool written_copy_is_loaded(void)
{
	bool good;

	in_thread(enter_one);
	perf_guest_lbr_park(one.event);
	one.written += 128;
	for (int i = 0; i < DEPTH; i++) {
		one.lbr.from[i] = one.written + i;
		one.lbr.to[i] = one.written + DEPTH + i;
	}
	one.lbr.head.dirty = 1;
	good = one_is_granted();
	return good && !one.lbr.head.dirty;
}

static void read_and_write(void)
{
	u64 value = 0;

	guard(irqsave)();

	answer = perf_guest_lbr_grant(one.event) &&
		 perf_guest_lbr_write(one.event, MSR_LBR_NHM_FROM, one.base) &&
		 perf_guest_lbr_read(one.event, MSR_LBR_NHM_FROM, &value) &&
		 value == one.base && !differs(MSR_LBR_NHM_FROM, one.base);
	wrmsrl(MSR_LBR_NHM_FROM, one.written);
}

static bool accesses_need_the_grant(void)
{
	u64 value = 0;

	in_thread(read_and_write);
	return answer && !perf_guest_lbr_read(one.event, MSR_LBR_NHM_FROM, &value) && !value &&
	       !perf_guest_lbr_write(one.event, MSR_LBR_NHM_FROM, 0) && one_is_granted();
}

static bool host_wins(struct perf_event *host)
{
	bool good;

	/* An event of the thread is added when that runs. */
	msleep(5);
	good = !IS_ERR(host) && !guests_values_on(cpu) &&
		    one.lbr.head.cpu == PERF_GUEST_LBR_NO_CPU && !count_wrong_copies(&one);

	good = !one_is_granted() && good;
	msleep(20);
	good = !one_is_granted() && good && !guests_values_on(cpu);
	release(&host);
	return one_is_granted() && good;
}

static bool pinned_host_event_wins(void)
{
	in_thread(enter_one);
	return host_wins(create_host(cpu, NULL, true));
}

static bool flexible_host_event_wins(void)
{
	in_thread(enter_one);
	return host_wins(create_host(cpu, NULL, false));
}

static bool host_event_of_the_thread_wins(void)
{
	in_thread(enter_one);
	return host_wins(create_host(-1, thread, false));
}

static bool host_event_runs_all_the_time(void)
{
	struct perf_event *host = create_host(cpu, NULL, false);
	u64 enabled = 0, running = 0;

	if (IS_ERR(host))
		return false;
	for (int i = 0; i < 20; i++) {
		in_thread(enter_one);
		msleep(1);
	}
	perf_event_read_value(host, &enabled, &running);
	release(&host);
	return enabled && running * 100 >= enabled * 95;
}

static bool counters_never_notice(void)
{
	struct perf_event *host;
	bool good;

	in_thread(create_other_counter);
	in_thread(enter_one);
	host = create_host(cpu, NULL, true);
	msleep(20);
	good = !IS_ERR(other) && READ_ONCE(other->state) >= PERF_EVENT_STATE_INACTIVE;
	release(&host);
	release(&other);
	return good && one_is_granted();
}

static bool two_events_of_a_thread(void)
{
	bool good;

	in_thread(create_two);
	good = one_is_granted() && two_is_granted() && one_is_granted();
	in_thread(enter_ten_times);
	good = good && one.lbr.head.cpu == PERF_GUEST_LBR_NO_CPU;
	release(&two.event);
	return good && two.lbr.head.cpu == PERF_GUEST_LBR_NO_CPU && !count_wrong_copies(&two);
}

static bool unmarked_event_wins(void)
{
	bool good;

	in_thread(enter_one);
	in_thread(create_other_unmarked);
	good = !IS_ERR(other) && !guests_values_on(cpu) && !one_is_granted();
	release(&other);
	return good && one_is_granted();
}

static bool release_saves(void)
{
	bool good = one_is_granted();

	release(&one.event);
	good = good && one.lbr.head.cpu == PERF_GUEST_LBR_NO_CPU && !count_wrong_copies(&one);
	in_thread(create_one);
	return good && one_is_granted();
}

static bool host_after_release_sees_nothing(void)
{
	struct perf_event *host;
	bool good = one_is_granted();

	release(&one.event);
	host = create_host(cpu, NULL, false);
	good = good && !guests_values_on(cpu);
	release(&host);
	in_thread(create_one);
	return good && one_is_granted();
}

/* enter() fails if LBR is on, or if the host's branches are among the records. */
static bool host_recording_is_stopped(void)
{
	bool good = one_is_granted();

	in_thread(set_host_lbr);
	msleep(5);
	one.written = 0;
	good = one_is_granted() && good;
	return one_is_granted() && good;
}

static bool two_threads_do_not_mix(void)
{
	struct task_struct *second;
	int before = one.granted;

	WRITE_ONCE(spin, false);
	two.granted = 0;
	second = start(second_thread_main, "guest_lbr_test2");
	if (IS_ERR(second))
		return false;
	for (int i = 0; i < 20; i++) {
		in_thread(enter_one);
		msleep(2);
	}
	kthread_stop(second);
	WRITE_ONCE(spin, true);
	return one.granted == before + 20 && two.granted > 5 &&
	       two.lbr.head.cpu == PERF_GUEST_LBR_NO_CPU;
}

/* Nobody but the guest had the LBRs, as far as perf knows. */
static bool lost_records_are_loaded(void)
{
	bool good = true;

	WRITE_ONCE(spin, false);
	for (int i = 0; i < 4; i++) {
		in_thread(enter_one);
		/* The thread sleeps, which ends the grant. */
		msleep(5);
		good = good && one.lbr.head.cpu == PERF_GUEST_LBR_NO_CPU;
		smp_call_function_single(cpu, lose_records, NULL, 1);
		in_thread(enter_one);
		good = good && answer;
	}
	WRITE_ONCE(spin, true);
	return good;
}

/* With the newest record empty nothing tells whether the others were lost. */
static bool lost_records_below_an_empty_one_are_loaded(void)
{
	bool good;

	one.written = 0;
	newest_empty = true;
	good = lost_records_are_loaded();
	one.written = 0;
	newest_empty = false;
	return one_is_granted() && good;
}

/* Takes a snapshot as BPF does, next to a guest that has the LBRs if nobody else has. */
static struct perf_branch_entry entries[DEPTH];
static int snapshot_entries, snapshot_wrong;

static void enter_and_take_snapshot(void)
{
	perf_snapshot_branch_stack_t *take = (perf_snapshot_branch_stack_t *)snapshot;

	guard(irqsave)();

	answer = enter(&one);
	snapshot_entries = take(entries, DEPTH);
	snapshot_wrong = 0;
	for (int i = 0; i < snapshot_entries; i++) {
		snapshot_wrong += (entries[i].from & ~0xfffffULL) == one.base;
		snapshot_wrong += (entries[i].to & ~0xfffffULL) == one.base;
	}
	if (!answer)
		return;
	snapshot_wrong += !!(get_debugctlmsr() & DEBUGCTLMSR_LBR);
	snapshot_wrong += count_wrong_records(one.written);
}

static bool snapshot_finds_nothing_of_the_guest(void)
{
	bool good;

	if (!snapshot)
		return false;
	in_thread(enter_and_take_snapshot);
	good = answer && !snapshot_entries && !snapshot_wrong;
	return one_is_granted() && good;
}

static bool snapshot_finds_what_the_host_recorded(void)
{
	struct perf_event *host;
	bool good;

	if (!snapshot)
		return false;
	in_thread(enter_one);
	host = create_host(cpu, NULL, true);
	msleep(5);
	in_thread(enter_and_take_snapshot);
	good = !IS_ERR(host) && !answer && snapshot_entries > 0 && !snapshot_wrong;
	release(&host);
	/* What is left of the host's records is not found. */
	in_thread(enter_and_take_snapshot);
	return good && answer && !snapshot_entries && !snapshot_wrong && one_is_granted();
}

static const struct {
	bool (*run)(void);
	const char *name;
} tests[] = {
	{ granted_in_its_thread, "the LBRs are granted in the event's thread" },
	{ refused_elsewhere, "and refused elsewhere" },
	{ context_switches_keep_records, "records survive context switches" },
	{ park_brings_the_copy, "parking brings the copy up to date" },
	{ written_copy_is_loaded, "a copy that was written is loaded" },
	{ accesses_need_the_grant, "accesses need the grant" },
	{ pinned_host_event_wins, "a pinned host event wins, and sees no guest record" },
	{ flexible_host_event_wins, "a flexible host event wins, and sees no guest record" },
	{ host_event_of_the_thread_wins, "a host event of the thread wins" },
	{ host_event_runs_all_the_time, "a host event runs all the time" },
	{ counters_never_notice, "the guest's counters never notice" },
	{ two_events_of_a_thread, "two events of a thread take turns" },
	{ unmarked_event_wins, "an unmarked virtual LBR event wins" },
	{ release_saves, "a release saves the records" },
	{ host_after_release_sees_nothing, "a host event after a release sees no guest record" },
	{ host_recording_is_stopped, "recording in host mode is stopped" },
	{ lost_records_are_loaded, "records that a C-state or suspend lost are loaded" },
	{ lost_records_below_an_empty_one_are_loaded, "also if the newest one was empty" },
	{ snapshot_finds_nothing_of_the_guest,
	  "a snapshot of branches finds nothing of a guest's, and records nothing" },
	{ snapshot_finds_what_the_host_recorded, "it finds what the host recorded, then nothing" },
	{ two_threads_do_not_mix, "guests in two threads do not see each other" },
};

static int __init guest_lbr_event_test_init(void)
{
	cpu = num_online_cpus() - 1;
	thread = start(thread_main, "guest_lbr_test");
	if (IS_ERR(thread))
		return PTR_ERR(thread);

	in_thread(create_one);
	if (IS_ERR(one.event)) {
		kthread_stop(thread);
		return PTR_ERR(one.event);
	}
	WRITE_ONCE(spin, true);
	msleep(20);

	pr_info("1..%zu\n", ARRAY_SIZE(tests));
	for (int i = 0; i < ARRAY_SIZE(tests); i++) {
		int wrong = one.wrong + two.wrong;
		bool good = tests[i].run();

		wrong = one.wrong + two.wrong - wrong;
		if (wrong)
			pr_info("# %d values were wrong\n", wrong);
		pr_info("%sok %d %s\n", good && !wrong ? "" : "not ", i + 1,
			tests[i].name);
	}

	release(&one.event);
	kthread_stop(thread);
	return 0;
}
module_init(guest_lbr_event_test_init);

static void __exit guest_lbr_event_test_exit(void)
{
}
module_exit(guest_lbr_event_test_exit);

MODULE_DESCRIPTION("Test of perf's grant of the LBRs to guests");
MODULE_LICENSE("GPL");
MODULE_IMPORT_NS(GUEST_LBR);
