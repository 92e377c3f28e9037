"""Trials: the methods, the splits, the lockstep engine, the figures and the records they leave."""
