"""The measures of the gap between speech embeddings and the language model's token embeddings.

"Modality gap" has several definitions in the literature, so none of the numbers here goes by that
name: each measure has a name, a formula and a source, kept together in `MEASURES`, which the report
prints beside the values. Notation, for one utterance: f_1 … f_n are the real speech frames (what
the model returns as speech_embeds), y_1 … y_m the transcript's tokens, e_v the language model's
input-embedding row of token v, V the whole vocabulary, cos the cosine similarity, and
near(f) = argmax_{v in V} cos(f, e_v), the nearest-token readout of a frame.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Measure:
    """What one gap measure means: its formula, its source and how to read it."""

    title: str
    formula: str
    source: str
    better: Literal["higher", "lower", "none"]
    note: str = ""


MEASURES: dict[str, Measure] = {
    "coverage": Measure(
        "Coverage",
        "mean over utterances of |{y_1 … y_m} ∩ {near(f_1) … near(f_n)}| / |{y_1 … y_m}|",
        "nearest-token readout over the whole vocabulary; this project",
        "higher",
        "Share of a transcript's distinct tokens that the frames spell out. It falls when all "
        "frames collapse on a few tokens.",
    ),
    "nearest_token": Measure(
        "Nearest token in transcript",
        "mean over frames of [near(f_i) ∈ {y_1 … y_m}]",
        "nearest-token readout over the whole vocabulary; this project",
        "higher",
        "Rewards collapse onto one frequent token, so read it beside coverage. Frames of silence "
        "that are nearest to the pad token count against it.",
    ),
    "pad_share": Measure(
        "Frames nearest to pad",
        "mean over frames of [near(f_i) = pad]",
        "silence maps to pad in OTReg, arXiv 2508.08131",
        "none",
        "",
    ),
    "best_cosine": Measure(
        "Best cosine",
        "mean over frames of max_j cos(f_i, e_{y_j})",
        "frame to transcript similarity; this project",
        "higher",
        "Rewards collapse, so read it beside coverage.",
    ),
    "alignment_path_score": Measure(
        "Alignment path score",
        "mean over utterances of (1/m) Σ_j max_i cos(f_i, e_{y_j})",
        "Xiang et al. 2025, arXiv 2510.12116; here at the language model's input layer only",
        "higher",
        "",
    ),
    "alignment_monotonicity": Measure(
        "Alignment monotonicity",
        "mean over utterances with m ≥ 3 of Spearman's ρ between j and argmax_i cos(f_i, e_{y_j})",
        "Xiang et al. 2025, arXiv 2510.12116; here at the language model's input layer only",
        "higher",
        "1: the tokens' best frames come in the order of the tokens. A path that stays on one "
        "frame counts 0. Repeated tokens share their best frame and lower it.",
    ),
    "retrieval_pooled_top1": Measure(
        "Retrieval, pooled, top 1",
        "share of utterances whose transcript ranks first among the corpus's distinct transcripts "
        "by cos((1/n) Σ_i f_i, (1/m) Σ_j e_{y_j})",
        "cross-modal retrieval by mean pooling, as in AI-STA, arXiv 2503.10211",
        "higher",
        "Ties count against it.",
    ),
    "retrieval_pooled_mrr": Measure(
        "Retrieval, pooled, MRR",
        "mean over utterances of 1 / rank of the right transcript, by the pooled score",
        "mean reciprocal rank: Voorhees 1999, TREC-8 question answering",
        "higher",
        "",
    ),
    "retrieval_late_top1": Measure(
        "Retrieval, late interaction, top 1",
        "share of utterances whose transcript ranks first among the corpus's distinct transcripts "
        "by (1/m) Σ_j max_i cos(f_i, e_{y_j})",
        "MaxSim of ColBERT, Khattab and Zaharia 2020, arXiv 2004.12832, as a mean over tokens",
        "higher",
        "Ties count against it.",
    ),
    "retrieval_late_mrr": Measure(
        "Retrieval, late interaction, MRR",
        "mean over utterances of 1 / rank of the right transcript, by the late-interaction score",
        "mean reciprocal rank: Voorhees 1999, TREC-8 question answering",
        "higher",
        "",
    ),
    "centroid_distance": Measure(
        "Centroid distance, in token norms",
        "‖mean of all frames f − mean of all transcript tokens e_y‖ / mean of ‖e_y‖",
        "modality gap of Liang et al. 2022, arXiv 2203.02053, without their normalisation of each "
        "vector; divided by a token's mean norm",
        "lower",
        "Sees the scale of the speech embeddings as well as their direction.",
    ),
    "centroid_distance_unit": Measure(
        "Centroid distance, unit vectors",
        "‖mean of all f / ‖f‖ − mean of all e_y / ‖e_y‖‖",
        "modality gap of Liang et al. 2022, arXiv 2203.02053",
        "lower",
        "Sees directions only; between 0 and 2.",
    ),
    "norm_ratio": Measure(
        "Norm ratio",
        "mean of ‖f‖ / mean of ‖e_y‖",
        "this project; Xiang et al. 2025, arXiv 2510.12116, find that magnitudes diverge",
        "none",
        "1: frames are as long as tokens.",
    ),
    "collapse": Measure(
        "Collapse",
        "‖mean over all frames of f / ‖f‖‖",
        "mean resultant length: Mardia and Jupp 2000, Directional Statistics",
        "lower",
        "1: all frames point the same way. Compare it with the same number for the text.",
    ),
    "collapse_text": Measure(
        "Collapse of the text, for reference",
        "‖mean over all transcript tokens of e_y / ‖e_y‖‖",
        "mean resultant length: Mardia and Jupp 2000, Directional Statistics",
        "none",
        "The same for every arm whose token embeddings are frozen.",
    ),
}
"""Every value that `ModalityGap.compute` can return, apart from the counts, by name."""
