"""Load the results of a study, from its records or from MLflow, and aggregate them."""
