"""Captions of pictures, on pages and in the window."""

PREVIEW_CAPTION = (
    "Top: a source slice, translated to the target's appearance, reconstructed, and its labels. Bottom: a target "
    "slice, translated to the source's appearance, reconstructed, and the prediction."
)
