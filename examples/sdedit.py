"""SDEdit: somebody painted a yellow house over in purple, crudely. Shows previews on the way; can be cancelled."""

from PIL import Image

import sdxl
import sige
from sdxl.scenes.draw import draw, thing_mask
from sdxl.scenes.numbered import HELD_OUT, scene_at


def main() -> None:
    """Writes sdedit.png and a preview of it half-way."""
    pipe = sdxl.load_pipeline("embedded", task="sdedit")
    pipe.set_progress_bar_config(disable=True)
    scene = scene_at(HELD_OUT + 8)
    before, after = draw(scene), draw(scene)
    after.paste((150, 60, 160), mask=Image.fromarray(thing_mask(scene, 256)))

    def show(step: sdxl.Step) -> bool:
        print(f"step {step.number} of {step.steps}", end="\r")
        if step.number == step.steps // 2:
            step.preview().save("preview.png")
        return True  # False would cancel, and sdxl.Cancelled be raised

    prompt = "a purple house in the desert at the right under a grey sky"
    asked = sdxl.Sampling(prompt, steps=30, scale=4.0, strength=0.8, seed=0)
    result = sdxl.sdedit(pipe, before, after, sampling=asked, policy=sige.Temporal(), on_step=show)
    result.image.save("sdedit.png")
    print(f"{result.seconds:.2f} s, {result.passes['unet'].describe()}, {result.work:.0%} of the dense work")


if __name__ == "__main__":
    main()
