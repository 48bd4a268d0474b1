"""Define the settings of the rule that seeds the refinement branches: one class per rule, chosen by ``rule``."""

from weaksam.stages.wsod.seeds.class_maps import ClassMapSeedSettings
from weaksam.stages.wsod.seeds.mist import MistSettings
from weaksam.stages.wsod.seeds.oicr import OicrSettings, OicrTopSettings
from weaksam.stages.wsod.seeds.pcl import PclSettings
from weaksam.stages.wsod.seeds.relocation import RelocationSettings
from weaksam.stages.wsod.seeds.scores import ScoresSettings

SeedSettings = (
    RelocationSettings
    | ClassMapSeedSettings
    | ScoresSettings
    | OicrSettings
    | OicrTopSettings
    | MistSettings
    | PclSettings
)
