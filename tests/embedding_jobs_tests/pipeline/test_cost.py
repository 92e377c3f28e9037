"""The speed of an encoder, by a made-up clock."""

from types import SimpleNamespace

import pytest

from embedding_jobs.encoders.config import CustomEncoderConfig
from embedding_jobs.pipeline.cost import measure_encoder
from embedding_jobs.sources.items import Source


def test_the_fastest_repeat_counts(
    catalogue: Source, word_config: CustomEncoderConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    times_s = iter([0, 0.5, 10, 10.1, 20, 20.9, 30, 30.8, 40, 40.2, 50, 50.7])  # starts and ends of the repeats
    monkeypatch.setattr("embedding_jobs.pipeline.cost.time", SimpleNamespace(perf_counter=lambda: next(times_s)))
    cost = measure_encoder(catalogue, "title", word_config, "cpu", 1)
    assert cost.n_inputs == word_config.items_per_unit
    assert cost.prepared_per_s == pytest.approx(cost.n_inputs / 0.1)
    assert cost.encoded_per_s == pytest.approx(cost.n_inputs / 0.2)


def test_a_slow_step_is_not_repeated(
    catalogue: Source, word_config: CustomEncoderConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    times_s = iter([0, 60, 100, 300])
    monkeypatch.setattr("embedding_jobs.pipeline.cost.time", SimpleNamespace(perf_counter=lambda: next(times_s)))
    cost = measure_encoder(catalogue, "title", word_config, "cpu", 1)
    assert (cost.prepared_per_s, cost.encoded_per_s) == (cost.n_inputs / 60, cost.n_inputs / 200)


def test_a_step_below_the_resolution_of_the_clock_has_a_finite_speed(
    catalogue: Source, word_config: CustomEncoderConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedding_jobs.pipeline.cost.time", SimpleNamespace(perf_counter=lambda: 7.0))
    cost = measure_encoder(catalogue, "title", word_config, "cpu", 1)
    assert 0 < cost.encoded_per_s < float("inf")
