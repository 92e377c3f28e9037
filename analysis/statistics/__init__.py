"""Intervals, bootstraps and decisions."""
