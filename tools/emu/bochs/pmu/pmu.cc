/* SPDX-License-Identifier: LGPL-2.1-or-later */
/////////////////////////////////////////////////////////////////////////
//
//  Performance monitoring and last branch records: between the CPU core and
//  the hardware model.
//
/////////////////////////////////////////////////////////////////////////

#define NEED_CPU_REG_SHORTCUTS 1
#include "bochs.h"
#include "gui/siminterface.h"
#include "param_names.h"
#include "cpu/cpu.h"
#include "cpu/cpuid.h"
#include "cpu/msr.h"

#if BX_SUPPORT_APIC
#include "cpu/apic.h"
#endif

#define LOG_THIS BX_CPU_THIS_PTR

#define BX_PMU_MACHINE "EMU_MACHINE"

struct emu_machine *bx_pmu_machine;

static void bx_pmu_die(const char *message)
{
  fprintf(stderr, "bochs: %s\n", message);
  exit(1);
}

static void bx_pmu_load_machine(void)
{
  char error[512];

  const char *path = getenv(BX_PMU_MACHINE);
  if (! path)
    bx_pmu_die(BX_PMU_MACHINE " is not set; set it to the path of a machine file");

  bx_pmu_machine = emu_machine_load(path, error, sizeof(error));
  if (! bx_pmu_machine)
    bx_pmu_die(error);

  if (! emu_machine_is(bx_pmu_machine, SIM->get_param_enum(BXPN_CPU_MODEL)->get_selected(),
                       BX_SMP_PROCESSORS, (Bit32u) SIM->get_param_num(BXPN_IPS)->get()))
    bx_pmu_die("model, count or ips of the bochsrc differ from those of the machine file");
}

Bit64u bx_pmu_random(void)
{
  return emu_random(bx_pmu_machine);
}

void BX_CPU_C::pmu_init(void)
{
  if (! bx_pmu_machine)
    bx_pmu_load_machine();

  memset(&BX_CPU_THIS_PTR pmu, 0, sizeof(BX_CPU_THIS_PTR pmu));
  BX_CPU_THIS_PTR pmu.model = emu_cpu_new(bx_pmu_machine, &BX_CPU_THIS_PTR pmu.watch);
}

void BX_CPU_C::pmu_reset(unsigned source)
{
  unsigned kind = EMU_INIT;

  if (source == BX_RESET_HARDWARE) {
    BX_CPU_THIS_PTR pmu.unretired = 0; // icount starts anew as well
    bx_pmu_open_door();
    kind = BX_CPU_THIS_PTR pmu.powered ? EMU_WARM_RESET : EMU_POWER_UP;
    BX_CPU_THIS_PTR pmu.powered = true;
  }

  // what the machine lacks faults, whatever the bochsrc says
  BX_CPU_THIS_PTR ignore_bad_msrs = false;

  unsigned bits = BX_CPUID_SUPPORT_ISA_EXTENSION(BX_ISA_LA57) ? 57 : 48;
  if (bits != emu_machine_linear_address_bits(bx_pmu_machine))
    bx_pmu_die("cpu.linear_address_bits of the machine file is not what the CPU model has");

  emu_reset(BX_CPU_THIS_PTR pmu.model, kind, pmu_now());
  pmu_deliver();
}

// the instruction that executes, if any, is still to come
struct emu_now BX_CPU_C::pmu_now(void)
{
  struct emu_now now = {
    BX_CPU_THIS_PTR icount,
    BX_CPU_THIS_PTR icount - BX_CPU_THIS_PTR pmu.unretired
  };
  return now;
}

// the instruction that executes is over
struct emu_now BX_CPU_C::pmu_retired(void)
{
  struct emu_now now = pmu_now();
  now.cycles++;
  now.instructions++;
  return now;
}

