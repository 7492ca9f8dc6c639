"""Label encoders, which turn names into vectors: frozen ones and those that a run trains."""
