"""How text is split before byte-level BPE, by the name that a GGUF file has in `tokenizer.ggml.pre`.

A GGUF file names the pre-tokeniser and leaves out its regular expressions, which are facts of llama.cpp (src/llama-vocab.cpp). It
has no word for Unicode normalisation either; `nfc` is stated here after the published tokenizer.json of the named model.
Where llama.cpp adapts an expression to its own engine, this is the published one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Step = dict[str, Any]
"""One pre-tokeniser in the notation of tokenizer.json."""

BYTES: Step = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
WORDS: Step = BYTES | {"use_regex": True}  # GPT-2's expression, then bytes
_DIGITS: Step = {"type": "Digits", "individual_digits": True}


def split(regex: str) -> Step:
    """Each match becomes a piece, and so does the text between two matches."""
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """`ignore_merges`: a piece that is a token is not built from merges. `add_bos`: what a file without the flag means."""

    steps: tuple[Step, ...]
    nfc: bool = False
    ignore_merges: bool = False
    add_bos: bool = False


SUFFIX = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_ASCII_WORD = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_OTHERS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_LLAMA3 = rf"{SUFFIX}|{_WORD}|\p{{N}}{{1,3}}|{_OTHERS}|{_SPACES}"
_QWEN2 = rf"{SUFFIX}|{_WORD}|\p{{N}}|{_OTHERS}|{_SPACES}"
_QWEN35 = rf"{SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"


def _cased(suffix: str, digits: str, end: str = r"[\r\n/]*", without: str = "") -> str:
    """Words by their case, as in o200k and Tekken; `without` is taken out of the letters."""
    upper, lower = f"[{_UPPER}{without}]", f"[{_LOWER}{without}]"
    head = r"[^\r\n\p{L}\p{N}]?"
    words = f"{head}{upper}*{lower}+{suffix}|{head}{upper}+{lower}*{suffix}"
    return rf"{words}|{digits}| ?[^\s\p{{L}}\p{{N}}]+{end}|{_SPACES}"


_GPT4O = _cased(f"{SUFFIX}?", r"\p{N}{1,3}")
_KIMI = r"\p{Han}+|" + _cased(f"{SUFFIX}?", r"\p{N}{1,3}", r"[\r\n]*", r"&&[^\p{Han}]")
_BLOOM = " ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"
_CASCADE = "|".join(rf"\s{{{size}}}(?!\S)" for size in (512, 256, 128, 64, 32, 16, 8, 4)) + r"|\s{1,2}(?!\S)|\s{1}"
_LATIN = (  # deepseek-llm's list of cased letters
    "A-Za-z\xb5\xc0-\xd6\xd8-\xf6\xf8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376\u0377\u037b-"
    "\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-"
    "\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15"
    "\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc"
    "\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107"
    "\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149"
    "\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f"
    "\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f"
    "\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df"
    "\U0001e900-\U0001e943"
)
_HAN_DEEPSEEK, _CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_DEEPSEEK3 = rf"{_ASCII_WORD}|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}"
_SPARK = rf"{_ASCII_WORD}|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+|[\r\n]|\s+(?!\S)|\s+"
_YOUTU = (
    "[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+"
    f"|[\u3105-\u312f]+|{_CJK}"
)
_EXAONE_MOE = (
    rf"{SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]?"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
_BAILING = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
_SEED = rf"{SUFFIX}|{_WORD}|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}"
_ASIAN = (  # afmoe
    "[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf\u0e40-\u0e7f\u0e80-\u0eff"
    "\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff]+"
)
_CHAMELEON = (
    split("<sentinel:[0-9]+>"), split("(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z"), split(r"([\t\n]|    |  )"), _DIGITS,
    split(r"[\p{P}!-/:-@\[-`{-~]"), WORDS,
)  # fmt: skip
_FALCON: tuple[Step, ...] = (
    {"type": "Punctuation", "behavior": "Contiguous"}, WORDS, {"type": "Digits", "individual_digits": False},
    split("[0-9][0-9][0-9]"),
)  # fmt: skip
_DEEPSEEK_LLM = (
    split(r"[\r\n]"), split(rf"\s?[{_LATIN}]+"),
    split("\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"), split(r"\s+$"),
    split(_HAN_DEEPSEEK), split(r"\p{N}+"), BYTES,
)  # fmt: skip
_DEEPSEEK_CODER = (
    split(r"[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split(_HAN_DEEPSEEK), _DIGITS, BYTES,
)  # fmt: skip
_DEFAULT = (
    split(r"[\p{P}\$\+<=>\^~\|]+"), split(GPT2), split(r"\p{N}+"), split("[0-9][0-9][0-9]"), BYTES,
)  # fmt: skip


def _one(regex: str) -> tuple[Step, ...]:
    return (split(regex), BYTES)


_RULES: tuple[tuple[tuple[str, ...], PreTokenizer], ...] = (
    (
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"),
        PreTokenizer(_one(_LLAMA3), ignore_merges=True, add_bos=True),
    ),
    (("dbrx", "smaug-bpe", "chatglm-bpe", "glm4"), PreTokenizer(_one(_LLAMA3))),
    (("qwen2", "deepseek-r1-qwen", "f2llmv2", "megrez", "stablelm2", "hunyuan"), PreTokenizer(_one(_QWEN2), nfc=True)),
    (("grok-2", "kormo", "solar-open"), PreTokenizer(_one(_QWEN2))),
    (("qwen35",), PreTokenizer(_one(_QWEN35), nfc=True)),
    (("smollm", "starcoder", "refact", "codeshell", "exaone", "minerva-7b", "mellum2"), PreTokenizer((_DIGITS, WORDS))),
    (("command-r",), PreTokenizer((_DIGITS, WORDS), nfc=True)),
    (
        (
            "gpt-2", "phi-2", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "jina-v1-en", "jina-v2-code", "roberta-bpe",
            "gigachat", "a.x-4.0", "mellum", "exaone4", "jais", "trillion", "granite-docling",
        ),
        PreTokenizer((WORDS,)),
    ),
    (("olmo", "mpt", "modern-bert"), PreTokenizer((WORDS,), nfc=True)),
    (("tekken",), PreTokenizer(_one(_cased("", r"\p{N}")), ignore_merges=True, add_bos=True)),
    (("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"), PreTokenizer(_one(_GPT4O))),
    (("granite-embed-multi-97m",), PreTokenizer(_one(_GPT4O), ignore_merges=True)),
    (("tiny_aya", "cohere2moe"), PreTokenizer((split(r"\d{1,3}(?=(?:\d{3})*\b)"), *_one(_GPT4O)))),
    (("kimi-k2",), PreTokenizer(_one(_KIMI))),
    (("falcon",), PreTokenizer(_FALCON)),
    (("bloom", "poro-chat", "gpt3-finnish"), PreTokenizer(_one(_BLOOM))),
    (("viking",), PreTokenizer((split(_BLOOM), _DIGITS, BYTES))),
    (("deepseek-llm",), PreTokenizer(_DEEPSEEK_LLM)),
    (("deepseek-coder",), PreTokenizer(_DEEPSEEK_CODER)),
    (
        ("deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"),
        PreTokenizer((split(r"\p{N}{1,3}"), split(_CJK), *_one(_DEEPSEEK3))),
    ),
    (("spark2_5",), PreTokenizer((split(r"\p{N}{1,3}"), split(_CJK), split(_SPARK), _DIGITS, BYTES))),
    (("youtu",), PreTokenizer((split(_YOUTU), *_one(_cased(f"{SUFFIX}?", r"\p{N}"))), ignore_merges=True)),
    (("jais-2",), PreTokenizer(_one(rf"{SUFFIX}|{_WORD}|\p{{N}}{{1,3}}|{_OTHERS}|\s*[\r\n]+|{_CASCADE}"))),
    (("chameleon",), PreTokenizer(_CHAMELEON, add_bos=True)),
    (("superbpe",), PreTokenizer((split(r"\p{N}+"), split(r"(?=(\d{3})+(?!\d))"), BYTES))),
    (("bailingmoe", "bailingmoe2", "llada-moe"), PreTokenizer(_one(_BAILING))),
    (("seed-coder",), PreTokenizer(_one(_SEED))),
    (("ufakzeka",), PreTokenizer(_one(rf"{_WORD}|\p{{N}}|{_OTHERS}|{_SPACES}"))),
    (("afmoe",), PreTokenizer((split(r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))"), split(_ASIAN), *_one(_DEEPSEEK3)))),
    (("laguna",), PreTokenizer((split(r"[^\n]+|[\n]+"), *_one(_QWEN2)))),
    (("exaone-moe",), PreTokenizer(_one(_EXAONE_MOE))),
    (
        ("minicpm5",),
        PreTokenizer((split(r"\p{N}{1,3}"), *_one(rf"{SUFFIX}|{_WORD}|\p{{N}}+|{_OTHERS}|{_SPACES}")), ignore_merges=True),
    ),
    (("default",), PreTokenizer(_DEFAULT)),
)  # fmt: skip

PRE_TOKENIZERS: dict[str, PreTokenizer] = {name: rule for names, rule in _RULES for name in names}

OF_ARCHITECTURE = {
    "qwen2": "qwen2", "qwen2moe": "qwen2", "qwen3": "qwen2", "qwen3moe": "qwen2", "falcon": "falcon", "starcoder2": "starcoder",
    "starcoder": "starcoder", "gptneox": "olmo", "gpt2": "gpt-2", "phi2": "gpt-2", "bloom": "bloom", "command-r": "command-r",
    "stablelm": "olmo", "mpt": "mpt", "refact": "refact", "codeshell": "codeshell", "olmo": "olmo",
}  # fmt: skip
"""What files of before May 2024, without `tokenizer.ggml.pre`, are tokenised with, by architecture."""
