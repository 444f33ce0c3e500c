// SPDX-License-Identifier: GPL-2.0-only
//! Where things are: the source tree, build products, the cache.

use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};
use clap::Args;

/// Build products; the defaults are what `make lab` publishes under `build/`.
#[derive(Args, Clone, Debug)]
pub struct Products {
    /// Build directory of the host's and guest's kernel [default: build/kernel]
    #[arg(long, value_name = "DIR", global = true)]
    pub kernel: Option<PathBuf>,
    /// The module [default: build/module/guest_lbr.ko]
    #[arg(long, value_name = "FILE", global = true)]
    pub module: Option<PathBuf>,
    /// Directory of KVM selftests [default: build/selftests]
    #[arg(long, value_name = "DIR", global = true)]
    pub selftests: Option<PathBuf>,
    /// Directory of perf and its workload [default: build/perf]
    #[arg(long, value_name = "DIR", global = true)]
    pub perf: Option<PathBuf>,
    /// The emulator [default: build/emu/bochs]
    #[arg(long, value_name = "FILE", global = true)]
    pub bochs: Option<PathBuf>,
    /// Where log folders are written [default: build/log]
    #[arg(long, value_name = "DIR", global = true)]
    pub log: Option<PathBuf>,
}

/// Resolved places.
#[derive(Clone, Debug)]
pub struct Places {
    /// Top of the source tree.
    pub top: PathBuf,
    /// Where slow steps keep their results.
    pub cache: PathBuf,
    products: Products,
}

/// What to run when a build product is missing.
fn remedy(what: &str) -> &'static str {
    match what {
        "emulator" | "conformance program" => "make emu",
        "kernel" => "make kernel",
        "kernel-vanilla" => "make kernel-vanilla",
        "module" => "make modules",
        "perf" | "selftests" => "make clients",
        "unpatched emulator" => "tools/emu/build --stock",
        "kvm-selftests" => "make kvm-selftests",
        _ => "make setup",
    }
}

impl Places {
    /// Finds the source tree around the current directory.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn new(products: Products) -> Result<Self> {
        let here = std::env::current_dir()?;
        let Some(top) = here
            .ancestors()
            .find(|dir| dir.join("tools/lab/suites").is_dir())
        else {
            bail!(
                "{} is not inside the guest_lbr tree; go there",
                here.display()
            );
        };
        let home = || std::env::var_os("HOME").map(PathBuf::from);
        let cache = std::env::var_os("GUEST_LBR_CACHE")
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(std::env::var_os("XDG_CACHE_HOME")?).join("guest_lbr")))
            .or_else(|| Some(home()?.join(".cache/guest_lbr")))
            .context("neither HOME nor GUEST_LBR_CACHE is set; set one")?;
        Ok(Self {
            top: top.to_owned(),
            cache,
            products,
        })
    }

    fn existing(&self, what: &str, given: Option<&PathBuf>, default: &str) -> Result<PathBuf> {
        let path = match given {
            Some(path) => path.clone(),
            None => self.top.join("build").join(default),
        };
        path.canonicalize().with_context(|| {
            format!(
                "{what}: {} is missing; run `{}`",
                path.display(),
                remedy(what)
            )
        })
    }

    /// The build directory of the kernel `name` (`kernel`, `kernel-vanilla`).
    ///
    /// # Errors
    ///
    /// If it is missing.
    pub fn kernel(&self, name: &str) -> Result<PathBuf> {
        let given = self.products.kernel.as_ref().filter(|_| name == "kernel");
        self.existing(name, given, name)
    }

    /// The module.
    ///
    /// # Errors
    ///
    /// If it is missing.
    pub fn module(&self) -> Result<PathBuf> {
        self.existing(
            "module",
            self.products.module.as_ref(),
            "module/guest_lbr.ko",
        )
    }

    /// The directory of KVM selftests.
    ///
    /// # Errors
    ///
    /// If it is missing.
    pub fn selftests(&self) -> Result<PathBuf> {
        self.existing("selftests", self.products.selftests.as_ref(), "selftests")
    }

    /// The directory of the unpatched kernel's KVM selftests.
    ///
    /// # Errors
    ///
    /// If it is missing.
    pub fn kvm_selftests(&self) -> Result<PathBuf> {
        self.existing("kvm-selftests", None, "kvm-selftests")
    }

    /// The directory of perf and its workload.
    ///
    /// # Errors
    ///
    /// If it is missing.
    pub fn perf(&self) -> Result<PathBuf> {
        self.existing("perf", self.products.perf.as_ref(), "perf")
    }

    /// The emulator.
    ///
    /// # Errors
    ///
    /// If it is missing.
    pub fn bochs(&self) -> Result<PathBuf> {
        self.existing("emulator", self.products.bochs.as_ref(), "emu/bochs")
    }

    /// The conformance program, a Multiboot image.
    ///
    /// # Errors
    ///
    /// If it is missing.
    pub fn conform(&self) -> Result<PathBuf> {
        self.existing("conformance program", None, "conform/conform.img")
    }

    /// The unpatched emulator, to compare ours with.
    ///
    /// # Errors
    ///
    /// If it is missing.
    pub fn stock(&self) -> Result<PathBuf> {
        self.existing("unpatched emulator", None, "emu-stock/bochs")
    }

    /// The same with another emulator.
    #[must_use]
    pub fn with_bochs(&self, bochs: PathBuf) -> Self {
        let mut other = self.clone();
        other.products.bochs = Some(bochs);
        other
    }

    /// The same with another folder for logs.
    #[must_use]
    pub fn with_logs(mut self, logs: PathBuf) -> Self {
        self.products.log = Some(logs);
        self
    }

    /// The folder for the logs of `run`, made empty.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    pub fn log(&self, run: &str) -> Result<PathBuf> {
        let path = self.logs().join(run);
        if path.exists() {
            std::fs::remove_dir_all(&path)
                .with_context(|| format!("emptying {}", path.display()))?;
        }
        std::fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(path.canonicalize()?)
    }

    /// Where all log folders are.
    pub fn logs(&self) -> PathBuf {
        match &self.products.log {
            Some(path) => path.clone(),
            None => self.top.join("build/log"),
        }
    }

    /// The suites.
    pub fn suites(&self) -> PathBuf {
        self.top.join("tools/lab/suites")
    }

    /// The description of the machine `name`, a path or a name in
    /// tools/emu/machines.
    pub fn machine(&self, name: &str) -> PathBuf {
        let path = Path::new(name);
        if path.extension().is_some_and(|e| e == "toml") {
            return path.to_owned();
        }
        self.machines().join(format!("{name}.toml"))
    }

    /// The names of all machines, in order.
    ///
    /// # Errors
    ///
    /// If their folder cannot be read.
    pub fn machine_names(&self) -> Result<Vec<String>> {
        let folder = self.machines();
        let mut names: Vec<_> = std::fs::read_dir(&folder)
            .with_context(|| format!("reading {}", folder.display()))?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| path.extension().is_some_and(|e| e == "toml"))
            .filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned()))
            .collect();
        names.sort();
        Ok(names)
    }

    /// The folder of machine descriptions.
    pub fn machines(&self) -> PathBuf {
        self.top.join("tools/emu/machines")
    }
}
