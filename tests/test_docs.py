"""What the pages name exists: links, headings, files, modules and imports; and their prose wraps at 120 columns."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from tests.helpers import ROOT
from weaksam.pipeline.plan import STAGES

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "data" / "README.md"]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
NAMING = [path for path in PAGES if path.name != "CHANGELOG.md"]
"""The pages whose names must exist now; the changelog also tells the old ones."""
COLUMNS = 120

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"\s*```")
FILE = re.compile(r"(?<![\w./-])((?:weaksam|tests|tools|benchmarks|configs|docs)/[\w./*-]*[\w/*])")
SOURCE_FILE = re.compile(r"`([\w/]+\.(?:py|sh))`")
DOTTED = re.compile(r"(?<![\w./@-])weaksam(?:\.[A-Za-z_]\w*)+")
IMPORT = re.compile(r"^\s*from (weaksam[\w.]*) import ([\w, ]+)", re.MULTILINE)


def page_id(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def prose_lines(text: str) -> list[tuple[int, str]]:
    """Numbered lines outside of fenced code and tables."""
    lines, fenced = [], False
    for number, line in enumerate(text.splitlines(), start=1):
        if FENCE.match(line):
            fenced = not fenced
        elif not fenced and not line.startswith("|"):
            lines.append((number, line))
    return lines


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = [line.lstrip("#").strip() for _, line in prose_lines(text) if line.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(text: str, folder: Path) -> list[str]:
    """Relative links of a page in ``folder`` whose file or heading does not exist."""
    return [link for link in LINK.findall(text) if not re.match(r"[a-z]+:", link) and not leads_to(link, text, folder)]


def leads_to(link: str, text: str, folder: Path) -> bool:
    """Whether the file of a relative link exists, and the heading in it or in the page ``text`` itself."""
    name, _, anchor = link.partition("#")
    if name and not (folder / name).exists():
        return False
    return not anchor or anchor in anchors((folder / name).read_text(encoding="utf-8") if name else text)


def missing_files(text: str) -> list[str]:
    """Paths of this repository that a page names and that do not exist; a ``*`` must match something."""
    text = re.sub(r"https?://\S+", "", text)
    named = {path.rstrip(".") for path in FILE.findall(text)}
    missing = [path for path in named if not any(ROOT.glob(path.rstrip("/")))]
    for path in set(SOURCE_FILE.findall(text)) - named:  # given from a folder of its own, such as `plan.py`
        if not any(any(ROOT.glob(f"{folder}/**/{path}")) for folder in ("weaksam", "tools", "benchmarks", "tests")):
            missing.append(path)
    return sorted(missing)


def exists(dotted: str) -> bool:
    """Whether a dotted name is a module of weaksam, or something in one."""
    module, names = dotted, []
    while True:
        try:
            found = importlib.import_module(module)
            break
        except ModuleNotFoundError:
            module, _, name = module.rpartition(".")
            names.insert(0, name)
    for name in names:
        if not hasattr(found, name):
            return False
        found = getattr(found, name)
    return True


def missing_names(text: str) -> list[str]:
    """Modules, functions and classes of weaksam that a page names or imports and that do not exist."""
    named = set(DOTTED.findall(re.sub(r"https?://\S+", "", text)))
    for module, names in IMPORT.findall(text):
        named |= {f"{module}.{name.strip()}" for name in names.split(",")}
    return sorted(name for name in named if not exists(name))


def long_lines(text: str) -> list[int]:
    """Numbers of the lines of prose over 120 columns, addresses and pictures not counted."""
    shown = [(number, re.sub(r"\]\([^)\s]+\)|https?://\S+", "", line)) for number, line in prose_lines(text)]
    return [number for number, line in shown if len(line) > COLUMNS and not line.startswith("![")]


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_links_lead_somewhere(path: Path) -> None:
    assert broken_links(path.read_text(encoding="utf-8"), path.parent) == []


@pytest.mark.parametrize("path", NAMING, ids=page_id)
def test_files_that_are_named_exist(path: Path) -> None:
    assert missing_files(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", NAMING, ids=page_id)
def test_names_of_the_package_exist(path: Path) -> None:
    assert missing_names(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_prose_wraps(path: Path) -> None:
    assert long_lines(path.read_text(encoding="utf-8")) == []


def test_every_page_is_in_the_index() -> None:
    linked = set(LINK.findall((ROOT / "docs" / "index.md").read_text(encoding="utf-8")))
    assert {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"} - linked == set()
    linked = set(LINK.findall((ROOT / "docs" / "results.md").read_text(encoding="utf-8")))
    assert {f"results/{path.name}" for path in (ROOT / "docs" / "results").glob("*.md")} - linked == set()


def test_the_table_of_stages_is_the_plan() -> None:
    page = (ROOT / "docs" / "pipeline.md").read_text(encoding="utf-8")
    rows = {}
    for line in page.splitlines():
        if found := re.match(r"\| \[(\w+)\]", line):
            rows[found[1]] = [re.sub("`", "", cell).strip() for cell in line.strip("|").split("|")[1:]]
    plan = {stage.name: (stage.given, stage.inputs, stage.outputs, stage.files) for stage in STAGES}
    assert rows == {name: [", ".join(names) for names in columns] for name, columns in plan.items()}


def test_what_is_wrong_is_found() -> None:
    page = "# One `two`: three\n[a](absent.md) [b](#one-two-three) [c](#one) [d](test_docs.py#no) [e](https://x.org)"
    assert broken_links(page, Path(__file__).parent) == ["absent.md", "#one", "test_docs.py#no"]
    page = "`weaksam/config.py`, weaksam/absent.py, `plan.py`, `absent.py`, configs/voc07_*.yaml, configs/no_*.yaml."
    assert missing_files(page) == ["absent.py", "configs/no_*.yaml", "weaksam/absent.py"]
    page = "weaksam.config.Settings weaksam.absent `weaksam.config.absent`\nfrom weaksam.config import Settings, Absent"
    assert missing_names(page) == ["weaksam.absent", "weaksam.config.Absent", "weaksam.config.absent"]
    long = "word " * 30
    assert long_lines(f"{long}\n| {long} |\n```\n{long}\n```\nshort\n{long}") == [1, 7]
    assert long_lines(f"[name](https://x.org/{'a' * 120}) and https://x.org/{'b' * 120}") == []
