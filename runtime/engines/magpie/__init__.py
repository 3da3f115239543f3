"""Speech synthesis with NVIDIA Magpie TTS.

What is here so far is the estimate of its memory, which the engine will hold to.
"""
