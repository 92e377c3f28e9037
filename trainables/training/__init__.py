"""Train many trials in lockstep, as lanes of one stacked model."""
