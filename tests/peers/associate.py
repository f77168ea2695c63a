"""Asks for presentation contexts and says which are accepted: associate.py PORT TITLE < contexts.json

Standard input is a JSON list of [SOP class, transfer syntax]; every pair is a context of its own, in as many associations as are needed. Prints a JSON
list of true and false in the same order.
"""

import json
import sys

from pynetdicom import AE, build_context

wanted = json.load(sys.stdin)
answers = []
for begin in range(0, len(wanted), 128):
    part = wanted[begin : begin + 128]
    ae = AE(ae_title=sys.argv[2])
    ae.requested_contexts = [build_context(sop_class, [syntax]) for sop_class, syntax in part]
    assoc = ae.associate("127.0.0.1", int(sys.argv[1]), ae_title="LESIONWATCH")
    contexts = assoc.accepted_contexts + assoc.rejected_contexts
    if len(contexts) != len(part):
        sys.exit(f"{len(contexts)} answers for {len(part)} contexts")
    accepted = {context.context_id for context in assoc.accepted_contexts}
    answers += [2 * n + 1 in accepted for n in range(len(part))]
    if assoc.is_established:
        assoc.release()
print(json.dumps(answers))
