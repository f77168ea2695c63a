"""Writes measurement objects as highdicom and pydicom write them, on one CT image: bookmarks.py IMAGE.dcm OUT POINTS

POINTS is a JSON list of four points x, y: both ends of the long axis, then of the short one, in pixels, 0 at the centre of the first pixel.
Each object goes into a folder of its own below OUT.
"""

import json
import math
import sys
from pathlib import Path

import highdicom as hd
import numpy as np
from highdicom import pr, sr
from pydicom import dcmread
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

image = dcmread(sys.argv[1])
out = Path(sys.argv[2])
points = np.array(json.loads(sys.argv[3]), dtype=float)
stored = points + 0.5  # PS3.3 C.18.6.1.1: 0 at the outer corner of the first pixel
# highdicom's own way from image coordinates to the patient, not ours.
to_patient = hd.spatial.ImageToReferenceTransformer.for_image(image)
spacing = [float(s) for s in image.PixelSpacing]
UNITS = {"mm": Code("mm", "UCUM", "mm"), "cm": Code("cm", "UCUM", "cm"), "px": Code("{pixels}", "UCUM", "pixels")}
SCT = (codes.SCT.LongAxis, codes.SCT.ShortAxis)
SRT = (Code("G-A185", "SRT", "Long Axis"), Code("G-A186", "SRT", "Short Axis"))


def lengths(p):
    return [math.hypot((b[0] - a[0]) * spacing[1], (b[1] - a[1]) * spacing[0]) for a, b in ((p[0], p[1]), (p[2], p[3]))]


def copy_of(**changes):
    other = dcmread(sys.argv[1], stop_before_pixels=True)
    for name, value in changes.items():
        setattr(other, name, value)
    return other


def group(form="2d", unit="mm", names=SCT, at=stored, source=image, stated=None, tracking=None, only_long=False, to_patient=to_patient):
    at = np.asarray(at)
    stated = stated or lengths(at)
    place = sr.SourceImageForRegion.from_source_image(source)
    world = to_patient(at)
    lines = ((0, 1), (2, 3))
    drawn = [None, None]
    region = None
    if form == "2d":
        drawn = [[sr.CoordinatesForMeasurement("POLYLINE", at[list(line)], place)] for line in lines]
    elif form == "3d":
        drawn = [[sr.CoordinatesForMeasurement3D("POLYLINE", world[list(line)], source.FrameOfReferenceUID)] for line in lines]
    elif form == "region":
        region = sr.ImageRegion("POLYLINE", at, place)
    elif form == "region3d":
        region = sr.ImageRegion3D("POLYLINE", world, source.FrameOfReferenceUID)
    measured = [
        sr.Measurement(name, value / (10 if unit == "cm" else 1), UNITS[unit], referenced_coordinates=lines)
        for name, value, lines in zip(names, stated, drawn)
    ]
    given = dict(
        tracking_identifier=sr.TrackingIdentifier(uid=tracking or generate_uid(), identifier="lesion"),
        finding_type=codes.SCT.Nodule,
        finding_sites=[sr.FindingSite(codes.SCT.Lung)],
        measurements=measured[:1] if only_long else measured,
    )
    if region is None:
        return sr.MeasurementsAndQualitativeEvaluations(**given)
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(referenced_region=region, **given)


def report(name, groups, source=image, moment="20200101120000", previous=None, classes=sr.Comprehensive3DSR):
    observer = sr.ObservationContext(
        observer_person_context=sr.ObserverContext(codes.DCM.Person, sr.PersonObserverIdentifyingAttributes(name="Reader^One"))
    )
    content = sr.MeasurementReport(
        observation_context=observer, procedure_reported=codes.LN.CTUnspecifiedBodyRegion, imaging_measurements=groups
    )
    document = classes(
        evidence=[source],
        content=content,
        series_instance_uid=generate_uid(),
        series_number=1,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="peer",
        previous_versions=[previous] if previous is not None else None,
    )
    document.ContentDate, document.ContentTime = moment[:8], moment[8:]
    write(name, document)
    return document


def write(name, document):
    (out / name).mkdir(parents=True)
    document.save_as(out / name / "object.dcm")


def drawing(name, lines, units="PIXEL"):
    layer = pr.GraphicLayer("MEASUREMENTS", 1)
    objects = [pr.GraphicObject("POLYLINE", np.array(line), units) for line in lines]
    annotation = pr.GraphicAnnotation(referenced_images=[image], graphic_layer=layer, graphic_objects=objects)
    state = pr.GrayscaleSoftcopyPresentationState(
        referenced_images=[image],
        series_instance_uid=generate_uid(),
        series_number=2,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="peer",
        manufacturer_model_name="peer",
        software_versions="1",
        device_serial_number="1",
        content_label="MEASUREMENTS",
        graphic_annotations=[annotation],
        graphic_layers=[layer],
    )
    write(name, state)


# What must come back to a tenth of a millimetre.
report("scoord", [group("2d")])
report("scoord-comprehensive", [group("2d")], classes=sr.ComprehensiveSR)
report("scoord-srt-cm", [group("2d", unit="cm", names=SRT)])
report("scoord3d", [group("3d")])
report("region", [group("region")])
report("region3d", [group("region3d")])
drawing("gsps", [stored[:2], stored[2:]])

# What must not, each with its reason.
report("pixels", [group("2d", unit="px")])
report("only-long", [group("2d", only_long=True)])
report("disagrees", [group("2d", stated=[value * 1.2 for value in lengths(stored)])])
report("outside", [group("2d", at=stored + [400.0, 0.0])])
missing = copy_of(SOPInstanceUID=generate_uid(), FrameOfReferenceUID=generate_uid())
report("missing", [group("2d", source=missing)], source=missing)
report("missing3d", [group("3d", source=missing)], source=missing)
# A plane 7 mm away from every slice that is there (the sample ends long before).
away = copy_of(ImagePositionPatient=[*image.ImagePositionPatient[:2], float(image.ImagePositionPatient[2]) + 500.0])
report("off-slice", [group("3d", to_patient=hd.spatial.ImageToReferenceTransformer.for_image(away))])
drawing("gsps-parallel", [stored[:2], stored[:2] + [6.0, 0.0]])

# A coronal image of its own, with a mark on it.
coronal = dcmread(sys.argv[1])
coronal.SOPInstanceUID = coronal.file_meta.MediaStorageSOPInstanceUID = generate_uid()
coronal.SeriesInstanceUID, coronal.FrameOfReferenceUID = generate_uid(), generate_uid()
coronal.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
(out / "coronal-image").mkdir(parents=True)
coronal.save_as(out / "coronal-image" / "image.dcm")
report("coronal", [group("2d", source=coronal)], source=coronal)

# The first reading, and its revision with the lesion drawn two pixels to the right.
first = report("revision-1", [group("2d")])
report("revision-2", [group("2d", at=stored + [2.0, 0.0])], moment="20200102120000", previous=first)
# The lesion measured again under the same Tracking UID, without saying what it replaces.
lesion = generate_uid()
report("again-1", [group("2d", tracking=lesion)])
report("again-2", [group("2d", at=stored + [0.0, 2.0], tracking=lesion)], moment="20200103120000")
# Two readers, and a third whose lesion lies elsewhere.
report("readers", [group("2d"), group("2d", at=stored + [2.0, 0.0]), group("2d", at=stored + [60.0, 0.0])])
# A click in the air beside the patient.
report("air", [group("2d", at=np.array([[10.0, 10.0], [30.0, 10.0], [20.0, 8.0], [20.0, 12.0]]))])
