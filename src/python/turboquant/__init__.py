"""TurboQuant: compresses the weights of large language models to 2, 3 or 4 bits, and runs them fast on a CPU.

    import turboquant

    turboquant.convert("org/name", "model-4bit", bits=4)
    model = turboquant.load("model-4bit")
    print(turboquant.generate(model, "Why is the sky blue?"))
    for piece in turboquant.stream(model, "And at sunset?"):
        print(piece, end="", flush=True)

Everything that takes long runs without the GIL, and ends at Ctrl-C with KeyboardInterrupt.
"""

from turboquant._chat import apply_chat_template
from turboquant._native import (
    CalibrationOptions,
    Cancellation,
    ConvertResult,
    Error,
    EvaluateRow,
    GenerateResult,
    Interrupted,
    KvCache,
    KvCacheOptions,
    LanguageModel,
    UsageError,
    __version__,
    convert,
    convert_cache,
    convert_cache_to_turboquant,
    evaluate,
    load,
    show_progress,
)
from turboquant._stream import StreamResponse, TextStream, stream, stream_generate

# The methods of a model as functions: generate(model, "...") is model.generate("...").
generate = LanguageModel.generate
make_cache = LanguageModel.make_cache
load_cache = LanguageModel.load_cache
forward = LanguageModel.forward

__all__ = [
    "CalibrationOptions",
    "Cancellation",
    "ConvertResult",
    "Error",
    "EvaluateRow",
    "GenerateResult",
    "Interrupted",
    "KvCache",
    "KvCacheOptions",
    "LanguageModel",
    "StreamResponse",
    "TextStream",
    "UsageError",
    "__version__",
    "apply_chat_template",
    "convert",
    "convert_cache",
    "convert_cache_to_turboquant",
    "evaluate",
    "forward",
    "generate",
    "load",
    "load_cache",
    "make_cache",
    "show_progress",
    "stream",
    "stream_generate",
]
