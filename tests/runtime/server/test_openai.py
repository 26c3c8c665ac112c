"""OpenAI's own client against the server: its answers are those of `LLM`."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from ovround.errors import GenerationError

openai = pytest.importorskip("openai")
PROMPT = "The with statement is used to"
every_field = pytest.mark.parametrize("served", ["openvino single", "onnx"], indirect=True)
"""The servers whose engine serves every field."""
MESSAGES: Any = [{"role": "user", "content": "How do I open a file?"}]


@pytest.fixture
def client(served: Any) -> Any:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=300) as client:
        yield client


def test_models(served: Any, client: Any) -> None:
    (model,) = client.models.list().data
    assert model.id == "demo"
    model = client.models.retrieve("demo")
    assert model.meta["engine"] == served.engine_client.engine
    assert model.max_model_len == 512
    assert 4 < model.meta["bits"] < 6
    with pytest.raises(openai.NotFoundError, match="`gpt`"):
        client.models.retrieve("gpt")
    with pytest.raises(openai.NotFoundError, match="`gpt`"):
        client.completions.create(model="gpt", prompt="x")


def test_a_completion_is_the_model_s(served: Any, client: Any) -> None:
    expected = served.llm.generate(PROMPT, max_new_tokens=20)
    answer = client.completions.create(model="demo", prompt=PROMPT, max_tokens=20, temperature=0)
    assert answer.choices[0].text == expected.text
    assert answer.choices[0].finish_reason == expected.finish_reason == "length"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (expected.prompt_tokens, 20)
    assert answer.usage.prompt_tokens_details.cached_tokens >= 0
    assert answer.system_fingerprint.startswith("fp_")
    assert answer.timings["predicted_n"] == 20
    assert answer.timings["prompt_ms"] > 0
    ids = served.llm.tokenizer.encode(PROMPT)
    again = client.completions.create(model="demo", prompt=ids, max_tokens=20)
    assert again.choices[0].text == expected.text
    default = client.completions.create(model="demo", prompt=PROMPT)
    assert default.usage.completion_tokens == 16


def test_several_prompts(served: Any, client: Any) -> None:
    prompts = [PROMPT, "Return the number of", "x"]
    answer = client.completions.create(model="demo", prompt=prompts, max_tokens=10)
    assert [choice.text for choice in answer.choices] == [
        served.llm.generate(prompt, max_new_tokens=10).text for prompt in prompts
    ]
    assert answer.usage.prompt_tokens == sum(len(served.llm.tokenizer.encode(prompt)) for prompt in prompts)


def test_a_chat_is_the_model_s(served: Any, client: Any) -> None:
    expected = served.llm.chat(MESSAGES, max_new_tokens=24)
    answer = client.chat.completions.create(model="demo", messages=MESSAGES, max_tokens=24)
    assert answer.choices[0].message.content == expected.text
    assert answer.choices[0].message.role == "assistant"
    parts = [
        {"role": "user", "content": [{"type": "text", "text": "How do I "}, {"type": "text", "text": "open a file?"}]}
    ]
    again = client.chat.completions.create(model="demo", messages=parts, max_completion_tokens=24)
    assert again.choices[0].message.content == expected.text


def test_streams(served: Any, client: Any) -> None:
    expected = served.llm.chat(MESSAGES, max_new_tokens=24)
    chunks = list(
        client.chat.completions.create(
            model="demo", messages=MESSAGES, max_tokens=24, stream=True, stream_options={"include_usage": True}
        )
    )
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == expected.text
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == expected.finish_reason
    assert (chunks[-1].choices, chunks[-1].usage.completion_tokens) == ([], expected.usage.completion_tokens)
    assert sum(hasattr(chunk, "timings") for chunk in chunks) == 1
    texts = [
        chunk.choices[0].text
        for chunk in client.completions.create(model="demo", prompt=PROMPT, max_tokens=12, stream=True, echo=True)
    ]
    assert "".join(texts) == PROMPT + served.llm.generate(PROMPT, max_new_tokens=12).text


@every_field
def test_choices_and_seeds(served: Any, client: Any) -> None:
    options: Any = {"model": "demo", "prompt": PROMPT, "max_tokens": 12, "temperature": 1.0}
    texts_by_run = [
        [choice.text for choice in client.completions.create(**options, n=3, seed=5).choices] for _ in range(2)
    ]
    assert texts_by_run[0] == texts_by_run[1]
    assert len(set(texts_by_run[0])) > 1
    expected = [
        served.llm.generate(PROMPT, max_new_tokens=12, temperature=1.0, seed=5 + index).text for index in range(3)
    ]
    assert texts_by_run[0] == expected
    texts: dict[int, str] = {}
    for chunk in client.completions.create(**options, n=3, seed=5, stream=True):
        texts[chunk.choices[0].index] = texts.get(chunk.choices[0].index, "") + chunk.choices[0].text
    assert [texts[index] for index in range(3)] == expected


@pytest.mark.parametrize("served", ["openvino", "onnx"], indirect=True)
def test_a_seed_repeats_its_answer_beside_others(client: Any) -> None:
    options: Any = {"model": "demo", "max_tokens": 12, "temperature": 1.0}
    prompts = {seed: PROMPT if seed < 4 else "Return the" for seed in range(8)}
    alone = {seed: client.completions.create(**options, prompt=prompts[seed], seed=seed) for seed in prompts}
    assert len({answer.choices[0].text for answer in alone.values()}) > 4
    assert all(answer.repeatable for answer in alone.values())  # these servers compute in float32
    texts: dict[int, str] = {}

    def ask(seed: int) -> None:
        if seed % 3 == 0:
            client.completions.create(**options, prompt=PROMPT)
        texts[seed] = client.completions.create(**options, prompt=prompts[seed], seed=seed).choices[0].text

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in (5, 2, 7, 0, 1, 6, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == {seed: answer.choices[0].text for seed, answer in alone.items()}


def test_choices_without_a_seed(client: Any) -> None:
    options: Any = {"model": "demo", "prompt": PROMPT, "max_tokens": 12, "temperature": 1.0}
    texts = {client.completions.create(**options).choices[0].text for _ in range(4)}
    assert len(texts) > 1
    answer = client.completions.create(**options, n=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.text for choice in answer.choices}) > 1
    assert answer.usage.completion_tokens <= 36


def test_numbers_that_are_almost_zero(served: Any, client: Any) -> None:
    """As a fuzzer sends them: above zero, and zero in the engine's float32."""
    expected = served.llm.generate(PROMPT, max_new_tokens=6).text
    options: Any = {"model": "demo", "prompt": PROMPT, "max_tokens": 6}
    assert client.completions.create(**options, temperature=1e-50).choices[0].text == expected
    assert client.completions.create(**options, temperature=1.0, top_p=1e-50).choices[0].text == expected
    assert client.completions.create(**options, extra_body={"repetition_penalty": 1e-50}).choices[0].finish_reason


