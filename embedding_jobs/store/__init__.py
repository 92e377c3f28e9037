"""The embedding store: shards of vectors, and the manifests that describe them."""
