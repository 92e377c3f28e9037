"""Train a pack of trials as one Ray Tune trial, or a single trial without Ray."""
