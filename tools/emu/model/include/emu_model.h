/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The performance monitoring and last branch record model of one logical CPU,
 * as an emulator sees it.  Implemented by the crate emu-model.
 */
#ifndef EMU_MODEL_H
#define EMU_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * A moment in a CPU's life.  "Cycles" are core cycles that it was not halted,
 * "instructions" those that retired.  A moment earlier than one that the model
 * has seen is taken for that one.
 */
struct emu_now {
  uint64_t cycles;
  uint64_t instructions;
};

/*
 * What the model wants; the emulator looks at it without a call.  It changes in calls
 * only; those that return a bool about it change nothing if that is false.
 */
struct emu_watch {
  uint64_t deadline;  /* call emu_advance() once so many cycles have passed */
  bool branches;      /* report branches */
  bool memory;        /* report loads and stores */
  bool fetches;       /* report fetches of code */
  bool step_branches; /* RFLAGS.TF: #DB after the next taken branch only */
  bool interrupt;     /* raise a performance monitoring interrupt, then clear */
};

/* A branch that was taken: the numbers of branch::Kind. */
enum emu_branch_kind {
  EMU_CONDITIONAL,
  EMU_RELATIVE_JUMP,
  EMU_INDIRECT_JUMP,
  EMU_RELATIVE_CALL,
  EMU_INDIRECT_CALL,
  EMU_RETURN,
  EMU_FAR,            /* instructions that load CS */
  EMU_EVENT,          /* delivery of an interrupt or exception */
  EMU_RESUME          /* RSM */
};

/* Result of a register access. */
enum emu_access {
  EMU_NOT_MINE,       /* the register does not belong to the model */
  EMU_DONE,
  EMU_FAULT           /* #GP(0) */
};

struct emu_registers {
  uint32_t eax, ebx, ecx, edx;
};

/* Where an instruction is: its linear address, and its offset in the code segment. */
struct emu_place {
  uint64_t address, ip;
};

struct emu_machine;
struct emu_cpu;

/* Reads a machine file.  On failure NULL, and one line in error[size]. */
struct emu_machine *emu_machine_load(const char *path, char *error, size_t size);

/* Whether the machine has this CPU model, number of CPUs and frequency. */
bool emu_machine_is(const struct emu_machine *machine, const char *model,
                    uint32_t count, uint32_t ips);

/* Whether the machine has the architectural LBR. */
bool emu_machine_has_arch_lbr(const struct emu_machine *machine);

/* Bits of the linear addresses that the machine's registers take: 48 or 57. */
uint8_t emu_machine_linear_address_bits(const struct emu_machine *machine);

/* Changes what CPUID returns for a leaf. */
void emu_cpuid(const struct emu_machine *machine, uint32_t leaf, uint32_t subleaf,
               struct emu_registers *registers);

/* The next number for RDRAND and RDSEED. */
uint64_t emu_random(struct emu_machine *machine);

/* A logical CPU after power-up, which lives for ever; so must the watch. */
struct emu_cpu *emu_cpu_new(const struct emu_machine *machine,
                            struct emu_watch *watch);

/* How a reset happens: at power-up, by RESET# while the power stays on, by INIT. */
enum emu_reset_kind {
  EMU_POWER_UP,
  EMU_WARM_RESET,
  EMU_INIT
};

/* A reset; all but EMU_INIT may set time back. */
void emu_reset(struct emu_cpu *cpu, uint8_t kind, struct emu_now now);

/* Time has passed. */
void emu_advance(struct emu_cpu *cpu, struct emu_now now);

/* From now on the CPU runs with CPL above 0 (user), or with CPL 0. */
void emu_set_user(struct emu_cpu *cpu, bool user, struct emu_now now);

/* A VM entry is about to inject an event, which comes from the guest's level. */
void emu_vmentered(struct emu_cpu *cpu);

/* From now on the CPU is in SMM, or is not. */
void emu_smm(struct emu_cpu *cpu, bool inside, struct emu_now now);

/*
 * A branch was taken; the privilege level is that of its target.  The addresses
 * are linear, the length is that of the instruction.  It retires at "cycles".
 * Returns whether the watch may have changed.
 */
bool emu_branch(struct emu_cpu *cpu, uint8_t kind, uint8_t length,
                uint64_t from, uint64_t to, uint64_t cycles);

/* The same of a branch between code segments, whose bases need not be 0. */
bool emu_branch_in_segments(struct emu_cpu *cpu, uint8_t kind, uint8_t length,
                            struct emu_place from, struct emu_place to, uint64_t cycles);

