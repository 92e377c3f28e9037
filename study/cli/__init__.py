"""The `study` command, one file a family of commands."""
