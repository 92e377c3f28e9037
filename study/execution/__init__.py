"""Run a study: connect to Ray, cut the work into packs, and train them."""
