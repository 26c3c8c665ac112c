"""What rounding costs real models at each width: fills ovround/measure/fit/losses.json, from which `ovround fit` quotes.

    python benchmarks/fit_losses.py MODEL=NAME ... --text FILE [--bytes 9000] [--context 256] [--out ovround/measure/fit/losses.json]

MODEL is a checkpoint folder or hub name, NAME what the table calls it. Each is rounded to 8, 4, 3 and 2 bits into the cache and
scored on the first bytes of the text, float32 arithmetic, beside its original. What the table has already is not measured again.
Asserts that fewer bits lose more.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
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
    parser.add_argument("--bytes", type=int, default=9000, help="of the text, cut at a character")
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--out", type=Path, default=Path("ovround/measure/fit/losses.json"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        text = Path(scratch) / given.text.name
        text.write_text(given.text.read_bytes()[: given.bytes].decode("utf-8", "ignore"), encoding="utf-8")
        rows = measured(given, text)
    print(json.dumps({"benchmark": "fit_losses", "rows": rows}))


def measured(given: argparse.Namespace, text: Path) -> list[dict[str, object]]:
    """All rows of the table, those of the models in question measured where they are missing; the file is written with each."""
    rows: list[dict[str, object]] = []
    if given.out.is_file():
        rows = json.loads(given.out.read_text(encoding="utf-8"))["rows"]
    for entry in given.models:
        model, _, name = entry.partition("=")
        parameters = model_support(read_config(model)).parameters
        rises = []
        for bits in WIDTHS:
            if any((row["model"], row["bits"]) == (name, bits) for row in rows):
                continue
            (score,) = evaluate_model(
                str(cached_model(model, bits=bits)), [text], reference=model, context=given.context
            )
            assert score.reference_perplexity is not None
            assert score.kl_nats is not None
            rise = score.perplexity / score.reference_perplexity - 1
            rises.append(score.kl_nats)
            row = {"model": name, "parameters": parameters, "bits": bits, "perplexity_rise": round(rise, 4)}
            rows.append(row | {"kl_nats": round(score.kl_nats, 5)})
            print(rows[-1], file=sys.stderr, flush=True)
            given.out.write_text(json.dumps({"text": text.name, "rows": rows}, indent=1) + "\n", encoding="utf-8")
        assert rises == sorted(rises), f"{name}: fewer bits lost less"
    return rows


if __name__ == "__main__":
    main()
