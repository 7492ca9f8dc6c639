"""Training: recipes, the loop, checkpoints, cached features of the frozen tower. Start at `train` in run.py."""

from lexivid.training.log import Progress
from lexivid.training.recipe import Recipe, load_recipe
from lexivid.training.run import TrainingResult, train

__all__ = ["Progress", "Recipe", "TrainingResult", "load_recipe", "train"]
