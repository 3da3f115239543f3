"""A neighbour that takes memory which nobody planned for, as it is told to.

    python -m runtime.bench.glutton cuda|host

Each line on standard input is how many bytes it is to hold from now on, or ``check``. It answers
with a line: how many it holds, in whole blocks, or whether all of them are what it wrote there.
Told to hold less than it does, it gives everything back first. It ends with its input.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from runtime.errors import SpeechError

BLOCK = 64 << 20
_PATIENCE_S = 60.0
_LAST_WORDS_S = 5.0


class Glutton:
    """The process, as the benchmark sees it."""

    def __init__(self, device: str) -> None:
        """``device`` is ``cuda`` or ``host``."""
        self._device = device
        self._process: asyncio.subprocess.Process | None = None
        self.held = 0

    async def start(self) -> None:
        """Return once it runs and holds nothing, a CUDA context apart."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "runtime.bench.glutton", self._device),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        await self.hold(0)

    async def hold(self, size: int) -> None:
        """Make it hold so many bytes, or the whole blocks in them.

        Raises:
            SpeechError: It failed; the message is the last that it said.
        """
        self.held = int(await self._tell(str(size)))

    async def intact(self) -> bool:
        """Whether all that it holds is what it wrote there.

        Raises:
            SpeechError: It failed; the message is the last that it said.
        """
        return bool(await self._tell("check"))

    async def _tell(self, line: str) -> Any:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            async with asyncio.timeout(_PATIENCE_S):
                process.stdin.write(f"{line}\n".encode())
                await process.stdin.drain()
                answer = await process.stdout.readline()
        except TimeoutError as error:
            raise SpeechError("The neighbour does not answer.") from error
        except OSError:  # it has ended
            answer = b""
        if not answer:
            raise SpeechError(f"The neighbour failed: {await self._last_words()}")
        return json.loads(answer)

    async def stop(self) -> None:
        """End it, if it runs."""
        if self._process is not None:
            if self._process.returncode is None:
                self._process.kill()
            await self._process.communicate()
            self._process = None

    async def _last_words(self) -> str:
        assert self._process is not None
        assert self._process.stderr is not None
        async with asyncio.timeout(_LAST_WORDS_S):
            lines = (await self._process.stderr.read()).decode().strip().splitlines()
        return lines[-1] if lines else "without a word"


def main() -> None:
    """Do as standard input says."""
    from runtime.bench.blocks import Blocks

    blocks = Blocks(sys.argv[1], BLOCK)
    blocks.take(BLOCK)  # a CUDA context comes with the first block, and stays
    blocks.drop()
    for line in map(str.strip, sys.stdin):
        if line == "check":
            print(json.dumps(blocks.intact()), flush=True)
            continue
        size = int(line)
        if size < blocks.size:
            blocks.drop()
        blocks.take(size - blocks.size)
        print(json.dumps(blocks.size), flush=True)


if __name__ == "__main__":
    main()
