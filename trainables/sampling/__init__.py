"""Splits and random streams, each from a seed and a purpose."""
