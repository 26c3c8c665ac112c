"""transformers_first_token.py FOLDER PROMPT: loads the model, and prints the first token's text as soon as it is known.

The weights stay in the type that they are stored in, transformers' default. The prompt is rendered already.
"""

from __future__ import annotations

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    folder, prompt = sys.argv[1:]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    base = tokenizer.chat_template is None  # whose prompt no template has begun
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=base).input_ids
    with torch.inference_mode():
        first = int(model(ids, logits_to_keep=1).logits[0, -1].argmax())
    print(repr(tokenizer.decode([first])), flush=True)


if __name__ == "__main__":
    main()
