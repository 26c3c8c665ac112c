"""llama_cpp_first_token.py FILE.gguf PROMPT THREADS: loads the model, and prints the first token's text as soon as it is known.

Runs in the environment of `ik-llama-cpp`. The prompt is rendered already. The package computes one step more before it answers.
"""

from __future__ import annotations

import logging
import sys

from ik_llama_cpp import IkLlama

logging.disable(logging.WARNING)


def main() -> None:
    path, prompt, threads = sys.argv[1:]
    model = IkLlama(path, n_ctx=512, n_threads=int(threads), verbose=False)
    ids = model.tokenize(prompt, add_bos=True, special=True)
    print(repr(model.detokenize(model.generate(ids, max_tokens=1))), flush=True)


if __name__ == "__main__":
    main()
