"""The C++ runtime under the address and undefined-behaviour sanitizers, and its readers under a fuzzer."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest
from cpp_build import ROOT, SOURCE, built, clang_has_sanitizers, need_compiler, replay, run

from ovround.conversion.convert import convert
from ovround.options.convert_options import ConvertOptions

READERS = {"m": "ovround.json", "c": "config.json", "g": "generation_config.json"}
FUZZ_S = 10  # .ci/run fuzzes for a minute
# oneTBB opens a library in a way that the sanitizers refuse, unless this variable is set.
ENVIRONMENT = {**os.environ, "TBB_ENABLE_SANITIZERS": "1"}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # the first test builds


@pytest.fixture(scope="module")
def sanitized() -> Path:
    need_compiler()
    preset = "sanitizers-clang" if clang_has_sanitizers() else "sanitizers"
    return built(SOURCE, ROOT / "build" / "cpp-sanitizers", f"--preset={preset}")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = ConvertOptions(formats=("openvino",), group_size=64, recipe="rtn")
    return convert("demo", tmp_path_factory.mktemp("demo") / "out", options).folders[0]


def test_units(sanitized: Path) -> None:
    done = run("ctest", "--test-dir", sanitized, "--output-on-failure", env=ENVIRONMENT)
    assert done.returncode == 0, done.stdout


def test_errors_threads_and_cancellation_leak_nothing(sanitized: Path, demo: Path) -> None:
    done = run(sanitized / "tests" / "ovround-pipeline", demo, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr


def test_beams_guesses_forms_log_probabilities_and_expanded_weights(
    sanitized: Path, demo: Path, tmp_path: Path
) -> None:
    load = ConvertOptions(formats=("openvino",), bits=3, group_size=64, recipe="rtn", native_weights=True)
    folder = convert("demo", tmp_path / "out", load).folders[0]
    requests = [
        {"prompt": "Return the number of " * 80, "options": {"temperature": 0.9, "seed": 1, "logprobs": 2}},
        {"prompt": "Return the number of", "options": {"prompt_logprobs": 1}},
        {"prompt": "Return the number", "options": {"num_beams": 3}},
        {"prompt": "Return the number", "options": {"regex": "[a-z]+ (is|was) [0-9]{2}"}},
        {"prompt": "Return the number", "options": {"json_schema": "true"}},
    ]
    for request in requests:
        request["options"]["max_new_tokens"] = 8  # type: ignore[index]
    guesses = {"prefix_cache": True, "draft_model": str(demo), "draft_tokens": 3}
    answers = list(replay(sanitized, folder, requests, guesses, env=ENVIRONMENT))
    assert [len(answer["token_ids"]) for answer in answers[:3]] == [8] * 3
    assert answers[0]["accepted_tokens"] > 0
    assert "error" in answers[4]


def test_a_leak_of_ours_is_found(sanitized: Path, demo: Path) -> None:
    done = run(sanitized / "tests" / "ovround-pipeline", demo, "leak", env=ENVIRONMENT)
    assert done.returncode != 0
    assert "LeakSanitizer: detected memory leaks" in done.stderr


def test_readers_under_the_fuzzer(sanitized: Path, demo: Path, tmp_path: Path) -> None:
    fuzzer = sanitized / "tests" / "fuzz" / "ovround-fuzz"
    if not fuzzer.exists():
        pytest.skip("no clang++ to build the fuzzer with")
    corpus = ROOT / "build" / "cpp-fuzz-corpus"
    corpus.mkdir(exist_ok=True)
    for reader, name in READERS.items():
        (corpus / name).write_text(reader + (demo / name).read_text())
    for template in (ROOT / "tests" / "chat_templates").glob("*.jinja"):
        (corpus / template.name).write_text("t" + template.read_text())
    # Linux keeps this process's peak memory through fork and exec, so the limit includes it; the fuzzer needs about 100 MB.
    most = 2048 + resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    limits = (f"-max_total_time={FUZZ_S}", "-max_len=8192", "-timeout=20", f"-rss_limit_mb={most}")
    done = run(fuzzer, *limits, corpus, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
