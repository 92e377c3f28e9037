"""Rank the items of another table by what is most useful to label next."""
