// SPDX-License-Identifier: GPL-2.0-only

//! The life of a vCPU in a small world, against a reference of a few lines.

mod explore;
mod kvm;
mod perf;
mod random;
mod reference;
mod registers;
mod rows;

mod world;
