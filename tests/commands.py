"""Run a command of weaksam in the tests' process: what it prints, or the sentence by which it refuses."""

from click.testing import Result
from typer.testing import CliRunner

from weaksam import cli


def invoke(*arguments: object) -> Result:
    """The result of a command, given by its arguments."""
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def output(*arguments: object) -> str:
    """What a command that succeeds prints."""
    result = invoke(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def refused(*arguments: object) -> str:
    """The one sentence of a command that refuses what it is given."""
    result = invoke(*arguments)
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1, (result.output, result.exception)
    return result.stderr