def test_stop(served: Any, client: Any) -> None:
    whole = served.llm.generate(PROMPT, max_new_tokens=24).text
    stop = whole[10:13]
    answer = client.completions.create(model="demo", prompt=PROMPT, max_tokens=24, stop=["never this", stop])
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (whole[: whole.find(stop)], "stop")
    chunks = client.completions.create(model="demo", prompt=PROMPT, max_tokens=24, stop=stop, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole[: whole.find(stop)]


def test_penalties(served: Any, client: Any) -> None:
    options: Any = {"max_tokens": 20, "presence_penalty": 0.5, "frequency_penalty": 1.0}
    expected = served.llm.generate(PROMPT, max_new_tokens=20, presence_penalty=0.5, frequency_penalty=1.0).text
    assert expected != served.llm.generate(PROMPT, max_new_tokens=20).text
    assert client.completions.create(model="demo", prompt=PROMPT, **options).choices[0].text == expected


@every_field
def test_a_bias(served: Any, client: Any) -> None:
    token = served.llm.tokenizer.encode(" file", add_special_tokens=False)[-1]
    biased = client.completions.create(model="demo", prompt=PROMPT, max_tokens=3, logit_bias={str(token): 100})
    assert biased.choices[0].text == served.llm.tokenizer.decode([token] * 3)


@every_field
def test_log_probabilities(served: Any, client: Any) -> None:
    expected = served.llm.chat(MESSAGES, max_new_tokens=6, logprobs=3).logprobs
    options: Any = {"model": "demo", "messages": MESSAGES, "max_tokens": 6, "logprobs": True, "top_logprobs": 3}
    content = client.chat.completions.create(**options).choices[0].logprobs.content
    streamed = [
        entry
        for chunk in client.chat.completions.create(**options, stream=True)
        if chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content
    ]
    for entries in (content, streamed):
        assert [entry.logprob for entry in entries] == pytest.approx([token.logprob for token in expected], abs=1e-4)
        assert [len(entry.top_logprobs) for entry in entries] == [3] * 6
        assert [entry.token for entry in entries] == [
            served.llm.tokenizer.token_text(token.token_id) for token in expected
        ]


@every_field
@pytest.mark.parametrize("new", [0, 1, 4])
def test_echo_scores_the_prompt(served: Any, client: Any, new: int) -> None:
    """What lm-eval's local-completions asks for."""
    ids = served.llm.tokenizer.encode(PROMPT)
    scores = served.llm.score(ids, 1)
    answer = client.completions.create(model="demo", prompt=[ids, ids], max_tokens=new, echo=True, logprobs=1)
    for choice in answer.choices:
        logprobs = choice.logprobs
        assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == len(ids) + new
        assert logprobs.token_logprobs[0] is logprobs.top_logprobs[0] is None
        assert logprobs.token_logprobs[1 : len(ids)] == pytest.approx([token.logprob for token in scores], abs=1e-4)
        best = [max(top, key=top.__getitem__) for top in logprobs.top_logprobs[1 : len(ids)]]
        assert best == [served.llm.tokenizer.token_text(token.top[0][0]) for token in scores]
        assert choice.text.startswith(served.llm.tokenizer.decode(ids))
        assert (choice.text == served.llm.tokenizer.decode(ids)) == (new == 0)


@every_field
def test_forms(served: Any, client: Any) -> None:
    schema = {
        "type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}, "b": {"enum": ["x", "y"]}},
        "required": ["a", "b"], "additionalProperties": False,
    }  # fmt: skip
    form: Any = {"type": "json_schema", "json_schema": {"name": "pair", "schema": schema, "strict": True}}
    for stream in (False, True):
        answer = client.chat.completions.create(
            model="demo",
            messages=MESSAGES,
            response_format=form,
            temperature=1.0,
            seed=2,
            stream=stream,
            max_tokens=200,
        )
        text = (
            "".join(chunk.choices[0].delta.content or "" for chunk in answer)
            if stream
            else answer.choices[0].message.content
        )
        assert set(json.loads(text)) == {"a", "b"}
    object_ = client.chat.completions.create(
        model="demo", messages=MESSAGES, response_format={"type": "json_object"}, max_tokens=30
    )
    assert object_.choices[0].message.content.startswith("{")
    text = client.completions.create(model="demo", prompt="x", extra_body={"guided_regex": "[ab]{4}"}).choices[0].text
    assert set(text) <= {"a", "b"}
    form["json_schema"]["schema"] = {"type": "string", "pattern": "(?=a)b"}
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="cannot be imposed"):
            client.chat.completions.create(model="demo", messages=MESSAGES, response_format=form, stream=stream)


