"""Send a study to a Ray cluster, check the cluster first, and follow the job."""
