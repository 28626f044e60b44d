"""Which folds and which tables this code has. A generation of the views carries both, from its building on.

Two releases may run side by side while one takes over from the other: a runner follows generations of its own
fold and shape alone, a reader reads those of its own shape. Always read as attributes of this module.
"""

FOLD_VERSION = 1
"""Raised whenever a fold comes to write something else for the same events: views must then be built anew."""

SHAPE_VERSION = 2
"""Raised whenever a table, or what Redis keeps, changes its shape: older code could not read it."""
