"""What both Magpie engines have in common: files, voices, texts, and what a load reports."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from runtime.engines.magpie.checkpoint import inspect
from runtime.engines.magpie.options import MagpieOptions
from runtime.engines.magpie.planner import TextPlanner
from runtime.engines.magpie.tokens import FrontEnd
from runtime.engines.magpie.voicing import Voicing
from runtime.engines.steps import StepLog
from runtime.engines.worker import ModelWorker
from runtime.models.catalogue import CODEC
from runtime.models.store import path_of
from runtime.normalization import Normalizer, make_normalizer
from runtime.speech import Step, SynthesizerCapabilities
from runtime.voices import read_blends

_log = logging.getLogger(__name__)


class MagpieEngine:
    """A checkpoint that has been looked at; loading and speaking are its engine's."""

    def __init__(
        self,
        name: str,
        options: MagpieOptions,
        *,
        streaming: bool,
        slots: int,
        counted: Sequence[str] = (),
    ) -> None:
        """Nothing is loaded.

        Args:
            name: The engine's.
            options: As configured.
            streaming: Audio leaves before its sentence is complete.
            slots: How many utterances at the same time.
            counted: What else happens to utterances, beyond what happens to texts.

        Raises:
            CheckpointError: The files are not there, damaged, or of no kind that runs here.
        """
        self._name, self._options = name, options
        common = options.common
        self._files = inspect(
            common.weights or path_of(common.model_name), options.codec or path_of(CODEC)
        )
        geometry = self._files.geometry
        self._max_frames = options.frames(geometry.max_frames, geometry.stacking)
        counted = ("characters_removed", "tokens_padded", "chunks_cut_short", *counted)
        self._counts = dict.fromkeys(counted, 0)
        blends = read_blends(self._files.weights, geometry.speakers)
        self._voicing = Voicing(geometry.speakers, self._files.languages, blends)
        self._capabilities = SynthesizerCapabilities(
            voices=self._voicing.voices,
            sample_rate=self._files.codec_geometry.sample_rate,
            streaming=streaming,
            seed=True,
            raw_text=True,
            slots=slots,
            blends=True,
        )
        self._worker = ModelWorker(name, extra="nemo")
        self._steps = StepLog()
        self._planner: TextPlanner | None = None
        self._normalizer: Normalizer | None = None

    @property
    def capabilities(self) -> SynthesizerCapabilities:
        """Voices and languages are those of the checkpoint."""
        return self._capabilities

    @property
    def counts(self) -> Mapping[str, int]:
        """What was done to texts and utterances: see docs/magpie.md."""
        return dict(self._counts)

    def take_steps(self) -> Sequence[Step]:
        """What the model has done, chunk by chunk or step by step; see ``Stepping``."""
        return self._steps.take()

    def _begin_to_load(self) -> Normalizer:
        """What reads numbers, dates and the like, which may have to be compiled first."""
        self._normalizer = make_normalizer(self._options.normalizer, self._files.languages)
        self._normalizer.prewarm()
        return self._normalizer

    def _take_of(self, model: Any, normalizer: Normalizer) -> TextPlanner:
        """NeMo's front end, and its parameters as configured."""
        for name, value in (
            ("temperature", self._options.temperature),
            ("topk", self._options.top_k),
            ("cfg_scale", self._options.cfg_scale),
        ):
            if value is not None:
                setattr(model.inference_parameters, name, value)
        frontend = FrontEnd(model.tokenizer, self._files.tokenizers, int(model.eos_id))
        seconds = self._max_frames / self._files.codec_geometry.frame_rate
        self._planner = TextPlanner(frontend, normalizer, seconds, self._counts)
        return self._planner

    def _report(self, normalizer: Normalizer, **more: str) -> dict[str, str]:
        """What was loaded, for the load report; what is missing is said in the log, too."""
        files = self._files
        for language, mend in files.left_out.items():
            _log.warning("%s starts without %s: %s", self._name, language, mend)
        return {
            "checkpoint": str(files.weights),
            "codec": str(files.codec),
            "geometry": files.geometry.describe(),
            "saved by": f"NeMo {files.geometry.nemo_version or 'of unknown version'}",
            **more,
            "normalizer": normalizer.name,
            "languages": ", ".join(files.languages),
            **{f"without {tag}": why for tag, why in files.left_out.items()},
        }
