"""Sends as scanners do: send.py PORT TITLE STEP...

A step is `open`, `release`, `abort`, `pause=SECONDS`, or a file, which is stored. Files that come before an `open` are an error. Every step but a pause
prints one JSON line: the step, the wall clock in seconds when it was done, and the status of a C-STORE.
"""

import json
import sys
import time

from pydicom import dcmread
from pynetdicom import AE, build_context

port, title, steps = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
files = [s for s in steps if s.endswith(".dcm")]
headers = [dcmread(f, stop_before_pixels=True, specific_tags=["SOPClassUID"]) for f in files]
ae = AE(ae_title=title)
pairs = sorted({(h.SOPClassUID, h.file_meta.TransferSyntaxUID) for h in headers})
ae.requested_contexts = [build_context(sop_class, [syntax]) for sop_class, syntax in pairs]
assoc = None


def say(step, **more):
    print(json.dumps({"step": step, "at": time.time(), **more}), flush=True)


for step in steps:
    if step.startswith("pause="):
        time.sleep(float(step[6:]))
    elif step == "open":
        assoc = ae.associate("127.0.0.1", port, ae_title="LESIONWATCH")
        if not assoc.is_established:
            sys.exit("no association")
        say(step)
    elif step == "release":
        assoc.release()
        say(step)
    elif step == "abort":
        assoc.abort()
        say(step)
    else:
        status = assoc.send_c_store(step)
        say(step, status=status.Status)
        if status.Status != 0:
            sys.exit(f"{step}: status {status.Status:04X}")
