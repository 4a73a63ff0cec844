"""The thin library behind the long-tail workbook: data, losses, training, records, tables."""

__version__ = "0.1.0"
