"""The figures of a trial."""
