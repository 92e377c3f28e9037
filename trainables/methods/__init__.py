"""The augmentation methods and the protocol that each of them follows."""
