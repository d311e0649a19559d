"""SDEdit: somebody painted over a drawing, and what was painted becomes part of it. Shows previews; can be cancelled."""

from PIL import ImageDraw

import sdxl
import sige
from sdxl.scenes.draw import draw
from sdxl.scenes.numbered import HELD_OUT, scene_at


def main() -> None:
    """Writes sdedit.png and a preview of it half-way."""
    pipe = sdxl.load_pipeline("embedded", task="sdedit")
    pipe.set_progress_bar_config(disable=True)
    before = draw(scene_at(HELD_OUT + 1))
    after = before.copy()
    ImageDraw.Draw(after).rectangle((150, 120, 210, 200), fill=(150, 60, 160))

    def show(step: sdxl.Step) -> bool:
        print(f"step {step.number} of {step.steps}", end="\r")
        if step.number == step.steps // 2:
            step.preview().save("preview.png")
        return True  # False would cancel, and sdxl.Cancelled be raised

    asked = sdxl.Sampling("a purple house on the right on the grass", steps=30, scale=4.0, seed=0)
    result = sdxl.sdedit(pipe, before, after, sampling=asked, policy=sige.Temporal(), on_step=show)
    result.image.save("sdedit.png")
    print(f"{result.seconds:.2f} s, {result.passes['unet']}, {result.work:.0%} of the dense work")


if __name__ == "__main__":
    main()
