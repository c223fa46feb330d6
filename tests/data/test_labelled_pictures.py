"""Labelled pictures: what counts as bleeding, what has no label, and who stays together."""
import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from data.errors import InputError
from data.labelled_pictures import NEAR, folds, read_labelled_pictures


def encoded(grey, kind):
    raw = io.BytesIO()
    Image.fromarray(grey).save(raw, kind)
    return raw.getvalue()


def head(bleeding):
    """A skull around a brain, and oedema around a bright spot."""
    y, x = np.mgrid[:192, :192] - 96
    grey = np.where(np.hypot(x, y) < 80, 255, 0)
    grey = np.where(np.hypot(x, y) < 70, 100, grey)
    if bleeding:
        grey = np.where(np.hypot(x - 30, y) < 9, 180, grey)
    return grey.astype(np.uint8), ((np.hypot(x - 30, y) < 14) & (np.hypot(x - 30, y) >= 9)).astype(np.uint8) * 255


def test_slices_near_the_blood_have_no_label_and_blood_is_the_bright_spot_that_the_oedema_touches(tmp_path):
    count, at = 9, 4
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for k in range(count):
            archive.writestr(f"p_{k}.jpg", encoded(head(k == at)[0], "JPEG"))
        archive.writestr(f"p_{at}_phe.png", encoded(head(True)[1], "PNG"))
    rows = "".join(f"p_{k},p,{k},{300 if k == at else 0}\n" for k in range(count))
    (tmp_path / "index.csv").write_text("slice,patient,k,phe_px512\n" + rows)
    found = read_labelled_pictures(tmp_path)
    assert [p.bleeds for p in found] == [True if k == at else None if abs(k - at) <= NEAR else False for k in range(count)]
    assert found[at].blood[96, 126] and not found[at].blood[96, 100] and 150 < found[at].blood.sum() < 350


def test_a_table_without_its_columns_is_a_coded_error_that_names_them(tmp_path):
    (tmp_path / "labels.csv").write_text("name,label\na.png,1\n")
    with pytest.raises(InputError, match="file, group, hemorrhage"):
        read_labelled_pictures(tmp_path)


def test_a_group_is_never_split_and_each_set_is_spread_over_all_folds():
    groups = [f"a:{i // 3}" for i in range(60)] + [f"b:{i // 2}" for i in range(20)]
    fold = folds(groups, 5)
    assert all(len({k for g, k in zip(groups, fold, strict=True) if g == name}) == 1 for name in groups)
    assert all({k for g, k in zip(groups, fold, strict=True) if g[0] == name} == set(range(5)) for name in "ab")
