"""Caches, logits and numpy."""

import gc
import resource
import sys

import numpy as np
import pytest
from conftest import DATA, MICRO, PROMPT

import turboquant


def test_logits(model):
    tokens = model.encode(PROMPT)
    cache = model.make_cache()
    logits = model.forward(cache, np.array(tokens, dtype=np.int32))
    assert logits.shape == (512,) and logits.dtype == np.float32
    assert cache.tokens == tokens and len(cache) == len(tokens) and cache.bytes > 0 and cache.bits == "fp16"
    assert int(logits.argmax()) == model.generate(PROMPT, max_tokens=1, temperature=0).tokens[0]
    assert np.array_equal(turboquant.forward(model, model.make_cache(), tokens), logits)


def test_logits_of_several_tokens(model):
    tokens = model.encode(PROMPT * 60)[:1300]  # more than two steps of 512
    rows = model.forward(model.make_cache(), tokens, rows=len(tokens))
    assert rows.shape == (1300, 512)
    cache = model.make_cache()
    for at in (0, 511, 512, 1299):
        one = model.forward(cache, tokens[len(cache) : at + 1])
        assert np.array_equal(rows[at], one), at
    assert np.array_equal(model.forward(model.make_cache(), tokens, rows=600), rows[-600:])
    for wrong in (0, 1301):
        with pytest.raises(turboquant.UsageError, match=f"rows {wrong}: must be 1 to 1300"):
            model.forward(model.make_cache(), tokens, rows=wrong)


def test_logits_across_the_start_of_compression():
    # The cache is compressed at 300 tokens, in the middle of what is read at once.
    model = turboquant.load(DATA / "micro/llama", threads=2)
    options = turboquant.KvCacheOptions("3", start=300)
    tokens = model.encode(PROMPT * 60)[:700]
    rows = model.forward(model.make_cache(options), tokens, rows=700)
    cache = model.make_cache(options)
    for at in (299, 300, 699):
        assert np.array_equal(rows[at], model.forward(cache, tokens[len(cache) : at + 1])), at
    assert cache.bits == "k3v3" or cache.bits == "3"
    assert not np.array_equal(rows[699], model.forward(model.make_cache(), tokens))


def test_numpy_owns_the_library_memory(model):
    logits = model.forward(model.make_cache(), model.encode(PROMPT))
    assert not logits.flags.owndata and logits.flags.writeable  # memory of the library, which a capsule frees
    assert "capsule" in type(logits.base).__name__.lower() or logits.base is not None
    kept = logits[:5].copy()
    view = logits[:5]
    del logits
    gc.collect()
    model.forward(model.make_cache(), model.encode(PROMPT))
    assert np.array_equal(view, kept)


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KB on Linux")
def test_tokens_are_read_where_they_lie(model):
    tokens = np.zeros(200_000_000, dtype=np.int32)  # 800 MB that no page of memory stands behind, unless it is copied
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(turboquant.Error, match="longer than the model's context"):
        model.forward(model.make_cache(), tokens)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_arrays_of_other_kinds(model):
    tokens = np.array(model.encode(PROMPT), dtype=np.int32)
    expected = model.forward(model.make_cache(), tokens)
    frozen = tokens.copy()
    frozen.flags.writeable = False
    assert np.array_equal(model.forward(model.make_cache(), frozen), expected)
    assert np.array_equal(model.forward(model.make_cache(), tokens.astype(np.int64)), expected)
    assert np.array_equal(model.forward(model.make_cache(), np.repeat(tokens, 2)[::2]), expected)
    with pytest.raises(TypeError):
        model.forward(model.make_cache(), tokens.astype(np.float32))
    with pytest.raises(TypeError):
        model.forward(model.make_cache(), tokens.reshape(1, -1))


def test_the_three_steps_of_turboquant_mlx(model):
    cache = model.make_cache()
    logits = model.forward(cache, model.encode(PROMPT * 30))
    before = cache.bytes
    turboquant.convert_cache_to_turboquant(cache, tq_bits=3, group_size=64)
    assert cache.bits in ("3", "k3v3") and cache.bytes < before / 2
    remembered = len(cache)
    for _ in range(20):
        logits = model.forward(cache, [int(logits.argmax())])
    assert len(cache) == remembered + 20 and np.isfinite(logits).all()
    with pytest.raises(turboquant.Error, match="compressed already"):
        turboquant.convert_cache(cache, "3")
    with pytest.raises(turboquant.UsageError):
        turboquant.convert_cache_to_turboquant(model.make_cache(), tq_bits=5)


def test_fork_and_trim(model):
    tokens = model.encode(PROMPT)
    cache = model.make_cache()
    model.forward(cache, tokens)
    fork = cache.fork()
    a, b = model.forward(cache, [7]), model.forward(fork, [9])
    assert cache.tokens == [*tokens, 7] and fork.tokens == [*tokens, 9] and not np.array_equal(a, b)
    assert cache.trim(len(tokens)) == len(tokens)
    assert np.array_equal(model.forward(cache, [9]), b)


def test_save_and_load(model, tmp_path):
    cache = model.make_cache()
    model.forward(cache, model.encode(PROMPT))
    cache.save(tmp_path / "cache.safetensors")
    again = turboquant.load_cache(model, str(tmp_path / "cache.safetensors"))
    assert again.tokens == cache.tokens
    assert np.array_equal(model.forward(again, [5]), model.forward(cache, [5]))
    (tmp_path / "damaged").write_bytes(b"no cache")
    with pytest.raises(turboquant.Error, match="damaged"):
        model.load_cache(tmp_path / "damaged")


def test_generate_goes_on_from_a_cache(model):
    cache = model.make_cache()
    plain = model.generate(PROMPT, max_tokens=10, temperature=0)
    first = model.generate(PROMPT, max_tokens=10, temperature=0, cache=cache)
    second = model.generate(PROMPT, max_tokens=10, temperature=0, cache=cache)
    assert first.tokens == second.tokens == plain.tokens
    assert first.cached_tokens == 0 and second.cached_tokens == second.prompt_tokens - 1
    lengths = []
    model.generate(PROMPT + " and", max_tokens=1, cache=cache, on_prompt=lambda: lengths.append(len(cache)))
    assert lengths == [len(model.encode(PROMPT + " and")) - 1]


def test_options(model):
    assert turboquant.load(MICRO, kv="k4v3").make_cache().bits == "k4v3"
    assert model.make_cache("k4v3").bits == "k4v3"
    options = turboquant.KvCacheOptions("k4v3", start=turboquant.KvCacheOptions.AFTER_PROMPT, keep_layers=1)
    assert model.make_cache(options).bits == "fp16"
    assert "keep_layers=1" in repr(options)
    options.dtype = "float64"
    with pytest.raises(turboquant.UsageError, match="float64"):
        model.make_cache(options)


def test_a_cache_keeps_its_model(tmp_path):
    model = turboquant.load(MICRO, threads=1)
    cache = model.make_cache()
    model.forward(cache, [1, 2, 3])
    del model
    gc.collect()
    assert cache.fork().tokens == [1, 2, 3]
    with pytest.raises(turboquant.Error, match="another model"):
        turboquant.load(MICRO, threads=1).forward(cache, [4])
