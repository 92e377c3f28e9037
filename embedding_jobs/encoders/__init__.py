"""Frozen encoders that turn text and images into vectors."""
