"""NVIDIA's checkpoints on this machine: which, from where, and whether they are whole."""
