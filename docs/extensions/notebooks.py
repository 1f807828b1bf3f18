"""The chapters of docs/learn are notebooks: each is run from top to bottom, and shown with what it prints and draws.

The source is Markdown that a forge shows and the tests run; Jupytext makes the notebook of it, which lies beside the
built page, together with what it draws with: it runs in plain Jupyter, without this folder.
"""

import logging
import re
import shutil
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

import jupytext
import nbformat
from docutils import nodes
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

CHAPTER = re.compile(r"learn/\d")
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")
DRAWING = Path(__file__).parents[1] / "learn/drawing.py"


def executed(file):
    """The notebook of a chapter, with outputs; an error in a cell is an error."""
    notebook = jupytext.read(file)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    for number, cell in enumerate(notebook.cells):
        cell.id = f"{file.stem}-{number}"  # the same from build to build
    with TemporaryDirectory() as folder:
        # Sockets in a folder of its own: no port is opened.
        kernel = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=f"{folder}/kernel")
        place = {"metadata": {"path": folder}}
        client = NotebookClient(notebook, km=kernel, timeout=600, shutdown_kernel="immediate", resources=place)
        client.execute(cleanup_kc=True)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = list(merged(cell.outputs))
    return notebook


def links_in_the_site(text):
    """Links of a source page, as they are from its built page."""

    def built(match):
        path = match[1]
        if path.startswith("../../"):
            path = f"../source/{path.removeprefix('../../')}"
            return f"]({path}.html"
        return f"]({re.sub(r'[.](md|rst)$', '.html', path)}"

    return LINK.sub(built, text)


def draws(code):
    """Whether a cell is there for its picture."""
    return "show(" in code and "plt." in code


def for_readers(notebook):
    """The notebook as it is offered: links lead to the site beside it, drawings come from the file beside it."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = links_in_the_site(cell.source)
        else:
            cell.source = cell.source.replace("from docs.learn.drawing import", "from drawing import")
            if draws(cell.source):
                cell.metadata["jupyter"] = {"source_hidden": True}
    return notebook


def run(app, doctree):
    docname = app.env.docname
    if not CHAPTER.match(docname):
        return
    notebook = executed(Path(app.env.doc2path(docname)))
    blocks = [block for block in doctree.findall(nodes.literal_block) if block.get("language") == "python"]
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [block.astext().strip() for block in blocks] == [cell.source.strip() for cell in cells], docname
    for block, cell in zip(blocks, cells, strict=True):
        shown = [node for output in cell.outputs for node in show(output)]
        place = block.parent.index(block)
        block.parent[place + 1 : place + 1] = shown
        if draws(cell.source):
            opened = '<details class="plotting"><summary>The code that draws this</summary>'
            block.parent[place : place + 1] = [raw(opened), block, raw("</details>")]
    if app.builder.format != "html":
        return
    target = Path(app.outdir, docname).with_suffix(".ipynb")
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(for_readers(notebook), target)
    shutil.copy(DRAWING, target.parent)
    links = f'<a href="{target.name}" download>This chapter as a notebook</a>, and <a href="{DRAWING.name}" download>'
    doctree[0].append(raw(f'<p class="notebook">{links}what it draws with</a>, to be saved beside it</p>'))


def raw(html):
    return nodes.raw("", html, format="html")


def merged(outputs):
    """What was printed in pieces, in one."""
    for _, pieces in groupby(outputs, key=lambda output: output.get("name", id(output))):
        first, *rest = pieces
        if rest:
            first.text += "".join(piece.text for piece in rest)
        yield first


def show(output):
    if output.output_type == "stream":
        return [nodes.literal_block(output.text, output.text, language="text", classes=["output"])]
    if "text/html" in output.data:
        return [raw(output.data["text/html"])]
    text = output.data["text/plain"]
    return [nodes.literal_block(text, text, language="text", classes=["output"])]


def setup(app):
    logging.getLogger("traitlets").setLevel(logging.ERROR)  # not a line for every kernel
    app.connect("doctree-read", run)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
