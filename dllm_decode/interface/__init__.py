"""What engine, models and kernels say to each other."""
