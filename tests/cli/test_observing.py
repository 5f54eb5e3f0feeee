"""Metrics have a port of their own where that is wanted; of several processes each has one."""

from collections.abc import Iterator
from contextlib import ExitStack

import httpx2
import pytest
from prometheus_client import REGISTRY

from ewallet.cli.observing import observed
from ewallet.cli.terminal import Stopped
from ewallet.plumbing import tracing
from ewallet.plumbing.settings import Settings
from tests.support.collector import running_collector
from tests.support.platform import wait_until
from tests.support.ports import free_port, neighbouring_ports

PATIENCE_SECONDS = 20


@pytest.fixture
def http() -> Iterator[httpx2.Client]:
    with httpx2.Client(trust_env=False) as client:
        yield client


def test_metrics_are_shown_on_their_own_port_until_the_process_ends(http: httpx2.Client) -> None:
    settings = Settings(metrics_port=free_port())
    url = f"http://127.0.0.1:{settings.metrics_port}/metrics"

    with observed(settings, program="test", processes=1):
        assert "python_info" in http.get(url).text

    with pytest.raises(httpx2.ConnectError):
        http.get(url)


def test_each_of_several_processes_takes_a_port_and_a_successor_the_one_that_became_free(http: httpx2.Client) -> None:
    ports = neighbouring_ports()
    settings = Settings(metrics_port=ports[0])

    def answering() -> list[int]:
        return [place for place, port in enumerate(ports) if _answers(http, port)]

    with ExitStack() as first, ExitStack() as second:
        first.enter_context(observed(settings, program="test", processes=2))
        second.enter_context(observed(settings, program="test", processes=2))
        assert answering() == [0, 1]
        first.close()
        assert answering() == [1]
        first.enter_context(observed(settings, program="test", processes=2))
        assert answering() == [0, 1]


def _answers(http: httpx2.Client, port: int) -> bool:
    try:
        return http.get(f"http://127.0.0.1:{port}/metrics").is_success
    except httpx2.ConnectError:
        return False


def test_a_port_that_is_taken_is_a_sentence() -> None:
    settings = Settings(metrics_port=free_port())

    with (
        observed(settings, program="test", processes=1),
        pytest.raises(Stopped, match=r"EWALLET_METRICS_PORT is wrong: .* in use"),
        observed(settings, program="test", processes=1),
    ):
        pass


@pytest.mark.parametrize(("percent", "kept"), [(100, 1), (0, 0)])
def test_traces_are_sent_before_the_process_ends_as_many_as_are_wanted(percent: int, kept: int) -> None:
    with running_collector(free_port()) as collector:
        settings = Settings(otlp_url=collector.url, trace_percent=percent)
        with observed(settings, program="test", processes=1), tracing.span("test", "work"):
            pass

        assert [span.program for span in collector.spans] == ["test"] * kept
    assert tracing.here() == ""


def test_a_collector_that_is_away_stops_nobody_and_is_told_of_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    monkeypatch.setattr("ewallet.plumbing.exporting.EXPORT_SECONDS", 0.1)
    port = free_port()
    lost = REGISTRY.get_sample_value("ewallet_spans_lost_total") or 0

    def spans_lost() -> bool:
        with tracing.span("test", "work"):
            pass
        return (REGISTRY.get_sample_value("ewallet_spans_lost_total") or 0) > lost + 100

    settings = Settings(otlp_url=f"http://127.0.0.1:{port}")
    with observed(settings, program="test", processes=1):
        wait_until(spans_lost, PATIENCE_SECONDS, "no spans were lost")
        with running_collector(port) as collector:
            wait_until(lambda: spans_lost() and collector.spans, PATIENCE_SECONDS, "none were sent")

    away, back = capsys.readouterr().out.splitlines()
    assert "traces.collector_away" in away
    assert "traces.collector_back" in back
