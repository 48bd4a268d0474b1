"""Let the actors of a Ray cluster compute what a run computes photo by photo; see docs/distributed.md."""

from weaksam.pipeline.ray.settings import ActorSettings

__all__ = ["ActorSettings"]
