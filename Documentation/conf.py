# SPDX-License-Identifier: GPL-2.0-only
"""What Sphinx needs to know: make htmldocs."""

import pathlib
import re

top = pathlib.Path(__file__).resolve().parent.parent

project = "guest_lbr"
author = "The guest_lbr authors"
copyright = author
release = re.search(
    r'^version = "(.+)"$', (top / "Cargo.toml").read_text(), re.MULTILINE
).group(1)
version = release

extensions = []
exclude_patterns = ["_build"]
nitpicky = True
# Commands, logs and C, but nothing in Python, which is the default.
highlight_language = "none"
html_theme = "alabaster"
html_title = f"guest_lbr {release}"
html_theme_options = {
    "description": "Last branch records for KVM guests",
    "fixed_sidebar": True,
    "page_width": "1220px",
    "body_max_width": "none",
}
# custom.css, which this theme asks for.
html_static_path = ["_static"]
html_show_sourcelink = False
html_copy_source = False
# No build date: the same pages from the same sources.
html_last_updated_fmt = None
