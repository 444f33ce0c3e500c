/* SPDX-License-Identifier: LGPL-2.1-or-later */
/////////////////////////////////////////////////////////////////////////
//
//  Performance monitoring and last branch records: what the CPU core tells
//  the hardware model.  Branches cost one test of a flag while nobody wants
//  them; everything else happens out of line.
//
/////////////////////////////////////////////////////////////////////////

#ifndef BX_INSTRUMENT_PMU_H
#define BX_INSTRUMENT_PMU_H

#include "emu_model.h"

class BX_CPU_C;

struct bx_pmu_t {
  struct emu_watch watch;
  struct emu_cpu *model;
  // icount counts every instruction that was started, also those that fault or
  // exit to a hypervisor, and iterations of repeated ones; this is how many of
  // them did not retire
  Bit64u unretired;
  // the power is on, so that another reset is a warm one
  bool powered;
  // what the model knows of the privilege level
  bool user;
  // RFLAGS.TF steps over the instruction that executes
  bool stepping;
  // it is a branch that was taken
  bool branched;
  // VM entry is about to deliver an event
  bool injecting;
  // debug_trap as it was when SMM was entered
  Bit32u smm_trap;
  // loads and stores take the way where the model sees them
  bool memory;
  // icount from which on each trace begins in the loop: near the deadline, or
  // at once if the model wants to see fetches
  Bit64u attention;
};

// there is one machine in a process
extern struct emu_machine *bx_pmu_machine;

Bit64u bx_pmu_random(void);
void bx_pmu_open_door(void);

// the model's kind of a near branch; constant in each handler
#define BX_PMU_KIND(what) \
  ((what) == BX_INSTR_IS_JMP_INDIRECT ? EMU_INDIRECT_JUMP : \
   (what) == BX_INSTR_IS_CALL ? EMU_RELATIVE_CALL : \
   (what) == BX_INSTR_IS_CALL_INDIRECT ? EMU_INDIRECT_CALL : \
   (what) == BX_INSTR_IS_RET ? EMU_RETURN : EMU_RELATIVE_JUMP)

#define BX_PMU_UNLIKELY(condition) __builtin_expect(!! (condition), 0)

#define BX_PMU_WANTS_BRANCHES() BX_PMU_UNLIKELY(BX_CPU_THIS_PTR pmu.watch.branches)

/* branch resolution; the near branch handlers have the instruction as i.  Those
   that end with the branch leave by the model, without a frame of their own */
#define BX_INSTR_CNEAR_BRANCH_TAKEN(cpu_id, branch_eip, new_eip) { \
  if (BX_PMU_WANTS_BRANCHES()) \
    return pmu_link_trace(EMU_CONDITIONAL, i); \
}
#define BX_INSTR_CNEAR_BRANCH_NOT_TAKEN(cpu_id, branch_eip) { \
  if (BX_PMU_WANTS_BRANCHES()) \
    return pmu_next_instr(i); \
}
#define BX_INSTR_UCNEAR_BRANCH(cpu_id, what, branch_eip, new_eip) { \
  if (BX_PMU_WANTS_BRANCHES()) { \
    if (what == BX_INSTR_IS_JMP || what == BX_INSTR_IS_CALL) \
      return pmu_link_trace(BX_PMU_KIND(what), i); \
    if (what == BX_INSTR_IS_RET || what == BX_INSTR_IS_CALL_INDIRECT) \
      return pmu_next_trace(BX_PMU_KIND(what), i); \
    pmu_branch(BX_PMU_KIND(what), i->ilen(), branch_eip, new_eip); \
  } \
}
/* those that go on */
#define BX_INSTR_LOOP_TAKEN(cpu_id, branch_eip, new_eip) { \
  if (BX_PMU_WANTS_BRANCHES()) \
    pmu_branch(EMU_CONDITIONAL, i->ilen(), branch_eip, new_eip); \
}
#define BX_INSTR_LOOP_NOT_TAKEN(cpu_id, branch_eip) { \
  if (BX_PMU_WANTS_BRANCHES()) \
    pmu_branch_not_taken(branch_eip); \
}
#define BX_INSTR_FAR_BRANCH(cpu_id, what, prev_cs, prev_eip, new_cs, new_eip) { \
  if (BX_PMU_WANTS_BRANCHES()) \
    pmu_far_branch(what); \
}

/* an instruction was started that does not retire */
#define BX_INSTR_UNRETIRED() (BX_CPU_THIS_PTR pmu.unretired++)

/* instructions must run one by one: a counter is about to overflow */
#define BX_INSTR_NEAR_OVERFLOW() \
  BX_PMU_UNLIKELY(BX_CPU_THIS_PTR icount + BX_MAX_TRACE_LENGTH >= BX_CPU_THIS_PTR pmu.watch.deadline)

/* between traces: a counter is about to overflow, or fetches are watched */
#define BX_INSTR_ATTENTION() \
  BX_PMU_UNLIKELY(BX_CPU_THIS_PTR icount >= BX_CPU_THIS_PTR pmu.attention)

/* after an iteration of a repeated instruction */
#define BX_INSTR_REPEAT_ITERATION(cpu_id, i) { \
  if (BX_INSTR_NEAR_OVERFLOW()) \
    BX_CPU_THIS_PTR async_event |= BX_ASYNC_EVENT_STOP_TRACE; \
}

/* CLWB may leave the line where it is, and does */
#define BX_INSTR_CLFLUSH(cpu_id, laddr, paddr) { \
  if (i->getIaOpcode() != BX_IA_CLWB) \
    pmu_flush(paddr); \
}
/* INVD, WBINVD */
#define BX_INSTR_CACHE_CNTRL(cpu_id, what) pmu_flush_all()

/* simulation init and reset */
#define BX_INSTR_INITIALIZE(cpu_id)
#define BX_INSTR_RESET(cpu_id, type)     BX_CPU_THIS_PTR pmu_reset(type)

/* the rest is of no interest */
#define BX_INSTR_INIT_ENV()
#define BX_INSTR_EXIT_ENV()
#define BX_INSTR_EXIT(cpu_id)
#define BX_INSTR_HLT(cpu_id)
#define BX_INSTR_MWAIT(cpu_id, addr, len, flags)
#define BX_INSTR_DEBUG_PROMPT()
#define BX_INSTR_DEBUG_CMD(cmd)
#define BX_INSTR_OPCODE(cpu_id, i, opcode, len, is32, is64)
#define BX_INSTR_EXCEPTION(cpu_id, vector, error_code)
#define BX_INSTR_INTERRUPT(cpu_id, vector)
#define BX_INSTR_HWINTERRUPT(cpu_id, vector, cs, eip)
#define BX_INSTR_TLB_CNTRL(cpu_id, what, new_cr3)
#define BX_INSTR_PREFETCH_HINT(cpu_id, what, seg, offset)
#define BX_INSTR_BEFORE_EXECUTION(cpu_id, i)
#define BX_INSTR_AFTER_EXECUTION(cpu_id, i)
#define BX_INSTR_LIN_ACCESS(cpu_id, lin, phy, len, memtype, rw)
#define BX_INSTR_PHY_ACCESS(cpu_id, phy, len, memtype, rw)
#define BX_INSTR_INP(addr, len)
#define BX_INSTR_INP2(addr, len, val)
#define BX_INSTR_OUTP(addr, len, val)
#define BX_INSTR_WRMSR(cpu_id, addr, value)
#define BX_INSTR_VMEXIT(cpu_id, reason, qualification)

#endif
