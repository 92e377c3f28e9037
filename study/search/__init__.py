"""Which candidates are tried, in which order, and when early stopping ends one."""
