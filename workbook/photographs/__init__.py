"""Photographs of your own as a long-tailed data set: a folder, a list file, or an iNaturalist JSON.

:func:`import_images` reads, checks and scales the photographs once and keeps a copy as arrays,
named after its content ("moths-0123456789"). That name is the ``dataset`` of a profile
(:func:`write_profile`); from there on everything is as with the other data sets. Nothing is ever
written into the folder of the photographs.
"""

from workbook.photographs.demonstration import write_demonstration
from workbook.photographs.importing import Imported, import_images, imported
from workbook.photographs.profile import write_profile

__all__ = ["Imported", "import_images", "imported", "write_demonstration", "write_profile"]