// what follows from what the model wants now; due after each call that may have
// changed that
void BX_CPU_C::pmu_deliver(void)
{
  if (BX_CPU_THIS_PTR pmu.memory != BX_CPU_THIS_PTR pmu.watch.memory) {
    BX_CPU_THIS_PTR pmu.memory = BX_CPU_THIS_PTR pmu.watch.memory;
    pmu_watch_memory();
  }

  Bit64u from = BX_CPU_THIS_PTR pmu.watch.fetches ? 0 : BX_CPU_THIS_PTR pmu.watch.deadline;
  BX_CPU_THIS_PTR pmu.attention = from > BX_MAX_TRACE_LENGTH ? from - BX_MAX_TRACE_LENGTH : 0;

  if (! BX_CPU_THIS_PTR pmu.watch.interrupt)
    return;

  BX_CPU_THIS_PTR pmu.watch.interrupt = false;
  // counters that freeze do so with the end of this instruction
  BX_CPU_THIS_PTR async_event |= BX_ASYNC_EVENT_STOP_TRACE;
#if BX_SUPPORT_APIC
  BX_CPU_THIS_PTR lapic->performance_monitoring_interrupt();
#endif
}

void BX_CPU_C::pmu_overflow(void)
{
  emu_advance(BX_CPU_THIS_PTR pmu.model, pmu_now());
  pmu_deliver();
}

void BX_CPU_C::pmu_set_user(bool user)
{
  BX_CPU_THIS_PTR pmu.user = user;
  emu_set_user(BX_CPU_THIS_PTR pmu.model, user, pmu_now());
  pmu_deliver();
}

// an SMI comes between instructions, the end of SMM with the end of one
void BX_CPU_C::pmu_smm(bool inside)
{
  emu_smm(BX_CPU_THIS_PTR pmu.model, inside, inside ? pmu_now() : pmu_retired());
  pmu_deliver();

  if (inside) {
    // a trap waits
    BX_CPU_THIS_PTR pmu.smm_trap = BX_CPU_THIS_PTR debug_trap;
    BX_CPU_THIS_PTR debug_trap = 0;
  }
}

// SMM is left for where the SMI came
void BX_CPU_C::pmu_rsm(struct emu_place from)
{
  // a step of the handler's own is not theirs
  BX_CPU_THIS_PTR pmu.stepping = false;
  BX_CPU_THIS_PTR debug_trap = BX_CPU_THIS_PTR pmu.smm_trap;
  if (BX_CPU_THIS_PTR debug_trap)
    BX_CPU_THIS_PTR async_event = 1;

  if (BX_CPU_THIS_PTR pmu.watch.branches)
    pmu_branch_between(EMU_RESUME, 0, from, pmu_place(RIP));
}

void BX_CPU_C::pmu_branch_between(unsigned kind, unsigned length,
                                  struct emu_place from, struct emu_place to)
{
  BX_CPU_THIS_PTR pmu.branched = true;
  if (emu_branch_in_segments(BX_CPU_THIS_PTR pmu.model, kind, length, from, to,
                             BX_CPU_THIS_PTR icount + 1))
    pmu_deliver();
}

struct emu_place BX_CPU_C::pmu_place(bx_address ip)
{
  struct emu_place place = { get_laddr(BX_SEG_REG_CS, ip), ip };
  return place;
}

void BX_CPU_C::pmu_branch(unsigned kind, unsigned length, bx_address from, bx_address to)
{
  // the base of CS counts for nothing in 64-bit mode
  if (BX_PMU_UNLIKELY(BX_CPU_THIS_PTR cpu_mode != BX_MODE_LONG_64))
    return pmu_branch_between(kind, length, pmu_place(from), pmu_place(to));

  BX_CPU_THIS_PTR pmu.branched = true;
  if (emu_branch(BX_CPU_THIS_PTR pmu.model, kind, length, from, to, BX_CPU_THIS_PTR icount + 1))
    pmu_deliver();
}

void BX_CPU_C::pmu_branch_not_taken(bx_address from)
{
  if (emu_branch_not_taken(BX_CPU_THIS_PTR pmu.model, get_laddr(BX_SEG_REG_CS, from)))
    pmu_deliver();
}

// the ends of a branch handler, when somebody wants branches

