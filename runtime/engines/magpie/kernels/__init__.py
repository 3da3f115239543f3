"""Triton kernels; importing one needs Triton, so the code that runs anywhere does not."""
