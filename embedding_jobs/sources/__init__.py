"""Read the items of a table."""
