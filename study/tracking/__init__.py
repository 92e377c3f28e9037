"""Write a study to MLflow, now or later."""
