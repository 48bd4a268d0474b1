"""The page of the commands tells the exit codes that the commands have."""

import re

from tests.helpers import ROOT
from weaksam.cli.arguments import EXIT_CODES


def test_the_page_has_the_exit_codes() -> None:
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    rows = re.findall(r"(?m)^\| (\d+) \| (.*) \|$", page)
    assert [int(code) for code, _ in rows] == [code for code, _ in EXIT_CODES]
    for (_, told), (_, meaning) in zip(rows, EXIT_CODES, strict=True):
        assert told.replace("`", "").replace(" (SIGTERM)", "").startswith(meaning)
