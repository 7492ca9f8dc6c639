"""Training: recipes, the loop, checkpoints, cached features of the frozen tower. Start at `train` in run.py."""

from lexivid.training.recipe import Recipe, load_recipe
from lexivid.training.run import train

__all__ = ["Recipe", "load_recipe", "train"]
