"""The study file: its schema, its presets, and the rules that a file must keep."""
