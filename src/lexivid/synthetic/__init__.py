"""The synthetic world: its clips, the models that are pre-trained on it, the papers' tables made in it."""
