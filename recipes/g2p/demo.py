"""The main job in minutes: train on CMUdict, then pronounce words that no dictionary has.

python recipes/g2p/demo.py            # about nine minutes on two cores
python recipes/g2p/demo.py --max_minutes 3
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from prepare_data import write_cmudict

HERE = Path(__file__).parent
WORDS = ["Zelenskyy", "Galadriel's", "Xiaomi", "TikTok's", "brillig", "slithy", "covfefe", "bookish-looking"]


def main() -> None:
    """Train, then show what was learned."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max_minutes", type=float, default=9.0, help="Wall time of the training.")
    parser.add_argument("--output_dir", default="out/demo", help="Where the model goes; an earlier demo's is replaced.")
    options = parser.parse_args()
    folder = Path(options.output_dir)
    if not (folder / "config.json").is_file():
        subprocess.run(
            [
                *(sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--num_processes", "1"),
                *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
                *(str(HERE.parent / "train_conditional.py"), str(HERE / "demo.yaml")),
                *("--max_minutes", str(options.max_minutes), "--output_dir", str(folder)),
                *("--train_file", str(write_cmudict(folder / "data"))),
                *("--resume_from_checkpoint", "auto"),
            ],
            check=True,
        )
    else:
        print(f"{folder} holds a trained model already; delete it to train anew.")
    show(folder)


def show(folder: Path) -> None:
    """Pronounce new words with the folder that was trained."""
    from transformers import pipeline

    import hf_genext  # noqa: F401  (registers the pipeline)

    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    known = _read_known_words(folder)
    words = [word for word in WORDS if word.casefold() not in known]
    pipe = pipeline("conditional-generation", model=str(folder))
    print("\nWords that are not in the dictionary:\n")
    for word, answers in zip(words, pipe(words, num_beams=4), strict=True):
        print(f"  {word:<18} {answers[0]['generated_text']}")
    metrics = results["metrics"]
    print(
        f"\nOn {results['data']['validation_sources']:,} dictionary words that the training did not see, "
        f"{100 - metrics['word_error_rate']:.1f}% are right in every phoneme\n"
        f"(word error rate {metrics['word_error_rate']:.1f}%, phoneme error rate {metrics['phoneme_error_rate']:.1f}%; "
        f"{results['minutes']} minutes, {results['hardware']})."
    )
    print("\nUse the folder anywhere:\n")
    print("  import hf_genext\n  from transformers import pipeline\n")
    print(f'  g2p = pipeline("conditional-generation", model="{folder}")\n  g2p("generative")\n')


def _read_known_words(folder: Path) -> set[str]:
    lines = (folder / "data" / "cmudict.tsv").read_text(encoding="utf-8").splitlines()
    return {line.split("\t")[0].casefold() for line in lines}


if __name__ == "__main__":
    main()
