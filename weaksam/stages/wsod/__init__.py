"""The WSOD stage: learn from proposals, tags and class maps which proposal is what, and detect with it."""

from weaksam.stages.wsod.settings import WsodSettings
from weaksam.stages.wsod.stage import run

__all__ = ["WsodSettings", "run"]
