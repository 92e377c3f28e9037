"""The built-in catalogue of products that the demo uses."""