void BX_CPP_AttrRegparmN(2) BX_CPU_C::pmu_link_trace(unsigned kind, bxInstruction_c *i)
{
  pmu_branch(kind, i->ilen(), PREV_RIP, RIP);
  BX_LINK_TRACE(i);
}

void BX_CPP_AttrRegparmN(2) BX_CPU_C::pmu_next_trace(unsigned kind, bxInstruction_c *i)
{
  pmu_branch(kind, i->ilen(), PREV_RIP, RIP);
  BX_NEXT_TRACE(i);
}

void BX_CPP_AttrRegparmN(1) BX_CPU_C::pmu_next_instr(bxInstruction_c *i)
{
  pmu_branch_not_taken(PREV_RIP);
  BX_NEXT_INSTR(i);
}

// the target that handlers tell may be cut to the size of the operand
void BX_CPU_C::pmu_far_branch(unsigned what)
{
  // interrupt() has recorded it
  if (what == BX_INSTR_IS_INT) {
    if (emu_far_branch_retired(BX_CPU_THIS_PTR pmu.model))
      pmu_deliver();
  }
  else {
    struct emu_place from = { BX_CPU_THIS_PTR far_branch.prev_laddr, FAR_BRANCH_PREV_RIP };
    pmu_branch_between(EMU_FAR, 0, from, pmu_place(RIP));
  }
}

void BX_CPU_C::pmu_event(struct emu_place from)
{
  pmu_branch_between(EMU_EVENT, 0, from, pmu_place(RIP));
}

void BX_CPU_C::pmu_debug_exception(void)
{
  emu_debug_exception(BX_CPU_THIS_PTR pmu.model);
  pmu_deliver();
}

// the instruction that was to be stepped over is done: is there a trap?
void BX_CPU_C::pmu_end_step(void)
{
  if (! BX_CPU_THIS_PTR pmu.stepping)
    return;

  BX_CPU_THIS_PTR pmu.stepping = false;
  if (BX_CPU_THIS_PTR pmu.watch.step_branches && ! BX_CPU_THIS_PTR pmu.branched)
    BX_CPU_THIS_PTR debug_trap &= ~BX_DEBUG_SINGLE_STEP_BIT;
}

// the instruction that executes, if any, has loaded or stored
void BX_CPU_C::pmu_memory(bool load, bool store, unsigned len)
{
  if (BX_CPU_THIS_PTR in_event)
    return;

  const auto *xlation = &BX_CPU_THIS_PTR address_xlation;
  Bit64u retires = BX_CPU_THIS_PTR icount + 1;
  unsigned first = xlation->pages == 1 ? len : xlation->len1;

  if (emu_memory(BX_CPU_THIS_PTR pmu.model, load, store, xlation->paddress1, first, retires))
    pmu_deliver();
  if (xlation->pages == 1)
    return;
  if (emu_memory(BX_CPU_THIS_PTR pmu.model, load, store, xlation->paddress2, xlation->len2, retires))
    pmu_deliver();
}

// a trace is about to execute; only its last instruction may be in two pages
void BX_CPU_C::pmu_fetch(const bxICacheEntry_c *entry)
{
  unsigned length = 0, room = 4096 - PAGE_OFFSET(entry->pAddr);

  for (unsigned n=0; n<entry->tlen; n++)
    length += entry->i[n].ilen();

  if (emu_fetch(BX_CPU_THIS_PTR pmu.model, entry->pAddr, length < room ? length : room))
    pmu_deliver();
}

// caches are coherent: a line leaves those of all processors
void BX_CPU_C::pmu_flush(bx_phy_address paddr)
{
  for (unsigned n=0; n<BX_SMP_PROCESSORS; n++)
    emu_flush(BX_CPU(n)->pmu.model, paddr);
}

void BX_CPU_C::pmu_flush_all(void)
{
  emu_flush_all(BX_CPU_THIS_PTR pmu.model);
}

