"""What the directory of a study holds, and what it says about the study."""
