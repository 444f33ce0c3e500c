// SPDX-License-Identifier: GPL-2.0-only

//! The state machines, live in a small world, against a tiny reference.

mod explore;
mod random;
mod world;
