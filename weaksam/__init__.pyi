from weaksam.config import UserError
from weaksam.pipeline.door import evaluate, load_dataset, propose, run
from weaksam.pipeline.result import RunResult
from weaksam.prediction.predictor import Predictor, load
from weaksam.prediction.result import Prediction
from weaksam.structures.dataset import Dataset
from weaksam.structures.instances import Instances

__all__ = [
    "Dataset",
    "Instances",
    "Prediction",
    "Predictor",
    "RunResult",
    "UserError",
    "__version__",
    "evaluate",
    "load",
    "load_dataset",
    "propose",
    "run",
]
__version__: str
