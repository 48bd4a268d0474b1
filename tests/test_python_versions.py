"""Names that are imported from the standard library are there in the oldest Python that is supported."""

import ast
from pathlib import Path

from tests.helpers import ROOT

LATER = {
    "typing": {"Self", "LiteralString", "Never", "NotRequired", "Required", "Unpack", "TypeVarTuple", "assert_never",
               "assert_type", "reveal_type", "dataclass_transform", "override"},
    "enum": {"StrEnum", "verify", "member", "nonmember", "property"},
    "datetime": {"UTC"},
    "itertools": {"batched"},
    "contextlib": {"chdir"},
    "asyncio": {"TaskGroup", "timeout"},
}  # fmt: skip
"""By module, names that came with Python 3.11 or later."""
LATER_MODULES = {"tomllib", "wsgiref.types"}


def later_names(text: str) -> list[str]:
    """What a module's text imports that Python 3.10 lacks."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            found += [
                f"{node.module}.{name.name}" for name in node.names if name.name in LATER.get(node.module or "", ())
            ]
            found += [node.module] if node.module in LATER_MODULES else []
        elif isinstance(node, ast.Import):
            found += [name.name for name in node.names if name.name in LATER_MODULES]
    return found


def test_nothing_is_imported_that_python_3_10_lacks() -> None:
    assert later_names("from typing import Any, Self\nimport tomllib") == ["typing.Self", "tomllib"]
    paths: list[Path] = [
        path for top in ("weaksam", "tools", "benchmarks", "tests") for path in (ROOT / top).rglob("*.py")
    ]
    assert {str(path): names for path in paths if (names := later_names(path.read_text(encoding="utf-8")))} == {}
