"""The tensors of each law, by hand and by what makes them: unit vectors, orthogonality, the planted second axis."""

from __future__ import annotations

import numpy as np
import pytest

from edgesteer.control.laws import (
    RADIANS,
    ablation_law,
    opposite_sides,
    paper_law,
    principal_directions,
    projection_law,
    rotation_law,
    scheduled_law,
    second_axes,
    static_law,
    unit,
)

E = np.array([[3.0, 4.0], [0.0, 0.0]])
"""Two boundaries; at the second all texts are the same."""


def test_static_law_by_hand() -> None:
    tensors = static_law(E)
    assert tensors["probe"] is None
    np.testing.assert_array_equal(tensors["gain"], E)
    np.testing.assert_array_equal(tensors["span"], [1, 1])


def test_scheduled_law_by_hand() -> None:
    """Where the predicted uncertainty w . x - b is 1.5, so is control at effort 1: -(p . x - offset)."""
    w, b, x = np.array([[0.5, 0.0]]), np.array([-1.0]), np.array([1.0, 7.0])
    tensors = scheduled_law(E[:1], w, b)
    probe, offset = (np.asarray(tensors[name])[0] for name in ("probe", "offset"))
    assert -(probe @ x - offset) == 1.5
    np.testing.assert_array_equal(tensors["gain"], E[:1])
    assert not any(np.any(tensors[name]) for name in ("rest", "span"))


def test_paper_law_by_hand() -> None:
    """E_0 = (3, 4), so |E_0| = 5 and v_0 = (0.6, 0.8)."""
    tensors = paper_law(E, np.array([[1.2, 0.8], [0, 0]]))
    np.testing.assert_allclose(tensors["probe"], [[0.6, 0.8], [0, 0]])
    np.testing.assert_allclose(tensors["gain"], [[1.2, 0.8], [0, 0]])
    np.testing.assert_allclose(tensors["span"], [5, 0])


def test_projection_law_by_hand() -> None:
    tensors = projection_law(E)
    for name in ("probe", "gain"):
        np.testing.assert_allclose(tensors[name], [[0.6, 0.8], [0, 0]])
    np.testing.assert_allclose(tensors["span"], [5, 0])


def test_ablation_law_has_no_setpoint() -> None:
    tensors = ablation_law(E)
    np.testing.assert_allclose(tensors["gain"], [[0.6, 0.8], [0, 0]])
    assert tensors["probe"] is tensors["gain"]
    assert not any(np.any(tensors[name]) for name in ("offset", "rest", "span"))


def test_rotation_law_turns_in_the_plane_of_both_axes() -> None:
    axes = np.array([[-0.8, 0.6], [1.0, 0.0]])
    tensors = rotation_law(E, axes)
    np.testing.assert_allclose(tensors["gain"], [[0.6, 0.8], [0, 0]])
    np.testing.assert_array_equal(tensors["axis"], axes)
    np.testing.assert_allclose(tensors["span"], RADIANS)


@pytest.mark.parametrize(("negative", "opposite"), [((-1, -1), True), ((1, 1), False), ((-9, -9), False)])
def test_class_means_on_opposite_sides_by_hand(negative: tuple[float, float], opposite: bool) -> None:
    # negative . E = -7, 7 and -63; |E|^2 = 25
    assert opposite_sides(E[:1], np.array([negative], dtype=np.float64)).tolist() == [opposite]


def test_principal_direction_is_where_the_pairs_differ_most_differently_by_hand() -> None:
    """The pairs differ by 1 along the first coordinate, and by 3 or -1 along the second."""
    negative = np.zeros((4, 1, 2))
    positive = np.array([[[1.0, 3.0]], [[1.0, -1.0]], [[1.0, 3.0]], [[1.0, -1.0]], [[9.0, -90.0]]])  # the last: no pair
    np.testing.assert_allclose(principal_directions(positive, negative), [[0, 1]], atol=1e-12)
    np.testing.assert_allclose(principal_directions(negative, positive), [[0, -1]], atol=1e-12)


def test_second_axis_is_the_largest_difference_apart_from_the_classes() -> None:
    """Texts spread by 9 along E = (1, 0, 0, 0), by 3 along (0, 0, 1, 0) and by 1 along the others."""
    texts = np.random.default_rng(0).normal(size=(500, 1, 4)) * (9, 1, 3, 1)
    (axis,) = second_axes(texts, np.array([[2.0, 0, 0, 0]]))
    np.testing.assert_allclose(abs(axis), [0, 0, 1, 0], atol=0.1)


def test_second_axes_are_unit_vectors_orthogonal_to_the_direction() -> None:
    random = np.random.default_rng(1)
    direction = random.normal(size=(5, 8))
    axes = second_axes(random.normal(size=(6, 5, 8)), direction)
    np.testing.assert_allclose(np.linalg.norm(axes, axis=1), 1)
    np.testing.assert_allclose(np.sum(axes * unit(direction), axis=1), 0, atol=1e-12)
