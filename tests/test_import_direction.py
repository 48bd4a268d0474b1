"""Modules import downwards and in no circle, nothing runs foreign code from a file, ``import weaksam`` is cheap."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT

LAYERS = [
    {"__main__"},
    {"cli"},
    {"pipeline"},
    {"prediction"},
    {"stages", "recipes", "report"},
    {"engine"},
    {"models"},
    {"evaluation"},
    {"data"},
    {"sam", "scenes"},
    {"structures"},
    {"store"},
    {"config", "regular_files", "json_text", "yaml_text", "terminal", "likeness", "__init__"},
]
"""From the top down; a module imports from layers below its own, and inside its own package."""
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
BOTTOM = len(LAYERS) - 1
SEPARATE_FILES = {"stages", "recipes"}
"""Packages whose modules do not import each other."""
PICKLE_READER = "weaksam.data.proposals.plain_pickle"
PICKLE_WRITERS = {"tests.helpers", "tests.data.proposals.test_plain_pickle"}
"""The one module that may build on pickle's reader, and those that write pickles for its tests, hostile ones too."""
SOURCES = sorted(
    path for folder in ("weaksam", "tools", "benchmarks", "tests") for path in (ROOT / folder).rglob("*.py")
)
PACKAGE = [path for path in SOURCES if path.parts[len(ROOT.parts)] == "weaksam"]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imported_modules(source: str, module: str, package: str = "weaksam") -> list[str]:
    """Dotted names of the modules of ``package`` that a source imports, at any depth of the file."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: -node.level]
                base = ".".join([*parents, base] if base else parents)
            # `from weaksam.stages import wsod` imports a module, `from weaksam.stages.wsod import run` a name.
            found += [f"{base}.{alias.name}" for alias in node.names]
    return [name for name in found if name.split(".")[0] == package]


def direction_faults(source: str, module: str) -> list[str]:
    """Why imports of ``module`` (such as ``weaksam.stages.wsod``) go the wrong way; empty if none does."""
    own = module.split(".")[1]
    if own not in LEVEL:
        return [f"{module}: '{own}' has no layer"]
    faults = []
    for name in imported_modules(source, module):
        target = name.split(".")[1] if "." in name else "__init__"
        if target.startswith("__"):  # weaksam.__version__
            continue
        if target not in LEVEL:
            faults.append(f"{module} imports {name}: '{target}' has no layer")
        elif target == own:
            other = ".".join(name.split(".")[:3])
            mine = ".".join(module.split(".")[:3])  # a stage of several files is a folder
            if own in SEPARATE_FILES and other != mine and not module.endswith("__init__"):
                faults.append(f"{module} imports {other}: {own} do not import each other")
        elif LEVEL[target] <= LEVEL[own] and not LEVEL[own] == LEVEL[target] == BOTTOM:
            faults.append(f"{module} imports {name}: {own} lies below {target} or beside it")
    return faults


def import_graph(sources: dict[str, str]) -> dict[str, set[str]]:
    """The modules of ``sources`` (dotted name: text; a package goes by its own name) that each of them imports."""
    graph: dict[str, set[str]] = {}
    for module, source in sources.items():
        graph[module] = set()
        for name in imported_modules(source, module):
            while name and name not in sources:  # a name inside a module, or of a package's __init__
                name = name.rpartition(".")[0]
            graph[module] |= {name} - {module, ""}
    return graph


def import_circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, directly or through others, sorted; none where imports form a tree."""
    reached: dict[str, set[str]] = {}
    for module in graph:
        reached[module], waiting = set(), list(graph[module])
        while waiting:
            name = waiting.pop()
            if name not in reached[module]:
                reached[module].add(name)
                waiting += graph[name]
    circles = {tuple(sorted(n for n in reached[m] if m in reached[n])) for m in graph if m in reached[m]}
    return sorted(list(circle) for circle in circles)


def type_checking_uses(source: str) -> list[int]:
    """Lines that name ``TYPE_CHECKING``, under which an import hides from the running program."""
    nodes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.Name, ast.Attribute, ast.alias)))
    named = {ast.Name: "id", ast.Attribute: "attr", ast.alias: "name"}
    return [node.lineno for node in nodes if getattr(node, named[type(node)]) == "TYPE_CHECKING"]


