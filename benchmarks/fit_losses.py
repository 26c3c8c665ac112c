"""What rounding costs real models at each width: fills ovround/measure/fit/losses.json, from which `ovround fit` quotes.

    python benchmarks/fit_losses.py MODEL=NAME ... --text FILE [--context 256] [--out ovround/measure/fit/losses.json]

MODEL is a checkpoint folder or hub name, NAME what the table calls it. Each is rounded to 8, 4, 3 and 2 bits into the cache and
scored on the text, float32 arithmetic, beside its original. Asserts that fewer bits lose more.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ovround import cached_model
from ovround.conversion.fit.config import read_config
from ovround.conversion.fit.support import model_support
from ovround.measure.evaluation import evaluate_model

WIDTHS = (8, 4, 3, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL=NAME")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--out", type=Path, default=Path("ovround/measure/fit/losses.json"))
    given = parser.parse_args()
    rows = json.loads(given.out.read_text(encoding="utf-8"))["rows"] if given.out.is_file() else []
    for entry in given.models:
        model, _, name = entry.partition("=")
        parameters = model_support(read_config(model)).parameters
        rises = []
        for bits in WIDTHS:
            if any((row["model"], row["bits"]) == (name, bits) for row in rows):
                continue
            (score,) = evaluate_model(
                str(cached_model(model, bits=bits)), [given.text], reference=model, context=given.context
            )
            assert score.reference_perplexity is not None
            assert score.kl_nats is not None
            rise = score.perplexity / score.reference_perplexity - 1
            rises.append(score.kl_nats)
            row = {"model": name, "parameters": parameters, "bits": bits, "perplexity_rise": round(rise, 4)}
            rows.append(row | {"kl_nats": round(score.kl_nats, 5)})
            print(rows[-1], file=sys.stderr, flush=True)
            given.out.write_text(json.dumps({"text": given.text.name, "rows": rows}, indent=1) + "\n", encoding="utf-8")
        assert rises == sorted(rises), f"{name}: fewer bits lost less"
    print(json.dumps({"benchmark": "fit_losses", "rows": rows}))


if __name__ == "__main__":
    main()
