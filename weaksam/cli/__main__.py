"""Run the command ``weaksam`` as ``python -m weaksam.cli``."""

from weaksam.cli import main

main()
