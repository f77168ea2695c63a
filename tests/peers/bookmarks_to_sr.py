"""Turns a table of bookmarks into structured reports (TID 1500, written by highdicom), one a study: bookmarks_to_sr.py BOOKMARKS.csv CT_FOLDER OUT

BOOKMARKS.csv has the columns that `lesionlab mine --help` names; CT_FOLDER holds the images that it marks, OUT gets one .dcm a study.
"""

import csv
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from highdicom import sr
from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

ENDS = ["long_x1", "long_y1", "long_x2", "long_y2", "short_x1", "short_y1", "short_x2", "short_y2"]
# DeepLesion's types as `mine` reads them from a finding site.
SITES = {
    "1": codes.SCT.Bone,
    "2": codes.SCT.Abdomen,
    "3": codes.SCT.Mediastinum,
    "4": codes.SCT.Liver,
    "5": codes.SCT.Lung,
    "6": codes.SCT.Kidney,
    "7": Code("87784001", "SCT", "Soft tissue"),
    "8": codes.SCT.Pelvis,
}
UNITS = {"mm": Code("mm", "UCUM", "mm"), "cm": Code("cm", "UCUM", "cm")}

table, images, out = (Path(a) for a in sys.argv[1:4])
with open(table, newline="") as file:
    rows = list(csv.DictReader(file))
wanted = {row["sop_instance_uid"] for row in rows}
found = {}
for path in sorted(p for p in images.rglob("*") if p.is_file()):
    try:
        uid = str(dcmread(path, stop_before_pixels=True, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)
    except (InvalidDicomError, AttributeError):
        continue
    if uid in wanted:
        found[uid] = dcmread(path, stop_before_pixels=True)
if lacking := sorted(wanted - found.keys()):
    sys.exit(f"{table}: {len(lacking)} marked images are not in {images}, the first is {lacking[0]}")


def group(row):
    image = found[row["sop_instance_uid"]]
    # PS3.3 C.18.6.1.1: 0 at the outer corner of the first pixel.
    ends = np.array([float(row[name]) for name in ENDS]).reshape(4, 2) + 0.5
    source = sr.SourceImageForRegion.from_source_image(image)
    measured = [
        sr.Measurement(
            name,
            float(row[column]),
            UNITS[row["unit"] or "mm"],
            referenced_coordinates=[sr.CoordinatesForMeasurement("POLYLINE", line, source)],
        )
        for name, column, line in [(codes.SCT.LongAxis, "long_mm", ends[:2]), (codes.SCT.ShortAxis, "short_mm", ends[2:])]
    ]
    site = SITES.get(row["type"])
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=row["tracking_uid"] or generate_uid(), identifier="lesion"),
        finding_sites=[sr.FindingSite(site)] if site else None,
        measurements=measured,
    )


studies = defaultdict(list)
for row in rows:
    studies[str(found[row["sop_instance_uid"]].StudyInstanceUID)].append(row)
out.mkdir(parents=True, exist_ok=True)
observer = sr.ObservationContext(
    observer_person_context=sr.ObserverContext(codes.DCM.Person, sr.PersonObserverIdentifyingAttributes(name="Reader^One"))
)
for number, marks in enumerate(studies.values(), 1):
    evidence = [found[uid] for uid in sorted({row["sop_instance_uid"] for row in marks})]
    document = sr.Comprehensive3DSR(
        evidence=evidence,
        content=sr.MeasurementReport(
            observation_context=observer,
            procedure_reported=codes.LN.CTUnspecifiedBodyRegion,
            imaging_measurements=[group(row) for row in marks],
        ),
        series_instance_uid=generate_uid(),
        series_number=100,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="peer",
    )
    document.save_as(out / f"{number:04}.dcm")
print(f"{len(studies)} reports with {len(rows)} marks in {out}")
