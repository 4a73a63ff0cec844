"""For a server of processes that are killed: what a run loads, and the data set of the tests."""

import sklearn.metrics
import timm
import torch._dynamo

import ltlib.runs.run
from ltlib.data import load_dataset

__all__ = ["ltlib", "sklearn", "timm", "torch"]

load_dataset("digits")
