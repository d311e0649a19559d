"""Records one dense pass of a UNet by hand, then runs a packed one on it; put your own UNet in its place."""

import torch
from diffusers import UNet2DConditionModel

import sige


def main() -> None:
    """Prints how far a packed pass is from the dense one, inside the region and outside."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=8,
    ).eval()
    x, text = torch.randn(1, 4, 32, 32), torch.randn(1, 77, 32)  # latents of a 256x256 picture, prompt
    mask = torch.zeros(256, 256, dtype=torch.bool)
    mask[96:160, 64:192] = True  # in pixels
    region = sige.Region.from_mask(mask, dilation=1)
    active = torch.tensor(region.active(32, 32))  # bool [32, 32]

    with torch.no_grad(), sige.enable(unet) as handle:
        with handle.record() as recording:
            before = unet(x, 500, text).sample  # dense, recorded
        edited = x + 0.1 * torch.randn_like(x) * active
        with handle.edit(region, blend=[(recording, 1.0)]):
            packed = unet(edited, 500, text).sample  # the region's positions alone
        dense = unet(edited, 500, text).sample
    print(f"{region.ratio(32, 32):.0%} of the positions are active, {recording}")
    print("outside the region: the recorded output", torch.equal(packed[..., ~active], before[..., ~active]))
    print(f"inside: {((packed - dense)[..., active].norm() / dense[..., active].norm()).item():.1e} from dense")


if __name__ == "__main__":
    main()
