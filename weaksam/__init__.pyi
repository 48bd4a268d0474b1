from weaksam.config import UserError as UserError
from weaksam.pipeline.door import load_dataset as load_dataset
from weaksam.pipeline.door import propose as propose
from weaksam.pipeline.door import run as run
from weaksam.structures.dataset import Dataset as Dataset
from weaksam.structures.instances import Instances as Instances

__version__: str
