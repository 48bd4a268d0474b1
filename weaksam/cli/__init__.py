"""Read the command line and call the pipeline."""

from weaksam.cli.commands import app, main
from weaksam.cli.stages import run_tool

__all__ = ["app", "main", "run_tool"]
