"""Run the command ``weaksam`` as ``python -m weaksam.cli``."""

from weaksam.cli.commands import main

main()
