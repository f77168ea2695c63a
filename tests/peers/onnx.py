# onnxruntime on a pair of graphs: encodes a window's slots and runs the heads on them.
# Arguments: folder, encoder.onnx, heads.onnx, slots, rows, columns. Reads FOLDER/slots.f32 (channels last), writes FOLDER/out<level>.f32 (channels last).
import sys

import numpy as np
import onnxruntime as ort

folder, encoder_file, heads_file = sys.argv[1:4]
count, rows, columns = map(int, sys.argv[4:7])
slots = np.fromfile(f"{folder}/slots.f32", "<f4").reshape(count, rows, columns, 3).transpose(0, 3, 1, 2)
encoder, heads = (ort.InferenceSession(f, providers=["CPUExecutionProvider"]) for f in (encoder_file, heads_file))
features = [encoder.run(None, {encoder.get_inputs()[0].name: np.ascontiguousarray(s[None])}) for s in slots]
inputs = {i.name: np.concatenate([f[level] for f in features], axis=1) for level, i in enumerate(heads.get_inputs())}
for level, out in enumerate(heads.run(None, inputs)):
    out[0].transpose(1, 2, 0).astype("<f4").tofile(f"{folder}/out{level}.f32")
