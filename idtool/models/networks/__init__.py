"""Architectures that no library of ours brings, in PyTorch, with the state-dict names of their published weights."""
