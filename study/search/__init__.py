"""Which candidates are tried, in which order, and when one is given up."""
