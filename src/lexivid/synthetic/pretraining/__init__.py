"""Models made from nothing on the synthetic world: a CLIP, a small language model, and probes of what they know."""
