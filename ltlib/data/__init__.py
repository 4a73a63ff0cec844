"""Where images come from. Each data set gives uint8 images (N, H, W, 3), int64 labels (N,), names
and checksums.

CIFAR-100 comes from ``cifar100.npz`` in ``LTLIB_DATA``, or from the official archive through
torchvision; Fashion-MNIST and MNIST from their IDX files in ``LTLIB_DATA``, or through torchvision,
as CIFAR-10 and SVHN do. "cifar100_class19" is the binary task of one class against the rest. The
embedded data set "digits" is made on the spot from the handwriting that scikit-learn ships.
Photographs of your own are imported by :mod:`workbook.photographs` and loaded here.
"""

from ltlib.data.cifar import superclasses
from ltlib.data.digits import digit_pairs, digit_pairs_for_pretraining
from ltlib.data.download import download
from ltlib.data.images import ImageData, sha256
from ltlib.data.load import IMPORTED, imported_name, load_dataset
from ltlib.data.sizes import DATASETS, DatasetSize, dataset_size

__all__ = [
    "DATASETS",
    "IMPORTED",
    "DatasetSize",
    "ImageData",
    "dataset_size",
    "digit_pairs",
    "digit_pairs_for_pretraining",
    "download",
    "imported_name",
    "load_dataset",
    "sha256",
    "superclasses",
]
