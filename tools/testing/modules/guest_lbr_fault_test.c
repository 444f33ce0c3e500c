// SPDX-License-Identifier: GPL-2.0-only
/*
 * Makes at insmod the fault that the parameter "kind" names, so that the
 * checkers of a kernel are seen to find it.  None does more harm than that.
 */
#include <linux/delay.h>
#include <linux/jiffies.h>
#include <linux/kthread.h>
#include <linux/list.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/smp.h>
#include <linux/spinlock.h>
#include <linux/timer.h>
#include <linux/vmalloc.h>

static char *kind = "";
module_param(kind, charp, 0);
MODULE_PARM_DESC(kind, "which fault to make");

static DEFINE_MUTEX(one);
static DEFINE_MUTEX(other);

static void lock_order(void)
{
	mutex_lock(&one);
	mutex_lock(&other);
	mutex_unlock(&other);
	mutex_unlock(&one);

	mutex_lock(&other);
	mutex_lock(&one);
	mutex_unlock(&one);
	mutex_unlock(&other);
}

static DEFINE_RAW_SPINLOCK(raw);
static DEFINE_SPINLOCK(sleeps_on_rt);

static void lock_nesting(void)
{
	raw_spin_lock(&raw);
	spin_lock(&sleeps_on_rt);
	spin_unlock(&sleeps_on_rt);
	raw_spin_unlock(&raw);
}

static void sleep_in_atomic(void)
{
	preempt_disable();
	kfree(kmalloc(64, GFP_KERNEL));
	preempt_enable();
}

static void cpu_while_preemptible(void)
{
	pr_info("on CPU %d, perhaps\n", smp_processor_id());
}

static int __rcu *shared;

static void rcu_without_lock(void)
{
	pr_info("%p\n", rcu_dereference(shared));
}

struct armed {
	struct timer_list timer;
};

static void never(struct timer_list *timer)
{
}

static void free_armed_timer(void)
{
	struct armed *armed = kmalloc(sizeof(*armed), GFP_KERNEL);

	if (!armed)
		return;
	timer_setup(&armed->timer, never, 0);
	mod_timer(&armed->timer, jiffies + 1000 * HZ);
	kfree(armed);
}

static void list_twice(void)
{
	static LIST_HEAD(head);
	static LIST_HEAD(entry);

	list_add(&entry, &head);
	list_add(&entry, &head);
}

/* More than one, as the address of one may stay in a register for long. */
static void leak(void)
{
	for (int i = 0; i < 10; i++) {
		void *lost = kmalloc(64, GFP_KERNEL);

		OPTIMIZER_HIDE_VAR(lost);
	}
}

static void use_after_free(void)
{
	u8 *freed = kmalloc(64, GFP_KERNEL);

	kfree(freed);
	OPTIMIZER_HIDE_VAR(freed);
	READ_ONCE(freed[1]);
}

static void out_of_bounds(void)
{
	u8 *small = kmalloc(61, GFP_KERNEL);

	OPTIMIZER_HIDE_VAR(small);
	if (small)
		READ_ONCE(small[61]);
	kfree(small);
}

static void vmalloc_out_of_bounds(void)
{
	u8 *small = vmalloc(61);

	OPTIMIZER_HIDE_VAR(small);
	if (small)
		READ_ONCE(small[61]);
	vfree(small);
}

static int raced;

static int race_main(void *unused)
{
	while (!kthread_should_stop()) {
		raced++;
		cond_resched();
	}
	return 0;
}

static void race(void)
{
	struct task_struct *threads[2];

	for (int i = 0; i < 2; i++)
		threads[i] = kthread_run(race_main, NULL, "racer%d", i);
	msleep(1000);
	for (int i = 0; i < 2; i++)
		if (!IS_ERR(threads[i]))
			kthread_stop(threads[i]);
}

static const struct {
	const char *name;
	void (*make)(void);
} faults[] = {
	{ "lock_order", lock_order },
	{ "lock_nesting", lock_nesting },
	{ "sleep_in_atomic", sleep_in_atomic },
	{ "cpu_while_preemptible", cpu_while_preemptible },
	{ "rcu_without_lock", rcu_without_lock },
	{ "free_armed_timer", free_armed_timer },
	{ "list_twice", list_twice },
	{ "leak", leak },
	{ "use_after_free", use_after_free },
	{ "out_of_bounds", out_of_bounds },
	{ "vmalloc_out_of_bounds", vmalloc_out_of_bounds },
	{ "race", race },
};

static int __init guest_lbr_fault_test_init(void)
{
	for (int i = 0; i < ARRAY_SIZE(faults); i++) {
		if (strcmp(kind, faults[i].name))
			continue;
		faults[i].make();
		return 0;
	}
	return -EINVAL;
}
module_init(guest_lbr_fault_test_init);

static void __exit guest_lbr_fault_test_exit(void)
{
}
module_exit(guest_lbr_fault_test_exit);

MODULE_DESCRIPTION("Makes faults for a kernel's checkers to find");
MODULE_LICENSE("GPL");
