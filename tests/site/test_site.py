"""The built site: every page opens in a browser, every link inside leads somewhere, nothing comes from the network."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlparse

import nbformat
import pytest
from filelock import FileLock
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from sphinx.util.inventory import InventoryFile

from docs.extensions.complete import undocumented
from docs.extensions.notebooks import executed

from .tools import chromium, node

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def site(tmp_path_factory, worker_id):
    """The site, built as `make docs` does; once, whichever of the test's processes comes first."""
    shared = tmp_path_factory.getbasetemp()
    if worker_id != "master":
        shared = shared.parent
    folder = shared / "site"
    with FileLock(shared / "site.lock"):
        if not (folder / "objects.inv").exists():
            words = ["-W", "--keep-going", "-n", "-E", "-q", "-j", "2", "-b", "html"]
            command = [sys.executable, "-m", "sphinx", *words, "-d", shared / "doctrees", "docs", folder]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
    return folder


def pages(site):
    return sorted(file.relative_to(site).as_posix() for file in site.rglob("*.html") if "_static" not in file.parts)


# ---- What needs no browser


class Resources(HTMLParser):
    """What a page loads by itself."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "link" and attrs.get("rel") in ("stylesheet", "icon", "preload", "preconnect", "dns-prefetch"):
            self.found.append(attrs.get("href"))
        if tag in ("script", "img", "iframe", "source", "video", "audio", "embed", "object", "image", "use"):
            self.found += [attrs.get(name) for name in ("src", "data", "href", "xlink:href") if attrs.get(name)]


def test_no_page_loads_anything_from_the_network(site):
    for page in pages(site):
        reader = Resources()
        reader.feed((site / page).read_text())
        assert [url for url in reader.found if re.match(r"(https?:)?//", url)] == [], page
    for file in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", file.read_text()), file


def test_a_public_name_without_a_page_is_found(site):
    with (site / "objects.inv").open("rb") as file:
        inventory = InventoryFile.load(file, "", lambda base, path: path)
    documented = {name for kind, names in inventory.items() if kind.startswith("py:") for name in names}
    assert undocumented(documented) == []
    assert undocumented(documented - {"gc_torch.AdamW"}) == ["gc_torch.AdamW"]
    assert "gc_jax.Plan" in undocumented(documented - {"gc_core.Plan"})


def test_the_notebooks_ran_from_top_to_bottom(site):
    chapters = sorted(file.stem for file in (ROOT / "docs/learn").glob("[1-9]*.md"))
    assert sorted(file.stem for file in (site / "learn").glob("*.ipynb")) == chapters
    for file in (site / "learn").glob("*.ipynb"):
        cells = [cell for cell in json.loads(file.read_text())["cells"] if cell["cell_type"] == "code"]
        assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1)), file.name
        assert not [out for cell in cells for out in cell["outputs"] if out["output_type"] == "error"], file.name


def test_a_notebook_runs_in_plain_jupyter_with_what_lies_beside_it(site, tmp_path):
    for name in ("2-projection.ipynb", "drawing.py"):
        shutil.copy(site / "learn" / name, tmp_path)
    notebook = nbformat.read(tmp_path / "2-projection.ipynb", as_version=4)
    sources = [cell.source for cell in notebook.cells]
    assert not any("docs.learn" in source for source in sources)
    assert any("from drawing import" in source for source in sources)
    notebook.cells.append(nbformat.v4.new_code_cell("import matplotlib; matplotlib.get_backend()"))
    kernel = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=f"{tmp_path}/kernel")
    client = NotebookClient(notebook, km=kernel, timeout=300, resources={"metadata": {"path": tmp_path}})
    client.execute(cleanup_kc=True)
    assert "inline" in notebook.cells[-1].outputs[0]["data"]["text/plain"]  # the reader's own plots are shown


def test_a_notebook_with_an_error_does_not_build(tmp_path):
    (tmp_path / "chapter.md").write_text("```python\n1 / 0\n```\n")
    with pytest.raises(Exception, match="ZeroDivisionError"):
        executed(tmp_path / "chapter.md")


# ---- In a browser


def browse(folder, names):
    """What a browser finds on these pages."""
    if not (browser := chromium()):
        pytest.skip("NOT RUN: there is no Chromium here; apt-get install chromium")
    command = [node(), HERE / "browse.mjs", browser, folder]
    done = subprocess.run(command, input=json.dumps({"pages": names}), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="session")
def opened(site):
    return browse(site, [*pages(site), "search.html?q=hyperplane"])


def test_every_page_opens_on_a_desktop_and_on_a_phone(opened, site):
    assert opened.keys() > set(pages(site)) and len(opened) > 40
    assert {page: seen["problems"] for page, seen in opened.items() if seen["problems"]} == {}


def test_every_link_inside_the_site_leads_somewhere(opened, site):
    broken, followed = [], 0
    for page, seen in opened.items():
        for link in seen["links"]:
            url, fragment = urldefrag(link)
            if urlparse(url).scheme != "file":
                continue
            followed += 1
            target = Path(unquote(urlparse(url).path))
            name = target.relative_to(site).as_posix() if target.is_relative_to(site) else None
            inside = name is not None and target.is_file()
            if not inside or (fragment and name in opened and unquote(fragment) not in opened[name]["ids"]):
                broken.append(f"{page}: {link}")
    assert broken == [] and followed > 1000


def test_the_search_finds_pages(opened):
    hits = opened["search.html?q=hyperplane"]["hits"]
    assert any("learn/2-projection.html" in hit for hit in hits), hits


MISTAKES = {
    "<script>missing()</script>": "ReferenceError",
    "<script>console.error('no')</script>": "console.error: no",
    "<img src='missing.png'>": "ERR_FILE_NOT_FOUND",
    "<img src='http://127.0.0.1:9/x.png'>": "asks the network",
    "<div style='width: 700px'>x</div>": "wider than a phone",
    "<style>body { background: black }</style><p style='color: #222'>x</p>": "hides",
    "<p>nothing is wrong</p>": None,
}


def test_a_page_with_a_mistake_is_found(tmp_path):
    head = '<!doctype html><meta name="viewport" content="width=device-width"><style>body {background: white}</style>'
    for number, wrong in enumerate(MISTAKES):
        (tmp_path / f"{number}.html").write_text(head + wrong)
    seen = browse(tmp_path, [f"{number}.html" for number in range(len(MISTAKES))])
    for number, found in enumerate(MISTAKES.values()):
        problems = seen[f"{number}.html"]["problems"]
        assert not problems if found is None else found in problems[0]
