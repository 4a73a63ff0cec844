"""Tables and figures out of records, for notebooks and for LaTeX. Each module is imported by name.

    from ltlib.report.output import Output

output      what a notebook shows and saves
figures     the look of figures
tables      means over seeds, numbers as text, the grid of backbones and losses
grids       the tables of results; head, middle and tail; the thesis's own, ours beside
thesis      what the thesis prints
published   what the literature and the papers of notebooks 17 to 19 print, ours beside
comparison  what one loss gains over another, and how sure that is
lessons     gradients and the small model of notebooks 02 to 09
plane       long-tailed points in the plane, the example of notebooks 02 to 09
flipbook    a picture with a slider
captions    what captions of several notebooks say in the same words
systems     batches, paired gains and small trainings of notebooks 17 to 19
latex       texts and tables as LaTeX prints them
"""
