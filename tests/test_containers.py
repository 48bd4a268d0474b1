"""The container recipes, checked for their form alone: what they copy and install exists, and both agree."""

from __future__ import annotations

import re

from tests.helpers import ROOT

DOCKERFILE = (ROOT / "containers/Dockerfile").read_text(encoding="utf-8")
DEFINITION = (ROOT / "containers/weaksam.def").read_text(encoding="utf-8")
KNOWN = {"ARG", "FROM", "WORKDIR", "COPY", "RUN", "ENV", "ENTRYPOINT", "CMD"}


def instructions() -> list[tuple[str, str]]:
    lines = [line for line in DOCKERFILE.splitlines() if line and not line.startswith("#")]
    return [(line.split()[0], line.partition(" ")[2]) for line in lines]


def copied() -> set[str]:
    """What the Dockerfile copies, as paths of the repository."""
    return {word for name, rest in instructions() if name == "COPY" for word in rest.split()[:-1]}


def section(name: str) -> list[str]:
    """The lines of a section of the definition."""
    body = re.split(r"^%", DEFINITION, flags=re.MULTILINE)
    (text,) = [part for part in body if part.split("\n")[0] == name]
    return [line.strip() for line in text.splitlines()[1:] if line.strip()]


def test_the_dockerfile_is_of_known_instructions_on_what_exists() -> None:
    names = [name for name, _ in instructions()]
    assert names[:2] == ["ARG", "FROM"] and names[-2:] == ["ENTRYPOINT", "CMD"] and set(names) <= KNOWN
    assert "weaksam" in copied() and all((ROOT / name).exists() for name in copied())
    needed = {"pyproject.toml", "setup.py", "README.md", "LICENSE"}  # by the build itself
    assert needed <= copied()


def test_the_definition_does_the_same() -> None:
    files = [line.split() for line in section("files")]
    assert {source for source, _ in files} == copied()
    assert all(target == f"/opt/weaksam/{source}" for source, target in files)
    base = re.search(r"ARG BASE=(\S+)", DOCKERFILE)
    assert base is not None and f"From: {base[1]}\n" in DEFINITION
    install = 'pip install --no-cache-dir ".[ray]"'
    assert install in section("post") and install in DOCKERFILE
    variables = re.search(r"^ENV (.*)$", DOCKERFILE, re.MULTILINE)
    assert variables is not None and section("environment") == [f"export {variables[1]}"]
    assert section("runscript") == ['exec weaksam "$@"'] and 'ENTRYPOINT ["weaksam"]' in DOCKERFILE


def test_what_is_installed_is_an_extra() -> None:
    extras = re.search(
        r"^\[project.optional-dependencies\]\n(.*?)\n\[", (ROOT / "pyproject.toml").read_text(), re.S | re.M
    )
    assert extras is not None and re.search(r"^ray = \[", extras[1], re.MULTILINE)
