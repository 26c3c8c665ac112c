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
_BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"
_CASCADE = "|".join(rf"\s{{{size}}}(?!\S)" for size in (512, 256, 128, 64, 32, 16, 8, 4)) + r"|\s{1,2}(?!\S)|\s{1}"
_LATIN = (  # deepseek-llm's list of cased letters
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐ"
    "ῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)
_HAN_DEEPSEEK, _CJK = "[一-龥ࠀ-一가-퟿]+", "[一-龥぀-ゟ゠-ヿ]+"
_DEEPSEEK3 = rf"{_ASCII_WORD}|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}"
_SPARK = rf"{_ASCII_WORD}|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+|[\r\n]|\s+(?!\S)|\s+"
_YOUTU = "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+"
_EXAONE_MOE = (
    rf"{SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]?"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
_BAILING = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
_SEED = rf"{SUFFIX}|{_WORD}|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}"
_ASIAN = "[一-鿿㐀-䶿豈-﫿぀-ゟ゠-ヿ･-ﾟ⼀-⿟เ-๿຀-໿ក-៿က-႟ꩠ-ꩿꧠ-꧿가-힯ᄀ-ᇿ]+"
_CHAMELEON = (
    split("<sentinel:[0-9]+>"), split("(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z"), split(r"([\t\n]|    |  )"), _DIGITS,
    split(r"[\p{P}!-/:-@\[-`{-~]"), WORDS,
)  # fmt: skip
_FALCON: tuple[Step, ...] = (
    {"type": "Punctuation", "behavior": "Contiguous"}, WORDS, {"type": "Digits", "individual_digits": False},
    split("[0-9][0-9][0-9]"),
)  # fmt: skip
_DEEPSEEK_LLM = (
    split(r"[\r\n]"), split(rf"\s?[{_LATIN}]+"), split("\\s?[!-/:-~！-／：-～‘-‟\u3000-。]+"), split(r"\s+$"),
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
