"""Splits and random streams, each a function of a seed and a purpose."""
