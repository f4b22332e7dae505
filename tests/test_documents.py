"""What README and the pages in docs/ show is true: their Python runs and prints what they say, their links resolve."""

import html
import json
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import unquote

import documents
import pytest
from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager

import hnm_datasets

ROOT = documents.ROOT
DOCS = ROOT / "docs"
PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]}
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
MAKEFILE = (ROOT / "Makefile").read_text()

pytestmark = pytest.mark.usefixtures("fast_trainers")


@pytest.mark.parametrize("name", PAGES)
def test_fences(name):
    assert documents.complaints(PAGES[name], MAKEFILE, EXTRAS) == []


@pytest.mark.parametrize("name", [name for name, page in PAGES.items() if "```python" in page])
@pytest.mark.filterwarnings("ignore:'pin_memory' argument")
def test_python(name, tmp_path, monkeypatch, make_static_model):
    monkeypatch.chdir(tmp_path)
    for printed, said in documents.run_page(PAGES[name], name, make_static_model):
        assert printed == said


@pytest.mark.parametrize(
    ("page", "complaint"),
    [
        ("```\nx\n```\n", "fenced as ''"),
        ("```py\nx\n```\n", "fenced as 'py'"),
        ("```python\n# Not run\nx\n```\n", "no reason is given"),
        ("```text\n3\n```\n", "no Python stands right above"),
        ("```python\nprint(3)\n```\n\nIt is\n\n```text\n3\n```\n", "no Python stands right above"),
        ("```python\n# Not run: needs the Hub.\n```\n\n```text\n3\n```\n", "the output of Python that is not run"),
        ("```python\nprint(3)\n```\n", "what this prints does not stand below it"),
        ("```sh\nmake nothing\n```\n", "cannot be right: make nothing"),
        ("```sh\npip install 'hnm-datasets[nothing]'\n```\n", "cannot be right"),
    ],
)
def test_a_wrong_fence_is_found(page, complaint):
    (found,) = documents.complaints(page, MAKEFILE, EXTRAS)
    assert complaint in found


def test_a_wrong_output_is_found():
    page = "```python\nx = 3\n```\n\n```python\nprint(x)\n```\n\n```text\n4\n```\n"
    assert documents.run_page(page, "page", object) == [("3\n", "4\n")]


def public_names():
    """Return the names of the stub, by the comments that group them."""
    stub = (ROOT / "hnm_datasets" / "__init__.pyi").read_text()
    parts = [part.partition("\n") for part in re.split(r"^# ", stub, flags=re.MULTILINE)[2:]]
    return {title: re.findall(r" as (\w+)$", body, re.MULTILINE) for title, _, body in parts}


