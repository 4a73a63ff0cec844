"""The thin library behind the long-tail workbook: data, losses, training, records, tables."""

import warnings

# progress bars are text here: nothing is missing without ipywidgets
warnings.filterwarnings("ignore", message="IProgress not found")

__version__ = "0.1.0"
