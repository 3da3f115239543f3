"""What a checkpoint and this machine can do, tried for real; see ``speech doctor --models``.

Each group of trials has a process of its own: a crash, or what CUDA keeps, ends with it.
"""
