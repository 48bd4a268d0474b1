"""Frozen typed settings, read from one YAML file plus ``key=value`` overrides."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class UserError(ValueError):
    """A mistake the user can mend: one sentence with what was wanted, what was found and what to do."""


class Settings(BaseModel):
    """Base of every settings class: frozen, and a key it does not know is refused.

    Fields named in ``_not_fingerprinted`` (a device, a number of workers) do not affect results
    and are left out of fingerprints.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    _not_fingerprinted: ClassVar[frozenset[str]] = frozenset()
