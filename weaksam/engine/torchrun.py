"""Start processes by torchrun, and say in one sentence which was killed: ``python -m weaksam.engine.torchrun``."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from weaksam.terminal import say


def main(arguments: Sequence[str]) -> int:
    """Run torchrun with these arguments; its exit code, or that of the first process that failed.

    A process that ends by itself has said why; for one that was killed this one does.
    """
    try:
        run.main(list(arguments))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            say(
                f"weaksam: wanted all processes to the end, found that process {rank} was killed ({name}): run the "
                "same command again, which goes on from the last saved state",
                error=True,
            )
        return 128 - failure.exitcode if failure.exitcode < 0 else failure.exitcode
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
