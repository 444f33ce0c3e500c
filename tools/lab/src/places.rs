// SPDX-License-Identifier: GPL-2.0-only
//! Where things are: the source tree, build products, the cache.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};
use clap::Args;

use crate::checked::{self, OURS};

/// Build products; the defaults are what `make lab` publishes under `build/`.
#[derive(Args, Clone, Debug)]
pub struct Products {
    /// The host's and guest's kernel: a build directory, or a bzImage with --modules, or
    /// the host's: kernel-debug, kernel-kasan, kernel-kcsan [default: build/kernel]
    #[arg(long, value_name = "PATH", global = true)]
    pub kernel: Option<PathBuf>,
    /// Where that kernel's modules are: /lib/modules/RELEASE of an installation, or a
    /// folder with irqbypass.ko, kvm.ko and kvm-intel.ko [default: the build directory]
    #[arg(long, value_name = "DIR", global = true)]
    pub modules: Option<PathBuf>,
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

/// A kernel to boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// The bzImage.
    pub image: PathBuf,
    modules: PathBuf,
}

/// Whether a file has the header of Linux' boot protocol, which other boot loaders ask
/// for, too.
fn is_bzimage(path: &Path) -> Result<bool> {
    let what = || format!("reading {}", path.display());
    let mut head = Vec::new();
    let file = File::open(path).with_context(what)?;
    file.take(0x206).read_to_end(&mut head).with_context(what)?;
    Ok(head.get(0x202..) == Some(b"HdrS"))
}

impl Kernel {
    /// A build directory, or an image with `modules`.
    fn new(path: PathBuf, modules: Option<PathBuf>) -> Result<Self> {
        let (image, modules) = match modules {
            Some(modules) if path.is_file() => (path, modules),
            None if path.is_file() => bail!(
                "{} is an image; name the folder of its modules by --modules",
                path.display()
            ),
            modules => (
                path.join("arch/x86/boot/bzImage"),
                modules.unwrap_or_else(|| path.clone()),
            ),
        };
        if !image.is_file() {
            bail!(
                "{} is missing; --kernel wants a kernel's build directory or a bzImage",
                image.display()
            );
        }
        if !is_bzimage(&image)? {
            bail!("{} is no bzImage of x86", image.display());
        }
        Ok(Self { image, modules })
    }

    /// A module by its path in a build directory; where modules are installed, that is
    /// below another folder, or the module lies there alone.
    ///
    /// # Errors
    ///
    /// If it is missing.
    pub fn module(&self, path: &str) -> Result<PathBuf> {
        let installed = self.modules.join("kernel").join(path);
        let name = Path::new(path).file_name().unwrap_or_default();
        let places = [self.modules.join(path), installed, self.modules.join(name)];
        let compressed = |place: &PathBuf| {
            [".xz", ".zst", ".gz"].iter().any(|suffix| {
                let mut packed = place.clone().into_os_string();
                packed.push(suffix);
                Path::new(&packed).exists()
            })
        };
        if let Some(place) = places.iter().find(|place| place.is_file()) {
            return Ok(place.clone());
        }
        if let Some(place) = places.iter().find(|place| compressed(place)) {
            bail!("{} is compressed; decompress it", place.display());
        }
        bail!(
            "{} has no {path}; the kernel needs KVM and KVM_INTEL as modules",
            self.modules.display()
        );
    }
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
        "kernel-debug" | "module-debug" | "selftests-debug" => "make kernel-debug",
        "kernel-kasan" | "module-kasan" | "selftests-kasan" => "make kernel-kasan",
        "kernel-kcsan" | "module-kcsan" | "selftests-kcsan" => "make kernel-kcsan",
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
        if products.modules.is_some() && products.kernel.is_none() {
            bail!("--modules goes with --kernel; name both");
        }
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

