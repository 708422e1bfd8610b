"""What each kind of alert says, in a sentence: what was seen, never what to do with an embryo."""

from __future__ import annotations

TEXTS = {
    "imaging_degraded": "the pictures of this embryo are degraded",
    "well_empty": "no embryo is seen in this well",
    "low_blastocyst_probability": "the model's probability of a blastocyst stays low",
    "arrest": "this embryo has stayed in a stage longer than others that go on",
    "direct_cleavage": "three cells came of one within hours, as the model reads the onsets",
    "reverse_cleavage": "fewer cells are seen than before, as the model reads the frames",
    "blastocyst_reached": "a blastocyst is seen, as the model reads the frames",
    "frame_gap": "no frame has come from this incubator for longer than its cadence allows",
    "engine_failing": "the engine gives no answer to some frames",
    "storage_low": "free space where the journal lies is low",
}
# one alert about the incubator where most of its embryos would raise one each
OF_INCUBATOR = {
    "imaging_degraded": "the pictures of most embryos of this incubator are degraded: look for one cause",
    "well_empty": "no embryo is seen in most wells of this incubator: look for one cause",
}
