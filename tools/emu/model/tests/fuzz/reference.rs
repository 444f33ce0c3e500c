// SPDX-License-Identifier: GPL-2.0-only
//! A logical CPU's counters and records, as plainly as the SDM puts them.

use emu_model::branch::{Kind, Taken};
use emu_model::machine::{Lbr as Description, LbrFormat, Machine};
use emu_model::predict::Predictor;

use crate::cache::Caches;
use crate::lbr::Lbr;
use crate::pmu::{Happened, Pmu, CTR_FRZ, LBR_FRZ};

/// What a register access gives; `None`: #GP.
pub(crate) type Answer = Option<u64>;

const LBR: u64 = 1 << 0;
const BTF: u64 = 1 << 1;

/// What the machine file says.
#[derive(Clone)]
pub(crate) struct Facts {
    pub(crate) version: u8,
    pub(crate) general: usize,
    pub(crate) fixed: usize,
    pub(crate) bits: u32,
    pub(crate) slots: u64,
    pub(crate) hertz: u32,
    pub(crate) linear: u8,
    pub(crate) architectural: bool,
    pub(crate) info: bool,
    pub(crate) depth: usize,
    pub(crate) depths: Vec<usize>,
    /// Bits of IA32_PERF_GLOBAL_STATUS that can be reset though nothing sets them.
    pub(crate) status_only_reset: u64,
    pub(crate) capabilities: u64,
}

impl Facts {
    pub(crate) fn new(machine: &Machine) -> Self {
        let (info, depths) = match &machine.lbr {
            Description::Legacy { depth, format } => {
                (*format == LbrFormat::Info, vec![usize::from(*depth)])
            }
            Description::Architectural { depths } => (
                true,
                depths.iter().map(|&depth| usize::from(depth)).collect(),
            ),
        };
        let architectural = machine.lbr.is_architectural();
        let format = match (architectural, info) {
            (true, _) => 0x3f,
            (_, true) => 5,
            _ => 4,
        };
        Self {
            version: machine.pmu.version,
            general: usize::from(machine.pmu.general_counters),
            fixed: usize::from(machine.pmu.fixed_counters),
            bits: u32::from(machine.pmu.counter_bits),
            slots: u64::from(machine.pmu.slots_per_cycle),
            hertz: machine.cpu.ips,
            linear: machine.cpu.linear_address_bits,
            architectural,
            info,
            depth: depths.iter().copied().max().unwrap_or(0),
            depths,
            status_only_reset: 7 << 61,
            capabilities: format | 1 << 12 | 1 << 13,
        }
    }
}

/// Whether the bits of an address beyond those of linear addresses are copies of the last
/// one.
pub(crate) fn canonical(address: u64, bits: u8) -> bool {
    let sign = 1 << (bits - 1);
    let beyond = !(2 * sign - 1);
    address & beyond == if address & sign != 0 { beyond } else { 0 }
}

/// A branch that was taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Branch {
    pub(crate) kind: u8,
    pub(crate) length: u8,
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// Bases of the code segments of both.
    pub(crate) bases: (u64, u64),
}

/// A piece of physical memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) address: u64,
    pub(crate) length: u32,
}

/// What RSM restores.
struct Saved {
    lbr_enabled: u64,
    /// IA32_DEBUGCTL and IA32_PERF_GLOBAL_CTRL, with FREEZE_WHILE_SMM.
    frozen: Option<(u64, u64)>,
}

pub(crate) struct Reference {
    facts: Facts,
    pub(crate) pmu: Pmu,
    pub(crate) lbr: Lbr,
    pub(crate) debugctl: u64,
    user: bool,
    from_user: bool,
    saved: Option<Saved>,
    predictor: Predictor,
    caches: Caches,
    interrupt: bool,
    cycles: u64,
    mcg_status: u64,
    power_ctl: u64,
    misc_pwr_mgmt: u64,
    /// IA32_MPERF, IA32_APERF.
    feedback: [u64; 2],
}

