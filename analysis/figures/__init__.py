"""The figures of a report: their values, and how they are drawn."""
