"""Results objects whose every rate is known, for tests of what reads results."""

from otreg.evaluation.measures import MEASURES

WER = {"base": {"home": 0.10, "noise": 0.40, "rate": 0.20}}
WER["otreg"] = {"home": 0.10, "noise": 0.30, "rate": 0.15}
WER["worse"] = {"home": 0.20, "noise": 0.60, "rate": 0.20}


def make_results(
    arms=("base", "otreg", "worse"), seeds=(0, 1), languages=("en", "hi"), wer=None
) -> dict:
    """Every arm has the WER above in every language; 100 words per language and corpus."""
    results = {"rows": [], "gap": [], "transcripts": [], "alignments": [], "curves": []}
    for arm in arms:
        rates = (wer or WER)[arm]
        for seed in seeds:
            for corpus, rate in rates.items():
                of = {"arm": arm, "seed": seed, "corpus": corpus}
                for language in languages:
                    errors = round(100 * rate)
                    results["rows"].append(
                        {
                            **of,
                            "language": language,
                            "domain": "in" if corpus == "home" else "out",
                            "num_utterances": 20,
                            "num_words": 100,
                            "wer": rate,
                            "cer": rate / 2,
                            "wer_low": max(0.0, rate - 0.06),
                            "wer_high": rate + 0.08,
                            "substitutions": errors,
                            "deletions": 0,
                            "insertions": 0,
                            "empty": 1,
                            "runaway": 0,
                        }
                    )
                    results["transcripts"].append(
                        {
                            **of,
                            "language": language,
                            "id": f"{corpus}-{language}",
                            "reference": "the <cat> sat",
                            "hypothesis": "the dog sat down",
                        }
                    )
                measures = dict.fromkeys(MEASURES, 0.25) | {"num_utterances": 20}
                results["gap"].append(of | measures)
            for step in (1, 2, 3):
                results["curves"].append(
                    {"arm": arm, "seed": seed, "stage": "second", "step": step, "loss": 1 / step}
                )
        results["alignments"].append(
            {
                "arm": arm,
                "seed": seeds[0],
                "corpus": "home",
                "id": "home-en",
                "text": "the <cat> sat",
                "frame_s": 0.08,
                "targets": ["the", "▁$cat$", "猫", "(pad)"],
                "plan": [[0.25, 0, 0, 0], [0, 0.25, 0, 0], [0, 0, 0.25, 0], [0, 0, 0, 0.25]],
                "tokens": ["the", "▁$cat$", "猫"],
                "distances": [[0.0, 1.0, 1.0], [1.0, 0.1, 1.0], [1.0, 1.0, 0.2], [1.0, 1.0, 1.3]],
            }
        )
    return results | {
        "normaliser": {"name": "otreg-basic", "version": "2"},
        "config": {"seed": 0, "stages": [{"name": "second", "note": "</pre><script>"}]},
        "versions": {"otreg": "0.1.0"},
        "machine": {"cores": 2},
        "command": ["otreg demo --seeds 2"],
        "created": "2025-01-01T00:00:00Z",
    }
