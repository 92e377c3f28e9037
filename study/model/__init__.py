"""The classifier of a finished study: retrain, verify, export, predict."""
