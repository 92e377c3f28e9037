"""The results of finished trials, and the files that hold them."""