impl Reference {
    pub(crate) fn new(facts: &Facts) -> Self {
        Self {
            facts: facts.clone(),
            pmu: Pmu::new(facts),
            lbr: Lbr::new(facts),
            debugctl: 0,
            user: false,
            from_user: false,
            saved: None,
            predictor: Predictor::default(),
            caches: Caches::default(),
            interrupt: false,
            cycles: 0,
            mcg_status: 0,
            power_ctl: 0,
            misc_pwr_mgmt: 0,
            feedback: [0; 2],
        }
    }

    /// 0: power-up, 1: RESET#, 2: INIT.
    pub(crate) fn reset(&mut self, kind: u8) {
        let old = self.lbr.clone();
        if kind < 2 {
            *self = Self {
                predictor: self.predictor.clone(),
                ..Self::new(&self.facts)
            };
        }
        if kind == 1 && self.facts.architectural {
            self.lbr = old;
            self.lbr.since = None;
        }
        if kind < 2 {
            self.lbr.set_control(self.lbr.control & !1);
        }
        self.saved = None;
        self.user = false;
    }

    pub(crate) fn in_smm(&self) -> bool {
        self.saved.is_some()
    }

    fn records(&self) -> bool {
        let on = if self.facts.architectural {
            self.lbr.control & 1
        } else {
            self.debugctl & LBR
        };
        on != 0 && self.pmu.status & LBR_FRZ == 0
    }

    pub(crate) fn steps_branches(&self) -> bool {
        self.debugctl & BTF != 0
    }

    /// What happens, happens at once; then the counters that overflow have their say.
    fn happen(&mut self, what: Happened) {
        self.cycles += u64::from(what.cycle);
        if what.cycle {
            let over = self.feedback.contains(&u64::MAX);
            self.feedback = self.feedback.map(|n| if over { 0 } else { n + 1 });
        }
        let (_, interrupt) = self.pmu.count(what, self.user);
        if !interrupt {
            return;
        }
        self.interrupt = true;
        let (lbrs, counters) = (self.debugctl >> 11 & 1 != 0, self.debugctl >> 12 & 1 != 0);
        if self.facts.version >= 4 {
            self.pmu.status |= if lbrs { LBR_FRZ } else { 0 };
            self.pmu.status |= if counters { CTR_FRZ } else { 0 };
        } else {
            self.debugctl &= if lbrs { !LBR } else { !0 };
            self.pmu.global &= if counters { 0 } else { !0 };
        }
    }

    pub(crate) fn take_interrupt(&mut self) -> bool {
        std::mem::take(&mut self.interrupt)
    }

    /// The next branch goes to this privilege level.
    pub(crate) fn set_user(&mut self, user: bool) {
        self.from_user = self.user;
        self.user = user;
    }

    /// Whether CPL is above 0 where a branch comes from, and where it goes to.
    fn rings(&self, branch: &Branch) -> (bool, bool) {
        let from = if branch.kind >= 6 {
            self.from_user
        } else {
            self.user
        };
        (from, self.user)
    }

    /// An instruction without a branch.
    pub(crate) fn instruction(&mut self, retires: bool) {
        self.happen(Happened {
            cycle: true,
            instruction: retires,
            ..Happened::default()
        });
    }

    /// A taken branch.  Whether it is mispredicted the model's predictor says, if
    /// somebody looks: the manual leaves it open.
    pub(crate) fn taken(&mut self, branch: &Branch, watched: bool, retires: Option<bool>) {
        let mispredicted = watched
            && Kind::from_number(branch.kind).is_some_and(|kind| {
                self.predictor
                    .taken(&Taken::flat(kind, branch.from, branch.to, branch.length))
            });
        let on = self.records();
        // It is over with the cycle that begins now.
        let inserted = on
            && self
                .lbr
                .branch(branch, self.rings(branch), mispredicted, self.cycles + 1);
        self.happen(Happened {
            cycle: retires.is_some(),
            instruction: retires == Some(true),
            branch: match (branch.kind, retires) {
                (7, Some(true)) => Some(6),
                (7 | 8, _) => None,
                (kind, _) => Some(kind),
            },
            mispredicted,
            inserted,
            ..Happened::default()
        });
    }

