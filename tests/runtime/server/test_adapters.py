"""What others put in front of the server or the runtime: the harness over HTTP, LangChain, Ray's builder, model_server's graph."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ovround.runtime import LLM

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
PROMPT = "The with statement is used to"


def load(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, EXAMPLES / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_langchain_over_http(serve_with: Any) -> None:
    pytest.importorskip("langchain_openai")
    chain = load("langchain/chat.py").chain
    with serve_with("onnx", compare=True) as served:
        model = chain(served.url, 12)
        text = served.llm.generate(PROMPT, max_new_tokens=12).text
        assert model.invoke({"text": PROMPT}) == text
        assert "".join(model.stream({"text": PROMPT})) == text


def test_langchain_in_process(demo_folders: dict[str, Path]) -> None:
    pytest.importorskip("langchain_core")
    model = load("langchain/in_process.py").Ovround(folder=str(demo_folders["onnx"]), max_new_tokens=12)
    with LLM(demo_folders["onnx"]) as llm:
        text = llm.generate(PROMPT, max_new_tokens=12).text
    assert model.invoke(PROMPT) == text
    assert "".join(model.stream(PROMPT)) == text
    assert model.invoke(PROMPT, stop=[text[3:6]]) == text[: text.index(text[3:6])]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_harness_over_http(serve_with: Any, demo_folders: dict[str, Path], tmp_path: Path) -> None:
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    pytest.importorskip("lm_eval")
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    from ovround.measure.lm_eval_harness import evaluate_tasks, score_tasks

    file = tmp_path / "words.jsonl"
    words = PROMPT.split()
    file.write_text("\n".join(json.dumps({"text": " ".join(words[: 3 + index])}) for index in range(4)) + "\n")
    ours = evaluate_tasks(str(demo_folders["onnx"]), [f"words={file}"])
    with serve_with("onnx") as served:
        model = LocalCompletionsAPI(
            base_url=f"{served.url}/v1/completions", model="demo", tokenizer=str(demo_folders["onnx"]),
            tokenized_requests=True, max_length=512, add_bos_token=True,
        )  # fmt: skip
        theirs = score_tasks(lambda: model, [f"words={file}"])
    assert [result.value for result in theirs] == pytest.approx([result.value for result in ours], rel=1e-3)


def test_ray_s_builder_is_the_server(demo_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from fastapi.testclient import TestClient

    monkeypatch.setenv("OVROUND_WITHOUT_RAY", "1")
    monkeypatch.setenv("OVROUND_FOLDER", str(demo_folders["onnx"]))
    with TestClient(load("ray-serve/deployment.py").build()) as client:
        reply = client.post("/v1/completions", json={"model": "onnx", "prompt": PROMPT, "max_tokens": 4})
        assert reply.status_code == 200
        assert reply.json()["usage"]["completion_tokens"] == 4


def test_the_pipeline_of_model_server_with_the_options_of_the_graph(
    demo_folders: dict[str, Path], tmp_path: Path
) -> None:
    genai = pytest.importorskip("openvino_genai")
    text = (EXAMPLES / "model-server" / "graph.pbtxt").read_text()
    assert text.count("{") == text.count("}")
    options = dict(
        re.findall(r"^\s+(\w+): ([^,\n]+),?$", text[text.index("LLMCalculatorOptions") : text.index("handler")], re.M)
    )
    shutil.copytree(demo_folders["openvino"], tmp_path / options["models_path"].strip('"'))
    scheduler = genai.SchedulerConfig()
    scheduler.cache_size, scheduler.max_num_seqs = int(options["cache_size"]), int(options["max_num_seqs"])
    scheduler.enable_prefix_caching = options["enable_prefix_caching"] == "true"
    properties = json.loads(options["plugin_config"].strip("'"))
    pipeline = genai.ContinuousBatchingPipeline(tmp_path / "model", scheduler, options["device"].strip('"'), properties)
    config = genai.GenerationConfig()
    config.max_new_tokens = 8
    assert pipeline.generate([PROMPT], [config])[0].m_generation_ids[0]


def test_a_folder_that_is_replaced_while_it_is_served(
    serve_folder: Any, demo_folders: dict[str, Path], tmp_path: Path
) -> None:
    """The loaded model stays, and the engine never reads the new folder."""
    folder = tmp_path / "model"
    shutil.copytree(demo_folders["openvino"], folder)
    with serve_folder(folder) as served:
        body = {"model": "demo", "prompt": PROMPT, "max_tokens": 4}
        before = served.request("POST", "/v1/completions", body)
        other = folder / "ovround.json"
        other.write_text(other.read_text().replace('"seed": 42', '"seed": 43'))
        assert served.request("POST", "/v1/completions", body)[1]["choices"] == before[1]["choices"]
        assert served.request("POST", "/v1/completions", body)[0] == 200
