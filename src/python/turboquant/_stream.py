"""A text piece by piece, while it is written in a thread of its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from turboquant._native import Cancellation, GenerateResult, LanguageModel


def _write(
    model: LanguageModel,
    prompt: str | Sequence[int],
    options: dict[str, Any],
    pieces: queue.SimpleQueue,
    cancellation: Cancellation,
) -> None:
    def on_text(piece: str) -> bool:
        pieces.put(piece)
        return threading.main_thread().is_alive()  # or Python would wait for the whole text before it exits

    try:
        pieces.put(model.generate(prompt, on_text=on_text, cancellation=cancellation, **options))
    except BaseException as error:
        pieces.put(error)


class TextStream(Iterator[str]):
    """The pieces of a text, whole characters always; stream() makes it. The model writes ahead of who reads; close(),
    the end of a with block, or dropping the stream ends the writing between two tokens. `result` is the GenerateResult
    once the text is complete or closed, before that None."""

    def __init__(self, model: LanguageModel, prompt: str | Sequence[int], options: dict[str, Any]) -> None:
        self.result: GenerateResult | None = None
        self._ended = False
        self._pieces: queue.SimpleQueue = queue.SimpleQueue()
        self._cancellation = Cancellation()
        # The thread knows the queue, and not this object, which it would keep alive.
        self._thread = threading.Thread(
            target=_write, args=(model, prompt, options, self._pieces, self._cancellation), name="turboquant stream"
        )
        self._thread.start()

    def __next__(self) -> str:
        if self._ended:
            raise StopIteration
        try:
            item = self._pieces.get()
        except BaseException:  # Ctrl-C
            self.close()
            raise
        if isinstance(item, str):
            return item
        self._finish(item)
        if isinstance(item, BaseException):
            raise item
        raise StopIteration

    def close(self) -> None:
        """Ends the text here, and waits until the model is free."""
        if self._ended:
            return
        self._cancellation.cancel()
        item = self._pieces.get()
        while isinstance(item, str):
            item = self._pieces.get()
        self._finish(item)

    def __enter__(self) -> TextStream:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_thread"):
            self.close()

    def _finish(self, item: GenerateResult | BaseException) -> None:
        self._ended = True
        self._thread.join()
        if isinstance(item, GenerateResult):
            self.result = item


def stream(model: LanguageModel, prompt: str | Sequence[int], **options: Any) -> TextStream:
    """generate() as an iterator over the pieces of the text; the options are those of generate(). Errors are raised where
    the first piece is asked for."""
    return TextStream(model, prompt, options)


@dataclass(frozen=True)
class StreamResponse:
    """A piece of stream_generate(). The last one has no text, a finish_reason and the whole result."""

    text: str
    finish_reason: str | None = None
    result: GenerateResult | None = None


def stream_generate(model: LanguageModel, prompt: str | Sequence[int], **options: Any) -> Iterator[StreamResponse]:
    """stream() for who comes from mlx-lm: pieces have a `text`, the last one a `finish_reason`."""
    with stream(model, prompt, **options) as pieces:
        for piece in pieces:
            yield StreamResponse(piece)
        yield StreamResponse("", pieces.result.finish_reason, pieces.result)
