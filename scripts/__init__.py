"""What a researcher runs: training, comparison, benchmarks."""
