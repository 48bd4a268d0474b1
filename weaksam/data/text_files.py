"""Read text and JSON files; whatever is wrong with one is a sentence with its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from weaksam.config import UserError


def read_json(path: Path, wanted: str) -> Any:
    """The content of a JSON file; raises `UserError` naming ``wanted`` where it is missing, empty or not JSON."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"wanted {wanted} at {path}, found nothing there: check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"wanted {wanted} at {path}, found a file that cannot be read ({error}): check it") from None
    if not text.strip():
        raise UserError(f"wanted {wanted} at {path}, found an empty file: write it again or name another")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"wanted {wanted} at {path}, found text that is not JSON ({error}): mend it") from None