@every_field
def test_forced_tool_calls(client: Any) -> None:
    tools: Any = [
        {"type": "function", "function": {"name": name, "parameters": {
            "type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["n"],
            "additionalProperties": False,
        }}}
        for name in ("first", "second")
    ]  # fmt: skip
    options: Any = {"model": "demo", "messages": MESSAGES, "tools": tools, "max_tokens": 200}
    choice = client.chat.completions.create(**options, tool_choice="required", temperature=1.0, seed=1).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (call,) = choice.message.tool_calls
    assert call.function.name in ("first", "second")
    assert 0 <= json.loads(call.function.arguments)["n"] <= 9
    named = {"type": "function", "function": {"name": "second"}}
    chunks = list(client.chat.completions.create(**options, tool_choice=named, stream=True))
    deltas = [chunk.choices[0].delta.tool_calls[0] for chunk in chunks if chunk.choices[0].delta.tool_calls]
    assert [delta.function.name for delta in deltas if delta.function.name] == ["second"]
    assert 0 <= json.loads("".join(delta.function.arguments for delta in deltas))["n"] <= 9
    assert len(deltas) > 2  # the arguments come as they are written
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    with pytest.raises(openai.BadRequestError, match="tool_choice"):
        client.chat.completions.create(**options, tool_choice={"type": "function", "function": {"name": "third"}})


def test_tools_that_may_be_called(client: Any) -> None:
    tools: Any = [{"type": "function", "function": {"name": "first"}}]
    options: Any = {"model": "demo", "messages": MESSAGES, "tools": tools, "max_tokens": 5}
    assert client.chat.completions.create(**options).choices[0].finish_reason == "length"
    assert client.chat.completions.create(**options, tool_choice="auto", stream=False).choices[0].message.content


def test_what_cannot_be_answered(served: Any, client: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="512") as caught:
        client.completions.create(model="demo", prompt="x " * 600)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(GenerationError, match="512"):
        served.llm.generate("x " * 600)
    cases: list[dict[str, Any]] = [
        {"temperature": -1}, {"top_p": 0}, {"n": 0}, {"n": 1000}, {"max_tokens": -5}, {"logprobs": 21},
        {"stop": [""]}, {"logit_bias": {"x": 1}}, {"max_tokens": 0}, {"extra_body": {"min_tokens": 1}},
        {"prompt": []}, {"prompt": [2**31]}, {"prompt": [4096 * 9]}, {"extra_body": {"guided_regex": "("}},
    ]  # fmt: skip
    for case in cases:
        with pytest.raises(openai.BadRequestError):
            client.completions.create(**{"model": "demo", "prompt": "x", **case})
    with pytest.raises(openai.BadRequestError, match="messages"):
        client.chat.completions.create(model="demo", messages=[])
    with pytest.raises(openai.BadRequestError, match="top_logprobs"):
        client.chat.completions.create(model="demo", messages=MESSAGES, top_logprobs=2)


def test_sixteen_streams_are_not_mixed_up(served: Any, client: Any) -> None:
    prompts = [f"{word} {number}" for word in ("Return", "Raise", "Open", "The") for number in range(4)]
    expected = {prompt: served.llm.generate(prompt, max_new_tokens=24).text for prompt in prompts}
    texts: dict[str, str] = {}

    def read(prompt: str) -> None:
        chunks = client.completions.create(model="demo", prompt=prompt, max_tokens=24, stream=True)
        texts[prompt] = "".join(chunk.choices[0].text for chunk in chunks)

    threads = [threading.Thread(target=read, args=(prompt,)) for prompt in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == expected
