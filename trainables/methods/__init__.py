"""The augmentation methods, and the contract that each of them follows."""
