"""A page for each property of the conformance suite: what it says, why, which mistakes it finds, how to mend them.

Written while the site is built, from the suite and docs/properties.toml; their list stands in docs/properties.md.
"""

import sys
import tomllib
from fnmatch import fnmatch
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MARK = "<!-- the list of properties -->"


def groups():
    return tomllib.loads((ROOT / "docs/properties.toml").read_text(encoding="utf-8"))["group"]


def group_of(id, some):
    """The first group of properties.toml that fits an id."""
    return next(group for group in some if any(fnmatch(id, pattern) for pattern in group["ids"]))


def found_in():
    """The public ports whose page says that they fail a property, by id."""
    ports, found, name = (ROOT / "docs/ports.md").read_text(encoding="utf-8").splitlines(), {}, ""
    for line in ports:
        name = line.removeprefix("## ") if line.startswith("## ") else name
        if line.startswith("- `") and name:
            found.setdefault(line.split("`")[1], []).append(name)
    return found


def properties():
    from gc_conformance import PROPERTIES

    return PROPERTIES


def text(words):
    """A sentence of the data file as HTML: `code` and nothing else."""
    parts = escape(words, quote=False).split("`")
    return "".join(f"<code>{part}</code>" if n % 2 else part for n, part in enumerate(parts))


def page(prop, group, mutants, ports):
    """The body of a property's page."""
    finds = "".join(f"<li>{text(mutant.what)} (<code>{escape(mutant.name)}</code>)</li>" for mutant in mutants)
    fails = "".join(f"<li>{escape(port)}</li>" for port in ports)
    elsewhere = f"<p>It fails for these <a href='../ports.html'>public ports</a>:</p><ul>{fails}</ul>" if ports else ""
    needs = ", ".join(f"<code>{escape(name)}</code>" for name in prop.needs) or "any function"
    home = "" if prop.level == "axes-given" else f" Level <code>{prop.level}</code>."
    return (
        f"<section><h1>{escape(prop.id)}</h1><p>{text(prop.title)}</p>"
        f"<p>Judged since version {prop.since} of the suite, where a port has {needs}.{home}</p>"
        f"<h2>Why</h2><p>{text(group['why'])}</p>"
        "<h2>What it finds</h2><p>Wrong ports that this property rejects with all others switched off:</p>"
        f"<ul>{finds}</ul>{elsewhere}<h2>How to mend it</h2><p>{text(group['fix'])}</p>"
        f"<h2>Judge it alone</h2><pre>gc-conformance run my_port.py --property {escape(prop.id)}</pre>"
        "<p><a href='../properties.html'>All properties</a>, <a href='../conformance.html'>the suite</a></p></section>"
    )


def pages(app):
    sys.path.insert(0, str(ROOT / "conformance"))
    from gc_conformance.mutants import MUTANTS

    some, elsewhere = groups(), found_in()
    for prop in properties().values():
        mutants = [mutant for mutant in MUTANTS.values() if mutant.kills == prop.id]
        body = page(prop, group_of(prop.id, some), mutants, elsewhere.get(prop.id, ()))
        context = {"title": prop.id, "body": body, "toc": "", "display_toc": False, "meta": {}, "sourcename": ""}
        yield f"properties/{prop.id}", context, "page.html"


def listing():
    """All properties with links to their pages, chapter by chapter."""
    rows, chapter = [], ""
    for prop in properties().values():
        if prop.chapter != chapter:
            chapter = prop.chapter
            rows.append(f"{'</ul>' if rows else ''}<h2>{chapter}</h2><ul>")
        rows.append(f'<li><a href="properties/{prop.id}.html"><code>{prop.id}</code></a> {text(prop.title)}</li>')
    return "\n".join([*rows, "</ul>"])


def fill(app, docname, source):
    if MARK in source[0]:
        sys.path.insert(0, str(ROOT / "conformance"))
        source[0] = source[0].replace(MARK, f"```{{raw}} html\n{listing()}\n```")


def setup(app):
    app.connect("source-read", fill)
    app.connect("html-collect-pages", pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
