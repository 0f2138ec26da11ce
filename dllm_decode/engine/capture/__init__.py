"""Block steps recorded as CUDA graphs, and steps begun before the policy has decided."""
