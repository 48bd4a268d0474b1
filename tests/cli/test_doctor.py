"""The doctor: requirements of the package, the verdict, and the command itself."""

import json

from tests.commands import invoke
from weaksam.cli.doctor import Finding, requirements, unmet, verdict


def test_requirements_by_extra() -> None:
    lines = ["torch>=2.11", 'onnx>=1.17; extra == "onnx"', "mkdocs ; extra == 'docs'", 'x; python_version < "3.11"']
    wanted = {"": ["torch>=2.11", "x"], "onnx": ["onnx>=1.17"], "docs": ["mkdocs"]}
    assert requirements(lines) == wanted and requirements(()) == {"": []}


def test_what_is_missing_or_too_old() -> None:
    assert unmet(["numpy>=1.26", "numpy>=999", "no-such-package>=1"]) == ["numpy>=999", "no-such-package>=1"]
    assert unmet(()) == []


def test_the_verdict_is_one_command() -> None:
    works, optional = Finding("a", True, "x"), Finding("b", True, "x", "optional: pip install y")
    broken = [Finding("c", False, "x", "pip install c"), Finding("d", False, "x", "pip install d")]
    assert verdict([works, optional]) == "all that is needed works"
    assert verdict([works, *broken, broken[0]]) == ("3 of 4 checks failed; to mend it: pip install c && pip install d")
    assert verdict([Finding("c", False, "x")]) == "1 of 1 checks failed; to mend it: see above"
    assert broken[0].text == "FAIL  c: x  ->  pip install c" and works.text == "ok    a: x"


def test_doctor_finds_the_installation_healthy() -> None:
    result = invoke("doctor")
    assert "ok    torch and torchvision" in result.stdout and "ok    segmenter" in result.stdout
    assert result.exit_code == int("FAIL" in result.stdout)
    as_json = invoke("doctor", "--json")
    told = json.loads(as_json.stdout)
    assert told["healthy"] == (as_json.exit_code == 0)
    lines = [line.split(": ")[0] for line in result.stdout.splitlines()[:-1]]
    assert [f"{'ok  ' if one['works'] else 'FAIL'}  {one['name']}" for one in told["findings"]] == lines
