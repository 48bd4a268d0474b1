"""What is printed where: colours on terminals alone, nothing but the answer with --quiet, JSON apart from all else."""

import sys

import pytest

from weaksam.terminal import answer, aside, quiet, say, silence, takes_colours


def test_colours_are_for_terminals_that_want_them(capsys, monkeypatch):
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    say("plain", style="red")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    say("red\x1b[2J", style="red")  # what a name could do to the terminal stays escaped
    monkeypatch.setenv("NO_COLOR", "1")
    say("unwanted", style="red")
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not takes_colours(sys.stdout)
    assert capsys.readouterr().out == "plain\n\x1b[31mred\\x1b[2J\x1b[0m\nunwanted\n"


@pytest.mark.parametrize(
    ("mode", "out", "err"),
    [(quiet, "answer\n", ""), (aside, "answer\n", "said\nerror\n"), (silence, "", "")],
)
def test_modes(mode, out, err, capsys):
    with mode():
        say("said")
        answer("answer")
        say("error", error=True)
    assert capsys.readouterr() == (out, err)
    say("after")
    assert capsys.readouterr().out == "after\n"
