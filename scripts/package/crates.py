# SPDX-License-Identifier: GPL-2.0-only
"""The crates that the selftests are built from."""

import pathlib
import re
import subprocess

TOP = pathlib.Path(__file__).resolve().parents[2]
TARGET = "x86_64-unknown-linux-gnu"
# Of these edges: what is in the program, and what its build runs beside.
LINKED = "normal,no-proc-macro"
ALL = "normal,build"


def output(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=TOP).stdout


def text(*command):
    return output(*command).decode().strip()


def tree(edges):
    """Name, version and licence of each, as cargo builds the selftests alone: what cargo
    metadata says is of all the workspace's features at once."""
    lines = text(
        *("cargo", "tree", "--locked", "--package", "kvm-selftests"),
        *("--target", TARGET, "--edges", edges, "--prefix", "none"),
        *("--no-dedupe", "--format", "{p}|{l}"),
    )
    for line in sorted(set(lines.splitlines())):
        crate, licence = line.split("|")
        name, version = crate.split()[:2]
        yield name, version.removeprefix("v"), re.sub(" ?/ ?", " OR ", licence)


def licence():
    """That of the program which they make, as SPDX has it."""
    terms = {" OR ".join(sorted(terms.split(" OR "))) for _, _, terms in tree(LINKED)}
    return " AND ".join(f"({one})" if " OR " in one else one for one in sorted(terms))
