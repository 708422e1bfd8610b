"""Is this picture fit to judge: blank, dark, a lack of planes. It measures pixels; it knows no engine, no history."""

from __future__ import annotations

from dataclasses import dataclass

from monitor.vocabulary import FocalStack, Observation


@dataclass(frozen=True)
class Limits:
    """Below these a picture is not judged. Set far below anything seen on real frames, never from a textbook.

    Measured: mean 37 to 56 and contrast 28 to 41 on 715 public EmbryoScope frames, 79 to 125 and 49 to 78 on 70 STORK
    planes. Limits at about a fifth of the least reject none of them.
    """

    mean_gray: float = 8.0
    contrast_gray: float = 4.0  # standard deviation of gray


def observe(stack: FocalStack, limits: Limits = Limits()) -> Observation:
    """Judge the pictures themselves. Flags: `blank`, `dark`, `missing_planes`, `broken_planes`, `lacking`."""
    flags = []
    if stack.missing_um:
        flags.append("missing_planes")
    if stack.broken:
        flags.append("broken_planes")
    if stack.lacking:
        flags.append("lacking")
    means = [float(image.gray.mean()) for image in stack.images]
    contrasts = [float(image.gray.std()) for image in stack.images]
    if means and max(means) < limits.mean_gray:
        flags.append("dark")
    elif contrasts and max(contrasts) < limits.contrast_gray:
        flags.append("blank")
    return Observation(
        stack=stack,
        fit=not stack.lacking and not {"dark", "blank"} & set(flags),
        flags=tuple(sorted(flags)),
    )