    /// An instruction that loads, stores or both.
    pub(crate) fn memory(&mut self, accesses: &[(bool, bool, Place)]) {
        let mut what = Happened {
            load: accesses.iter().any(|access| access.0),
            store: accesses.iter().any(|access| access.1),
            ..Happened::default()
        };
        for access in accesses {
            self.through_caches(access.2, &mut what);
        }
        self.retire(what);
    }

    /// An instruction that is fetched.
    pub(crate) fn fetch(&mut self, place: Place) {
        let mut what = Happened::default();
        self.through_caches(place, &mut what);
        self.retire(what);
    }

    fn retire(&mut self, what: Happened) {
        self.happen(Happened {
            cycle: true,
            instruction: true,
            ..what
        });
    }

    /// The model lets the caches see only what somebody counts.
    fn through_caches(&mut self, place: Place, what: &mut Happened) {
        if self.pmu.counts_lines(self.user) {
            let (references, misses) = self.caches.access(place);
            what.references += references;
            what.misses += misses;
        }
    }

    pub(crate) fn flush(&mut self, address: Option<u64>) {
        self.caches.flush(address);
    }

    pub(crate) fn not_taken(&mut self, from: u64, watched: bool) {
        let mispredicted = watched && self.predictor.not_taken(from);
        self.happen(Happened {
            cycle: true,
            instruction: true,
            branch: Some(8),
            mispredicted,
            ..Happened::default()
        });
    }

    pub(crate) fn debug_exception(&mut self) {
        self.debugctl &= !(LBR | BTF);
        self.lbr.set_control(self.lbr.control & !1);
    }

    pub(crate) fn smi(&mut self) {
        let freezes = self.debugctl >> 14 & 1 != 0;
        self.saved = Some(Saved {
            lbr_enabled: self.lbr.control & 1,
            frozen: freezes.then_some((self.debugctl, self.pmu.global)),
        });
        self.lbr.set_control(self.lbr.control & !1);
        if freezes {
            self.debugctl &= !(LBR | BTF | 1 << 6 | 1 << 7);
            self.pmu.global = 0;
        }
    }

    /// RSM belongs to SMM; what it restores takes effect behind it.
    pub(crate) fn rsm(&mut self) {
        self.instruction(true);
        if let Some(saved) = self.saved.take() {
            self.lbr
                .set_control(self.lbr.control & !1 | saved.lbr_enabled);
            if let Some((debugctl, global)) = saved.frozen {
                self.debugctl = debugctl;
                self.pmu.global = global;
            }
        }
    }

    /// The record of an RSM that is over.
    pub(crate) fn resumed(&mut self, branch: &Branch) {
        if self.records() {
            let inserted = self
                .lbr
                .branch(branch, self.rings(branch), false, self.cycles);
            self.happen(Happened {
                inserted,
                ..Happened::default()
            });
        }
    }

    fn debugctl_takes(value: u64) -> bool {
        value & !0x5803 == 0
    }

    /// Whether a VM transition can load this value.
    pub(crate) fn loadable(&self, index: u32, value: u64) -> bool {
        match index {
            0x1d9 => Self::debugctl_takes(value),
            0x38f => self.pmu.global_takes(value),
            _ => self.facts.architectural && value & !0x7f_000f == 0,
        }
    }

