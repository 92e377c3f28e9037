"""Gains by augmented layer, for studies of Deep Augmentation."""
