"""Write the run's log: one JSON object per line, readable while the run goes on."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from weaksam.store.disk_errors import refusal
from weaksam.store.files import write_names_atomic


class RunLog:
    """Appends events to the JSON-lines file ``path``; ``None`` keeps no log. Raises `UserError` if the disk refuses."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise refusal(path, error) or error from None

    def write(self, event: str, **fields: Any) -> None:
        """Add one line: the time in UTC, the event's name and its fields (what JSON lacks is written as text)."""
        if self.path is None:
            return
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = json.dumps({"time": now, "event": event, **fields}, default=str)
        try:
            with open(self.path, "ab+") as file:
                file.write(_line_end(file) + f"{line}\n".encode())
        except OSError as error:
            raise refusal(self.path, error) or error from None

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


def _line_end(file: Any) -> bytes:
    """A line end where the last line of the binary ``file`` has none: a full disk or a kill cut it short."""
    if file.seek(0, os.SEEK_END) == 0:
        return b""
    file.seek(-1, os.SEEK_END)
    return b"" if file.read(1) == b"\n" else b"\n"
