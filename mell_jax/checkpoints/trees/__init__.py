"""These are the programs whose trees of parameters are read, each one file."""

from mell_jax.checkpoints.trees.gemma import GEMMA
from mell_jax.checkpoints.trees.layout import Shapes, TreeLayout
from mell_jax.checkpoints.trees.maxtext import MAXTEXT
from mell_jax.checkpoints.trees.tunix import TUNIX

TREES = (MAXTEXT, TUNIX, GEMMA)

__all__ = ["GEMMA", "MAXTEXT", "TREES", "TUNIX", "Shapes", "TreeLayout"]
