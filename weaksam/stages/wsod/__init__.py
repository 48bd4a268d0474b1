"""The WSOD stage: learn from proposals, tags and class maps which proposal is what, and detect with it."""

from weaksam.stages.wsod.settings import WsodSettings
from weaksam.stages.wsod.stage import WsodResult, run

__all__ = ["WsodResult", "WsodSettings", "run"]
