"""Speech recognition with NVIDIA Parakeet: files with TDT, streams with cache-aware RNNT.

What is here so far is the estimate of their memory, which the engines will hold to.
"""
