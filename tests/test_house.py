"""How the package is laid out and named: lengths of files and functions, types of arguments, distinct names."""

from __future__ import annotations

import ast
from collections import defaultdict
from functools import cache

from tests.helpers import ROOT

SOURCES = sorted(path for folder in ("weaksam", "tools", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
PACKAGE = [path for path in SOURCES if (ROOT / "weaksam") in path.parents]
MAX_FILE_LINES = 400
MAX_P90_LINES = 20
UNTYPED = {"self", "cls"}
PRIVATE_WORDS = {"one", "found", "made", "told"}
"""Words that name nothing: a variable bears its noun (detections, photo, boxes, row, name)."""


@cache
def parsed(path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(path):
    for node in ast.walk(parsed(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def lines_without_docstring(function) -> int:
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        lines -= function.body[0].end_lineno - function.body[0].lineno + 1
    return lines


def arguments(function) -> list[ast.arg]:
    args = function.args
    return [
        arg for arg in (*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg) if arg is not None
    ]


def test_no_file_is_longer_than_the_ceiling():
    lengths = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8").count("\n") for path in SOURCES}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_FILE_LINES} == {}


def test_functions_are_short():
    lengths = sorted(lines_without_docstring(function) for path in PACKAGE for function in functions(path))
    assert lengths[int(0.9 * len(lengths))] < MAX_P90_LINES


def test_every_argument_is_typed():
    untyped = [
        f"{path.relative_to(ROOT)}: {function.name}({arg.arg})"
        for path in PACKAGE
        for function in functions(path)
        for arg in arguments(function)
        if arg.annotation is None and arg.arg not in UNTYPED
    ]
    assert untyped == []


def test_no_two_classes_bear_one_name():
    places = defaultdict(list)
    for path in PACKAGE:
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(path.relative_to(ROOT).as_posix())
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_variables_bear_a_noun():
    unnamed = []
    for path in PACKAGE:
        for function in functions(path):
            stored = [n for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
            names = {name.id for name in stored} | {arg.arg for arg in arguments(function)}
            unnamed += [f"{path.relative_to(ROOT)}: {function.name}: {word}" for word in sorted(names & PRIVATE_WORDS)]
    assert unnamed == []


def test_no_docstring_cites_a_document_that_is_not_here():
    citing = [
        path.relative_to(ROOT).as_posix() for path in PACKAGE if "specification, section" in path.read_text("utf-8")
    ]
    assert citing == []
