"""The head CT simulator: physical values, truth that fits the masks, valid DICOM."""
import numpy as np
import pydicom
import pytest
from scipy import ndimage

from data.dicom import read_study
from data.errors import SimulatorError
from data.midline import SHIFT_FROM_MM
from data.simulator import (
    BONE,
    DIPLOE,
    INSIDE,
    KINDS,
    TYPES,
    border_of,
    findings_in_files,
    nearest,
    read_anatomy,
    simulate_head_ct,
    write_dicom,
)


def fact(study, code):
    return next(f for f in study.findings if f.code == code)


@pytest.fixture(scope="module")
def studies():
    return {kind: simulate_head_ct(11, kind, rows=96, slice_mm=5.0, size=0.7) for kind in KINDS}


def test_the_same_seed_gives_the_same_study_and_another_seed_another():
    one, again, other = (simulate_head_ct(seed, "none", rows=64, slice_mm=8.0) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.volume.pixels, again.volume.pixels)
    assert one.volume.pixels.shape != other.volume.pixels.shape or not np.array_equal(one.volume.pixels, other.volume.pixels)


def test_air_brain_and_bone_have_their_hounsfield_units(studies):
    pixels = studies["none"].volume.pixels
    assert np.isclose(pixels[:, 0, 0], -1000, atol=60).mean() > 0.9
    middle = pixels[len(pixels) // 2, 36:60, 36:60]
    assert 15 < np.median(middle) < 50
    assert np.quantile(pixels, 0.995) > 500


@pytest.mark.parametrize("kind", TYPES)
def test_blood_is_brighter_than_brain_and_inside_the_skull(studies, kind):
    study = studies[kind]
    mask = study.masks[kind] > 0
    assert np.median(study.volume.pixels[mask]) > 42
    assert fact(study, f"{kind}_haemorrhage").present and fact(study, "intracranial_haemorrhage").present
    spacing = study.volume.spacing_mm
    assert fact(study, f"{kind}_haemorrhage").volume_ml == pytest.approx(mask.sum() * np.prod(spacing) / 1000, abs=0.06)


def test_without_haemorrhage_nothing_is_present(studies):
    for kind in ("none", "infarct"):
        assert not studies[kind].masks
        assert not any(f.present for f in studies[kind].findings)


@pytest.mark.parametrize("kind", ["epidural", "subdural", "intraparenchymal"])
def test_the_side_is_the_patients_side_in_the_dicom_affine(kind):
    """LPS: x grows to the patient's left; the midline pushed to the other side by a large lesion."""
    for seed in (1, 2):
        study = simulate_head_ct(seed, kind, rows=80, slice_mm=6.0, size=0.8)
        mask = study.masks[kind] > 0
        affine = study.volume.affine
        head = study.volume.pixels > -300
        x_lesion, x_head = (affine[0, 3] + affine[0, 0] * np.nonzero(m)[2].mean() for m in (mask, head))
        side = fact(study, f"{kind}_haemorrhage").side
        if side in ("left", "right"):
            assert (x_lesion > x_head) == (side == "left")
        shift = fact(study, "midline_shift")
        assert not shift.present or shift.side != side
        assert shift.size_mm is None or shift.size_mm == pytest.approx(study.shift_mm, abs=0.06)


def test_a_larger_haematoma_shifts_the_midline_more():
    small, large = (np.mean([simulate_head_ct(s, "epidural", rows=80, slice_mm=6.0, size=size).shift_mm for s in range(4)])
                    for size in (0.05, 1.0))
    assert large > small + 1.5


def test_a_fracture_is_a_gap_in_the_calvarium(studies):
    study = studies["fracture"]
    assert fact(study, "skull_fracture").present and not fact(study, "intracranial_haemorrhage").present
    assert study.masks["fracture"].sum() >= 6


def test_sutures_and_vessels_thin_the_bone_of_a_head_and_change_nothing_else(monkeypatch):
    from data import simulator

    with_seams = simulate_head_ct(3, "fracture", slice_mm=5.0)
    monkeypatch.setattr(simulator, "seams", lambda *args: None)
    without = simulate_head_ct(3, "fracture", slice_mm=5.0)
    off = with_seams.volume.pixels - without.volume.pixels
    changed = np.abs(off) > 30
    assert 0.001 < changed.mean() < 0.02 and (without.volume.pixels[changed] > 150).mean() > 0.9 and off[changed].mean() < -80
    far = ~ndimage.binary_dilation(without.volume.pixels > 150, np.ones((1, 3, 3)), iterations=4) & (with_seams.halves > 0)
    assert far.mean() > 0.05 and np.abs(off[far]).max() < 10
    assert with_seams.findings == without.findings
    np.testing.assert_array_equal(with_seams.masks["fracture"], without.masks["fracture"])


def test_an_unknown_kind_is_named():
    with pytest.raises(SimulatorError, match=r"'bleed'.*epidural"):
        simulate_head_ct(0, "bleed")


def test_the_embedded_head_has_a_closed_skull_and_a_straight_midline():
    head = read_anatomy("")
    assert INSIDE[head.tissue].mean() > 0.1
    assert abs(head.midline[0] - 112) < 3 and abs(head.midline[1]) < 0.05
    with pytest.raises(ValueError):     # cached and shared: nobody may write into it
        head.tissue[0, 0, 0] = 1


def test_the_series_written_is_valid_dicom_and_says_simulated(tmp_path, studies):
    study = studies["intraparenchymal"]
    paths = write_dicom(study, tmp_path, accession_number="A1", patient_name="DOE^JOHN")
    assert len(paths) == len(study.volume.pixels)
    first, second = (pydicom.dcmread(p) for p in paths[:2])
    assert str(first.PatientName).startswith("SIMULATED^")
    assert first.AccessionNumber == "A1" and first.Modality == "CT"
    assert second.ImagePositionPatient[2] - first.ImagePositionPatient[2] == pytest.approx(study.volume.spacing_mm[0], abs=1e-3)
    assert len({pydicom.dcmread(p).SOPInstanceUID for p in paths}) == len(paths)
    np.testing.assert_array_equal(first.pixel_array * first.RescaleSlope + first.RescaleIntercept, study.volume.pixels[0])


def test_heads_without_a_lesion_have_a_nearly_straight_midline_and_no_shift():
    for seed in range(4):
        study = simulate_head_ct(seed, "none", rows=96, slice_mm=5.0)
        assert study.shift_mm < SHIFT_FROM_MM and not fact(study, "midline_shift").present


def test_the_midline_follows_the_border_between_the_labelled_hemispheres():
    """A real falx is bent; truth that lies beside what is seen cannot be learnt."""
    labels = np.zeros((80, 96, 64), np.int32)
    x, y = np.mgrid[:80, :96]
    bent = 40 + 3 * np.sin(np.pi * y / 96)
    labels[10:70] = np.where(x < bent, 2, 41)[10:70, :, None]
    off = border_of(labels, np.array([40.0, 0.0, 0.0]))
    assert off.shape == (48, 32)
    np.testing.assert_allclose(off[8:40, 8:24], np.broadcast_to(3 * np.sin(np.pi * np.arange(48) * 2 / 96)[8:40, None], (32, 16)), atol=1.0)
    assert np.abs(border_of(np.where(labels > 0, 16, 0), np.array([40.0, 0.0, 0.0]))).max() == 0


def test_a_label_maps_own_border_is_the_midline_of_its_head(tmp_path):
    x, y, z = np.mgrid[:120, :140, :110]
    radius = np.sqrt(((x - 60) / 50) ** 2 + ((y - 70) / 62) ** 2 + ((z - 55) / 46) ** 2)
    first = x < 60 + 3 * np.sin(np.pi * (y - 8) / 124)
    labels = np.where(radius < 0.8, np.where(first, 2, 41), np.where(radius < 0.9, np.where(first, 3, 42), np.where(radius < 1, 515, 0)))
    np.savez(tmp_path / "bent.npz", lab=labels.astype(np.int16))
    head = read_anatomy(str(tmp_path / "bent.npz"))
    middle = head.bend[35, 27] - (head.bend[12, 27] + head.bend[58, 27]) / 2
    assert middle == pytest.approx(2.0, abs=1.0)


@pytest.mark.parametrize("kind", [*TYPES, "fracture", "none"])
def test_the_truth_of_files_says_slices_and_box_of_each_finding_as_the_reader_of_those_files_counts_them(studies, tmp_path, kind):
    study = studies[kind]
    findings = {f.code: f for f in findings_in_files(study, write_dicom(study, tmp_path))}
    [read] = read_study(sorted(tmp_path.glob("*.dcm"))).volumes
    for code, found in findings.items():
        assert bool(found.evidence) == found.present, code
        if not found.present:
            continue
        [seen] = found.evidence
        assert (seen.series_uid, seen.instance_uid) == (read.series_uid, read.instance_uids[seen.slice])
        assert pydicom.dcmread(tmp_path / f"{seen.slice + 1:04d}.dcm").SOPInstanceUID == seen.instance_uid
        mask = study.masks.get({"skull_fracture": "fracture"}.get(code, code.removesuffix("_haemorrhage")))
        if mask is not None:
            row0, column0, row1, column1 = seen.box
            assert mask[seen.slice].sum() == mask[seen.slice, row0:row1, column0:column1].sum() == mask.sum((1, 2)).max()
            assert all(mask[seen.slice, rows, columns].any() for rows, columns in
                       ((row0, slice(None)), (row1 - 1, slice(None)), (slice(None), column0), (slice(None), column1 - 1)))
            first, last = seen.slices
            assert mask[first].any() and mask[last].any() and not mask[:first].any() and not mask[last + 1:].any()


def test_what_is_seen_is_the_tissue_of_the_place_that_it_came_from():
    made = simulate_head_ct(3, "none", rows=64, slice_mm=5.0)
    there = nearest(read_anatomy("").tissue, list(made.origin.reshape(3, -1).astype(np.float32)), 1.0).reshape(made.volume.pixels.shape)
    assert np.isin(there[made.volume.pixels > 900], (BONE, DIPLOE)).mean() > 0.9
    assert INSIDE[there[(made.volume.pixels > 10) & (made.halves > 0)]].mean() > 0.9
