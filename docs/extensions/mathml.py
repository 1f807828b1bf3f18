"""Formulas as MathML, which browsers draw themselves: no script, no fonts to fetch."""

import re

from docutils import nodes
from latex2mathml.converter import convert

# Browsers draw no `mathvariant` but "normal": a bold digit is a character of its own.
BOLD = re.compile(r'<mn mathvariant="bold">(\d+)</mn>')


def formula(latex, display="inline"):
    """The MathML of a formula."""
    return BOLD.sub(lambda found: f"<mn>{found[1].translate(BOLD_DIGITS)}</mn>", convert(latex, display=display))


BOLD_DIGITS = {ord("0") + i: chr(0x1D7CE + i) for i in range(10)}


def inline(self, node):
    self.body.append(formula(node.astext()))
    raise nodes.SkipNode


def block(self, node):
    self.body.append(f'<div class="formula">{formula(node.astext(), "block")}</div>')
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
