"""Sends as scanners do: send.py PORT TITLE STEP...

A step is `open`, `release`, `abort`, `pause=SECONDS`, or a file, which is stored. Files that come before an `open` are an error. Every step but a pause
prints one JSON line: the step, the wall clock in seconds when it was done, and the status of a C-STORE. Environment: MAX_PDU is the longest PDU that is taken
(0: of any length); CONTEXTS is how many presentation contexts are proposed, the files' own last, each with a dozen transfer syntaxes.
"""

import json
import os
import sys
import time

from pydicom import dcmread
from pynetdicom import AE, StoragePresentationContexts, build_context
from responses import keep_for_senders

port, title, steps = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
files = [s for s in steps if s.endswith(".dcm")]
headers = [dcmread(f, stop_before_pixels=True, specific_tags=["SOPClassUID"]) for f in files]
ae = AE(ae_title=title)
pairs = sorted({(h.SOPClassUID, h.file_meta.TransferSyntaxUID) for h in headers})
own = [build_context(sop_class, [syntax]) for sop_class, syntax in pairs]
wanted = int(os.environ.get("CONTEXTS", len(own)))
# Private transfer syntaxes, which nobody knows, behind the one that everybody does.
dozen = ["1.2.840.10008.1.2"] + [f"1.2.826.0.1.3680043.2.4.{n}" for n in range(11)]
ae.requested_contexts = [build_context(c.abstract_syntax, dozen) for c in (StoragePresentationContexts * 2)[: wanted - len(own)]] + own
assoc = None


def say(step, **more):
    print(json.dumps({"step": step, "at": time.time(), **more}), flush=True)


for step in steps:
    if step.startswith("pause="):
        time.sleep(float(step[6:]))
    elif step == "open":
        assoc = ae.associate("127.0.0.1", port, ae_title="LESIONWATCH", max_pdu=int(os.environ.get("MAX_PDU", 16382)))
        if not assoc.is_established:
            sys.exit("no association")
        keep_for_senders(assoc)
        say(step, proposed=len(ae.requested_contexts), accepted=len(assoc.accepted_contexts))
    elif step == "release":
        assoc.release()
        say(step)
    elif step == "abort":
        assoc.abort()
        say(step)
    else:
        status = assoc.send_c_store(step)
        if "Status" not in status:
            sys.exit(f"{step}: no response")
        say(step, status=status.Status)
        if status.Status != 0:
            sys.exit(f"{step}: status {status.Status:04X}")
