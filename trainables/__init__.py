"""Trials: methods, splits, the training of many trials in lockstep, metrics, and records."""
