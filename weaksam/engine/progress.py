"""Progress with the time left, as the stages import it; the code lies in `weaksam.progress`, below the store."""

from weaksam.progress import Progress, progress

__all__ = ["Progress", "progress"]
