"""What is measured beside error rates: each measure with its name, its formula and its source.

"Modality gap" has several definitions in the literature, so none of the numbers here goes by that
name. The report prints formula and source beside the values. Notation, for one utterance:
f_1 … f_n are the real speech frames (what the model returns as speech_embeds), y_1 … y_m the
transcript's tokens, e_v the language model's input-embedding row of token v, V the whole
vocabulary, cos the cosine similarity, and near(f) = argmax_{v in V} cos(f, e_v), the nearest-token
readout of a frame. At layer k of the language model f_i are the hidden states of the speech's
positions, and e_{y_j} those of the transcript's tokens in a pass over the text alone; the measures
that read out the vocabulary (near, late interaction) are not defined there.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Measure:
    """What one measure means: its formula, its source and how to read it."""

    title: str
    formula: str
    source: str
    better: Literal["higher", "lower", "none"]
    note: str = ""


GAP_MEASURES: dict[str, Measure] = {
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
        "Xiang et al. 2025, arXiv 2510.12116",
        "higher",
        "",
    ),
    "alignment_monotonicity": Measure(
        "Alignment monotonicity",
        "mean over utterances with m ≥ 3 of Spearman's ρ between j and argmax_i cos(f_i, e_{y_j})",
        "Xiang et al. 2025, arXiv 2510.12116",
        "higher",
        "1: the tokens' best frames come in the order of the tokens. A path that stays on one "
        "frame counts 0. Repeated tokens share their best frame and lower it.",
    ),
    "retrieval_pooled_top1": Measure(
        "Retrieval, pooled, top 1",
        "share of utterances whose transcript ranks first among the corpus's distinct transcripts "
        "by cos((1/n) Σ_i f_i, (1/m) Σ_j e_{y_j})",
        "cross-modal retrieval as in AI-STA, arXiv 2503.10211; mean pooling and the cosine are ours",
        "higher",
        "Ties count against it. Chance among N transcripts: 1/N.",
    ),
    "retrieval_pooled_mrr": Measure(
        "Retrieval, pooled, MRR",
        "mean over utterances of 1 / rank of the right transcript, by the pooled score",
        "AI-STA, arXiv 2503.10211, by layer; mean reciprocal rank: Voorhees 1999, TREC-8 question "
        "answering",
        "higher",
        "Chance among N transcripts: (1 + 1/2 + … + 1/N) / N, which is .032 for 180.",
    ),
    "retrieval_late_top1": Measure(
        "Retrieval, late interaction, top 1",
        "share of utterances whose transcript ranks first among the corpus's distinct transcripts "
        "by (1/m) Σ_j max_i cos(f_i, e_{y_j})",
        "MaxSim of ColBERT, Khattab and Zaharia 2020, arXiv 2004.12832, as a mean over tokens",
        "higher",
        "Ties count against it. Chance among N transcripts: 1/N.",
    ),
    "retrieval_late_mrr": Measure(
        "Retrieval, late interaction, MRR",
        "mean over utterances of 1 / rank of the right transcript, by the late-interaction score",
        "mean reciprocal rank: Voorhees 1999, TREC-8 question answering",
        "higher",
        "Chance among N transcripts: (1 + 1/2 + … + 1/N) / N.",
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

DIVERGENCE_MEASURES: dict[str, Measure] = {
    "misalignment": Measure(
        "Misalignment M",
        "(1/T) Σ over text positions t of KL(P(·| text before t) ‖ P(·| mixed before t))",
        "SALAD, arXiv 2510.13632; theirs is the sum, this the mean over a corpus's T positions",
        "lower",
        "P: the trained model; mixed: the same text with spans of it spoken. In nats.",
    ),
    "forgetting": Measure(
        "Forgetting F",
        "(1/T) Σ over text positions t of KL(Q(·| text before t) ‖ P(·| text before t))",
        "SALAD, arXiv 2510.13632; theirs is the sum, this the mean over a corpus's T positions",
        "lower",
        "Q: the language model before training. In nats; 0 at the first step.",
    ),
}
"""What `otreg.evaluation.divergences` measures."""

SELECTION_MEASURES: dict[str, Measure] = {
    "topic_share": Measure(
        "Share of a topic among the chosen rows",
        "mean over the rows that were chosen for training of [the row's topic is the withheld one]",
        "active selection of SALAD, arXiv 2510.13632, in miniature; this project",
        "none",
        "A quarter, where the choice does not look at misalignment.",
    ),
}
"""What tells how the rows to train on were chosen: the measure `topic-share` of experiments."""

WORD_TIME_MEASURES: dict[str, Measure] = {
    "start_error_mean_s": Measure(
        "Start-time error, mean, s",
        "mean over matched words of |start − reference start|",
        "as forced aligners are compared",
        "lower",
        "A word is matched where the transcripts agree on it.",
    ),
    "start_error_median_s": Measure(
        "Start-time error, median, s",
        "median over matched words of |start − reference start|",
        "as forced aligners are compared",
        "lower",
    ),
    "start_within_50ms": Measure(
        "Starts within 50 ms",
        "share of matched words with |start − reference start| ≤ 0.05 s",
        "as forced aligners are compared",
        "higher",
    ),
    "start_within_100ms": Measure(
        "Starts within 100 ms",
        "share of matched words with |start − reference start| ≤ 0.1 s",
        "as forced aligners are compared",
        "higher",
    ),
    "start_frame_f1": Measure(
        "Start-frame F1",
        "2 · hits / (words + reference words); a hit is a matched word that starts in the same "
        "frame as the reference's",
        "OTTC, arXiv 2502.01588; the frame's length is an option",
        "higher",
    ),
    "intersection_duration_ratio": Measure(
        "Intersection duration ratio",
        "Σ over reference words of the time that its matched word shares with it / Σ of their "
        "durations",
        "OTTC, arXiv 2502.01588: overlap of the segments over the reference's duration; summing "
        "both over the corpus is ours",
        "higher",
        "A word that spans all the audio gets 1: read it beside the start-time error.",
    ),
}
"""What `otreg.evaluation.word_times` measures."""

MEASURES: dict[str, Measure] = (
    GAP_MEASURES | DIVERGENCE_MEASURES | SELECTION_MEASURES | WORD_TIME_MEASURES
)
"""All of them, by name."""


def retrieval_chance(num_candidates: int) -> tuple[float, float]:
    """Top 1 and MRR of a random order of n candidates: 1/n and (1 + 1/2 + … + 1/n) / n.

    Example:
        >>> top1, mrr = retrieval_chance(180)
        >>> round(top1, 4), round(mrr, 3)
        (0.0056, 0.032)
    """
    return 1 / num_candidates, sum(
        1 / rank for rank in range(1, num_candidates + 1)
    ) / num_candidates
