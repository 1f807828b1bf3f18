"""Docstrings are written to be read as they are; this makes the two allowances that reStructuredText asks for."""

import re

# `attach`ed: markup that a letter follows.
MARKED = re.compile(r"(`[^`]+`)(?=([A-Za-z])?)")
# Names of arguments that go on in the next line: one line, for the list of fields.
CONTINUED = re.compile(r"^( +)((?:\w+, )*\w+,)$")


def allow(app, what, name, obj, options, lines):
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
