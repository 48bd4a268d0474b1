"""The command line: reads it and calls the pipeline."""

from weaksam.cli.commands import app, main
from weaksam.cli.stages import run_tool

__all__ = ["app", "main", "run_tool"]
