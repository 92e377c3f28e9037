"""Extract embeddings with Ray Data: plan, encode, gather."""
