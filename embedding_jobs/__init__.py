"""From a labelled table to a store of embeddings: sources, encoders, the pipeline and the store.

Importing the package imports none of its modules: reading a store needs neither torch nor Ray.
"""
