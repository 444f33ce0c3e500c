/* SPDX-License-Identifier: LGPL-2.1-or-later */
/////////////////////////////////////////////////////////////////////////
//
//  What the emulated software does, for whoever measures it: from the CPU core
//  to the counters, and from I/O ports and a file back.
//
/////////////////////////////////////////////////////////////////////////

#define NEED_CPU_REG_SHORTCUTS 1
#include "bochs.h"
#include "cpu/cpu.h"
#include "iodev/iodev.h"

#define LOG_THIS BX_CPU_THIS_PTR

// where the counts go at the end; nowhere if it is not set
#define BX_PMU_COUNTERS "EMU_COUNTERS"

// the door: any port of this page
#define BX_PMU_DOOR_FIRST 0x5000
#define BX_PMU_DOOR_LAST  0x5fff

// the instructions of each CPU
static const uint64_t *bx_pmu_instructions(void)
{
  static uint64_t instructions[BX_MAX_SMP_THREADS_SUPPORTED];

  for (unsigned n=0; n<BX_SMP_PROCESSORS; n++) {
    instructions[n] = BX_CPU(n)->pmu_now().instructions;
  }

  return instructions;
}

static Bit32u bx_pmu_door_read(void *, Bit32u, unsigned)
{
  return emu_door_read(bx_pmu_machine);
}

static void bx_pmu_door_write(void *, Bit32u, Bit32u value, unsigned)
{
  emu_door_write(bx_pmu_machine, value, bx_pmu_instructions());
}

static void bx_pmu_save_counters(void)
{
  char error[512];

  const char *path = getenv(BX_PMU_COUNTERS);
  if (path && ! emu_counters_save(bx_pmu_machine, path, bx_pmu_instructions(), error, sizeof(error)))
    fprintf(stderr, "bochs: %s\n", error);
}

void bx_pmu_open_door(void)
{
  static bool open = false;

  // every reset comes by
  if (open)
    return;
  open = true;

  bx_devices.register_io_read_handler_range(NULL, bx_pmu_door_read,
      BX_PMU_DOOR_FIRST, BX_PMU_DOOR_LAST, "counters", 1);
  bx_devices.register_io_write_handler_range(NULL, bx_pmu_door_write,
      BX_PMU_DOOR_FIRST, BX_PMU_DOOR_LAST, "counters", 1);
  atexit(bx_pmu_save_counters);
}

void BX_CPU_C::pmu_count_reset(void)
{
  emu_count_reset(bx_pmu_machine, BX_CPU_ID, pmu_now().instructions);
}

void BX_CPU_C::pmu_count_msr(Bit32u index, unsigned access)
{
  emu_count_msr(bx_pmu_machine, BX_CPU_ID, index, access);
}

#if BX_SUPPORT_VMX

// VM entry is certain now
void BX_CPU_C::pmu_count_vmenter(void)
{
  VMCS_CACHE *vm = &BX_CPU_THIS_PTR vmcs;

  if (vm->vmexec_ctrls1.MSR_BITMAPS()) {
    Bit8u *bitmap = BX_MEM(0)->getHostMemAddr(BX_CPU_THIS, vm->msr_bitmap_addr, BX_READ);
    if (bitmap)
      emu_count_bitmap(bx_pmu_machine, BX_CPU_ID, vm->msr_bitmap_addr, bitmap);
  }

  emu_count_entry(bx_pmu_machine, BX_CPU_ID, pmu_retired().instructions);
}

// an instruction that exits is counted as unretired by now
void BX_CPU_C::pmu_vmexit(Bit32u reason)
{
  emu_count_exit(bx_pmu_machine, BX_CPU_ID, reason, ECX, pmu_retired().instructions);
}

#endif
