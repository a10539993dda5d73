"""What the person at the terminal sees: headed steps, short lines, one progress line that redraws itself."""

from __future__ import annotations

import shutil
import sys
import time

_LONGEST_BAR = 24
_PLAIN_SECONDS = 2.0


class Screen:
    """Writes to standard output; without a terminal the progress line becomes a plain line every two seconds."""

    def __init__(self) -> None:
        self._live = sys.stdout.isatty()
        self._drawn = 0
        self._last_plain = 0.0
        self._steps = 0

    def title(self, text: str) -> None:
        """The first line."""
        print(f"\n{self._bold(text)}", flush=True)

    def step(self, text: str) -> None:
        """Head of the next numbered step."""
        self.settle()
        self._steps += 1
        print(f"\n{self._bold(f'{self._steps}. {text}')}", flush=True)

    def say(self, text: str = "") -> None:
        """One line of the current step."""
        self.settle()
        print(f"   {text}" if text else "", flush=True)

    def progress(self, parts: list[tuple[str, float, int]], note: str = "") -> None:
        """Draw each part as name, bar (0 to 1) and rows, behind them `note`."""
        columns = shutil.get_terminal_size().columns
        width = min(_LONGEST_BAR, max(4, columns // len(parts) - 26))
        bars = [f"{name} {_bar(share, width)} {share:4.0%} {rows:>8,}" for name, share, rows in parts]
        line = "   " + "   ".join(bars) + (f"   {note}" if note else "")
        if self._live:
            line = line[: columns - 1]  # a line that wraps cannot be drawn over
            print("\r" + line.ljust(self._drawn), end="", flush=True)
            self._drawn = len(line)
        elif time.monotonic() - self._last_plain >= _PLAIN_SECONDS:
            self._last_plain = time.monotonic()
            print(line, flush=True)

    def settle(self) -> None:
        """End the progress line, so that what follows begins on a new one."""
        if self._drawn:
            print(flush=True)
            self._drawn = 0

    def _bold(self, text: str) -> str:
        return f"\x1b[1m{text}\x1b[0m" if self._live else text


def _bar(share: float, width: int) -> str:
    full = round(max(0.0, min(1.0, share)) * width)
    return "█" * full + "░" * (width - full)
