from weaksam.config import UserError
from weaksam.evaluation.files import evaluate_files as evaluate
from weaksam.pipeline.door import load_dataset, propose, run
from weaksam.structures.dataset import Dataset
from weaksam.structures.instances import Instances

__all__ = ["Dataset", "Instances", "UserError", "__version__", "evaluate", "load_dataset", "propose", "run"]
__version__: str
