"""Training: recipes, the loop, checkpoints, cached features of the frozen tower. Start at `train` in run.py."""

from lexivid.training.log import Progress
from lexivid.training.recipe import Recipe, load_recipe
from lexivid.training.result import TrainingResult
from lexivid.training.run import resume, train

__all__ = ["Progress", "Recipe", "TrainingResult", "load_recipe", "resume", "train"]
