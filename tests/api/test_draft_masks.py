"""`wetread draft --masks FOLDER`: each finding's mask as a NIfTI that lies on its series, and its path in the evidence."""
import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel
import numpy as np
import pytest

from api.cli import write_lines
from api.drafts import with_masks
from data.errors import OutputError
from data.records import Draft, Finding, ImageEvidence, Study, Volume

AFFINE = np.array([[0.5, 0, 0, -20.0], [0, 0.5, 0, -30.0], [0, 0, 5.0, 7.0], [0, 0, 0, 1]])


def drafted():
    volume = Volume(np.zeros((4, 30, 20), np.float32), (5.0, 0.5, 0.5), AFFINE, series_uid="1.2.3")
    mask = np.zeros(volume.pixels.shape, np.uint8)
    mask[2, 8:12, 5:9] = 1
    seen = ImageEvidence("1.2.3", 2, "1.2.3.4", (8, 5, 12, 9), "mass", None)
    findings = (Finding("f1", "mass", "intracranial mass", True, 0.9, evidence=(seen,)),
                Finding("f2", "midline_shift", "midline shift", True, 0.9, evidence=(ImageEvidence("1.2.3", 1, "", None, "", None),)),
                Finding("f3", "mass_effect", "mass effect", True, 0.9, evidence=(seen,)))
    return Draft("1/2 x", "draft", None, findings, {}, (), {}), Study("1/2 x", (volume,)), {"mass": mask}


def test_a_mask_lies_where_the_finding_is_in_the_patient_and_the_draft_names_its_file(tmp_path):
    draft, study, masks = drafted()
    told = with_masks(draft, study, masks, tmp_path / "new" / "masks")
    [seen] = told.findings[0].evidence
    assert Path(seen.mask) == tmp_path / "new" / "masks" / "1_1_2_x_mass.nii.gz" and told.findings[1].evidence[0].mask == ""
    assert told.findings[2].evidence[0].mask == seen.mask, "two findings may point to one mask"
    image = nibabel.load(seen.mask)
    column, row, slice_at = np.argwhere(np.asarray(image.dataobj) > 0).mean(0)
    assert np.asarray(image.dataobj).sum() == masks["mass"].sum()
    right, front, top = (image.affine @ [column, row, slice_at, 1])[:3]
    assert (-right, -front, top) == pytest.approx((AFFINE @ [6.5, 9.5, 2, 1])[:3])


def test_a_folder_that_cannot_be_made_is_named_with_the_cure(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"--masks .*file.* cannot be written .*name a folder"):
        with_masks(*drafted(), tmp_path / "file" / "masks")


def test_two_studies_of_one_name_keep_their_own_masks_and_nothing_is_written_over(tmp_path):
    first, second = (with_masks(*drafted(), tmp_path, n).findings[0].evidence[0].mask for n in (1, 2))
    assert first != second and len(list(tmp_path.iterdir())) == 2
    with pytest.raises(OutputError, match="is there already and may be another study's; name an empty folder"):
        with_masks(*drafted(), tmp_path, 2)


def test_an_out_that_is_a_pipe_or_a_device_is_written_to_and_stays_one(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit((tmp_path / "pipe").read_text)
        write_lines([{"study": "1"}], tmp_path / "pipe")
        assert json.loads(read.result(timeout=20)) == {"study": "1"}
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