/* A conditional branch was not taken.  Whether the watch may have changed. */
bool emu_branch_not_taken(struct emu_cpu *cpu, uint64_t from);

/*
 * A far branch retired that was reported as EMU_EVENT already (INT n).  Whether the watch
 * may have changed.
 */
bool emu_far_branch_retired(struct emu_cpu *cpu);

/*
 * The instruction that will retire at "cycles" loads from memory, stores or both, in
 * one page.  Addresses of memory are physical.  Whether the watch may have changed.
 */
bool emu_memory(struct emu_cpu *cpu, bool load, bool store, uint64_t address,
                uint32_t length, uint64_t cycles);

/* Code was fetched from one page.  Whether the watch may have changed. */
bool emu_fetch(struct emu_cpu *cpu, uint64_t address, uint32_t length);

/* The line that an address is in leaves the caches; so does every line. */
void emu_flush(struct emu_cpu *cpu, uint64_t address);
void emu_flush_all(struct emu_cpu *cpu);

/* A debug exception (#DB) is about to be delivered. */
void emu_debug_exception(struct emu_cpu *cpu);

/*
 * Register accesses.  What passed until now is counted as configured before; a
 * write that takes effect with the end of an instruction gives that moment.
 */
int emu_rdmsr(struct emu_cpu *cpu, uint32_t index, uint64_t *value,
              struct emu_now now);
int emu_wrmsr(struct emu_cpu *cpu, uint32_t index, uint64_t value,
              struct emu_now now);
int emu_rdpmc(struct emu_cpu *cpu, uint32_t ecx, uint64_t *value,
              struct emu_now now);

/* Whether IA32_DEBUGCTL, IA32_LBR_CTL or IA32_PERF_GLOBAL_CTRL takes this value. */
bool emu_is_loadable(const struct emu_cpu *cpu, uint32_t index, uint64_t value);

/*
 * XSAVE state component 15 of a machine with the architectural LBR, in
 * quadwords.  emu_lbr_xsave() gives how many are in use.
 * emu_lbr_xrstor() loads it, or with NULL its initial configuration,
 * at the end of an instruction; false: #GP(0), and nothing has changed.
 */
#define EMU_LBR_AREA 101

bool emu_lbr_xinuse(const struct emu_cpu *cpu);
uint32_t emu_lbr_xsave(const struct emu_cpu *cpu, uint64_t area[EMU_LBR_AREA]);
bool emu_lbr_xrstor(struct emu_cpu *cpu, const uint64_t area[EMU_LBR_AREA],
                    struct emu_now now);

/*
 * What the emulator counts for whoever measures software on it.  Instructions are
 * those that a CPU has retired since its last reset.
 */
enum emu_msr_access {
  EMU_MSR_READ,       /* RDMSR that did not fault or exit */
  EMU_MSR_WRITE,      /* WRMSR that did not fault or exit */
  EMU_MSR_STORE,      /* stored in an MSR-store area */
  EMU_MSR_LOAD        /* loaded from an MSR-load area */
};

#define EMU_MSR_BITMAP 4096

/* A CPU is about to be reset. */
void emu_count_reset(struct emu_machine *machine, uint32_t cpu,
                     uint64_t instructions);

/* A VM entry has loaded the guest's state. */
void emu_count_entry(struct emu_machine *machine, uint32_t cpu,
                     uint64_t instructions);

/* A VM exit, or a failed VM entry, for a basic reason. */
void emu_count_exit(struct emu_machine *machine, uint32_t cpu, uint32_t reason,
                    uint32_t ecx, uint64_t instructions);

/* A register was accessed; access is an enum emu_msr_access. */
void emu_count_msr(struct emu_machine *machine, uint32_t cpu, uint32_t index,
                   uint8_t access);

/* A VM entry uses the MSR bitmap at this physical address. */
void emu_count_bitmap(struct emu_machine *machine, uint32_t cpu, uint64_t address,
                      const uint8_t bitmap[EMU_MSR_BITMAP]);

/*
 * The software writes or reads a byte at the door to the counters;
 * instructions[n] is the count of CPU n.
 */
void emu_door_write(struct emu_machine *machine, uint8_t byte,
                    const uint64_t *instructions);
uint8_t emu_door_read(struct emu_machine *machine);

/* Writes all counts to a file.  On failure false, and one line in error[size]. */
bool emu_counters_save(struct emu_machine *machine, const char *path,
                       const uint64_t *instructions, char *error, size_t size);

#ifdef __cplusplus
}
#endif

#endif
