"""Pages of the documentation that are written by the code itself: ``python -m runtime.reference``.

What they say is what the code declares; a test compares them, so that neither drifts.
"""