    /// RDMSR; outer `None`: no register of these facilities.
    pub(crate) fn read(&self, index: u32) -> Option<Answer> {
        match index {
            0xe7 | 0xe8 => Some(Some(self.feedback[index as usize - 0xe7])),
            0x1d9 => Some(Some(self.debugctl)),
            0x17 => Some(Some(0)),
            0xce => Some(Some(u64::from(self.facts.hertz / 100_000_000) << 8)),
            0x179 => Some(Some(0)),
            0x17a => Some(Some(self.mcg_status)),
            0x1fc => Some(Some(self.power_ctl)),
            0x1aa => Some(Some(self.misc_pwr_mgmt)),
            // Bit 15: locked.
            0xe2 => Some(Some(0x8000)),
            0x345 => Some(Some(self.facts.capabilities)),
            _ => self.pmu.read(index).or_else(|| self.lbr.read(index)),
        }
    }

    /// What WRMSR does at the end of its instruction, if it does not fault.
    pub(crate) fn write(&mut self, index: u32, value: u64) -> Option<Answer> {
        match index {
            0xe7 | 0xe8 => {
                self.feedback[index as usize - 0xe7] = value;
                Some(Some(0))
            }
            0x1d9 => {
                if !Self::debugctl_takes(value) {
                    return Some(None);
                }
                self.debugctl = value & if self.facts.architectural { !LBR } else { !0 };
                Some(Some(0))
            }
            0x17 | 0xce | 0xe2 | 0x179 | 0x345 => Some(None),
            0x17a if value > 7 => Some(None),
            0x1aa | 0x1fc if value > 3 => Some(None),
            0x1aa => {
                self.misc_pwr_mgmt = value;
                Some(Some(0))
            }
            0x1fc => {
                self.power_ctl = value;
                Some(Some(0))
            }
            0x17a => {
                self.mcg_status = value;
                Some(Some(0))
            }
            _ => {
                let pmu = self.pmu.write(index, value);
                pmu.or_else(|| self.lbr.write(index, value))
            }
        }
    }

    /// XSAVES of state component 15.
    pub(crate) fn xsave(&self) -> [u64; 101] {
        let lbr = &self.lbr;
        let mut area = [0; 101];
        area[..2].copy_from_slice(&[lbr.control, lbr.depth as u64]);
        area[2..5].copy_from_slice(&lbr.ler);
        for (n, record) in lbr.records.iter().enumerate() {
            area[5 + 3 * n..][..3].copy_from_slice(record);
        }
        area
    }

    /// XRSTORS of state component 15, `None` for its initial configuration.
    pub(crate) fn xrstor(&mut self, area: Option<&[u64; 101]>) -> bool {
        if !self.facts.architectural {
            return false;
        }
        let Some(area) = area else {
            self.lbr.set_control(0);
            self.lbr.ler = [0; 3];
            self.lbr.records = vec![[0; 3]; self.lbr.depth];
            return true;
        };
        let mut values = [0; 101];
        let matches = area[1] == self.lbr.depth as u64;
        // Entries beyond the depth are not looked at, nor any for another depth.
        let entries = if matches { self.lbr.depth } else { 0 };
        let valid = area
            .iter()
            .take(5 + 3 * entries)
            .enumerate()
            .all(|(n, &value)| {
                let file = match n {
                    0 => return value & !0x7f_000f == 0,
                    // No CPU has more than 64 entries.
                    1 => return matches || value >> 7 == 0,
                    _ => (n - 2) % 3,
                };
                let checked = self.lbr.checked(file, value);
                values[n] = checked.unwrap_or(0);
                checked.is_some()
            });
        if !valid {
            return false;
        }
        if matches {
            self.lbr.records = values[5..]
                .chunks_exact(3)
                .take(self.lbr.depth)
                .map(|record| [record[0], record[1], record[2]])
                .collect();
        } else {
            // IA32_LBR_DEPTH is compared, not loaded.
            self.lbr.records = vec![[0; 3]; self.lbr.depth];
        }
        self.lbr.ler = [values[2], values[3], values[4]];
        self.lbr.set_control(area[0]);
        true
    }

    /// Whether state component 15 is not in its initial configuration.
    pub(crate) fn xinuse(&self) -> bool {
        let area = self.xsave();
        area[0] != 0 || area[2..].iter().any(|&value| value != 0)
    }
}
