"""What a checkpoint says of how its codes are drawn, guided and ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runtime.engines.magpie.alignment import PriorRules
from runtime.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Rules:
    """Numbers of a checkpoint that are part of a step.

    Attributes:
        stacking: Frames of a step.
        codebooks: Codes of a frame.
        tokens: Values of a code, special ones included.
        codes: Values of a code that are speech.
        begin: The code before the first frame.
        end: The code that ends speech.
        min_frames: Before which speech does not end.
        top_k: How many of the likeliest codes are drawn from.
        pair: Rows of a slot: 2 with guidance, else 1.
        scale: Of guidance.
        prior: Of the attention to the text.
        use_prior: Whether attention follows a prior at all.
        guided: Layers whose cross-attention follows it.
        aligning: Layers whose cross-attention tells where in the text a slot is.
    """

    stacking: int
    codebooks: int
    tokens: int
    codes: int
    begin: int
    end: int
    min_frames: int
    top_k: int
    pair: int
    scale: float
    prior: PriorRules
    use_prior: bool
    guided: frozenset[int]
    aligning: frozenset[int]

    @classmethod
    def of(cls, model: Any, cfg: bool) -> Rules:
        """Read them off NeMo's ``MagpieTTSModel``; ``cfg`` is classifier-free guidance.

        Raises:
            CheckpointError: No code could ever be drawn by them.
        """
        parameters = model.inference_parameters
        if int(parameters.topk) < 1:
            raise CheckpointError(
                f"The checkpoint's inference_parameters draw from the {int(parameters.topk)} "
                "likeliest codes; give the engine `top_k`, 80 as published."
            )
        layers = range(len(model.decoder.layers))
        use_prior = bool(parameters.apply_attention_prior)
        guided = parameters.apply_prior_to_layers or layers
        return cls(
            stacking=int(model.frame_stacking_factor),
            codebooks=int(model.num_audio_codebooks),
            tokens=int(model.num_all_tokens_per_codebook),
            codes=int(model.codebook_size),
            begin=int(model.audio_bos_id),
            end=int(model.audio_eos_id),
            min_frames=int(parameters.min_generated_frames),
            top_k=int(parameters.topk),
            pair=2 if cfg else 1,
            scale=float(parameters.cfg_scale),
            prior=PriorRules(
                float(parameters.attention_prior_epsilon),
                int(parameters.attention_prior_lookahead_window),
            ),
            use_prior=use_prior,
            guided=frozenset(guided if use_prior else ()),
            aligning=frozenset(parameters.estimate_alignment_from_layers or layers),
        )

    @property
    def outputs(self) -> int:
        """Codes of a step."""
        return self.stacking * self.codebooks
