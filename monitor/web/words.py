"""Words for people: what the short words of readings, flags and alerts mean, in a sentence or less."""

from __future__ import annotations

from monitor.contradictions import TABLE
from monitor.day5_body import Day5
from monitor.vocabulary import PHASES, Outcome

PHASE_WORDS = dict(
    zip(
        PHASES,
        (
            *("second polar body", "pronuclei appeared", "pronuclei faded", "2 cells", "3 cells", "4 cells"),
            *("5 cells", "6 cells", "7 cells", "8 cells", "9 cells or more", "morula", "start of blastulation"),
            *("full blastocyst", "expanded blastocyst", "hatching blastocyst"),
        ),
        strict=True,
    )
)

OUTCOME_WORDS = {
    Outcome.JUDGED.value: "judged",
    Outcome.UNFIT.value: "not judged: the pictures are not fit",
    Outcome.LACKING.value: "not judged: too few planes came",
    Outcome.OUT_OF_ORDER.value: "not judged: older than the last frame judged",
    Outcome.REVISED.value: "told again: its pictures came late or changed",
    Outcome.ENGINE_FAILED.value: "not judged: the model gave no answer",
}

# Each flag of a reading: a few words for a card, and a sentence.
FLAG_WORDS = {
    "missing_planes": ("planes missing", "Some planes were not there."),
    "broken_planes": ("planes broken", "Some plane files do not decode."),
    "lacking": ("too few planes", "Too few planes came for the model to judge."),
    "dark": ("dark", "The well is darker than any real frame: lamp, exposure, shutter."),
    "bright": ("bright", "The well is brighter than any real frame: lamp, exposure."),
    "blank": ("blank", "No detail in the well: no embryo is seen, or the lens is far out of focus."),
    "blurred": ("blurred", "Less fine detail than any real frame: focus, condensation."),
    "too_small": ("too small", "The picture is too small for an embryo to be found in it."),
    "embryo_not_located": ("not located", "No embryo was found with confidence: the well's middle was looked at."),
    "clock_ahead": ("clock ahead", "The frame's name is later than its file: the incubator's clock is ahead."),
    "after_gap": ("after a gap", "A frame was skipped before this one, or it came late."),
    "out_of_order": ("out of order", "It came after later frames had been judged."),
    "clock_from_file": ("file's time", "File names hold no clock: the time is the file's own."),
    "clock_unknown": ("time unknown", "Nothing tells how long after the first frame this one is."),
    "before_insemination": ("before time zero", "Its hour is negative: is the insemination time right?"),
    "run_unconfirmed": ("same embryo?", "The run began after a gap of over 24 h: is it the same embryo?"),
    "source_changed": ("picture changed", "A picture of a frame already judged has changed."),
    "memory_lost": ("memory lost", "The model's memory of this embryo could not be used: it started from zero."),
    "memory_of_other_model": ("other model", "The memory was another model's: it started from zero."),
    "not_enough_data": ("little data", "The probability rests on too little yet, or its spread is too wide."),
    "beyond_training": ("beyond training", "Longer after the first frame than anything the model was trained on."),
    "stage_failed": ("stage failed", "The stage model gave nothing for this frame."),
    "engine_failed": ("model failed", "The model gave no answer for this frame."),
    "not_finite": ("no number", "The model gave something that is no probability."),
}

ALERT_WORDS = {
    "frame_gap": "no frames",
    "imaging_degraded": "imaging degraded",
    "well_empty": "no embryo seen",
    "low_blastocyst_probability": "low P(blastocyst)",
    "arrest": "long in one stage",
    "direct_cleavage": "direct cleavage",
    "reverse_cleavage": "reverse cleavage",
    "blastocyst_reached": "blastocyst seen",
    "engine_failing": "model failing",
    "storage_low": "disk nearly full",
}

# Why something is not said, or rests on too little: the words of a reading's `lacks`.
LACK_WORDS = {
    "time_zero_unknown": "no insemination time is known for this well",
    "unfit": "the pictures are not fit",
    "lacking": "too few planes came",
    "out_of_order": "the frame came after later ones",
    "engine_failed": "the model gave no answer",
    "stage_failed": "the stage model gave nothing",
    "no_model": "no model for it serves",
    "no_memory": "the model has no memory of this embryo yet",
    "memory_lost": "the model's memory was lost",
    "memory_of_other_model": "the memory was another model's",
    "embryo_not_located": "the embryo was not located with confidence",
    "beyond_training": "it is older than anything the model was trained on",
    "few_segments": "too few six-hour segments were seen",
    "wide_spread": "its answers lie too far apart when planes are taken away",
    "not_reached": "not reached yet",
    "passed_over": "passed over: no onset was seen",
    "before_first_frame": "before the first frame",
}

INTERVAL_WORDS = {
    "cc2": "2 cells to 3",
    "s2": "3 cells to 4",
    "cc3": "3 cells to 5",
    "s3": "5 cells to 8",
}

DAY5_OUTCOME_WORDS = {
    "graded": "graded",
    "no_blastocyst": "no blastocyst seen",
    "not_gradable": "not gradable",
    "no_embryo": "no embryo found in the picture",
}

AGREEMENT_WORDS = {
    "same": "the graders say the same",
    "one_apart": "the graders are one step apart",
    "apart": "the graders disagree",
    "alone": "one grader spoke",
}

CONTRADICTION_WORDS = {one.word: one.says for one in TABLE} | {"grader_failed": "a grader gave nothing"}

HPI_SOURCE_WORDS = {
    "file": "hours from the time file",
    "config": "hours from the insemination entry",
    "command": "hours as stated by hand",
    "assumed": "hours assumed, not known",
    "unknown": "hour unknown: no insemination time is known for this well",
}

MEASURED_WORDS = {
    "body_area": "area of the embryo",
    "icm_area": "area of the inner cell mass",
    "te_area": "area of the trophectoderm",
    "zona_area": "area of the zona",
    "blastocoel_area": "area of the cavity",
    "body_diameter": "diameter of the embryo",
    "icm_diameter": "diameter of the inner cell mass",
    "outer_diameter": "outer diameter with zona",
    "zona_thickness_mean": "zona thickness, mean",
    "zona_thickness_min": "zona thickness, least",
    "te_thickness_mean": "trophectoderm thickness, mean",
    "blastocoel_fraction": "cavity, share of the embryo",
    "icm_roundness": "roundness of the inner cell mass",
    "zona_gap": "opening of the zona, share of its ring",
}


def probability_words(value: float | None) -> str:
    """Two digits, and no certainty that two digits cannot tell."""
    if value is None:
        return "unknown"
    if value >= 0.995:
        return ">0.99"
    return "<0.01" if value < 0.005 else f"{value:.2f}"


def plane_words(plane_um: int) -> str:
    return f"{plane_um:+d}" if plane_um else "0"


def alert_words(kind: str) -> str:
    """A kind's name in words; one that is not known here, as it is called."""
    return ALERT_WORDS.get(kind, kind.replace("_", " "))


def grade_words(day5: Day5) -> str:
    """`4AB`, or why there is no grade, in a few words."""
    if day5.grade is None:
        return DAY5_OUTCOME_WORDS[day5.outcome]
    return f"{day5.grade.expansion}{day5.grade.icm or '-'}{day5.grade.te or '-'}"
