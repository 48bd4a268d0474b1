"""Run the command ``weaksam`` as ``python -m weaksam``."""

from weaksam.cli import main

main()
