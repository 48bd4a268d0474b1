"""``python -m weaksam.cli`` is ``weaksam``."""

from weaksam.cli.commands import main

main()
