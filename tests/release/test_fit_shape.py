"""What is fitted to the shapes that a network finds, and where nothing is to be gained."""

from __future__ import annotations

import torch
from torch import Tensor

from octamark.layouts import layout
from octamark.release.shape_correction import fit_shape

IBUG = layout("ibug68")
MIRROR = torch.from_numpy(IBUG.mirror.copy())
TURN = torch.tensor([-1.0, 1.0])


def faces(count: int, seed: int, modes: int = 6) -> Tensor:
    """(n, 68, 2): a symmetric mean shape that varies in a few ways, turned, large and small, anywhere."""
    generator = torch.Generator().manual_seed(7)
    base = torch.randn(modes + 1, 68, 2, generator=generator)
    base = (base + base[:, MIRROR] * TURN) / 2
    generator = torch.Generator().manual_seed(seed)
    share = torch.randn(count, modes, generator=generator) * (0.15 * (6 / max(modes, 1)) ** 0.5)
    shape = base[0] + (share[:, :, None, None] * base[1:]).sum(dim=1)
    angle, scale = torch.randn(count, generator=generator) * 0.3, 40 + 20 * torch.rand(count, generator=generator)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    linear = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], 1)
    return shape @ linear.mT + 112 + 5 * torch.randn(count, 1, 2, generator=generator)


def error(found: Tensor, truth: Tensor) -> float:
    return float((found - truth).norm(dim=2).mean())


def test_points_that_err_apart_are_drawn_together() -> None:
    """Noise of 2 px on every point of shapes with six degrees of freedom: most of it can be told from shape."""
    truth, generator = faces(600, seed=0), torch.Generator().manual_seed(1)
    found = truth + 2 * torch.randn(truth.shape, generator=generator)
    one = fit_shape(found[None], truth[None], MIRROR)
    assert one is not None
    new = faces(300, seed=2)
    seen = new + 2 * torch.randn(new.shape, generator=generator)
    assert error(one(seen), new) < 0.5 * error(seen, new)
    mirrored = one(seen[:, MIRROR] * TURN)
    torch.testing.assert_close(mirrored, one(seen)[:, MIRROR] * TURN, atol=0.02, rtol=1e-4)


def test_faces_with_missing_labels_do_not_count() -> None:
    truth, generator = faces(400, seed=0), torch.Generator().manual_seed(1)
    found = truth + 2 * torch.randn(truth.shape, generator=generator)
    complete = fit_shape(found[None, :300], truth[None, :300], MIRROR)
    truth[300:, 5] = float("nan")
    fitted = fit_shape(found[None], truth[None], MIRROR)
    assert complete is not None
    assert fitted is not None
    torch.testing.assert_close(fitted.weight, complete.weight)
    truth[50:, 5] = float("nan")
    assert fit_shape(found[None], truth[None], MIRROR) is None


def test_an_error_that_goes_with_the_shape_is_undone() -> None:
    """A network that puts the eyes lower the longer a face is, whatever its place, size and angle."""
    truth = faces(600, seed=0)
    found = truth.clone()
    found[:, 36:48] += 0.03 * (truth[:, 8:9] - truth[:, 27:28])
    one = fit_shape(found[None], truth[None], MIRROR)
    assert one is not None
    assert error(one(found), truth) < 0.2 * error(found, truth)


def test_errors_that_have_nothing_to_do_with_the_shape_are_left_alone() -> None:
    """Every face's points lie off to one side, each face's to its own; and shapes that are all the same say nothing."""
    generator = torch.Generator().manual_seed(4)
    for modes, count in ((6, 12), (6, 150), (0, 150)):
        truth, new = faces(count, seed=3, modes=modes), faces(200, seed=9, modes=modes)
        found, seen = (x + torch.randn(len(x), 1, 2, generator=generator) * 4 for x in (truth, new))
        one = fit_shape(found[None], truth[None], MIRROR)
        assert one is None or error(one(seen), new) < 1.02 * error(seen, new)


def test_views_of_one_face_are_left_out_together() -> None:
    """Folds are of faces, not of views, or they would praise what fits these faces alone: every face lies off to a
    side of its own, in all of its eight views, and 100 ways to vary tell one from the others."""
    truth, generator = faces(120, seed=5, modes=100), torch.Generator().manual_seed(6)
    own = truth + 4 * torch.randn(120, 1, 2, generator=generator)
    views = own + 0.01 * torch.randn(8, *truth.shape, generator=generator)
    one = fit_shape(views, truth.expand(8, -1, -1, -1), MIRROR)
    new = faces(200, seed=8, modes=100)
    seen = new + 4 * torch.randn(200, 1, 2, generator=generator)
    assert one is None or error(one(seen), new) < 1.02 * error(seen, new)
    mixed = views.transpose(0, 1).flatten(0, 1)[None]  # as if they were 960 faces
    apart = fit_shape(mixed, truth.repeat_interleave(8, dim=0)[None], MIRROR)
    assert apart is not None
    assert error(apart(seen), new) > 1.05 * error(seen, new)


def test_a_fit_is_its_own_mirror_image_to_the_last_step() -> None:
    """Also after it is stored: the mean shape stands upright, so that mirrored points have equal scales."""
    truth, generator = faces(200, seed=0), torch.Generator().manual_seed(1)
    one = fit_shape((truth + torch.randn(truth.shape, generator=generator))[None], truth[None], MIRROR)
    assert one is not None
    torch.testing.assert_close(one.mean[MIRROR] * TURN, one.mean, atol=1e-6, rtol=0)
    largest = one.weight.abs().amax(dim=0).view(68, 2)
    torch.testing.assert_close(largest[MIRROR], largest, atol=1e-4, rtol=1e-3)
