"""The program behind make: launches runs, executes notebooks, makes the book and the document."""

import functools

say = functools.partial(print, flush=True)


class RunsFailed(RuntimeError):
    """Some runs ended with an error; the others are finished and kept."""
