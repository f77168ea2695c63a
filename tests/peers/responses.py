"""Keeps pynetdicom's reactor off responses.

pynetdicom 3.0.4 pauses an association's reactor while it waits for a response, but takes it for paused a moment too early (`_is_paused` is set before the
checkpoint is passed): on a busy machine the reactor then takes the response, drops it as "unexpected", and the request times out after 30 s with an empty status.
Seen with DCMTK's storescp as the other side just as well.
"""


def keep_for_senders(assoc):
    """What was asked for stays in the queue for who asked; the reactor takes requests of the peer only."""
    take, queue = assoc.dimse.get_msg, assoc.dimse.msg_queue

    def get_msg(block=False):
        if not block:
            with queue.mutex:
                message = queue.queue[0][1] if queue.queue else None
            if getattr(message, "MessageIDBeingRespondedTo", None) is not None:
                return None, None
        return take(block)

    assoc.dimse.get_msg = get_msg
    return assoc
