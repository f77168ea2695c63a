"""Says who somebody is where a protocol has room for it: impostor.py PORT TEXT FILE

A user identity with TEXT as user and password; a C-STORE of FILE whose Affected SOP Instance UID is TEXT; one whose UID differs from its data set's; a request for an
unknown service. Whatever is answered is fine.
"""

import sys
from io import BytesIO

from pydicom import dcmread
from pydicom.uid import UID
from pynetdicom import AE, build_context
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode
from pynetdicom.pdu_primitives import UserIdentityNegotiation
from responses import keep_for_senders

port, text, ds = int(sys.argv[1]), sys.argv[2], dcmread(sys.argv[3])
syntax = ds.file_meta.TransferSyntaxUID


def associate():
    user = UserIdentityNegotiation()
    user.user_identity_type, user.primary_field, user.secondary_field = 2, text.encode(), text.encode()
    ae = AE(ae_title="CT1")
    ae.requested_contexts = [build_context(ds.SOPClassUID, [syntax]), build_context("1.2.840.10008.5.1.4.31")]
    assoc = ae.associate("127.0.0.1", port, ae_title="LESIONWATCH", ext_neg=[user])
    assert assoc.is_established
    return keep_for_senders(assoc)


for uid in (text, "1.2.826.0.1.3680043.2.5"):
    assoc = associate()
    request = C_STORE()
    request.MessageID, request.Priority = 1, 0
    request.AffectedSOPClassUID = ds.SOPClassUID
    # Past the library's own check: it refuses to send what is no UID.
    request._affected_sop_instance_uid = UID(uid, validation_mode=0)
    request.DataSet = BytesIO(encode(ds, syntax.is_implicit_VR, syntax.is_little_endian))
    assoc.dimse.send_msg(request, assoc.accepted_contexts[0].context_id)
    assoc.dimse.get_msg(block=True)
    assoc.release()
