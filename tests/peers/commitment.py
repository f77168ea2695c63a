"""Storage commitment as pynetdicom speaks it, one JSON line a step.

commitment.py ask [--action N] [--instance UID] [--extra CLASS=UID]... PORT TITLE same|release FILES...
    Sends an N-ACTION for FILES and the extra references; `same` waits for the report on the same association, `release` does not.
commitment.py listen PORT [CERTIFICATE KEY CA]
    Takes reports on associations of their own until standard input ends; over TLS where the three files are named.
"""

import argparse
import json
import ssl
import sys
import threading

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, build_role, evt
from pynetdicom.dimse_messages import N_EVENT_REPORT_RSP
from pynetdicom.sop_class import StorageCommitmentPushModel
from responses import keep_for_senders

INSTANCE = "1.2.840.10008.1.20.1.1"


def say(**line):
    print(json.dumps(line), flush=True)


def report(event):
    info = event.event_information
    say(
        report=event.event_type,
        transaction=info.TransactionUID,
        committed=[i.ReferencedSOPInstanceUID for i in info.get("ReferencedSOPSequence", [])],
        failed={i.ReferencedSOPInstanceUID: i.FailureReason for i in info.get("FailedSOPSequence", [])},
        calling=event.assoc.requestor.ae_title.strip(),
    )
    return 0x0000, None


def sent(event):
    # Only now: releasing before the answer has left would take it back.
    if isinstance(event.message, N_EVENT_REPORT_RSP):
        got.set()


def reference(sop_class, instance):
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class
    item.ReferencedSOPInstanceUID = instance
    return item


def ask(a):
    ds = Dataset()
    ds.TransactionUID = generate_uid()
    headers = [dcmread(f, stop_before_pixels=True, specific_tags=["SOPClassUID", "SOPInstanceUID"]) for f in a.files]
    ds.ReferencedSOPSequence = [reference(h.SOPClassUID, h.SOPInstanceUID) for h in headers]
    ds.ReferencedSOPSequence += [reference(*e.split("=")) for e in a.extra]
    ae = AE(ae_title=a.title)
    ae.add_requested_context(StorageCommitmentPushModel)
    roles = [build_role(StorageCommitmentPushModel, scu_role=True, scp_role=False)]
    handlers = [(evt.EVT_N_EVENT_REPORT, report), (evt.EVT_DIMSE_SENT, sent)]
    assoc = ae.associate("127.0.0.1", a.port, ae_title="LESIONWATCH", ext_neg=roles, evt_handlers=handlers)
    if not assoc.is_established or not assoc.accepted_contexts:
        say(established=False)
        return
    keep_for_senders(assoc)
    context = assoc.accepted_contexts[0]
    say(established=True, as_scu=context.as_scu)
    status, _ = assoc.send_n_action(ds, a.action, StorageCommitmentPushModel, a.instance)
    say(status=status.Status, transaction=ds.TransactionUID, comment=status.get("ErrorComment", ""))
    if a.way == "same" and status.Status == 0:
        say(waited=got.wait(30))
    assoc.release()


def listen(a):
    ae = AE(ae_title="CT1")
    # Who calls us is the provider of the service.
    ae.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
    context = None
    if a.tls:
        certificate, key, ca = a.tls
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(certificate, key)
    server = ae.start_server(("127.0.0.1", a.port), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, report)], ssl_context=context)
    say(listening=a.port)
    sys.stdin.read()
    server.shutdown()


got = threading.Event()
parser = argparse.ArgumentParser()
verbs = parser.add_subparsers(required=True)
p = verbs.add_parser("ask")
p.add_argument("port", type=int)
p.add_argument("title")
p.add_argument("way", choices=["same", "release"])
p.add_argument("--action", type=int, default=1)
p.add_argument("--instance", default=INSTANCE)
p.add_argument("--extra", action="append", default=[])
p.add_argument("files", nargs="*")
p.set_defaults(run=ask)
p = verbs.add_parser("listen")
p.add_argument("port", type=int)
p.add_argument("tls", nargs="*")
p.set_defaults(run=listen)
args = parser.parse_args()
args.run(args)
