"""Ablation studies of embedding augmentations: the study file, its search, its runs and the `study` command."""