    /// The kernel that checks itself of the command line, if it names one.
    fn named(&self) -> Option<&'static str> {
        Some(checked::named(self.products.kernel.as_ref()?.to_str()?)?.name)
    }

    /// The name under `build/` of the kernel `name`: one of the command line is `kernel`.
    pub fn resolve<'a>(&self, name: &'a str) -> &'a str {
        self.named().filter(|_| name == OURS).unwrap_or(name)
    }

    /// The kernel `name` (`kernel`, `kernel-vanilla`); the one of the command line is
    /// the former.
    ///
    /// # Errors
    ///
    /// If it is missing.
    pub fn kernel(&self, name: &str) -> Result<Kernel> {
        self.kernel_at(name, self.resolve(name))
    }

    /// The kernel of guests in a host with the kernel `name`: the same, or if that checks
    /// itself the ordinary one.
    ///
    /// # Errors
    ///
    /// If it is missing.
    pub fn guest_kernel(&self, name: &str) -> Result<Kernel> {
        match checked::named(self.resolve(name)) {
            Some(_) => self.kernel_at(OURS, OURS),
            None => self.kernel(name),
        }
    }

    fn kernel_at(&self, name: &str, product: &str) -> Result<Kernel> {
        let given = self.products.kernel.as_ref();
        let given = given.filter(|_| name == OURS && self.named().is_none());
        let path = self.existing(product, given, product)?;
        let modules = self.products.modules.as_ref().filter(|_| given.is_some());
        let modules = modules.map(|path| {
            let what = || format!("--modules: {} is missing", path.display());
            path.canonicalize().with_context(what)
        });
        Kernel::new(path, modules.transpose()?)
    }

    /// On which kernels a suite runs that is for `kernels`: one of the command line is
    /// `kernel`, and takes the place of all others if that is not among them; one that
    /// checks itself does so in any case.
    #[must_use]
    pub fn kernels(&self, kernels: &[String]) -> Vec<String> {
        if let Some(name) = self.named() {
            return vec![name.to_owned()];
        }
        let ours = OURS.to_owned();
        if self.products.kernel.is_some() && !kernels.contains(&ours) {
            return vec![ours];
        }
        kernels.to_vec()
    }

    /// The module, built for the kernel `kernel`.
    ///
    /// # Errors
    ///
    /// If it is missing.
    pub fn module(&self, kernel: &str) -> Result<PathBuf> {
        let product = checked::product("module", self.resolve(kernel));
        self.existing(
            &product,
            self.products.module.as_ref(),
            &format!("{product}/guest_lbr.ko"),
        )
    }

    /// The directory of KVM selftests and of test modules for the kernel `kernel`.
    ///
    /// # Errors
    ///
    /// If it is missing.
    pub fn selftests(&self, kernel: &str) -> Result<PathBuf> {
        let product = checked::product("selftests", self.resolve(kernel));
        self.existing(&product, self.products.selftests.as_ref(), &product)
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
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn machine(&self, name: &str) -> Result<PathBuf> {
        let path = Path::new(name);
        let path = if path.extension().is_some_and(|e| e == "toml") {
            path.to_owned()
        } else {
            self.machines().join(format!("{name}.toml"))
        };
        path.canonicalize()
            .with_context(|| format!("no machine {name}; `lab list` names them"))
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

    /// The build products that were named.
    pub fn products(&self) -> Products {
        self.products.clone()
    }

    /// The folder of machine descriptions.
    pub fn machines(&self) -> PathBuf {
        self.top.join("tools/emu/machines")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const KVM: &str = "arch/x86/kvm/kvm.ko";

    fn file(path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }

    /// An image as far as anybody looks at it.
    fn bzimage(path: &Path) {
        file(path);
        fs::write(path, [&[0; 0x202][..], b"HdrS"].concat()).unwrap();
    }

    #[test]
    fn modules_are_found_where_kernels_have_them() {
        for place in [KVM, "kernel/arch/x86/kvm/kvm.ko", "kvm.ko"] {
            let folder = tempfile::tempdir().unwrap();
            let (image, module) = (folder.path().join("bzImage"), folder.path().join(place));
            bzimage(&image);
            file(&module);
            let kernel = Kernel::new(image.clone(), Some(folder.path().into())).unwrap();
            assert_eq!(kernel.image, image);
            assert_eq!(kernel.module(KVM).unwrap(), module);
        }
    }

    #[test]
    fn a_build_directory_has_all() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("arch/x86/boot/bzImage");
        bzimage(&image);
        file(&folder.path().join(KVM));
        let kernel = Kernel::new(folder.path().into(), None).unwrap();
        assert_eq!(kernel.image, image);
        assert_eq!(kernel.module(KVM).unwrap(), folder.path().join(KVM));
    }

    #[test]
    fn what_is_missing_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("bzImage");
        let said = |result: Result<Kernel>| format!("{:#}", result.unwrap_err());
        assert!(said(Kernel::new(image.clone(), None)).contains("bzImage is missing"));
        assert!(said(Kernel::new(folder.path().into(), None)).contains("bzImage is missing"));
        bzimage(&image);
        assert!(said(Kernel::new(image.clone(), None)).contains("by --modules"));
        for no_image in [&b"MZ"[..], &[0; 0x206]] {
            fs::write(&image, no_image).unwrap();
            let kernel = Kernel::new(image.clone(), Some(folder.path().into()));
            assert!(said(kernel).contains("is no bzImage of x86"));
        }
        bzimage(&image);
        let kernel = Kernel::new(image, Some(folder.path().into())).unwrap();
        let said = |kernel: &Kernel| format!("{:#}", kernel.module(KVM).unwrap_err());
        assert!(said(&kernel).contains("has no arch/x86/kvm/kvm.ko"));
        file(&folder.path().join("kernel/arch/x86/kvm/kvm.ko.xz"));
        assert!(said(&kernel).contains("kvm.ko is compressed"));
    }

    #[test]
    fn a_kernel_of_the_command_line_takes_the_place_of_others() {
        let products = |kernel: Option<&str>| Products {
            kernel: kernel.map(PathBuf::from),
            modules: None,
            module: None,
            selftests: None,
            perf: None,
            bochs: None,
            log: None,
        };
        let own = Places::new(products(Some("x"))).unwrap();
        let ours = Places::new(products(None)).unwrap();
        let checked = Places::new(products(Some("kernel-debug"))).unwrap();
        for (kernels, on_own) in [
            (&["kernel"][..], &["kernel"][..]),
            (&["kernel-vanilla"], &["kernel"]),
            (&["kernel", "kernel-vanilla"], &["kernel", "kernel-vanilla"]),
        ] {
            let kernels: Vec<_> = kernels.iter().map(ToString::to_string).collect();
            assert_eq!(own.kernels(&kernels), on_own);
            assert_eq!(ours.kernels(&kernels), kernels);
            assert_eq!(checked.kernels(&kernels), ["kernel-debug"]);
        }
        assert_eq!(own.resolve("kernel"), "kernel");
        assert_eq!(checked.resolve("kernel"), "kernel-debug");
        assert_eq!(checked.resolve("kernel-vanilla"), "kernel-vanilla");
    }
}
