"""Progress with the time left, as the stages import it; the code lies in `weaksam.store.progress`, below the store."""

from weaksam.store.progress import Progress, progress

__all__ = ["Progress", "progress"]
