"""Write the run's log: one JSON object per line, readable while the run goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from weaksam.store.files import write_names_atomic


class RunLog:
    """Appends events to the JSON-lines file ``path``; ``None`` keeps no log."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, event: str, **fields: Any) -> None:
        """Add one line: the time in UTC, the event's name and its fields (what JSON lacks is written as text)."""
        if self.path is None:
            return
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = json.dumps({"time": now, "event": event, **fields}, default=str)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(line + "\n")

    def keep_names(self, file: str, names: Mapping[str, Sequence[str]]) -> Path | None:
        """Write ``names``, by what is said of them, to the JSON ``file`` beside the log; no names remove it.

        Returns its path, None without a log.
        """
        if self.path is None:
            return None
        path = self.path.with_name(file)
        if any(names.values()):
            write_names_atomic(path, names)
        else:
            path.unlink(missing_ok=True)
        return path
