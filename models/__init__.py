"""Data sets, networks and training loops to try netgraph on.

The package knows nothing of units. Names load on first use.
"""

from typing import TYPE_CHECKING

from netgraph.utils.public_names import load_on_first_use

if TYPE_CHECKING:
    from netgraph.models.cnn import resnet as resnet
    from netgraph.models.cnn import resnet20 as resnet20
    from netgraph.models.cnn import resnet56 as resnet56
    from netgraph.models.cnn import vgg as vgg
    from netgraph.models.cnn import wide_resnet as wide_resnet
    from netgraph.models.data.augmentation import crop_and_flip as crop_and_flip
    from netgraph.models.data.augmentation import crop_flip_and_rotate as crop_flip_and_rotate
    from netgraph.models.data.augmentation import random_crop as random_crop
    from netgraph.models.data.augmentation import random_flip as random_flip
    from netgraph.models.data.augmentation import random_rotation as random_rotation
    from netgraph.models.data.calibration import CalibrationData as CalibrationData
    from netgraph.models.data.calibration import load_calibration as load_calibration
    from netgraph.models.data.darcy import load_darcy as load_darcy
    from netgraph.models.data.darcy import solve_darcy as solve_darcy
    from netgraph.models.data.datasets import Dataset as Dataset
    from netgraph.models.data.datasets import DataSplit as DataSplit
    from netgraph.models.data.datasets import load_dataset as load_dataset
    from netgraph.models.data.degradation import Blur as Blur
    from netgraph.models.data.degradation import Degradation as Degradation
    from netgraph.models.data.degradation import Holes as Holes
    from netgraph.models.data.degradation import LowerResolution as LowerResolution
    from netgraph.models.data.degradation import Noise as Noise
    from netgraph.models.data.loader import Loader as Loader
    from netgraph.models.data.photographs import load_photographs as load_photographs
    from netgraph.models.data.row_splits import RowSplits as RowSplits
    from netgraph.models.data.row_splits import load_splits as load_splits
    from netgraph.models.data.tokenizer import attention_mask as attention_mask
    from netgraph.models.data.tokenizer import encode_texts as encode_texts
    from netgraph.models.data.tokenizer import load_tokenizer as load_tokenizer
    from netgraph.models.data.tokenizer import open_tokenizer as open_tokenizer
    from netgraph.models.data.tokenizer import save_tokenizer as save_tokenizer
    from netgraph.models.data.tokenizer import train_tokenizer as train_tokenizer
    from netgraph.models.fourier import fno as fno
    from netgraph.models.perceptron import mlp as mlp
    from netgraph.models.restoration import ResidualNet as ResidualNet
    from netgraph.models.restoration import UNet as UNet
    from netgraph.models.training.evaluation import Evaluation as Evaluation
    from netgraph.models.training.evaluation import evaluate as evaluate
    from netgraph.models.training.operators import OperatorQuality as OperatorQuality
    from netgraph.models.training.operators import evaluate_operator as evaluate_operator
    from netgraph.models.training.restoration import RestorationQuality as RestorationQuality
    from netgraph.models.training.restoration import evaluate_restoration as evaluate_restoration
    from netgraph.models.training.tasks import Task as Task
    from netgraph.models.training.tasks import TrainingDefaults as TrainingDefaults
    from netgraph.models.training.tasks import make_cross_entropy as make_cross_entropy
    from netgraph.models.training.tasks import make_task as make_task
    from netgraph.models.training.trainer import fit as fit
    from netgraph.models.transformer import Decoder as Decoder
    from netgraph.models.transformer import Encoder as Encoder

__getattr__, __dir__, __all__ = load_on_first_use(
    __name__,
    {
        "attention_mask": "data.tokenizer",
        "Blur": "data.degradation",
        "CalibrationData": "data.calibration",
        "crop_and_flip": "data.augmentation",
        "crop_flip_and_rotate": "data.augmentation",
        "Dataset": "data.datasets",
        "DataSplit": "data.datasets",
        "Decoder": "transformer",
        "Degradation": "data.degradation",
        "encode_texts": "data.tokenizer",
        "Encoder": "transformer",
        "evaluate": "training.evaluation",
        "evaluate_operator": "training.operators",
        "evaluate_restoration": "training.restoration",
        "Evaluation": "training.evaluation",
        "fit": "training.trainer",
        "fno": "fourier",
        "Holes": "data.degradation",
        "load_calibration": "data.calibration",
        "load_darcy": "data.darcy",
        "load_dataset": "data.datasets",
        "load_photographs": "data.photographs",
        "load_splits": "data.row_splits",
        "load_tokenizer": "data.tokenizer",
        "Loader": "data.loader",
        "LowerResolution": "data.degradation",
        "make_cross_entropy": "training.tasks",
        "make_task": "training.tasks",
        "mlp": "perceptron",
        "Noise": "data.degradation",
        "open_tokenizer": "data.tokenizer",
        "OperatorQuality": "training.operators",
        "random_crop": "data.augmentation",
        "random_flip": "data.augmentation",
        "random_rotation": "data.augmentation",
        "ResidualNet": "restoration",
        "resnet": "cnn",
        "resnet20": "cnn",
        "resnet56": "cnn",
        "RestorationQuality": "training.restoration",
        "RowSplits": "data.row_splits",
        "save_tokenizer": "data.tokenizer",
        "solve_darcy": "data.darcy",
        "Task": "training.tasks",
        "train_tokenizer": "data.tokenizer",
        "TrainingDefaults": "training.tasks",
        "UNet": "restoration",
        "vgg": "cnn",
        "wide_resnet": "cnn",
    },
)
