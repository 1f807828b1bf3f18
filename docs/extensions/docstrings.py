"""Docstrings are written to be read as they are; this makes the allowances that reStructuredText and Sphinx ask for."""

import importlib
import inspect
import re

# `attach`ed: markup that a letter follows.
MARKED = re.compile(r"(`[^`]+`)(?=([A-Za-z])?)")
# Names of arguments that go on in the next line: one line, for the list of fields.
CONTINUED = re.compile(r"^( +)((?:\w+, )*\w+,)$")
# What Python says of every field of a named tuple, where its comment says more.
OF_A_FIELD = re.compile(r"^Alias for field number \d+$")


def comment_on(field):
    """What the source says behind a field of a named tuple: `name: type  # this`."""
    owner, _, name = field.rpartition(".")
    module, _, cls = owner.rpartition(".")
    source = inspect.getsource(getattr(importlib.import_module(module), cls))
    found = re.search(rf"^ +{name}: [^#\n]*?(?:# *(.+))?$", source, re.M)
    return ((found and found[1]) or "").replace(": ", " – ")  # Napoleon takes what is before a colon for a type


def allow(app, what, name, obj, options, lines):
    if lines and OF_A_FIELD.match(lines[0]):
        lines[:] = [comment_on(name)]
    joined = []
    for line in lines:
        if joined and CONTINUED.match(joined[-1]) and re.match(r" +[\w, ]+: ", line):
            joined[-1] = f"{joined[-1]} {line.strip()}"
        else:
            joined.append(line)
    lines[:] = [MARKED.sub(lambda found: found[1] + ("\\ " if found[2] else ""), line) for line in joined]


def setup(app):
    app.connect("autodoc-process-docstring", allow, priority=400)  # before Napoleon reads the sections
    return {"parallel_read_safe": True, "parallel_write_safe": True}
