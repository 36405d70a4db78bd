"""Progress for people: a live line on a terminal, plain lines elsewhere. Everything goes to stderr."""

from __future__ import annotations

import sys
import time

from rich.console import Console

from tunewright.core import events


class ConsoleObserver:
    """Prints events: on a terminal one moving line, elsewhere a line every ``every`` seconds."""

    def __init__(self, *, every: float = 10.0) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.live = self.console.is_terminal
        self.every = every
        self._last = 0.0
        self._open = False

    def __call__(self, event: events.Event) -> None:
        match event:
            case events.Stage(name="note", detail=detail):
                self._line(f"  [dim]{_safe(detail)}[/dim]")
            case events.Stage(name=name, detail=detail):
                self._line(f"[bold]{_safe(name)}[/bold]" + (f" — {_safe(detail)}" if detail else ""))
            case events.StepEnd():
                self._moving(_step_text(event), event.step == event.total_steps)
            case events.EvalEnd():
                values = ", ".join(f"{k.replace('_', ' ')} {v:.4g}" for k, v in event.metrics.items())
                self._line(f"  step {event.step}: {values}{' (best so far)' if event.best else ''}")
            case events.Progress(name=name, done=done, total=total):
                self._moving(f"  {name} {done}/{total}", done == total)
            case events.Warned(message=message):
                self._line(f"[yellow]warning:[/yellow] {_safe(message)}")
            case events.Ended(reason=reason, best_step=best):
                self._line(f"  stopped: {_safe(reason)}; keeping step {best}")
            case _:
                pass

    def _line(self, text: str) -> None:
        if self._open:
            self.console.print()
            self._open = False
        self.console.print(text, soft_wrap=True)

    def _moving(self, text: str, last: bool) -> None:
        if self.live:
            sys.stderr.write("\r\x1b[2K" + text)
            sys.stderr.flush()
            self._open = True
        elif last or time.monotonic() - self._last >= self.every:
            self._last = time.monotonic()
            self.console.print(text, soft_wrap=True, markup=False)


def _step_text(e: events.StepEnd) -> str:
    left = time.strftime("%M:%S" if e.seconds_left < 3600 else "%H:%M:%S", time.gmtime(e.seconds_left))
    return (
        f"  step {e.step}/{e.total_steps}  epoch {e.epoch:.2f}  loss {e.loss:.4f}"
        f"  {e.tokens_per_second:.0f} tok/s  {e.memory_mb / 1024:.1f} GB  {left} left"
    )


def _safe(text: str) -> str:
    return text.replace("[", "\\[")
