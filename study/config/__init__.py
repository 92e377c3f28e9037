"""The study file: its schema, its presets, and the rules that it is checked by."""
