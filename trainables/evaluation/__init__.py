"""The metrics of a trial."""