int BX_CPU_C::pmu_rdmsr(Bit32u index, Bit64u *value)
{
  uint64_t result = 0;
  int access = emu_rdmsr(BX_CPU_THIS_PTR pmu.model, index, &result, pmu_now());
  pmu_deliver();
  *value = result;
  return access;
}

int BX_CPU_C::pmu_wrmsr(Bit32u index, Bit64u value)
{
  int access = emu_wrmsr(BX_CPU_THIS_PTR pmu.model, index, value, pmu_retired());
  pmu_deliver();
  return access;
}

bool BX_CPU_C::pmu_rdpmc(Bit32u counter, Bit64u *value)
{
  uint64_t result = 0;
  int access = emu_rdpmc(BX_CPU_THIS_PTR pmu.model, counter, &result, pmu_now());
  pmu_deliver();
  *value = result;
  return access == EMU_DONE;
}

bool BX_CPU_C::pmu_loadable(Bit32u index, Bit64u value)
{
  return emu_is_loadable(BX_CPU_THIS_PTR pmu.model, index, value);
}

void BX_CPU_C::pmu_cpuid(Bit32u function, Bit32u subfunction, struct cpuid_function_t *leaf)
{
  struct cpuid_function_t highest;

  // beyond the highest leaf: the highest basic one
  BX_CPU_THIS_PTR cpuid->get_cpuid_leaf(function & 0x80000000, 0, &highest);
  if (function > highest.eax) {
    BX_CPU_THIS_PTR cpuid->get_cpuid_leaf(0, 0, &highest);
    function = highest.eax;
    BX_CPU_THIS_PTR cpuid->get_cpuid_leaf(function, subfunction, leaf);
  }

  struct emu_registers registers = { leaf->eax, leaf->ebx, leaf->ecx, leaf->edx };

  emu_cpuid(bx_pmu_machine, function, subfunction, &registers);

  leaf->eax = registers.eax;
  leaf->ebx = registers.ebx;
  leaf->ecx = registers.ecx;
  leaf->edx = registers.edx;
}

bool BX_CPU_C::pmu_arch_lbr(void)
{
  return emu_machine_has_arch_lbr(bx_pmu_machine);
}

// LBR state management //

bool BX_CPU_C::xsave_lbr_state_xinuse(void)
{
  return emu_lbr_xinuse(BX_CPU_THIS_PTR pmu.model);
}

void BX_CPU_C::xsave_lbr_state(bxInstruction_c *i, bx_address offset)
{
  uint64_t area[EMU_LBR_AREA];
  bx_address asize_mask = i->asize_mask();

  unsigned length = emu_lbr_xsave(BX_CPU_THIS_PTR pmu.model, area);
  for(unsigned index=0; index < length; index++) {
    write_virtual_qword(i->seg(), (offset + index*8) & asize_mask, area[index]);
  }
}

void BX_CPU_C::xrstor_lbr_state(bxInstruction_c *i, bx_address offset)
{
  uint64_t area[EMU_LBR_AREA];
  bx_address asize_mask = i->asize_mask();

  for(unsigned index=0; index < EMU_LBR_AREA; index++) {
    area[index] = read_virtual_qword(i->seg(), (offset + index*8) & asize_mask);
  }

  bool loaded = emu_lbr_xrstor(BX_CPU_THIS_PTR pmu.model, area, pmu_retired());
  pmu_deliver();
  if (! loaded) {
    BX_ERROR(("XRSTORS: invalid LBR state"));
    exception(BX_GP_EXCEPTION, 0);
  }
}

void BX_CPU_C::xrstor_init_lbr_state(void)
{
  emu_lbr_xrstor(BX_CPU_THIS_PTR pmu.model, NULL, pmu_retired());
  pmu_deliver();
}

#if BX_SUPPORT_VMX

// VM entry is certain now: the host's counters end with the instruction, and a trap
// that is pending then is the guest's
void BX_CPU_C::pmu_vmenter(void)
{
  BX_CPU_THIS_PTR pmu.stepping = false;
  emu_advance(BX_CPU_THIS_PTR pmu.model, pmu_retired());
  pmu_deliver();
  pmu_count_vmenter();
}

#endif
