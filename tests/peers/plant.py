"""Plants an identity into CT slices: plant.py OUT FILES...

Writes every file with the same pixels and identifiers and a made-up person all over it (standard attributes, private ones, items of sequences, text of the
pixels' description) into OUT, then what scanners get wrong: an object with the person where numbers and codes belong, one that is cut, one without a series, one
of another kind. Prints a JSON object: `files`, `odd`, and `planted`, the texts that nobody but the objects may hold afterwards.
"""

import json
import os
import sys

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

FAMILY, GIVEN = "Plantfamily", "Plantgiven"
NAME = f"{FAMILY}^{GIVEN}^Plantmiddle"
PLANTED = {
    "PatientName": NAME,
    "PatientID": "PID7731904421",
    "OtherPatientNames": "Plantmaiden^Plantgiven",
    "PatientBirthName": "Plantmaiden^Plantgiven",
    "PatientMotherBirthName": "Plantmother^Plantgiven",
    "PatientBirthDate": "19470313",
    "PatientAddress": "7 Plantstreet, Planttown",
    "PatientTelephoneNumbers": "+1-555-7318842",
    "PatientInsurancePlanCodeSequence": None,
    "MilitaryRank": "PLANTRANK",
    "EthnicGroup": "PLANTETHNIC",
    "Occupation": "PLANTJOB",
    "PatientComments": "Plantcomment of the ward",
    "PatientReligiousPreference": "Plantfaith",
    "AdditionalPatientHistory": "Planthistory",
    "AccessionNumber": "ACC5518273",
    "StudyID": "STU66190",
    "IssuerOfPatientID": "Plantissuer",
    "ReferringPhysicianName": "Plantreferrer^Anna",
    "ReferringPhysicianAddress": "9 Plantlane",
    "ConsultingPhysicianName": "Plantconsult^Otto",
    "PerformingPhysicianName": "Plantperformer^Ida",
    "PhysiciansOfRecord": "Plantrecord^Max",
    "NameOfPhysiciansReadingStudy": "Plantreader^Eva",
    "OperatorsName": "Plantoperator^Uwe",
    "RequestingPhysician": "Plantrequest^Ina",
    "ScheduledPerformingPhysicianName": "Plantsched^Jan",
    "InstitutionName": "Planthospital",
    "InstitutionAddress": "3 Plantsquare",
    "InstitutionalDepartmentName": "Plantward",
    "StationName": "PLANTSTATION",
    "DeviceSerialNumber": "SER90817264",
    "StudyDescription": "Plantstudy of Plantfamily",
    "SeriesDescription": "Plantseries of Plantfamily",
    "ProtocolName": "Plantprotocol",
    "ImageComments": "Plantimagecomment",
    "RequestedProcedureDescription": "Plantprocedure",
    "PerformedProcedureStepID": "PPS440071",
    "AdmissionID": "ADM330915",
    "RequestAttributesSequence": None,
}
TEXTS = [v for v in PLANTED.values() if v] + [FAMILY, GIVEN, "Plantmiddle", "Plantmaiden", "1947-03-13", "PRIVATE60718", "Plantnested", "7731904421"]


def nested():
    inner, outer = Dataset(), Dataset()
    inner.PersonName, inner.TextValue = "Plantnested^Person", f"seen by {NAME}"
    outer.AccessionNumber, outer.RequestedProcedureID = "ACC5518273", "PPS440071"
    outer.ContentSequence = Sequence([inner])
    return Sequence([outer])


def plant(ds):
    for keyword, value in PLANTED.items():
        setattr(ds, keyword, nested() if value is None else value)
    ds.OtherPatientIDsSequence = nested()
    block = ds.private_block(0x0029, "PLANTED PRIVATE", create=True)
    block.add_new(0x01, "LO", "PRIVATE60718")
    block.add_new(0x02, "PN", NAME)
    block.add_new(0x03, "SQ", nested())
    block.add_new(0x04, "OB", b"PRIVATE60718 in bytes ")
    return ds


out, sources = sys.argv[1], sys.argv[2:]
os.makedirs(out, exist_ok=True)
files = []
for n, source in enumerate(sources):
    path = os.path.join(out, f"{n:04}.dcm")
    plant(dcmread(source)).save_as(path)
    files.append(path)


def odd(name, number, change):
    ds = plant(dcmread(sources[0]))
    ds.SeriesInstanceUID = f"1.2.826.0.1.3680043.2.6.{number}"
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.3680043.2.6.{number}.1"
    change(ds)
    path = os.path.join(out, name + ".dcm")
    ds.save_as(path)
    return path


def raw(keyword, value):
    """As a writer that checks nothing writes it."""

    def change(ds):
        from pydicom.dataelem import RawDataElement
        from pydicom.datadict import tag_for_keyword
        from pydicom.tag import Tag

        tag = Tag(tag_for_keyword(keyword))
        vr = ds[tag].VR if tag in ds else "LO"
        ds._dict[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)

    return change


names = NAME.encode() + b" "
oddities = [
    odd("position", 1, raw("ImagePositionPatient", names)),
    odd("slope", 2, raw("RescaleSlope", names)),
    odd("number", 3, raw("InstanceNumber", names)),
    odd("spacing", 4, raw("PixelSpacing", names)),
    odd("other-kind", 5, lambda ds: setattr(ds, "Modality", "OT")),
    odd("no-series", 6, lambda ds: delattr(ds, "SeriesInstanceUID")),
    odd("bad-uid", 7, raw("StudyInstanceUID", names)),
]
print(json.dumps({"files": files, "odd": oddities, "planted": sorted(set(TEXTS))}))
