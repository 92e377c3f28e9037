"""What a finished trial leaves behind, and the files that hold it."""
