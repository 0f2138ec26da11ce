"""What the fuzz draws: input that is given, and files that are damaged."""
