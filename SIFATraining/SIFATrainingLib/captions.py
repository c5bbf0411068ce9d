"""What stands below pictures, on pages and in the window."""

PREVIEW_CAPTION = (
    "Above: a source slice, drawn in the target's look, reconstructed, and its labels. Below: a target slice, drawn in "
    "the source's look, reconstructed, and the prediction."
)
