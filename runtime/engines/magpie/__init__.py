"""Speech synthesis with NVIDIA Magpie TTS through NeMo; see docs/magpie.md."""
