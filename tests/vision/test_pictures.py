"""The picture net: one reader of pictures, one of two of volumes."""
import numpy as np
import torch

from vision.picture_net import PICTURE_SIZE, PictureNet
from vision.train_pictures import Drawn, match_brain, picture_logits, train_judge

CHANNELS_LATE = 112


def test_a_picture_is_not_changed_by_its_neighbour_or_its_mirror_image():
    torch.manual_seed(0)
    net, pair = PictureNet().eval(), torch.rand(2, PICTURE_SIZE, PICTURE_SIZE)
    both = picture_logits(net, pair)
    np.testing.assert_allclose(both[:1], picture_logits(net, pair[:1]), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(both, picture_logits(net, pair.flip(-1)), rtol=1e-3, atol=1e-4)


def test_the_late_blocks_learn_from_the_pictures_kept_and_from_no_other():
    """Strong features bleed here; the pictures held out say the opposite, and are not believed."""
    torch.manual_seed(0)
    picture = np.arange(48)
    bleeds, kept = picture % 2 == 1, picture < 24
    features = torch.rand(48, CHANNELS_LATE, 4, 4) + torch.from_numpy(bleeds == kept).float()[:, None, None, None]
    net = PictureNet().eval()
    taught = train_judge(net, Drawn(features.half(), bleeds, picture, np.ones(48, int)), kept, steps=12, batch=16)
    with torch.inference_mode():
        logits = taught.judge(features[:24]).numpy()
    assert logits[bleeds[:24]].mean() > logits[~bleeds[:24]].mean()
    assert all(torch.equal(a, b) for a, b in zip(net.stem.state_dict().values(), taught.stem.state_dict().values(), strict=True))


def test_slices_without_blood_are_drawn_by_the_size_of_their_brain():
    images = np.zeros((300, 20, 20), np.float32)
    bleeds = np.arange(300) < 100
    size = np.where(bleeds, 12 + np.arange(300) % 6, 4 + np.arange(300) % 14)
    for image, side in zip(images, size, strict=True):
        image[:side, :side] = 0.5
    weight = match_brain(images, bleeds)
    plain, matched = size[~bleeds].mean(), np.average(size[~bleeds], weights=weight[~bleeds])
    assert abs(matched - size[bleeds].mean()) < 0.5 * abs(plain - size[bleeds].mean())
