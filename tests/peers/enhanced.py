"""Turns single-frame CT slices into Legacy Converted Enhanced CT objects with highdicom: enhanced.py OUT FILES...

Writes OUT/<variant>.dcm, each a series of its own, and prints {variant: series UID} as JSON. Frames are in the order that highdicom sorts them into,
which is not that of the files.
"""

import json
import sys
from pathlib import Path

import highdicom as hd
from pydicom import dcmread
from pydicom.uid import JPEGLSLossless, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless, generate_uid

out = Path(sys.argv[1])
sources = [dcmread(f) for f in sys.argv[2:]]
for source in sources:
    # The anonymiser gave every slice a frame of reference of its own; a volume has one.
    source.FrameOfReferenceUID = sources[0].FrameOfReferenceUID

VARIANTS = {
    "explicit": dict(transfer_syntax_uid=ExplicitVRLittleEndian),
    "implicit": dict(transfer_syntax_uid=ImplicitVRLittleEndian),
    "rle": dict(transfer_syntax_uid=RLELossless),
    "jpegls": dict(transfer_syntax_uid=JPEGLSLossless),
    "jpegls-extended": dict(transfer_syntax_uid=JPEGLSLossless, use_extended_offset_table=True),
}
series = {}
for name, options in VARIANTS.items():
    series[name] = generate_uid()
    converted = hd.legacy.LegacyConvertedEnhancedCTImage(sources, series[name], 7, generate_uid(), 1, **options)
    converted.save_as(out / f"{name}.dcm")
print(json.dumps(series))
