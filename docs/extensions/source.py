"""Links from pages to files of the project: on a forge they open the file; in the site, a page that shows it.

A link whose text is a name that the file defines, as in [`centralize`](../gc_core/operator.py), opens it at that name.
"""

import ast
import importlib
import inspect
import os
from functools import cache
from pathlib import Path
from urllib.parse import quote

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx import addnodes

ROOT = Path(__file__).resolve().parents[2]
# Files that have a page of their own in the site.
PAGES = {"CHANGELOG.md": "changelog", "CONTRIBUTING.md": "contributing", "README.md": "index", "CITATION.cff": "citing"}


@cache
def definitions(file):
    """Line of every function, class and method of a Python file, by name and by Class.name."""
    if file.suffix != ".py":
        return {}
    found = {}
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found[node.name] = node.lineno
        for inner in getattr(node, "body", []) if isinstance(node, ast.ClassDef) else []:
            if isinstance(inner, ast.FunctionDef):
                found[f"{node.name}.{inner.name}"] = inner.lineno
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            for target in getattr(node, "targets", None) or [node.target]:
                if isinstance(target, ast.Name):
                    found[target.id] = node.lineno
    return found


def page_of(path):
    return PAGES.get(path) or f"source/{path}"


def link_to(app, docname, path, name=""):
    line = definitions(ROOT / path).get(name.strip().removesuffix("()"))
    return app.builder.get_relative_uri(docname, page_of(path)) + (f"#L-{line}" if line else "")


def inside_the_project(docname, target):
    """The path, from the project's folder, of what a page links to; None if it is not there."""
    # Some pages are files of the folder above, whose links start there.
    folders = [ROOT / "docs" / Path(docname).parent, *([ROOT] if docname in PAGES.values() else [])]
    for path in (os.path.normpath(folder / target) for folder in folders):
        if Path(path).exists() and path.startswith(f"{ROOT}{os.sep}"):
            return Path(path).relative_to(ROOT).as_posix()
    return None


def resolve(app, doctree):
    docname = app.env.docname
    shown = app.env.source_pages.setdefault(docname, set())
    for node in [*doctree.findall(addnodes.download_reference), *doctree.findall(addnodes.pending_xref)]:
        folder = node.get("refdomain") is None and node.get("reftype") == "myst" and "://" not in node["reftarget"]
        if not folder or not (path := inside_the_project(docname, node["reftarget"])):
            continue
        if path not in PAGES:
            shown.add(path)
        link = nodes.reference("", "", *node.children, internal=True, refuri=link_to(app, docname, path, node.astext()))
        node.replace_self(link)


def breakable(app, doctree):
    """Long names in tables may break after an underscore."""
    for table in doctree.findall(nodes.table):
        for literal in table.findall(nodes.literal):
            name = literal.astext()
            if name.isidentifier() and len(name) > 24:
                *pieces, end = name.split("_")
                literal.clear()
                for piece in pieces:
                    literal += [nodes.Text(f"{piece}_"), nodes.raw("", "<wbr>", format="html")]
                literal += nodes.Text(end)


def pages(app):
    """A page for each file that some page links to, and for each module of the packages."""
    files = set().union(*app.env.source_pages.values())
    for package in ("gc_core", "backends", "conformance"):
        files |= {file.relative_to(ROOT).as_posix() for file in (ROOT / package).rglob("*.py")}
    for path in sorted(files):
        if (ROOT / path).is_dir():
            here = [p for p in sorted((ROOT / path).rglob("*")) if p.is_file() and "__pycache__" not in p.parts]
            body = "".join(f"<li><code>{p.relative_to(ROOT / path)}</code></li>" for p in here)
            body = f"<ul>{body}</ul>"
        else:
            body = listing(ROOT / path)
        yield f"source/{path}", {"title": path, "body": f"<h1><code>{path}</code></h1>{body}"}, "page.html"


def listing(file):
    try:
        lexer = get_lexer_for_filename(file.name)
    except ClassNotFound:
        lexer = TextLexer()
    return highlight(file.read_text(encoding="utf-8"), lexer, HtmlFormatter(linespans="L", cssclass="highlight source"))


def link_to_object(module, fullname):
    """From a page of api/ to the line of an object, for the [source] links."""
    found = importlib.import_module(module)
    for part in fullname.split("."):
        found = getattr(found, part, None)
    try:
        found = inspect.unwrap(found)
        path = Path(inspect.getsourcefile(found)).relative_to(ROOT).as_posix()
        line = inspect.getsourcelines(found)[1]
    except (TypeError, ValueError, OSError):
        return None
    return f"../source/{quote(path)}.html#L-{line}"


def start(app):
    if not hasattr(app.env, "source_pages"):
        app.env.source_pages = {}


def forget(app, env, docname):
    env.source_pages.pop(docname, None)


def merge(app, env, docnames, other):
    env.source_pages.update({name: other.source_pages[name] for name in docnames if name in other.source_pages})


def setup(app):
    app.connect("builder-inited", start)
    app.connect("env-purge-doc", forget)
    app.connect("env-merge-info", merge)
    app.connect("doctree-read", resolve, priority=400)  # before Sphinx copies files that are linked to
    app.connect("doctree-read", breakable, priority=600)
    app.connect("html-collect-pages", pages)
    return {"version": "1", "env_version": 1, "parallel_read_safe": True, "parallel_write_safe": True}
