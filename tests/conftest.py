"""What all tests share. Nothing here reaches a network, and nothing is written to the user's own caches."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: one thread each, here and in what tests start
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)

# The tests that need a GPU, by name. With --no-skips no other test may be skipped.
NEED_A_GPU = {"media/test_tvl1.py::test_gpu_agrees_with_the_cpu"}
NO_MEDIA = "LEXIVID_MEDIA does not name a folder"  # real clips, which only some have


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="a skipped test fails, unless it needs a GPU or the media")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.nodeid.removeprefix("tests/") in NEED_A_GPU and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.fixture(autouse=True)
def _threads_are_the_tests_own() -> Generator[None, None, None]:
    """A test that computes with one thread, to compare bits, does not slow down those after it."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def why_skipped(report: pytest.TestReport | pytest.CollectReport) -> str:
    """The reason that a skipped test gives."""
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return reason.removeprefix("Skipped: ")


def refuse_a_skip(report: pytest.TestReport | pytest.CollectReport, config: pytest.Config) -> None:
    """With --no-skips, what is skipped for want of anything but a GPU or the media has failed."""
    if not config.getoption("--no-skips") or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = why_skipped(report)
    needs_media = NO_MEDIA in reason and not os.environ.get("LEXIVID_MEDIA")
    if report.nodeid.removeprefix("tests/") not in NEED_A_GPU and not needs_media:
        report.outcome = "failed"
        report.longrepr = f"skipped ({reason}), which --no-skips does not allow: install what the test needs"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    refuse_a_skip(report, item.config)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    refuse_a_skip(report, collector.config)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line on what was skipped and why."""
    reasons = Counter(why_skipped(report) for report in terminalreporter.stats.get("skipped", []))
    if reasons:
        text = "; ".join(f"{count} because {reason}" for reason, count in reasons.most_common())
        terminalreporter.write_line(f"skipped {reasons.total()}: {text}")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder that lasts for the session (it also holds what `lite` derives once)."""
    folder = tmp_path_factory.getbasetemp() / "lexivid-cache"
    monkeypatch.setenv("LEXIVID_CACHE", str(folder))
    return folder


@pytest.fixture
def media() -> Path:
    """The folder of real clips; tests that need it are skipped where LEXIVID_MEDIA does not name it."""
    folder = os.environ.get("LEXIVID_MEDIA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip(NO_MEDIA)
    return Path(folder)


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP checkpoint in the Hub's format."""
    from checkpoints import make_clip

    return make_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def siglip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SigLIP checkpoint in the Hub's format."""
    from checkpoints import make_siglip

    return make_siglip(tmp_path_factory.mktemp("siglip"))
