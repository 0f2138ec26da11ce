"""The lab: compare policies on tasks so that nobody can doubt the numbers, tune them, and show them."""
