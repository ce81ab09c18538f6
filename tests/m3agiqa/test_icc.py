"""Profiles as littleCMS reads them."""

from __future__ import annotations

import io

import pytest
from PIL import ImageCms

from m3agiqa.icc import matrix_profile
from tests.m3agiqa.odd_images import ICC_P3, ICC_SRGB, SRGB_CURVE


def test_the_built_profile_holds_what_srgbs_does() -> None:
    profile = ImageCms.ImageCmsProfile(io.BytesIO(ICC_SRGB)).profile
    # X, Y, Z of the colorants in the profile that HP and Microsoft published with sRGB ("sRGB IEC61966-2.1").
    published = {
        "red": (0.43607, 0.22249, 0.01392), "green": (0.38515, 0.71687, 0.09708), "blue": (0.14307, 0.06061, 0.71410)
    }  # fmt: skip
    for name, vector in published.items():
        found = getattr(profile, f"{name}_colorant")[0]
        # Bradford's matrix has four decimals, D65 too.
        assert found == pytest.approx(vector, abs=0.0005)
    assert ImageCms.ImageCmsProfile(io.BytesIO(ICC_P3)).profile.version == pytest.approx(4.0)


def test_primaries_that_span_nothing_make_no_profile() -> None:
    with pytest.raises(ValueError, match="span no colours"):
        matrix_profile((0.3127, 0.3290, *(0.3, 0.3) * 3), SRGB_CURVE)