def _runs_a_text(call: ast.Call, name: str) -> bool:
    """Whether a call of ``subprocess`` takes a program as one text, which a shell or a name with blanks may turn."""
    if name not in {f"subprocess.{function}" for function in ("run", "Popen", "call", "check_call", "check_output")}:
        return False
    program = call.args[0] if call.args else next((k.value for k in call.keywords if k.arg == "args"), None)
    is_text = isinstance(program, ast.Constant | ast.JoinedStr)
    is_text |= isinstance(program, ast.BinOp) and not isinstance(program.left, ast.List | ast.BinOp | ast.Name)
    is_text |= isinstance(program, ast.Call) and ast.unparse(program.func).split(".")[-1] in {"join", "format", "str"}
    return program is None or is_text


def unsafe_calls(source: str, module: str) -> list[str]:
    """Where a source could run code from a file or a text: pickle, yaml.load, eval, torch.load, a shell, os.system."""
    faults = []
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            hidden = [alias.name for alias in node.names if alias.asname and alias.name in {"os", "subprocess"}]
            faults += [f"{module}:{node.lineno} {name} under another name" for name in hidden]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
            if node.module == "subprocess":
                faults.append(f"{module}:{node.lineno} subprocess by parts: import it whole")
        elif isinstance(node, ast.Call):
            names = [ast.unparse(node.func)]
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if names[0] == "torch.load" and keywords.get("weights_only") != "True":
                faults.append(f"{module}:{node.lineno} torch.load without weights_only=True")
            if keywords.get("allow_pickle", "False") != "False":
                faults.append(f"{module}:{node.lineno} allow_pickle")
            if keywords.get("shell", "False") != "False" or _runs_a_text(node, names[0]):
                faults.append(f"{module}:{node.lineno} a program in a text: give its arguments as a list")
        for name in names:
            if name.split(".")[0] in {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}:
                imports_it = name == "pickle" and isinstance(node, ast.Import)
                if module not in PICKLE_WRITERS and not (module == PICKLE_READER and imports_it):
                    faults.append(f"{module}:{node.lineno} {name}")
            if re.fullmatch(r"os\.(system|popen|exec\w+|spawn\w+)|subprocess\.get(status)?output", name):
                faults.append(f"{module}:{node.lineno} {name}")
            if name in {"eval", "exec", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all"}:
                faults.append(f"{module}:{node.lineno} {name}")
    return faults


@pytest.mark.parametrize("path", PACKAGE, ids=module_of)
def test_imports_go_down(path):
    assert direction_faults(path.read_text(encoding="utf-8"), module_of(path)) == []


def test_no_modules_import_each_other_in_a_circle():
    sources = {module_of(path).removesuffix(".__init__"): path.read_text(encoding="utf-8") for path in PACKAGE}
    assert import_circles(import_graph(sources)) == []


def test_no_import_hides_under_type_checking():
    assert [module_of(path) for path in PACKAGE if type_checking_uses(path.read_text(encoding="utf-8"))] == []


def test_a_circle_is_found():
    sources = {
        "weaksam.data": "from weaksam.data.tags import read",
        "weaksam.data.tags": "def later():\n    from weaksam.data import voc",
        "weaksam.data.voc": "if TYPE_CHECKING:\n    from weaksam.data.boxes import Box",
        "weaksam.data.boxes": "import weaksam.data.tags\nimport torch",
        "weaksam.data.top": "from weaksam.data.voc import read",
    }
    assert import_circles(import_graph(sources)) == [["weaksam.data.boxes", "weaksam.data.tags", "weaksam.data.voc"]]
    by_name = {"weaksam.data": "from weaksam.data.tags import read", "weaksam.data.tags": "from weaksam.data import x"}
    assert import_circles(import_graph(by_name)) == [["weaksam.data", "weaksam.data.tags"]]
    assert import_circles({}) == []


@pytest.mark.parametrize(
    "source", ["from typing import TYPE_CHECKING", "import typing as t\nif t.TYPE_CHECKING:\n    import torch"]
)
def test_a_hidden_import_is_found(source):
    assert len(type_checking_uses(source)) == 1


def test_nothing_runs_code_from_a_file():
    faults = [fault for path in SOURCES for fault in unsafe_calls(path.read_text(encoding="utf-8"), module_of(path))]
    assert faults == []


def imports_of_tests(source: str, module: str) -> list[str]:
    """Test modules that a test imports, in code given as a text too."""
    names = [name for name in imported_modules(source, module, "tests") if ".test_" in name]
    texts = [
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    return names + [name for text in texts for name in re.findall(r"(?:from|import) (tests\.[\w.]*\btest_\w+)", text)]


def test_no_test_imports_another():
    faults = [
        f"{module_of(path)} imports {name}: what tests share lives in tests/helpers.py"
        for path in (ROOT / "tests").rglob("*.py")
        if path != Path(__file__)  # the examples below
        for name in imports_of_tests(path.read_text(encoding="utf-8"), module_of(path))
    ]
    assert faults == []


@pytest.mark.parametrize(
    "source",
    [
        "from tests.store.test_store import make_store",
        "from tests.store import test_store",
        "import tests.store.test_store",
        "from .test_store import make_store",
        "code = 'from tests.store.test_store import *'",
    ],
)
def test_a_test_that_imports_another_is_found(source):
    assert imports_of_tests(source, "tests.store.test_weights")
    assert not imports_of_tests("from tests.helpers import context\nfrom tests.sam.transformers.toys import sam", "m")


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("weaksam.models.wsod.wsddn", "from weaksam.engine.training import fit"),
        ("weaksam.models.wsod.wsddn", "import weaksam.stages.wsod"),
        ("weaksam.models.wsod.wsddn", "def later():\n    from weaksam import pipeline"),
        ("weaksam.data.formats.voc", "from weaksam.evaluation.voc import ap"),
        ("weaksam.sam.nano.segmenter", "from ...data import images"),
        ("weaksam.stages.wsod", "from weaksam.stages.clues import peaks"),
        ("weaksam.stages.wsod", "from weaksam.stages import clues"),
        ("weaksam.stages.wsod", "from . import clues"),
        ("weaksam.stages.wsod", "from .clues import peaks"),
        ("weaksam.recipes.panorama", "from weaksam.stages.wsod import run"),
        ("weaksam.report.page", "from weaksam.recipes.panorama import run"),
        ("weaksam.config", "from weaksam.structures.boxes import area"),
        ("weaksam.utils", ""),
        ("weaksam.pipeline", "from weaksam.helpers import thing"),
    ],
)
def test_a_wrong_import_is_found(module, source):
    assert len(direction_faults(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("weaksam.cli", "from weaksam import __version__, pipeline"),
        ("weaksam.stages.wsod", "from weaksam.engine.training import fit\nfrom weaksam.config import Settings"),
        ("weaksam.store.store", "from weaksam.config import Settings"),
        (
            "weaksam.data.formats.coco",
            "from weaksam.data.images import read_image\nfrom .images import size\nimport torch",
        ),
        ("weaksam.stages.wsod", "from weaksam.stages.wsod import run"),
    ],
)
def test_a_right_import_is_not(module, source):
    assert direction_faults(source, module) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import UnpicklingError",
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "x = eval(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(command, shell=True)",
        "subprocess.run('ls -l')",
        "subprocess.check_output(f'ls {folder}')",
        "subprocess.Popen('ls ' + folder)",
        "subprocess.call(' '.join(parts))",
        "subprocess.run(args='ls')",
        "subprocess.getoutput('ls')",
        "os.system('ls')",
        "os.popen('ls')",
        "os.execvp('ls', ['ls'])",
        "from os import system",
        "from subprocess import run",
        "import subprocess as sp",
        "import os as o",
    ],
)
def test_an_unsafe_call_is_found(source):
    assert unsafe_calls(source, "m")


def test_only_one_module_may_read_pickles():
    assert unsafe_calls("import pickle", "weaksam.data.proposals.plain_pickle") == []
    assert unsafe_calls("import pickle", "weaksam.data.proposals.pickles")
    assert unsafe_calls("import pickle\npickle.load(file)", "weaksam.data.proposals.plain_pickle")
    assert unsafe_calls("import dill", "weaksam.data.proposals.plain_pickle")


def test_a_safe_call_is_not():
    source = (
        "torch.load(p, weights_only=True); np.load(p); np.load(p, allow_pickle=False); model.eval(); yaml.safe_load(t);"
        "subprocess.run([sys.executable, '-c', code]); subprocess.Popen(command, shell=False); os.path.join('a', 'b')"
    )
    assert unsafe_calls(source, "m") == []


@pytest.mark.parametrize("module", ["weaksam", "weaksam.config", "weaksam.cli"])
def test_import_is_cheap(module):
    code = (
        f"import sys, {module}; sys.exit(' '.join({{'torch', 'torchvision', 'pyarrow', 'scipy'}} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (1, "\n")  # an empty message: none of them was imported
