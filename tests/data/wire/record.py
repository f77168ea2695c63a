"""Records what peers send: record.py PORT

Run beside a `lesionwatch run` that listens on PORT, takes its peers from anywhere and has `allow_commitment = true` for them. Writes one `.bin` a
connection into this folder: the bytes of the peer, nothing of the answer.
"""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading

import numpy
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.pdu_primitives import (
    AsynchronousOperationsWindowNegotiation,
    SOPClassCommonExtendedNegotiation,
    SOPClassExtendedNegotiation,
    UserIdentityNegotiation,
)
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification

HERE = os.path.dirname(os.path.abspath(__file__))
PORT = int(sys.argv[1])


def recorded(name, talk):
    """Runs `talk(port)` through a proxy that keeps what the peer says."""
    door = socket.create_server(("127.0.0.1", 0))
    said = []

    def relay(source, sink, keep):
        # Who aborts resets the connection: that is its end, too.
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if keep is not None:
                    keep.append(data)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def serve():
        peer, _ = door.accept()
        ours = socket.create_connection(("127.0.0.1", PORT))
        back = threading.Thread(target=relay, args=(ours, peer, None))
        back.start()
        relay(peer, ours, said)
        back.join()

    thread = threading.Thread(target=serve)
    thread.start()
    talk(door.getsockname()[1])
    thread.join(20)
    data = b"".join(said)
    with open(os.path.join(HERE, name + ".bin"), "wb") as file:
        file.write(data)
    print(f"{name}: {len(data)} bytes")


def slice_of(number, syntax):
    """A CT slice of 16 x 16 pixels with a sequence in a sequence."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = CTImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = f"1.2.826.0.1.3680043.2.9.{number}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.826.0.1.3680043.2.8", "1.2.826.0.1.3680043.2.9"
    ds.Modality, ds.ImageType, ds.BodyPartExamined = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"], "CHEST"
    ds.PatientName, ds.PatientID, ds.SeriesNumber, ds.InstanceNumber = "", "", 1, number
    inner, outer = Dataset(), Dataset()
    inner.CodeValue, inner.CodingSchemeDesignator, inner.CodeMeaning = "113961", "DCM", "Reconstruction"
    outer.PurposeOfReferenceCodeSequence = Sequence([inner])
    outer.ReferencedSOPClassUID, outer.ReferencedSOPInstanceUID = CTImageStorage, "1.2.3"
    ds.SourceImageSequence = Sequence([outer, outer])
    ds["SourceImageSequence"].is_undefined_length = True
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 2 * number], [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.SliceThickness, ds.RescaleSlope, ds.RescaleIntercept = [1, 1], 2, 1, -1024
    ds.Rows = ds.Columns = 16
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation = 15, 1
    ds.PixelData = numpy.arange(256, dtype="<i2").tobytes()
    return ds


def dcmtk(name, tool, *more):
    recorded(name, lambda port: subprocess.run([tool, *more[:-1], "127.0.0.1", str(port), *more[-1]], check=False))


def associate(port, contexts, negotiation=(), length=16384, handlers=()):
    ae = AE(ae_title="CT1")
    ae.requested_contexts = contexts
    assoc = ae.associate("127.0.0.1", port, ae_title="LESIONWATCH", ext_neg=list(negotiation), max_pdu=length, evt_handlers=list(handlers))
    assert assoc.is_established
    return assoc


def echo_of_many(port):
    contexts = [build_context(Verification, [ImplicitVRLittleEndian, ExplicitVRLittleEndian]) for _ in range(128)]
    assoc = associate(port, contexts)
    assoc.send_c_echo()
    assoc.release()


def store_negotiated(port):
    user = UserIdentityNegotiation()
    user.user_identity_type, user.primary_field, user.secondary_field, user.positive_response_requested = 2, b"user", b"password", True
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked = window.maximum_number_operations_performed = 5
    extended, common = SOPClassExtendedNegotiation(), SOPClassCommonExtendedNegotiation()
    extended.sop_class_uid, extended.service_class_application_information = CTImageStorage, b"\x02\x00\x03\x00\x01\x00"
    common.sop_class_uid, common.service_class_uid = CTImageStorage, "1.2.840.10008.4.2"
    role = build_role(CTImageStorage, scu_role=True, scp_role=True)
    assoc = associate(port, [build_context(CTImageStorage, [ExplicitVRLittleEndian])], [user, window, extended, common, role])
    for number in (1, 2):
        assoc.send_c_store(slice_of(number, ExplicitVRLittleEndian))
    assoc.release()


def commitment(port):
    done = threading.Event()

    def report(event):
        return 0, None

    def sent(event):
        if type(event.message).__name__ == "N_EVENT_REPORT_RSP":
            done.set()

    role = build_role(StorageCommitmentPushModel, scu_role=True, scp_role=False)
    handlers = [(evt.EVT_N_EVENT_REPORT, report), (evt.EVT_DIMSE_SENT, sent)]
    assoc = associate(port, [build_context(StorageCommitmentPushModel, [ImplicitVRLittleEndian])], [role], handlers=handlers)
    ds = Dataset()
    ds.TransactionUID = "1.2.826.0.1.3680043.2.7"
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CTImageStorage, "1.2.3"
    ds.ReferencedSOPSequence = Sequence([item, item])
    assoc.send_n_action(ds, 1, StorageCommitmentPushModel, "1.2.840.10008.1.20.1.1")
    assert done.wait(20)
    assoc.release()


with tempfile.TemporaryDirectory() as folder:
    files = {}
    for kind, syntax in [("i", ImplicitVRLittleEndian), ("e", ExplicitVRLittleEndian), ("d", DeflatedExplicitVRLittleEndian)]:
        files[kind] = [os.path.join(folder, f"{kind}{n}.dcm") for n in (1, 2)]
        for n, path in enumerate(files[kind]):
            slice_of(n + 1, syntax).save_as(path, enforce_file_format=True)
    dcmtk("echo-dcmtk", "echoscu", "-aet", "CT1", "-aec", "LESIONWATCH", [])
    dcmtk("echo-abort-dcmtk", "echoscu", "--abort", [])
    dcmtk("store-implicit-dcmtk", "storescu", "-xi", files["i"])
    dcmtk("store-fragments-dcmtk", "storescu", "-xe", "--max-send-pdu", "4096", files["e"])
    dcmtk("store-deflated-dcmtk", "storescu", "-xd", files["d"])
    dcmtk("store-abort-dcmtk", "storescu", "-xi", "--abort", files["i"])
    dcmtk("store-every-class-dcmtk", "dcmsend", "-dn", files["e"])
    recorded("echo-128-contexts-pynetdicom", echo_of_many)
    recorded("store-negotiated-pynetdicom", store_negotiated)
    recorded("commitment-pynetdicom", commitment)
