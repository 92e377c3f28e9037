"""From a labelled table to a store of embeddings: sources, encoders, the pipeline and the store.

The modules are imported by name (`embedding_jobs.sources`, `embedding_jobs.store`, ...); importing the
package imports none of them, so that reading a store needs neither torch nor Ray.
"""
