# SPDX-License-Identifier: GPL-2.0-only
# The human front.  Kbuild (beside this file) is what the kernel's build system
# reads; the work is done by the scripts named here.

KDIR ?=
LAB := cargo run --quiet --package lab --

FLAVOUR ?= lab
MACHINE ?= skylake

.PHONY: help setup kernel kernel-vanilla kernel-debug kernel-kasan kernel-kcsan modules emu clients \
	lab shell demo conform compare bench check check-full mutants mutants-lbr kvm-selftests lint bindings \
	setup-packages setup-clang deb dist rpm check-packages check-release htmldocs clean

help: ## list the targets
	@echo 'Two commands do all:'
	@echo '  make demo            LBR in a KVM guest on an emulated Intel host, shown'
	@echo '  make check           all tests'
	@echo
	@echo 'Targets:'
	@sed -n 's/^\([a-z_-]*\):.*## \(.*\)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | \
		expand -t 23
	@echo
	@echo 'Variables:'
	@echo '  KDIR=DIR             build the module against this prepared kernel tree'
	@echo '  KSRC=DIR             patch and build this kernel source instead of Debian'"'"'s'
	@echo '  MACHINE=NAME         on which demo runs: skylake, haswell, icelake, sapphire-rapids'
	@echo '  FLAVOUR=lab|cloud    which kernel to package'
	@echo '  MODULE_SIG_KEY=FILE  sign packaged modules with this key'
	@echo '  GUEST_LBR_CACHE=DIR  where build products are kept'

setup: ## install what is missing on a bare Debian 12 or 13
	@scripts/setup

kernel: setup ## fetch, patch, configure and build the host kernel
	@scripts/kernel/build

kernel-vanilla: kernel ## the same kernel without our series, to compare with
	@scripts/kernel/build --vanilla

kernel-debug: clients ## our kernel that checks locks, sleep, objects and leaks, and modules for it
kernel-kasan: clients setup-clang ## our kernel that checks each memory access, and modules for it
kernel-kcsan: clients ## our kernel that looks for data races, and modules for it
kernel-debug kernel-kasan kernel-kcsan: kernel-%:
	@scripts/kernel/build --$*
	@scripts/module/build build/kernel-$* module-$*
	@tools/testing/build kernel-$*

ifeq ($(KDIR),)
modules: kernel ## build guest_lbr.ko (KDIR= for another kernel tree)
	@scripts/module/build
else
modules:
	@scripts/module/build "$(KDIR)"
endif

emu: setup ## build the emulated Intel host
	@tools/emu/build
	@tools/emu/conform/build

clients: kernel kernel-vanilla ## build perf, workloads and selftests for the lab
	@tools/perf/build
	@tools/testing/build

kvm-selftests: kernel-vanilla ## build all KVM selftests of the unpatched kernel
	@tools/testing/kvm-selftests

lab: modules emu clients

shell: lab ## a console in the emulated host, with the module and perf in reach
	@$(LAB) shell

demo: lab ## profile a workload on the emulated host and in its guest
	@$(LAB) demo "$(MACHINE)"

conform: emu ## hold bare emulated CPUs to the rules of Intel's manual
	@$(LAB) conform

compare: lab ## hold upstream's guest LBR and guest_lbr to the same rules, and write the table
	@$(LAB) compare

bench: lab ## measure what guest LBR costs, in instructions and VM exits, and write the tables
	@$(LAB) bench

check: lab kernel-debug setup-packages ## all tests; the last line is the sum
	@$(LAB) check

check-full: lab kernel-debug kernel-kasan setup-packages kvm-selftests ## the same and all that takes long: hours
	@$(LAB) check --full

mutants: emu ## break the hardware model in every way, and see tests fail: hours
	@tools/emu/mutants

mutants-lbr: setup ## break rust/lbr in every way, and see its tests fail: hours
	@tools/testing/full/mutants-lbr

lint: setup ## formatting and lints of all sources
	@scripts/lint

bindings: setup ## regenerate the Rust bindings of the contract headers
	@scripts/module/bindings

setup-packages: setup ## install what packaging and documentation need
	@scripts/setup scripts/package/packages

setup-clang: setup
	@scripts/setup scripts/kernel/packages-clang

deb: setup-packages ## Debian packages of the patched kernel and of the module
	@scripts/package/deb "$(FLAVOUR)"

dist: setup ## source tarballs, from which the rest builds
	@scripts/package/dist

rpm: setup-packages ## source and binary RPMs of the module
	@scripts/package/rpm/build "$(FLAVOUR)"

check-packages: lab setup-packages ## install the packages in a Debian image, boot and purge them
	@$(LAB) levels packages $(patsubst %,'scripts/package/%',check-sbom check-dkms check-space \
		check-install check) 'scripts/package/check-install suites'

check-release: lab setup-packages ## what a release needs beside: RPMs, exports, tarballs, twice the same; hours
	@$(LAB) levels release scripts/package/rpm/check scripts/kernel/check-export \
		scripts/package/check-dist scripts/package/check-reproducible

htmldocs: setup-packages ## the documentation as HTML
	@scripts/docs

clean: ## forget the build products of this tree (the cache stays)
	rm -rf build target