def test_the_reference_has_a_page_for_each_group_with_all_its_names():
    pages = {}
    for name, page in PAGES.items():
        if re.match(r"docs/reference/(?!index)", name):
            title = page.partition("\n")[0].removeprefix("# ")
            pages[title] = re.findall(r"^::: hnm_datasets\.(\w+)$", page, re.MULTILINE)
    assert pages == public_names()
    listed = re.findall(r"#hnm_datasets\.(\w+)\)", PAGES["docs/reference/index.md"])
    assert listed == [name for names in public_names().values() for name in names]
    assert set(listed) == set(hnm_datasets.__all__)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built pages, made as `make docs` does in a folder of its own."""
    folder = tmp_path_factory.mktemp("site")
    # Where the reference is made from, and how.
    for name in ("hnm_datasets", "tools"):
        (folder / name).symlink_to(ROOT / name)
    # Zensical writes beside the file that this one is, and not where a link to it is.
    shutil.copy(ROOT / "zensical.toml", folder)
    runpy.run_path(str(ROOT / "tools" / "stage_documents.py"))["stage"](ROOT, folder / "build" / "docs")
    zensical = Path(sys.executable).with_name("zensical")
    built = subprocess.run([zensical, "build", "--strict"], cwd=folder, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    # Such a page is left out without a warning.
    assert "could not be found" not in built.stdout + built.stderr
    return folder / "build" / "site"


def test_the_reference_shows_signatures_fields_and_examples(site):
    text = text_of(site / "reference/filter/index.html")
    assert "RankWindow(min: int = 1" in text
    assert "Columns read: negative_ids" in text
    assert ">>> RankWindow(2, 5)(batch)" in text
    # The value of a constant, not its name.
    assert 'against: str = "max"' in text
    assert not re.search(r"= _?[A-Z][A-Z_]{2,}", text)
    # One returned value, whose text has several lines.
    (returns,) = re.findall(r"Returns:\s+(.*?)Raises:", text_of(site / "reference/choose/index.html"), re.DOTALL)[:1]
    assert returns.count("\N{EN DASH}") == 1


def text_of(page):
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text()))


def test_pictures_have_a_description_and_fit_light_and_dark_pages(site):
    pictures = {page: re.findall(r"<img\s[^>]*>", page.read_text()) for page in site.rglob("index.html")}
    assert [(page, one) for page, shown in pictures.items() for one in shown if not re.search(r'alt="[^"]', one)] == []
    home = "".join(pictures[site / "index.html"])
    assert "query-light.png#only-light" in home
    assert "query-dark.png#only-dark" in home
    shown = [one for page in pictures.values() for one in page]
    assert [one for one in shown if re.search(r"-(light|dark)\.png(?!#only-\1)", one)] == []


def test_the_search_finds_pages_and_no_tables_of_results(site):
    found = {entry["location"] for entry in json.loads((site / "search.json").read_text())["items"]}
    assert any(location.startswith("guides/speed/") for location in found)
    assert not any(location.startswith("benchmarks/results/") for location in found)


def test_the_readme_of_the_package_has_no_relative_links():
    plain = runpy.run_path(str(ROOT / "tools" / "package_readme.py"))["without_relative_links"]
    assert plain("See [a](b.md), [c](https://d.e) ([f](g/h.md#i)).") == "See a, [c](https://d.e)."
    assert plain('<picture>\n<img alt="A line" src="a.png">\n</picture>') == "*A line.*"
    found = ProjectMetadata(str(ROOT), PluginManager()).core.readme
    assert found == plain(PAGES["README.md"])
    assert re.findall(r"\]\((?!https://)|<img|<picture", re.sub(r"(?s)```.*?```", "", found)) == []


def test_every_page_is_built_and_in_the_menu(site):
    staged = site.parent / "docs"
    sources = {path.relative_to(staged) for path in staged.rglob("*.md")}
    built = {path.parent.relative_to(site) for path in site.rglob("index.html")}
    assert built == {path.parent if path.stem in ("index", "README") else path.with_suffix("") for path in sources}
    menu = json.dumps(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"])
    assert [path for path in sources if f'"{path}"' not in menu and path.parent.name != "results"] == []


def targets_of(page):
    """Return the files and anchors that a built page names, and those that a browser would load from elsewhere."""
    text = page.read_text()
    links = [html.unescape(link) for link in re.findall(r"<a\s[^>]*?href=\"?([^\"\s>]+)", text)]
    loaded = re.findall(r"<(?:img|script|source)\s[^>]*?src(?:set)?=\"?([^\"\s>]+)", text)
    loaded += re.findall(r"<link\s[^>]*?href=\"?([^\"\s>]+)", text)
    return links, [html.unescape(one) for one in loaded]


def test_links_pictures_and_scripts_resolve(site):
    pages = [page for page in site.rglob("*.html") if page.name != "404.html"]
    anchors = {page: set(re.findall(r"\s(?:id|name)=\"?([^\"\s>]+)", page.read_text())) for page in pages}
    broken = []
    for page in pages:
        links, loaded = targets_of(page)
        assert [one for one in loaded if re.match(r"(https?:)?//", one)] == []
        for link in [*links, *loaded]:
            if re.match(r"\w+:", link):
                continue
            path, _, anchor = link.partition("#")
            target = (page.parent / unquote(path)).resolve() if path else page
            target = target / "index.html" if target.is_dir() else target
            if not target.exists() or (anchor and link in links and unquote(anchor) not in anchors[target]):
                broken.append((str(page.relative_to(site)), link))
    assert broken == []


@pytest.mark.parametrize("name", PAGES)
def test_links_resolve_in_the_repository(name):
    page = (ROOT / name).parent
    found = re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"", re.sub(r"(?s)```.*?```", "", PAGES[name]))
    local = [first or second for first, second in found if not (first or second).startswith("https://")]
    assert [link for link in local if not (page / link.partition("#")[0]).exists()] == []


#: How a table of README or docs/ names the arms of the ladder.
ARMS = {
    "untrained": "untrained",
    "in-batch alone": "in-batch",
    "random": "random",
    "BM25": "BM25",
    "dense": "dense",
    "dense, by the untrained student": "dense",
    "BM25 and dense, fused": "fused",
    "dynamic, six refreshes": "dynamic",
    "dynamic, corpus encoded once": "dynamic, queries",
}


def tables_of(page):
    """Return the tables of a page: lists of rows, each a list of cells, of which the first is the header."""
    found = re.findall(r"(?:^\|.*\|\n)+", page, re.MULTILINE)
    return [[[cell.strip() for cell in row[1:-1].split("|")] for row in one.splitlines()] for one in found]


def measured(name):
    """Return the means of the ladder on a set: arm, then column."""
    (header, _, *rows), *_ = tables_of((ROOT / f"benchmarks/results/ladder-{name}.md").read_text())
    return {row[0]: dict(zip(header, (cell.split(" ")[0] for cell in row), strict=True)) for row in rows}


@pytest.mark.parametrize("name", ["README.md", "docs/guides/strategies.md"])
def test_the_figures_are_those_of_the_results(name):
    (header, _, *rows), *others = [table for table in tables_of(PAGES[name]) if "MedQuAD nDCG@10" in table[0]]
    assert not others
    of_set = {"MedQuAD": measured("medquad"), "SciFact": measured("scifact")}
    wrong = []
    for row in rows:
        results = None
        for column, figure in zip(header[1:], row[1:], strict=True):
            first, *measure = column.split(" ")
            results = of_set[first] if measure else results
            arm = results[ARMS[row[0]]]
            if column != "cost":
                expected = arm[measure[0] if measure else first]
            elif figure.endswith(" s"):
                expected = f"{max(int(arm['mining, s']), int(arm['refreshes, s']))} s"
            else:
                continue
            wrong += [(row[0], column, figure, expected)] if figure != expected else []
    assert wrong == []


def test_the_readme_is_short():
    readme = PAGES["README.md"]
    assert len(readme.splitlines()) <= 170
    assert len(readme.split()) <= 1500


def test_the_citation_names_the_version():
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"version: {hnm_datasets.__version__}\n" in citation
    assert "license: Apache-2.0\n" in citation
