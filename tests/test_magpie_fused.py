"""The fused step does what the plain one does, on the same state.

On a machine with no GPU Triton's interpreter runs the kernels, in float32 and so slowly that the
model is tiny; on a GPU they run in the public geometry, in bfloat16.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest
from interpreted import INTERPRETED, assert_passes_interpreted

torch = pytest.importorskip("torch", reason="needs the extra `nemo`")
if find_spec("triton") is None:
    pytest.skip("needs Triton, of which torch for CPUs brings none", allow_module_level=True)

from random_magpie import PUBLIC, TINY, in_mid_speech, model_of  # noqa: E402

GPU = torch.cuda.is_available()
TOLERANCE = 0.25
"""Of logits in bfloat16, in standard deviations of all logits."""


def copied(state: Any) -> Any:
    """The same numbers in other tensors."""
    fields = {name: getattr(state, name) for name in state.__slots__}
    return replace(
        state,
        **{
            name: value.clone() if isinstance(value, torch.Tensor) else copied(value)
            for name, value in fields.items()
        },
    )


def assert_equal(found: Any, wanted: Any) -> None:
    """Whole numbers equal, others as near as float32 gets."""
    for name in wanted.__slots__:
        ours, theirs = getattr(found, name), getattr(wanted, name)
        if not isinstance(theirs, torch.Tensor):
            assert_equal(ours, theirs)
        elif theirs.is_floating_point():
            assert torch.allclose(ours, theirs, atol=2e-5), name
        else:
            assert torch.equal(ours, theirs), name


@pytest.mark.skipif(INTERPRETED, reason="is what runs the others")
def test_under_the_interpreter() -> None:
    assert_passes_interpreted(__file__)


@pytest.mark.skipif(not INTERPRETED, reason="runs within test_under_the_interpreter")
@pytest.mark.parametrize(
    ("cfg", "geometry"),
    [
        (True, {"codebooks": 2}),
        (False, {"codebooks": 2, "local_layers": 1}),
        (True, {"codebooks": 3, "stacking": 1, "local_layers": 1, "local_d": 16}),
    ],
)
def test_a_fused_step_leaves_the_state_that_the_plain_one_leaves(
    cfg: bool, geometry: dict[str, Any]
) -> None:
    from runtime.engines.magpie.decoder import Decoder
    from runtime.engines.magpie.fused import FusedStep
    from runtime.engines.magpie.tiles import Tile

    model = model_of(torch.device("cpu"), **{**TINY, **geometry})
    plain, fused = (Decoder(model, 6, max_text=24, max_steps=16, cfg=cfg) for _ in range(2))
    in_mid_speech(plain)
    fused.state = copied(plain.state)
    step = FusedStep(fused, 4, tiles=lambda rows, n, k: Tile(16, 64, 32, 1, 4), sharing=3)
    for slots in ([3, 0, 5], [6]):
        plain.step(torch.tensor(slots))
        step.step(torch.tensor(slots))
        assert_equal(step.state, plain.state)


class Forcing:
    """Launches that keep the logits of each output, and draw the codes that they are told."""

    def __init__(self, launches: Any, codes: list[Any]) -> None:
        self._launches, self._codes = launches, codes
        self.logits: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._launches, name)

    def draw(self, slots: Any, output: int) -> None:
        logits = self._launches.space.logits[: len(slots)]
        self.logits.append(logits.clone())
        logits.scatter_(1, self._codes[output][:, None], 1e9)
        self._launches.draw(slots, output)


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs a CUDA GPU")
@pytest.mark.parametrize("count", [1, 8, 64])
def test_in_bfloat16_logits_are_no_further_from_float32_than_the_plain_steps(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.engines.magpie import decoder as module
    from runtime.engines.magpie.decoder import Decoder
    from runtime.engines.magpie.fused import FusedStep

    model = model_of(torch.device("cuda"), **PUBLIC)
    reference, plain, fused = (
        Decoder(model, count, max_text=512, max_steps=250, dtype=dtype)
        for dtype in (torch.float32, torch.bfloat16, torch.bfloat16)
    )
    in_mid_speech(reference)
    reference.state.temperature.zero_()
    for other in (plain, fused):
        for name in reference.state.__slots__:
            mine, theirs = getattr(other.state, name), getattr(reference.state, name)
            if isinstance(theirs, torch.Tensor):
                mine.copy_(theirs)
            else:
                for part in theirs.__slots__:
                    getattr(mine, part).copy_(getattr(theirs, part))
    draw, codes, logits, plain_logits = module.draw, [], [], []

    def first(given: Any, *rest: Any) -> Any:
        logits.append(given)
        codes.append(draw(given, *rest))
        return codes[-1]

    def second(given: Any, *rest: Any) -> Any:
        plain_logits.append(given)
        return codes[len(plain_logits) - 1]

    slots = torch.arange(count, device="cuda")
    monkeypatch.setattr(module, "draw", first)
    reference.step(slots)
    monkeypatch.setattr(module, "draw", second)
    plain.step(slots)
    step = FusedStep(fused, count)
    forcing = step._launch = Forcing(step._launch, codes)  # type: ignore[assignment]
    step.step(slots)

    wanted = torch.stack(logits)
    allowed = wanted > float("-inf")
    deviation = wanted[allowed].std()
    off = ((torch.stack(forcing.logits) - wanted)[allowed] / deviation).double()
    plain_off = ((torch.stack(plain_logits) - wanted)[allowed] / deviation).double()
    assert float(off.abs().max()) < TOLERANCE
    assert float(off.square().mean()) <= 1.1 * float(plain_off.square().mean())
    found = torch.where(allowed, torch.stack(forcing.logits), float("-inf"))
    best = wanted.topk(2, -1).values
    clear = (best[..., 0] - best[..., 1]) / deviation > TOLERANCE
    assert torch.equal(found.argmax(-1)[clear], wanted.argmax(-1)[clear])
    for name in ("step", "place", "codes", "frames"):
        assert torch.equal(getattr(fused.state, name), getattr(reference.state, name)), name


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs a CUDA GPU")
def test_of_the_same_logits_the_same_codes_are_drawn() -> None:
    from runtime.engines.magpie.decoder import Decoder
    from runtime.engines.magpie.fused import FusedStep
    from runtime.engines.magpie.sampling import draw

    device = torch.device("cuda")
    model = model_of(device, **{**PUBLIC, "layers": 1})
    decoder = Decoder(model, 64, max_text=64, max_steps=16, dtype=torch.bfloat16)
    launch, rules = FusedStep(decoder, 64)._launch, decoder.rules
    slots = torch.arange(64, device=device)
    code = torch.arange(rules.tokens, device=device)
    for trial in range(20):
        in_mid_speech(decoder, seed=trial)
        state = decoder.state
        logits = torch.randn(64, rules.tokens, device=device) * 10.0 ** (trial % 3 - 0.5)
        if trial % 4 == 0:
            logits = (logits * 4).round() / 4  # equals, at the last of the likeliest too
        launch.space.logits.copy_(logits)
        output = trial % rules.outputs
        launch.draw(slots, output)
        early = (state.step[:64] * rules.stacking < rules.min_frames)[:, None]
        allowed = (code < rules.codes) | ((code == rules.end) & ~early)
        position = state.step[:64] * rules.outputs + output
        wanted = draw(
            logits.masked_fill(~allowed, float("-inf")),
            state.temperature[:64],
            rules.top_k,
            state.seed[:64],
            position,
        )
        assert torch.equal(launch.space.drawn[:64, output], wanted)
