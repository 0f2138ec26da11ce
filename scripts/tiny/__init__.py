"""Training of the bundled model: rows and masks, optimiser, a validation decoder."""
